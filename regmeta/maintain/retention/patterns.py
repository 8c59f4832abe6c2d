"""What tells whether a rule is about a tag."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from regmeta.oci import globs

Matcher = Callable[[str], bool]


def tag_matcher(patterns: Sequence[str], regexes: Sequence[str], except_patterns: Sequence[str]) -> Matcher:
    """Return what tells whether a tag matches a pattern or (anywhere in it) a regex, and no exception.

    Without patterns and regexes every tag matches that is no exception.
    """
    searched = [re.compile(regex) for regex in regexes]

    def matches(tag: str) -> bool:
        wanted = (
            not (patterns or searched)
            or globs.matches(patterns, tag)
            or any(regex.search(tag) for regex in searched)
        )
        return wanted and not globs.matches(except_patterns, tag)

    return matches


def platform_matcher(wanted: Sequence[str]) -> Callable[[frozenset[str]], bool]:
    """Return what tells whether one of some platforms is wanted: ``linux/arm`` is ``linux/arm/v7`` too."""
    exact = frozenset(wanted)
    prefixes = tuple(f"{platform}/" for platform in wanted)

    def matches(platforms: frozenset[str]) -> bool:
        return not exact.isdisjoint(platforms) or any(each.startswith(prefixes) for each in platforms)

    return matches
