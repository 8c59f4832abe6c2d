"""Which repositories and which tags of a registry a policy wants. All names here are the registry's own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from regmeta.oci import globs, names
from regmeta.oci.signatures import is_cosign_tag, is_referrers_tag
from regmeta.oci.versions import Constraint, constraint, version_of
from regmeta.sync.policy import ContentRule, Policy

# What a regular expression spells when it is after the tags that companions have.
_SPELT: Final = re.compile(r"sha256|sha512|sig|att|sbom")


def rule_of(policy: Policy, repository: str) -> ContentRule | None:
    """Return the rule that a repository falls under, the first that matches; None if it is not wanted."""
    return next((rule for rule in policy.content if globs.matches((rule.prefix,), repository)), None)


def select_repositories(policy: Policy, repositories: Iterable[str]) -> list[tuple[str, ContentRule]]:
    """Return those of *repositories* that are wanted, in their order, each once and with its rule."""
    found = ((name, rule_of(policy, name)) for name in dict.fromkeys(repositories))
    return [(name, rule) for name, rule in found if rule is not None]


def exact_repositories(policy: Policy) -> list[tuple[str, ContentRule]] | None:
    """Return what is wanted, where the rules spell all names out; None where the registry must be asked."""
    spelt: list[str] = []
    for rule in policy.content:
        names_of_rule = globs.names_of(rule.prefix)
        if names_of_rule is None:
            return None
        spelt += names_of_rule
    return select_repositories(policy, spelt)


def select_tags(rule: ContentRule, tags: Iterable[str]) -> list[str]:
    """Return those of *tags* that are wanted, in their order and each once.

    Tags of signatures and of referrers are no images by themselves, so they come with their image; they are
    selected here only if one of the rule's regular expressions matches and spells their kind.
    """
    constraints = [constraint(text) for text in rule.versions]
    return [
        tag
        for tag in dict.fromkeys(tags)
        if names.is_tag(tag)
        and _is_included(rule, tag)
        and not any(regex.fullmatch(tag) for regex in rule.exclude)
        and (not (rule.semver or constraints) or _is_version(tag, constraints))
    ]


def is_companion_tag(tag: str) -> bool:
    """Tell whether a tag says by its name that it belongs to an image: a signature, a list of referrers."""
    return is_cosign_tag(tag) or is_referrers_tag(tag)


def _is_included(rule: ContentRule, tag: str) -> bool:
    if is_companion_tag(tag):
        return any(regex.fullmatch(tag) and _SPELT.search(regex.pattern) for regex in rule.tags)
    return not rule.tags or any(regex.fullmatch(tag) for regex in rule.tags)


def _is_version(tag: str, constraints: list[Constraint]) -> bool:
    version = version_of(tag)
    return version is not None and all(each.holds(version) for each in constraints)
