"""Docker's types to OCI's: a pure function of bytes, so that what an image becomes is known in advance.

Only media types change, and in an index the digests and sizes of children that changed; everything else
stays, in its order. The configuration and the layers keep their bytes. What has none of Docker's types stays
as it is, byte for byte. A subject is kept as it was written: it names an image of the upstream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from regmeta.errors import InvalidManifest, SizeMismatch
from regmeta.oci import media_types, strict_json
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Index, may_be_manifest, parse

MAX_DEPTH: Final = 16  # [levels] of manifests below each other, the root counted
MAX_MANIFESTS: Final = 256  # of one tree

OCI_TYPES: Final[Mapping[str, str]] = {
    media_types.DOCKER_MANIFEST: media_types.OCI_MANIFEST,
    media_types.DOCKER_LIST: media_types.OCI_INDEX,
    media_types.DOCKER_CONFIG: media_types.OCI_CONFIG,
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": (
        "application/vnd.oci.image.layer.nondistributable.v1.tar"
    ),
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    ),
}
"""What each of Docker's types is called by OCI."""

REFERENCE_DIGEST: Final = "vnd.docker.reference.digest"
"""The annotation of an attestation in an index that names the image beside it that it is about."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A manifest after the conversion; the descriptor says its type, digest and size only."""

    descriptor: Descriptor
    content: bytes = field(repr=False)


def convert(
    content: bytes,
    digest: Digest,
    media_type: str | None = None,
    children: Mapping[Digest, Descriptor] | None = None,
) -> Converted:
    """Return what a manifest or an index becomes; *children* says what the manifests it lists became.

    *digest* is that of *content*, *media_type* what its descriptor or its ``Content-Type`` says of it.

    Raises:
        InvalidManifest, InvalidDigest: see :func:`regmeta.oci.manifest.parse`; so Docker schema 1 is refused.
    """
    found = parse(content, digest, media_type)
    document: dict[str, Any] = strict_json.loads(content)
    before = json.dumps(document)
    if "mediaType" in document:
        _rename(document)
    if isinstance(found, Index):
        moved = {str(old): new for old, new in (children or {}).items()}
        for entry in document["manifests"]:
            _rename(entry)
            _move(entry, moved)
    else:
        for entry in (document["config"], *document["layers"]):
            _rename(entry)
    new_type = OCI_TYPES.get(found.media_type, found.media_type)
    if json.dumps(document) == before:
        return Converted(Descriptor(new_type, digest, len(content)), content)
    new = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    new_digest = Digest.of(new, digest.algorithm)
    parse(new, new_digest, new_type, verified=True)  # what became too large is found here
    return Converted(Descriptor(new_type, new_digest, len(new)), new)


def convert_tree(
    root: Descriptor, content: bytes, read: Callable[[Descriptor], bytes]
) -> dict[Digest, Converted]:
    """Return what a manifest and all manifests below it become, by their old digests, children first.

    *read* returns the bytes of a manifest that an index lists. All of them are read, those of platforms that
    are not wanted too: the digest of an index rests on what each of them becomes. Entries of an unknown type
    are not read and stay as they are. A cycle cannot be: it would be a digest that holds itself.

    Raises:
        InvalidManifest: a manifest is none, or there are more than 16 levels or 256 manifests.
        InvalidDigest, SizeMismatch: what *read* returned is something else.
        Error: what *read* raises.
    """
    done: dict[Digest, Converted] = {}
    begun: set[Digest] = set()

    def visit(descriptor: Descriptor, content: bytes, depth: int) -> None:
        where = str(descriptor.digest)
        begun.add(descriptor.digest)
        if depth > MAX_DEPTH or len(begun) > MAX_MANIFESTS:
            raise InvalidManifest(
                f"{where}: below {root.digest} are more than {MAX_DEPTH} levels or {MAX_MANIFESTS} manifests"
            )
        if len(content) != descriptor.size_bytes:
            raise SizeMismatch(f"{where}: {len(content)} bytes, not {descriptor.size_bytes}")
        found = parse(content, descriptor.digest, descriptor.media_type)
        listed = found.manifests if isinstance(found, Index) else ()
        for child in listed:
            if child.digest not in begun and may_be_manifest(child.media_type):
                visit(child, read(child), depth + 1)
        became = {child.digest: done[child.digest].descriptor for child in listed if child.digest in done}
        done[descriptor.digest] = convert(content, descriptor.digest, descriptor.media_type, became)

    visit(root, content, 1)
    return done


def _rename(entry: dict[str, Any]) -> None:
    entry["mediaType"] = OCI_TYPES.get(entry["mediaType"], entry["mediaType"])


def _move(entry: dict[str, Any], children: Mapping[str, Descriptor]) -> None:
    """Let an entry of an index say where its manifest is now, and an attestation which image it is about."""
    became = children.get(entry["digest"])
    if became is not None and str(became.digest) != entry["digest"]:
        entry["digest"] = str(became.digest)
        entry["size"] = became.size_bytes
        entry.pop("data", None)  # it is the old manifest
    annotations = entry.get("annotations") or {}
    about = annotations.get(REFERENCE_DIGEST)
    if about is not None and about in children:
        annotations[REFERENCE_DIGEST] = str(children[about].digest)
