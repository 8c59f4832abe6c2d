"""What can be wrong with what a registry kept: each class, what it means, and whether the image comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from regmeta.errors import (
    Error,
    ImmutableTag,
    IntegrityError,
    InvalidDigest,
    InvalidManifest,
    InvalidSource,
    LeftOut,
    LintFailed,
    MissingContent,
    RepositoryNotActive,
)
from regmeta.sources.storage import Defect, DefectKind
from regmeta.sources.storage.descriptors import Schema1, UnknownMediaType

MEANINGS: Final[Mapping[DefectKind, str]] = {
    "bad-repository-name": "a repository whose name is none of the grammar",
    "bad-tag-name": "a tag whose name is none of the grammar",
    "empty-link": "a link of 0 bytes: a write that was cut off",
    "bad-link": "a link that does not say a digest, or is no regular file",
    "no-manifests-folder": "a repository that only uploads were begun in",
    "missing-manifest": "a tag or a link whose manifest has no bytes",
    "unlinked-manifest": "a tag of a manifest that was deleted",
    "damaged-manifest": "a manifest whose bytes have another digest",
    "invalid-manifest": "a manifest that is not valid",
    "schema-1": "a manifest of Docker's schema 1, which names no configuration",
    "empty-media-type": "a manifest that does not say its type; it comes as what it is",
    "unknown-media-type": "a manifest of a type that is none of images or indexes",
    "broken-index-child": "an index that lists a child which is missing or broken; it comes without it",
    "missing-blob": "an image whose layer or configuration has no bytes",
    "unlinked-blob": "a layer or configuration that its repository has no link to; it comes",
    "unfilled-placeholder": "a placeholder of 0 bytes whose original is nowhere",
    "damaged-blob": "a layer or configuration whose bytes have another digest or size",
    "foreign-layer": "a layer that is elsewhere by its own terms; the image comes without its bytes",
    "bad-index-file": "a layout without an index that can be read",
    "bad-entry": "an entry of an index file that is none",
    "tag-listed-twice": "a tag that an index file lists twice",
    "unreadable": "a file that the operating system does not give out",
    "moved-here": "a tag that somebody has moved or removed here since; it is left as it is here",
    "refused-here": "an image or a repository that the rules here refuse",
    "tags-gone": "a repository most of whose tags are gone there; none was removed here",
}
BROUGHT: Final[frozenset[DefectKind]] = frozenset(
    (
        "broken-index-child",
        "empty-media-type",
        "foreign-layer",
        "no-manifests-folder",
        "tag-listed-twice",
        "unlinked-blob",
    )
)
"""What leaves nothing out: the image is whole enough to come in, or there is none."""
TRIED_AGAIN: Final[frozenset[DefectKind]] = frozenset(
    ("moved-here", "refused-here", "tags-gone", "unreadable")
)
"""What may pass although nothing changes in the files: a repository with such a defect is never done with."""
HIDING: Final[frozenset[DefectKind]] = frozenset(
    ("bad-entry", "bad-index-file", "no-manifests-folder", "unreadable")
)
"""What may hide tags: one that is not listed beside it may be there all the same."""


@dataclass(frozen=True, slots=True)
class Found:
    """A defect, and the image (tag or digest) that it was found with; no image for what a listing says."""

    defect: Defect
    image: str = ""

    @property
    def is_brought(self) -> bool:
        """Whether the image comes in all the same."""
        return self.defect.kind in BROUGHT


class Rejected(InvalidSource):
    """An image cannot be brought: of it something is wrong that has a class of its own."""

    def __init__(self, defect: Defect) -> None:
        super().__init__(f"{defect.subject}: {defect.detail}")
        self.defect = defect


def defect_of(error: Error, subject: str) -> Defect:
    """Return the class of what went wrong with what a manifest names, or with its commit."""
    because = error.because if isinstance(error, LeftOut) else error
    if isinstance(because, Rejected):
        return because.defect
    return Defect(_kind_of(because), subject, str(because))


def _kind_of(error: Error) -> DefectKind:
    kinds: tuple[tuple[type[Error], DefectKind], ...] = (
        (Schema1, "schema-1"),
        (UnknownMediaType, "unknown-media-type"),
        (InvalidManifest, "invalid-manifest"),
        (InvalidDigest, "invalid-manifest"),
        (MissingContent, "missing-blob"),
        (IntegrityError, "damaged-blob"),
        (InvalidSource, "unreadable"),
        (ImmutableTag, "refused-here"),
        (RepositoryNotActive, "refused-here"),
        (LintFailed, "refused-here"),
    )
    for kind, name in kinds:
        if isinstance(error, kind):
            return name
    return "unreadable"
