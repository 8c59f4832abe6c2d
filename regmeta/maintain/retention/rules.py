"""Which tags of a repository stay: a pure function. In which order rows came never matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from regmeta.maintain.retention.candidates import Candidate, Candidates
from regmeta.maintain.retention.patterns import platform_matcher, tag_matcher
from regmeta.maintain.retention.policy import Rule
from regmeta.maintain.retention.versions import version_key

IMMUTABLE: Final = "immutable"
NO_RULE_KEEPS_IT: Final = "no rule keeps it"
KEEPS_EVERY_TAG: Final = "the policy keeps every tag"
NO_PULLS_COUNTED: Final = "no pulls are counted here"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a tag stays; *rule* is what keeps it, None where nothing does or no rule is needed."""

    is_kept: bool
    rule: str | None
    reason: str


_Held = Mapping[str, str]  # tag -> why a criterion holds for it


def judge(found: Candidates, rules: Sequence[Rule], now: datetime) -> dict[str, Verdict]:
    """Return the verdict on each tag, by name, as of *now*.

    A tag stays if it is immutable or any rule keeps it; the first that does is named. A rule keeps a tag if
    all that it says holds. Ranks are by (time or version descending, name ascending), among the tags that
    the rule is about. Without rules every tag stays.
    """
    candidates = sorted(found.tags, key=lambda candidate: candidate.tag)
    if not rules:
        return {each.tag: Verdict(True, None, KEEPS_EVERY_TAG) for each in candidates}
    kept: dict[str, Verdict] = {}
    for rule in rules:
        for tag, reason in _kept_by(rule, candidates, now, counts_pulls=found.counts_pulls).items():
            kept.setdefault(tag, Verdict(True, rule.name, reason))
    dropped = Verdict(False, None, NO_RULE_KEEPS_IT)
    return {
        each.tag: kept.get(each.tag, dropped)
        if each.locked_by is None
        else Verdict(True, IMMUTABLE, each.locked_by)
        for each in candidates
    }


def _kept_by(
    rule: Rule, candidates: Iterable[Candidate], now: datetime, *, counts_pulls: bool
) -> dict[str, str]:
    """Return the tags that a rule keeps, each with the reason."""
    population = _population(rule, candidates)
    held = _criteria(rule, population, now, counts_pulls=counts_pulls)
    kept: dict[str, str] = {}
    for candidate in population:
        if all(candidate.tag in each for each in held):
            reasons = [each[candidate.tag] for each in held]
            kept[candidate.tag] = ", ".join(reasons) or "it is one of the rule's tags"
    return kept


def _population(rule: Rule, candidates: Iterable[Candidate]) -> list[Candidate]:
    matches = tag_matcher(rule.tags, rule.tags_regex, rule.except_tags)
    runs_on = platform_matcher(rule.platforms) if rule.platforms else None
    return [each for each in candidates if matches(each.tag) and (runs_on is None or runs_on(each.platforms))]


def _criteria(
    rule: Rule, population: Sequence[Candidate], now: datetime, *, counts_pulls: bool
) -> list[_Held]:
    """Return, for each thing that a rule asks for, the tags for which it holds."""
    held: list[_Held] = []
    if rule.newest_versions is not None:
        held.append(_newest(population, rule.newest_versions, "version", lambda each: version_key(each.tag)))
    if rule.newest_pushed is not None:
        held.append(_newest(population, rule.newest_pushed, "push", _pushed_at))
    if rule.pushed_within is not None:
        held.append(_within(population, rule.pushed_within, now, "pushed", _pushed_at))
    if rule.asks_for_pulls and not counts_pulls:
        # No statistics are no proof that nobody pulls.
        held.append({each.tag: NO_PULLS_COUNTED for each in population})
    elif rule.newest_pulled is not None:
        held.append(_newest(population, rule.newest_pulled, "pull", _pulled_at))
    if rule.pulled_within is not None and counts_pulls:
        held.append(_within(population, rule.pulled_within, now, "pulled", _pulled_at))
    if rule.has_referrers is not None:
        reason = "has referrers" if rule.has_referrers else "has no referrers"
        held.append({each.tag: reason for each in population if each.has_referrers == rule.has_referrers})
    if rule.has_subject is not None:
        reason = "its subject is here" if rule.has_subject else "it has no subject here"
        held.append({each.tag: reason for each in population if each.has_subject == rule.has_subject})
    return held


def _pushed_at(candidate: Candidate) -> datetime:
    return candidate.started_at


def _pulled_at(candidate: Candidate) -> datetime | None:
    return candidate.pulled_at


def _newest(
    population: Iterable[Candidate], count: int, by: str, key: Callable[[Candidate], Any]
) -> dict[str, str]:
    """Return the *count* greatest; the population comes by name, and sorting leaves ties as they are."""
    ranked = [(value, each.tag) for each in population if (value := key(each)) is not None]
    ranked.sort(key=lambda item: item[0], reverse=True)
    return {tag: f"{_ordinal(rank)} of {count} by {by}" for rank, (_, tag) in enumerate(ranked[:count], 1)}


def _within(
    population: Iterable[Candidate],
    length: timedelta,
    now: datetime,
    what: str,
    key: Callable[[Candidate], datetime | None],
) -> dict[str, str]:
    reason = f"{what} within {_said(length)}"
    return {each.tag: reason for each in population if (at := key(each)) is not None and now - at <= length}


def _said(length: timedelta) -> str:
    """Return a length of time as the settings say it."""
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
        if length.total_seconds() % seconds == 0:
            return f"{int(length.total_seconds()) // seconds}{unit}"
    return f"{int(length.total_seconds())}s"


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
