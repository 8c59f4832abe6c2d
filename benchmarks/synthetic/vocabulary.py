"""Names of repositories and tags, and what labels say: made-up words, few of them often."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence
from typing import Final

_ONSETS: Final = (
    "b",
    "br",
    "c",
    "d",
    "f",
    "g",
    "gr",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "v",
)
_VOWELS: Final = ("a", "e", "i", "o", "u", "ea", "io")
_CODAS: Final = ("", "", "n", "r", "s", "x", "l", "ck")
KNOWN: Final = (
    "nginx",
    "redis",
    "postgres",
    "python",
    "node",
    "alpine",
    "debian",
    "ubuntu",
    "golang",
    "java",
)
"""Names that real registries have too; they head the list of base images."""


class Skewed:
    """Draws from a list: the k-th entry about 1/k^s as often as the first (Zipf's law)."""

    def __init__(self, count: int, exponent: float = 1.0) -> None:
        weights = (1 / (rank + 1) ** exponent for rank in range(count))
        self._sums = list(itertools.accumulate(weights))

    def draw(self, rng: random.Random) -> int:
        """Return a rank."""
        return bisect.bisect(self._sums, rng.random() * self._sums[-1])


class Vocabulary:
    """All words of a registry."""

    def __init__(self, rng: random.Random, repositories: int) -> None:
        words: dict[str, None] = dict.fromkeys(KNOWN)
        while len(words) < 4000:
            parts = rng.randint(2, 3)
            words[
                "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(parts))
            ] = None
        self.words: Sequence[str] = tuple(words)
        self._word = Skewed(len(self.words), 0.8)
        self._organisation = Skewed(max(5, min(500, repositories // 20)), 0.9)
        self.vendors = tuple(f"{self.word(rng).title()} {self.word(rng).title()} GmbH" for _ in range(200))
        self._vendor = Skewed(len(self.vendors))
        self.maintainers = tuple(f"{self.word(rng)}.{self.word(rng)}@example.org" for _ in range(1000))
        self._maintainer = Skewed(len(self.maintainers), 0.7)

    def word(self, rng: random.Random) -> str:
        """Return a word, a frequent one most of the time."""
        return self.words[self._word.draw(rng)]

    def repository(self, rng: random.Random, number: int, taken: set[str]) -> str:
        """Return a name of two or three components that no other has; it is added to *taken*."""
        parts = [self.words[self._organisation.draw(rng) + 100]]
        if rng.random() < 0.4:
            parts.append(self.word(rng))
        parts.append(self.word(rng) if rng.random() < 0.3 else f"{self.word(rng)}-{self.word(rng)}")
        name = "/".join(parts)
        if name in taken:
            name = f"{name}-{number}"
        taken.add(name)
        return name

    def sentence(self, rng: random.Random) -> str:
        """Return a description."""
        text = " ".join(self.word(rng) for _ in range(rng.randint(4, 12)))
        return f"{text.capitalize()}."

    def vendor(self, rng: random.Random) -> str:
        return self.vendors[self._vendor.draw(rng)]

    def maintainer(self, rng: random.Random) -> str:
        return self.maintainers[self._maintainer.draw(rng)]
