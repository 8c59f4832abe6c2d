"""What an operator wants to keep: values, as the settings say them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from regmeta.oci import globs


@dataclass(frozen=True, slots=True)
class Rule:
    """Keeps the tags for which all that is said here holds; what is None or empty is not asked.

    *tags*, *tags_regex*, *except_tags* and *platforms* say which tags the rule is about. Among those the
    *newest* are counted.
    """

    name: str
    tags: tuple[str, ...] = ()
    tags_regex: tuple[str, ...] = ()
    except_tags: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    newest_pushed: int | None = None
    newest_pulled: int | None = None
    newest_versions: int | None = None
    pushed_within: timedelta | None = None
    pulled_within: timedelta | None = None
    has_referrers: bool | None = None
    has_subject: bool | None = None

    @property
    def asks_for_pulls(self) -> bool:
        """Whether it depends on when a tag was pulled."""
        return self.newest_pulled is not None or self.pulled_within is not None


@dataclass(frozen=True, slots=True)
class Untagged:
    """Keeps a manifest that nothing else keeps if any of this holds. Without anything: none."""

    keeps_all: bool = False
    newest_pushed: int | None = None
    newest_pulled: int | None = None
    pushed_within: timedelta | None = None
    pulled_within: timedelta | None = None

    @property
    def keeps_none(self) -> bool:
        """Whether it leaves all to the collector's own windows."""
        return self == Untagged()


@dataclass(frozen=True, slots=True)
class Policy:
    """What is kept in the repositories that it is for. Without rules every tag stays."""

    name: str
    repositories: tuple[str, ...]
    keep: tuple[Rule, ...] = ()
    untagged: Untagged = Untagged()
    keeps_referrers: bool = False


def policy_of(policies: Iterable[Policy], repository: str) -> Policy | None:
    """Return the first policy that is for a repository."""
    return next((each for each in policies if globs.matches(each.repositories, repository)), None)


def fingerprint(policies: Iterable[Policy]) -> str:
    """Return a digest of all that policies say: the same policies in the same order have the same."""
    said = json.dumps([asdict(policy) for policy in policies], sort_keys=True, default=_plain)
    return f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(f"{value!r} is part of no policy")
