"""The settings of retention: which tags stay (docs/retention.md)."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from regmeta.errors import UsageError
from regmeta.settings.values import Count, check_globs, check_regexes, duration

_PLATFORM: Final = re.compile(r"[^/\s]+(/[^/\s]+){0,2}")


class KeepRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule of retention: it keeps the tags for which all that it says holds."""

    name: str = ""
    tags: tuple[str, ...] = ()
    tags_regex: tuple[str, ...] = ()
    except_tags: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    newest_pushed: Count | None = None
    newest_pulled: Count | None = None
    newest_versions: Count | None = None
    pushed_within: str | None = None
    pulled_within: str | None = None
    has_referrers: bool | None = None
    has_subject: bool | None = None


class KeepUntagged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which manifests without a tag stay: none or all, or those for which any of the rest holds."""

    keep: Literal["none", "all"] | None = None
    newest_pushed: Count | None = None
    newest_pulled: Count | None = None
    pushed_within: str | None = None
    pulled_within: str | None = None


class RetentionPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept in some repositories."""

    name: str = ""
    repositories: tuple[str, ...] = ()
    referrers: Literal["follow", "keep"] = "follow"
    untagged: KeepUntagged = KeepUntagged(keep="none")
    keep: tuple[KeepRule, ...] = ()


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which tags stay; of several policies the first that is for a repository counts."""

    policies: tuple[RetentionPolicy, ...] = ()


def check_retention(retention: Retention) -> None:
    """Refuse what can only be a mistake: it would keep, or drop, other tags than its author thinks.

    Raises:
        UsageError: names the policy, the rule and the key.
    """
    names = set()
    for number, policy in enumerate(retention.policies, 1):
        where = f"retention policy {policy.name or number!r}"
        if policy.name and policy.name in names:
            raise UsageError(f"settings: {where}: name: there are two of it")
        names.add(policy.name)
        if not policy.repositories:
            raise UsageError(f"settings: {where}: repositories: there are none")
        check_globs(f"{where}: repositories", policy.repositories)
        _check_untagged(f"{where}: untagged", policy.untagged)
        rule_names = set()
        for at, rule in enumerate(policy.keep, 1):
            if rule.name and rule.name in rule_names:
                raise UsageError(f"settings: {where}: keep: there are two rules {rule.name!r}")
            rule_names.add(rule.name)
            _check_rule(f"{where}, rule {rule.name or at!r}", rule)


def _check_rule(where: str, rule: KeepRule) -> None:
    if rule == KeepRule(name=rule.name):
        raise UsageError(f'settings: {where}: says nothing of what it keeps; tags = ["*"] is every tag')
    for key in ("tags", "except_tags"):
        check_globs(f"{where}: {key}", getattr(rule, key), tags=True)
    check_regexes(f"{where}: tags_regex", rule.tags_regex)
    for platform in rule.platforms:
        if not _PLATFORM.fullmatch(platform):
            raise UsageError(f"settings: {where}: platforms: {platform!r} is none: write linux/amd64")
    _check_durations(where, rule)


def _check_untagged(where: str, untagged: KeepUntagged) -> None:
    if untagged == KeepUntagged():
        raise UsageError(f'settings: {where}: says nothing; keep = "none" is the default')
    if untagged.keep is not None and untagged != KeepUntagged(keep=untagged.keep):
        raise UsageError(f"settings: {where}: keep = {untagged.keep!r} leaves nothing to other rules")
    _check_durations(where, untagged)


def _check_durations(where: str, of: KeepRule | KeepUntagged) -> None:
    for key in ("pushed_within", "pulled_within"):
        text = getattr(of, key)
        try:
            if text is not None:
                duration(text)
        except UsageError as error:
            raise UsageError(f"settings: {where}: {key}: {error}") from error
