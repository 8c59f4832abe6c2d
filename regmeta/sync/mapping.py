"""Where an upstream's repository goes, and which one a repository here comes from.

The second is what an image that is asked for by its name here needs. It is the inverse of the first: where
two repositories of the upstream would go to one place, the one of the first rule goes there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from regmeta.errors import InvalidName
from regmeta.oci import globs, names
from regmeta.sync.policy import ContentRule, Policy
from regmeta.sync.selection import rule_of

_TOKEN: Final = re.compile(r"\*+|\?|\[[!^]?([^\]]*)\]|\{([^{},]*)[^{}]*\}")


class Collision(NamedTuple):
    """Two repositories of an upstream that go to one place."""

    local: str
    wins: str
    loses: str


def destination_of(rule: ContentRule, upstream_repository: str) -> str:
    """Return the repository here in which a repository of the upstream, which *rule* matches, is mirrored.

    Raises:
        InvalidName: what comes out names no repository.
    """
    stripped = _stripped(rule)
    rest = upstream_repository
    if stripped:
        rest = rest.removeprefix(stripped + "/")
    result = "/".join(part for part in (rule.destination, rest) if part)
    try:
        return names.repository_name(result)
    except InvalidName as error:
        raise InvalidName(f"{error} (where {upstream_repository[:300]!r} would be mirrored)") from None


def upstream_of(policy: Policy, local_repository: str) -> tuple[ContentRule, str] | None:
    """Return the rule and the upstream's repository that a repository here mirrors, None if it has none."""
    return next(_origins(policy, local_repository), None)


def collision(policy: Policy) -> Collision | None:
    """Return two repositories that would go to one place, where an example shows it; None where none does.

    Tried are the names in the rules, with something short in the place of each wildcard.
    """
    for rule in policy.content:
        name = _example(rule.prefix)
        if rule_of(policy, name) is not rule:
            continue
        try:
            local = destination_of(rule, name)
        except InvalidName:
            continue
        origins = list(dict.fromkeys(upstream for _, upstream in _origins(policy, local)))
        if len(origins) > 1:
            return Collision(local, origins[0], origins[1])
    return None


def _origins(policy: Policy, local_repository: str) -> Iterator[tuple[ContentRule, str]]:
    """Return all that would go to one place; those that another rule sends elsewhere do not."""
    for rule in policy.content:
        rest = local_repository
        if rule.destination:
            if not rest.startswith(rule.destination + "/"):
                continue
            rest = rest.removeprefix(rule.destination + "/")
        name = "/".join(part for part in (_stripped(rule), rest) if part)
        if names.is_repository(name) and rule_of(policy, name) is rule:
            yield rule, name


def _stripped(rule: ContentRule) -> str:
    """Return what a rule takes away in front: the parts before its first wildcard, or all but the last."""
    if not rule.strip_prefix:
        return ""
    parts = globs.literal_parts(rule.prefix)
    return "/".join(parts if globs.has_wildcard(rule.prefix) else parts[:-1])


def _example(pattern: str) -> str:
    """Return a name that *pattern* matches, if that is easy."""

    def filled(match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[1][:1]
        return "x" if match[2] is None else match[2]

    return _TOKEN.sub(filled, pattern)
