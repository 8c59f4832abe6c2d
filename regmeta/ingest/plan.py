"""Values that pass between the phases of an ingest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Protocol

from regmeta.errors import Error
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.image_config import ImageConfig
from regmeta.oci.manifest import Index, Manifest
from regmeta.sources import Source


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long what is under way is left alone, by the database's clock."""

    intent: timedelta = timedelta(hours=1)  # renewed while the process works
    max_upload: timedelta = timedelta(hours=24)  # but not longer than this
    lease: timedelta = timedelta(hours=24)  # a blob or manifest that nothing refers to yet
    garbage: timedelta = timedelta(hours=1)  # before what was displaced is looked at
    tombstone: timedelta = timedelta(hours=1)  # before a dead object is deleted: the read window
    history: timedelta = timedelta(days=7)  # an ended tag keeps its manifest for this long


ADOPTED: Final = "adopt:"
"""How the name of who took something over begins: times beside it are those of the old registry's files."""


@dataclass(frozen=True, slots=True)
class Times:
    """When an image came to the registry that it is taken over from; what is not known is now.

    A time in the future is not believed. A new manifest has its time of *pushed*. A tag points where it does
    since *tagged_at*, unless its history here goes on for longer.
    """

    pushed: Mapping[Digest, datetime | None] = field(default_factory=dict)
    tagged_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image of a source, and where it is to go.

    Without a tag it is reachable by its digest only, until its lease ends.
    """

    source: Source
    descriptor: Descriptor
    repository: str
    tag: str | None = None
    times: Times = field(default_factory=Times)

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.descriptor.digest}"


@dataclass(frozen=True, slots=True)
class PlannedManifest:
    """One manifest of a tree: the parsed bytes, and what its configuration says."""

    document: Manifest | Index
    config: ImageConfig
    pushed_at: datetime | None = None  # None: when it is committed


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """A whole tree that was read and checked, children first, and the blobs that it needs."""

    request: ImageRequest
    manifests: tuple[PlannedManifest, ...]
    blobs: Mapping[Digest, int]  # sizes [bytes], the manifests' own bytes included
    in_memory: Mapping[Digest, bytes] = field(repr=False)
    absent: frozenset[Digest] = frozenset()  # children that the source does not hold, allowed
    here_already: frozenset[Digest] = frozenset()  # children that the repository has
    unwanted: frozenset[Digest] = frozenset()  # children that were not asked for; linked if they are here

    @property
    def root(self) -> Digest:
        """The digest that the tag will point at."""
        return self.request.descriptor.digest

    @property
    def size_bytes(self) -> int:
        """How many bytes it would copy if nothing of it were here."""
        return sum(self.blobs.values())


@dataclass(frozen=True, slots=True)
class TagChange:
    """What a commit did to a tag; *previous* is None for a new one."""

    repository: str
    tag: str
    digest: Digest | None
    previous: Digest | None


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What one committed transaction changed."""

    repositories: tuple[tuple[int, str], ...]  # ids and names
    new_manifests: int = 0
    new_blobs: int = 0
    tags_changed: tuple[TagChange, ...] = ()
    revived: tuple[int, ...] = ()  # ids of repositories that were deleted before
    details: Mapping[str, Any] = field(default_factory=dict)  # plain JSON, of deletes and their undoing

    def to_json(self) -> dict[str, object]:
        """Return the form that the ``ingests`` row keeps, for a retry after an unclear answer."""
        return {
            "repositories": [list(item) for item in self.repositories],
            "new_manifests": self.new_manifests,
            "new_blobs": self.new_blobs,
            "tags_changed": [
                [change.repository, change.tag, _optional(change.digest), _optional(change.previous)]
                for change in self.tags_changed
            ],
            **({"revived": list(self.revived)} if self.revived else {}),
            **({"details": dict(self.details)} if self.details else {}),
        }

    @classmethod
    def from_json(cls, value: Any) -> CommitResult:
        """Read what :meth:`to_json` gave."""
        return cls(
            tuple((number, name) for number, name in value["repositories"]),
            value["new_manifests"],
            value["new_blobs"],
            tuple(
                TagChange(repository, tag, _digest(digest), _digest(previous))
                for repository, tag, digest, previous in value["tags_changed"]
            ),
            tuple(value.get("revived", ())),
            value.get("details", {}),
        )


def _optional(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)


def _digest(text: str | None) -> Digest | None:
    return None if text is None else Digest.parse(text)


Status = Literal["imported", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """How the import of one image ended; *image* is where it was to go, as a reference."""

    image: str
    status: Status
    digest: Digest | None = None
    error: Error | None = None
    copied_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ImageGroup:
    """An image, and what goes with it, such as its signatures: without the image none of them goes in.

    With *all_or_nothing* the image does not go in either if one of them does not.
    """

    image: PlannedImage
    companions: tuple[PlannedImage, ...] = ()
    all_or_nothing: bool = False

    @property
    def members(self) -> tuple[PlannedImage, ...]:
        """The image and its companions."""
        return (self.image, *self.companions)


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    """How a group ended: its image, and its companions in their order."""

    image: ImageOutcome
    companions: tuple[ImageOutcome, ...] = ()


class Progress(Protocol):
    """Who is told how an import gets on. Called from several threads."""

    def planned(self, images: int, size_bytes: int) -> None:
        """More was found to do."""

    def advanced(self, size_bytes: int) -> None:
        """Bytes were copied."""

    def finished(self, outcomes: Iterable[ImageOutcome]) -> None:
        """Images are done: committed, skipped or failed."""


class NoProgress:
    """Tells nobody."""

    def planned(self, images: int, size_bytes: int) -> None:
        """Ignore it."""

    def advanced(self, size_bytes: int) -> None:
        """Ignore it."""

    def finished(self, outcomes: Iterable[ImageOutcome]) -> None:
        """Ignore it."""
