"""Values that pass between the steps of a sync."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regmeta.errors import Error
from regmeta.ingest.plan import ImageGroup
from regmeta.oci.digest import Digest
from regmeta.oci.names import image_name
from regmeta.sync.records import ItemKey

ALL_TAGS = "*"
"""What stands for the reference where a repository as a whole went wrong. No tag is called so."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of an upstream that is wanted: what it is called there, and where it goes here."""

    source: str  # the repository's name there
    reference: str  # a tag, or a digest
    repository: str  # the repository's name here
    tag: str | None  # None: reachable by its digest only
    listed: frozenset[str] | None = None
    """All tags of the source, where they were listed."""

    @property
    def destination(self) -> str:
        """Where it goes, as its row says it: with the tag, where that is not called as there."""
        return self.repository if self.tag in (None, self.reference) else f"{self.repository}:{self.tag}"

    @property
    def key(self) -> ItemKey:
        """What tells its row from those of other images of the policy."""
        return ItemKey(self.source, self.reference, self.destination)

    def __str__(self) -> str:
        return image_name(self.source, self.reference)


Verdict = Literal["unchanged", "left out", "failed", "wanted"]


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at an image said: nothing is to be done, or this *group* is to be committed.

    *error* beside a group is what could not be had of what belongs to the image: the image goes in without.
    Beside "left out" it says why.
    """

    item: Item
    verdict: Verdict
    upstream_digest: Digest | None = None
    digest: Digest | None = None
    group: ImageGroup | None = None
    error: Error | None = None
