"""What a run goes by, what it says, and where things go: values that its parts share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from regmeta.adopt.records.adoptions import KnownAdoption
from regmeta.errors import Error, InvalidSource
from regmeta.ingest.plan import Lifetimes
from regmeta.oci import names
from regmeta.sources.storage import RegistryStorage

LEASE: Final = timedelta(days=36_500)
"""For so long everything that was brought is kept, unless the adoption is finalized before."""
IMAGES_AT_ONCE: Final = 8
_UNREADABLE: Final = "unreadable: "


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is to be made.

    *again*: look at all repositories, not only at those that have changed. *overwrite*: a tag that somebody
    moved here goes back to what it is there, and a repository that was deleted here comes back.
    *believe_deletes*: also where most tags of a repository are gone. *images_at_once* are looked at.
    """

    again: bool = False
    overwrite: bool = False
    believe_deletes: bool = False
    images_at_once: int = IMAGES_AT_ONCE


@dataclass(slots=True)
class AdoptReport:
    """What a run has done, in images; *failures* are repositories that the next run looks at again."""

    adoption: KnownAdoption
    repositories: int = 0
    unchanged: int = 0
    brought: int = 0
    here_already: int = 0  # tags
    left_out: int = 0
    removed_tags: int = 0
    copied_bytes: int = 0
    linked_bytes: int = 0  # of those, by name only
    failures: dict[str, Error] = field(default_factory=dict)
    defects: Mapping[tuple[str, str], int] = field(default_factory=dict)


def lifetimes_for(usual: Lifetimes) -> Lifetimes:
    """Return the lifetimes that a run's writer has."""
    return replace(usual, lease=LEASE)


def destination_of(prefix: str, name: str) -> str | None:
    """Return where a repository of a source goes here; None if its name is none of the grammar."""
    destination = f"{prefix}/{name}" if prefix else name
    return destination if names.is_repository(destination) else None


def fingerprint_of(storage: RegistryStorage, name: str) -> str:
    """Return the fingerprint of a repository; of one that cannot be read, why: until it can, it is the same.

    Raises:
        RemoteUnavailable: the bucket did not answer.
    """
    try:
        return storage.fingerprint(name)
    except InvalidSource as error:
        return f"{_UNREADABLE}{error}"


def is_read(fingerprint: str) -> bool:
    """Tell whether a fingerprint was read: one that was not says nothing of what has changed."""
    return not fingerprint.startswith(_UNREADABLE)
