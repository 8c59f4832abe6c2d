"""What is mirrored from one registry: plain values, made from the settings once."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from regmeta.errors import UsageError

TERMS_LENGTH: Final = 16  # [hex digits]: told apart are the few texts that one policy ever had


@dataclass(frozen=True, slots=True)
class ContentRule:
    """Some repositories of a registry, which of their tags are wanted, and where they go.

    *prefix* is a pattern of ``oci.globs`` on the registry's own names. Their place here is *destination*
    before the name, which with *strip_prefix* has lost the part before the pattern's first wildcard.
    """

    prefix: str
    destination: str = ""
    strip_prefix: bool = False
    tags: tuple[re.Pattern[str], ...] = ()
    """A tag is wanted if one of these is all of it; with none, every tag is."""
    exclude: tuple[re.Pattern[str], ...] = ()
    semver: bool = False
    versions: tuple[str, ...] = ()
    """Constraints like ``>=1.2.0`` that all must hold; a tag that is no version then is not wanted."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long an image that failed is left alone: *first*, then twice as long each time up to *longest*."""

    first: timedelta
    longest: timedelta

    def after(self, attempts: int) -> timedelta:
        """Return the wait after so many failures in a row, of which there was at least one."""
        doubled = max(attempts, 1) - 1
        return self.longest if doubled >= self.doublings else self.first * 2**doubled

    @property
    def doublings(self) -> int:
        """After how many doublings the wait is the longest."""
        if self.first <= timedelta(0):
            return 0
        return max(-(-self.longest // self.first) - 1, 0).bit_length()


@dataclass(frozen=True, slots=True)
class Policy:
    """All that is asked for of one registry. *name* is the registry's name in the settings."""

    name: str
    content: tuple[ContentRule, ...]
    platforms: tuple[str, ...] = ()
    """``os/architecture[/variant]``; with none, all are wanted."""
    only_signed: bool = False
    referrers: bool = True
    cosign_tags: bool = True
    convert: Literal["none", "oci"] = "none"
    upstream_deletes: Literal["keep", "delete"] = "keep"
    poll: timedelta | None = None
    on_demand: bool = False
    check_interval: timedelta = timedelta(0)
    """For how long an image that was checked is served on demand without asking again."""
    image_timeout: timedelta = timedelta(hours=3)
    images_at_once: int = 4
    backoff: Backoff = Backoff(timedelta(minutes=1), timedelta(hours=1))

    def __post_init__(self) -> None:
        """Refuse what cannot be kept: a signature is of the bytes, which a conversion changes.

        Raises:
            UsageError: *only_signed* and *convert* are asked for together.
        """
        if self.only_signed and self.convert != "none":
            raise UsageError(f"{self.name}: only_signed and convert exclude each other: signed are the bytes")

    @property
    def terms(self) -> str:
        """What decides which bytes come for a tag, as a short text that changes when it does."""
        said: dict[str, Any] = {
            "platforms": sorted(set(self.platforms)),
            "convert": self.convert,
            "only_signed": self.only_signed,
            "referrers": self.referrers,
            "cosign_tags": self.cosign_tags,
        }
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:TERMS_LENGTH]
