"""Reading a source's tree of manifests into a plan. Nothing is written.

Every manifest is verified before anything that it says is followed, so that a cycle is impossible: a
digest cannot name bytes that contain it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from regmeta.errors import InvalidManifest, MissingContent, NothingWanted, SizeMismatch
from regmeta.ingest.plan import ImageRequest, PlannedImage, PlannedManifest
from regmeta.oci import image_config, manifest, media_types, strict_json
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Index, Manifest

_log = logging.getLogger(__name__)

MAX_INDEX_DEPTH: Final = 16
MAX_TREE_BYTES: Final = 16 * 1024 * 1024  # [bytes] of what is read of one image: manifests, configurations

FindConfig = Callable[[Descriptor], bytes | None]
FindManifest = Callable[[str, Digest], bool]
Wants = Callable[[Index, Descriptor], bool]
"""Tells of a child that an index lists whether it is wanted."""


@dataclass(slots=True)
class _Tree:
    """What is known of a tree while it is read."""

    request: ImageRequest
    sparse: bool
    find_config: FindConfig
    has_manifest: FindManifest
    wants: Wants | None
    manifests: list[PlannedManifest] = field(default_factory=list)
    seen: dict[Digest, str] = field(default_factory=dict)  # media types
    blobs: dict[Digest, int] = field(default_factory=dict)
    in_memory: dict[Digest, bytes] = field(default_factory=dict)
    configs: dict[Digest, image_config.ImageConfig] = field(default_factory=dict)
    absent: set[Digest] = field(default_factory=set)
    unwanted: set[Digest] = field(default_factory=set)
    here_already: set[Digest] = field(default_factory=set)
    read_bytes: int = 0
    remarks: list[str] = field(default_factory=list)  # what is odd, and no reason to leave the image out


def read_image(
    request: ImageRequest,
    *,
    sparse: bool,
    find_config: FindConfig,
    has_manifest: FindManifest,
    wants: Wants | None = None,
) -> PlannedImage:
    """Read the whole tree below an image's descriptor.

    *find_config* looks in the store for a configuration that the source does not hold;
    *has_manifest* tells whether the repository has a child that the source does not hold. With
    *sparse*, a child that neither has is left out and noted. A child of an index that is not *wanted* is
    not read, at any depth: it is absent by policy unless the repository has it.

    Raises:
        InvalidManifest: a manifest of the tree is not valid, nests too deep, or the tree is too large.
        MissingContent: a manifest, or an image's configuration, is nowhere; names it and its parent.
        NothingWanted: children were left out, and no image was left.
        IntegrityError: bytes do not have their digest or size.
    """
    tree = _Tree(request, sparse, find_config, has_manifest, wants)
    _read(tree, request.descriptor, None, 0)
    _check_wanted(tree)
    if tree.remarks:
        more = f" (and {len(tree.remarks) - 1} more like it)" if len(tree.remarks) > 1 else ""
        _log.warning("%s: %s%s", request, tree.remarks[0], more)
    return PlannedImage(
        request,
        tuple(tree.manifests),
        tree.blobs,
        tree.in_memory,
        absent=frozenset(tree.absent),
        unwanted=frozenset(tree.unwanted),
        here_already=frozenset(tree.here_already),
    )


def _read(tree: _Tree, descriptor: Descriptor, parent: Digest | None, depth: int) -> None:
    if descriptor.digest in tree.seen:
        _need(tree, descriptor, parent)
        if tree.seen[descriptor.digest] != descriptor.media_type:
            raise InvalidManifest(f"{descriptor.digest}: {parent} lists it under two media types")
        return
    if depth > MAX_INDEX_DEPTH:
        raise InvalidManifest(f"{tree.request.descriptor.digest}: indexes nest deeper than {MAX_INDEX_DEPTH}")
    try:
        content = tree.request.source.read(descriptor, manifest.MAX_MANIFEST_BYTES)
    except MissingContent:
        if parent is None:
            raise
        _missing_child(tree, descriptor, parent)
        return
    _count(tree, content)
    document = manifest.parse(content, descriptor.digest, descriptor.media_type, verified=True)
    tree.seen[descriptor.digest] = descriptor.media_type
    config = image_config.UNKNOWN
    if isinstance(document, Index):
        wants = tree.wants
        for child in document.manifests:
            if not manifest.may_be_manifest(child.media_type):
                _need(tree, child, document.digest)
            elif wants is not None and not wants(document, child):
                tree.unwanted.add(child.digest)
            else:
                _read(tree, child, document.digest, depth + 1)
    else:
        config = _read_blobs(tree, document)
    _need(tree, descriptor, document.digest)
    tree.in_memory[descriptor.digest] = content
    pushed_at = tree.request.times.pushed.get(descriptor.digest)
    tree.manifests.append(PlannedManifest(document, config, pushed_at))


def _check_wanted(tree: _Tree) -> None:
    """Refuse an index of which nothing but indexes would be left."""
    some = tree.here_already or any(isinstance(planned.document, Manifest) for planned in tree.manifests)
    if tree.unwanted and not some:
        raise NothingWanted(
            f"{tree.request}: {tree.request.descriptor.digest} lists no image for a platform that is wanted"
        )


def _count(tree: _Tree, content: bytes) -> None:
    """Keep what one image makes this process hold in memory within bounds, however many parts it has."""
    tree.read_bytes += len(content)
    if tree.read_bytes > MAX_TREE_BYTES:
        raise InvalidManifest(
            f"{tree.request.descriptor.digest}: its manifests and configurations have more than"
            f" {MAX_TREE_BYTES} bytes together"
        )


def _missing_child(tree: _Tree, child: Descriptor, parent: Digest) -> None:
    if tree.has_manifest(tree.request.repository, child.digest):
        tree.here_already.add(child.digest)
    elif tree.sparse:
        tree.absent.add(child.digest)
    else:
        raise MissingContent(
            f"{tree.request.source.location}: holds no manifest {child.digest}, which the index"
            f" {parent} lists (--sparse takes the index without it)"
        )


def _read_blobs(tree: _Tree, document: Manifest) -> image_config.ImageConfig:
    # Layers that are never copied are never measured either.
    if sum(blob.size_bytes for blob in document.blobs) > strict_json.MAX_INTEGER:
        raise InvalidManifest(f"{document.digest}: its sizes together do not fit 64 bits")
    for descriptor in document.layers:
        if descriptor.media_type not in media_types.NON_DISTRIBUTABLE:
            _need(tree, descriptor, document.digest)
    _need(tree, document.config, document.digest)
    if document.config.media_type not in media_types.IMAGE_CONFIGS:
        if document.config.media_type == media_types.OCI_EMPTY and document.artifact_type is None:
            # manifest.md: artifactType MUST be set then. Registries hold many that were made without.
            tree.remarks.append(f"{document.digest} has an empty configuration and no artifactType")
        return image_config.UNKNOWN
    config = tree.configs.get(document.config.digest)
    if config is None:
        config = _read_config(tree, document)
        # Read once: a large one that thousands of children share would be parsed for each of them.
        tree.configs[document.config.digest] = config
    if config is image_config.UNKNOWN:
        tree.remarks.append(
            f"the configuration {document.config.digest} of {document.digest} cannot be read:"
            " platform, labels and time are not known"
        )
    return config


def _read_config(tree: _Tree, document: Manifest) -> image_config.ImageConfig:
    if document.config.size_bytes > image_config.MAX_CONFIG_BYTES:
        return image_config.UNKNOWN
    content = tree.in_memory.get(document.config.digest)
    if content is None:
        content = _config_content(tree, document)
        _count(tree, content)
        tree.in_memory[document.config.digest] = content
    return image_config.parse(content)


def _config_content(tree: _Tree, document: Manifest) -> bytes:
    try:
        return tree.request.source.read(document.config, image_config.MAX_CONFIG_BYTES)
    except MissingContent:
        content = tree.find_config(document.config)
        if content is None:
            raise MissingContent(
                f"{tree.request.source.location}: holds no configuration {document.config.digest},"
                f" which the manifest {document.digest} names"
            ) from None
        return content


def _need(tree: _Tree, descriptor: Descriptor, parent: Digest | None) -> None:
    known = tree.blobs.setdefault(descriptor.digest, descriptor.size_bytes)
    if known != descriptor.size_bytes:
        raise SizeMismatch(
            f"{descriptor.digest}: {parent} says {descriptor.size_bytes} bytes, another manifest says {known}"
        )
