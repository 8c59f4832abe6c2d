"""How big a synthetic registry is, and how skewed."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Final

DAY_US: Final = 86_400_000_000
MANIFESTS_OF_AN_IMAGE: Final = 2.2  # a tagged image with its platforms and its signatures
BUSY_TAGS: Final = 20_000
TAGS_OF_A_BUSY_IMAGE: Final = 10


@dataclass(frozen=True, slots=True)
class Shape:
    """What is asked for; everything else follows. Same shape, same rows."""

    manifests: int
    """About so many; they are within some percent of it."""
    seed: int
    today: int
    """The day of the newest rows, counted from 1970-01-01 UTC."""

    @property
    def repositories(self) -> int:
        return max(10, self.manifests // 10)

    @property
    def busy(self) -> int:
        """How many repositories have very many tags."""
        return 3 if self.manifests >= 300_000 else 1

    @property
    def busy_tags(self) -> int:
        return min(BUSY_TAGS, 2 * self.manifests)

    @property
    def bases(self) -> int:
        """How many base images others are built on."""
        return max(10, min(200, self.manifests // 100))

    @property
    def runtimes(self) -> int:
        """How many images in between: a base, and an interpreter or the like."""
        return 2 * self.bases

    @property
    def images(self) -> int:
        """How many images people tag, indexes and images of one platform, without those of the busy."""
        busy = self.busy * self.busy_tags // TAGS_OF_A_BUSY_IMAGE
        return max(self.repositories, round((self.manifests - busy) / MANIFESTS_OF_AN_IMAGE))


def today() -> int:
    """Return the day that is now."""
    return (datetime.datetime.now(tz=datetime.UTC).date() - datetime.date(1970, 1, 1)).days
