"""What zot knows of its images beside their bytes: how often they were pulled, when, and who pushed them.

``api``       a running zot with its search extension, asked by GraphQL
``metadb``    zot's own database, ``meta.db`` beside its storage: more than the API tells, users' stars too
``bolt``      the file format of that database (bbolt)
``protobuf``  the wire format of its values

All of it is hostile input, as any source is. A time that zot has not set (0001, 1970) is None: never.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from regmeta.oci.digest import Digest

MAX_PULLS: Final = 2**31 - 1
"""zot counts in 32 bits."""

_MAX_PUSHER: Final = 255  # [characters]


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """What zot says of one manifest of a repository; *pulls* is a total, only the last one has a time.

    *pushed_by* is empty where zot does not say who it was.
    """

    digest: Digest
    pulls: int
    last_pulled_at: datetime | None
    pushed_at: datetime | None
    pushed_by: str = ""


@dataclass(frozen=True, slots=True)
class RepositoryStatistics:
    """What zot says of one repository, each manifest once; *problems* says what could not be read.

    *stars* is how many users starred it, as zot counted; only the database tells who they are.
    """

    repository: str
    images: tuple[ImageStatistics, ...] = ()
    stars: int = 0
    starred_by: tuple[str, ...] = ()
    bookmarked_by: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def is_never(at: datetime) -> bool:
    """Tell whether a time stands for none: Go's zero (0001), protobuf's (1970), or what no clock has said."""
    return not 1970 < at.year < 9999


def is_pusher(name: str) -> bool:
    """Tell whether *name* may be shown as that of a user."""
    return len(name) <= _MAX_PUSHER and name.isprintable() and name == name.strip()
