"""Manifests read again from their objects, as plans that the commit of an ingest takes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from regmeta.errors import InputError, MissingContent
from regmeta.ingest.plan import ImageRequest, PlannedImage, PlannedManifest
from regmeta.maintain.rebuild.objects import Objects
from regmeta.maintain.rebuild.report import Problem
from regmeta.oci import image_config, manifest, media_types, strict_json
from regmeta.oci.descriptor import EMPTY_DIGEST, EMPTY_JSON, Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Index, Manifest, may_be_manifest
from regmeta.oci.streams import ByteStream
from regmeta.sources import SourceEntry
from regmeta.store import new_key

# The root of a plan that is not one image: no manifest can have this digest.
_NO_ROOT: Final = Descriptor(media_types.OCI_EMPTY, EMPTY_DIGEST, len(EMPTY_JSON))


@dataclass(frozen=True, slots=True)
class StoreItself:
    """Where adopted content comes from: it is there, so nothing is listed and nothing copied."""

    location: str

    def entries(self) -> Iterator[SourceEntry]:
        """List nothing."""
        return iter(())

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Hold nothing."""
        raise MissingContent(f"{self.location}: {descriptor.digest} is not to be copied")

    def open(self, digest: Digest) -> AbstractContextManager[ByteStream]:
        """Hold nothing."""
        raise MissingContent(f"{self.location}: {digest} is not to be copied")

    def close(self) -> None:
        """Hold nothing."""


@dataclass(slots=True)
class Piece:
    """Manifests of one repository that are committed together, and the objects that they need."""

    images: list[PlannedImage]
    adopted: dict[Digest, str] = field(default_factory=dict)
    lost: dict[Digest, str] = field(default_factory=dict)


class Trees:
    """Reads the manifests of one repository. What cannot be read is noted in *problems*."""

    def __init__(self, objects: Objects, repository: str, location: str, problems: list[Problem]) -> None:
        self._objects = objects
        self._repository = repository
        self._source = StoreItself(location)
        self._problems = problems
        self._reported: set[Digest] = set()

    def read(self, descriptor: Descriptor, tags: Sequence[str] = ()) -> PlannedManifest | None:
        """Return a manifest, verified; None if it cannot come back, which is noted with its *tags*.

        Raises:
            StoreUnavailable: it could not be found out.
        """
        digest = descriptor.digest
        found = self._objects.read(digest, descriptor.size_bytes)
        if found is None:
            self._lose(digest, tags, self._objects.why_not(digest, descriptor.size_bytes))
            return None
        try:
            document = manifest.parse(found, digest, descriptor.media_type, verified=True)
        except InputError as error:
            self._lose(digest, tags, str(error))
            return None
        if isinstance(document, Manifest) and _total_bytes(document) > strict_json.MAX_INTEGER:
            self._lose(digest, tags, "its sizes together do not fit 64 bits")
            return None
        config = self._config(document) if isinstance(document, Manifest) else image_config.UNKNOWN
        return PlannedManifest(document, config)

    def piece(self, manifests: Sequence[PlannedManifest], here: Collection[Digest]) -> Piece:
        """Return the plan of some manifests; a child is there if it is among them or *here*."""
        mine = {planned.document.digest for planned in manifests}
        sizes: dict[Digest, int] = {}
        absent: set[Digest] = set()
        outside: set[Digest] = set()
        for planned in manifests:
            document = planned.document
            for digest, size_bytes in needs(document):
                if sizes.setdefault(digest, size_bytes) != size_bytes:
                    self._report(digest, f"{document.digest} says {size_bytes} bytes, another does not")
            if isinstance(document, Index):
                for child in document.manifests:
                    if may_be_manifest(child.media_type) and child.digest not in mine:
                        (outside if child.digest in here else absent).add(child.digest)
        request = ImageRequest(self._source, _NO_ROOT, self._repository)
        image = PlannedImage(request, tuple(manifests), sizes, {}, frozenset(absent), frozenset(outside))
        piece = Piece([image])
        for digest, size_bytes in sizes.items():
            key = self._objects.choose(digest, size_bytes)
            if key is not None:
                piece.adopted[digest] = key
            else:
                piece.lost[digest] = new_key(digest)
                why = self._objects.why_not(digest, size_bytes)
                self._report(digest, f"marked as damaged: {why}; importing its image again heals it")
        return piece

    def tags(self, tags: Mapping[str, Descriptor]) -> list[PlannedImage]:
        """Return plans that point tags at manifests which are there, or come in the same commit."""
        return [
            PlannedImage(
                ImageRequest(self._source, descriptor, self._repository, tag),
                (),
                {},
                {},
                here_already=frozenset({descriptor.digest}),
            )
            for tag, descriptor in tags.items()
        ]

    def _config(self, document: Manifest) -> image_config.ImageConfig:
        """Read a configuration, of whatever type, so that a rotten one is found."""
        config = document.config
        if config.size_bytes > image_config.MAX_CONFIG_BYTES:
            self._objects.choose(config.digest, config.size_bytes, hashed=True)
            return image_config.UNKNOWN
        content = self._objects.read(config.digest, config.size_bytes)
        if content is None or config.media_type not in media_types.IMAGE_CONFIGS:
            return image_config.UNKNOWN
        return image_config.parse(content)

    def _lose(self, digest: Digest, tags: Sequence[str], why: str) -> None:
        named = f"; lost with it: {', '.join(f'{self._repository}:{tag}' for tag in tags)}" if tags else ""
        self._report(digest, f"the manifest cannot come back: {why}{named}")

    def _report(self, digest: Digest, detail: str) -> None:
        if digest not in self._reported:
            self._reported.add(digest)
            self._problems.append(Problem(self._repository, str(digest), detail))


def children_first(indexes: Iterable[PlannedManifest]) -> list[PlannedManifest]:
    """Order indexes so that each comes after those that it lists. No digest can reach itself."""
    waiting = {planned.document.digest: planned for planned in indexes}
    ordered: list[PlannedManifest] = []
    for first in list(waiting):
        stack = [first]
        while stack:
            planned = waiting.get(stack[-1])
            if planned is None:
                stack.pop()
                continue
            below = [digest for digest in _children(planned) if digest in waiting]
            if below:
                stack += below
            else:
                ordered.append(waiting.pop(stack.pop()))
    return ordered


def _children(planned: PlannedManifest) -> list[Digest]:
    document = planned.document
    return [child.digest for child in document.manifests] if isinstance(document, Index) else []


def needs(document: Manifest | Index) -> Iterator[tuple[Digest, int]]:
    """Give what a manifest needs to be stored: itself, and the blobs that it names."""
    yield document.digest, len(document.content)
    if isinstance(document, Index):
        listed = (child for child in document.manifests if not may_be_manifest(child.media_type))
        yield from ((child.digest, child.size_bytes) for child in listed)
        return
    yield document.config.digest, document.config.size_bytes
    for layer in document.layers:
        if layer.media_type not in media_types.NON_DISTRIBUTABLE:
            yield layer.digest, layer.size_bytes


def _total_bytes(document: Manifest) -> int:
    return sum(blob.size_bytes for blob in document.blobs)
