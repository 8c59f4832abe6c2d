"""Semantic versions of tags (semver.org), a leading v allowed, and constraints on them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from regmeta.errors import UsageError

if TYPE_CHECKING:
    from semver import Version

_CONSTRAINT: Final = re.compile(r"(>=|<=|==|!=|>|<|=)? *(\S+)")
_OPERATORS: Final[dict[str | None, Callable[[Any, Any], bool]]] = {
    None: operator.eq,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a version is compared with, and how."""

    compare: Callable[[Any, Any], bool]
    version: Version

    def holds(self, version: Version) -> bool:
        """Tell whether *version* keeps it."""
        return self.compare(version, self.version)


def version_of(tag: str) -> Version | None:
    """Return the version that a tag is, None if it is none."""
    if not tag.lstrip("vV")[:1].isdigit():  # most tags that are none end here
        return None
    from semver import Version

    try:
        return Version.parse(tag[1:] if tag[0] in "vV" else tag)
    except ValueError:
        return None


@lru_cache(maxsize=256)
def constraint(text: str) -> Constraint:
    """Read ``>=1.2.0``, ``<2.0.0``, ``!=1.3.1`` or a version itself.

    The order is semver's: a pre-release is below its release, so ``<2.0.0`` lets 2.0.0-rc.1 pass.

    Raises:
        UsageError: it is none.
    """
    match = _CONSTRAINT.fullmatch(text.strip()) if len(text) <= 200 else None
    version = None if match is None else version_of(match[2])
    if match is None or version is None:
        raise UsageError(f"{text[:100]!r} is no constraint on versions: write >=1.2.0 or <2.0.0")
    return Constraint(_OPERATORS[match[1]], version)
