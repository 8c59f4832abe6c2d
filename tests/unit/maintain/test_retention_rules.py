"""Which tags rules keep: pure functions, so tables and properties."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semver import Version

from regmeta.maintain.retention.candidates import Candidate, Candidates
from regmeta.maintain.retention.policy import Policy, Rule, fingerprint, policy_of
from regmeta.maintain.retention.rules import IMMUTABLE, judge
from regmeta.maintain.retention.versions import version_key
from regmeta.oci.digest import Digest

NOW = datetime(2030, 1, 31, tzinfo=UTC)
DAY = timedelta(days=1)


def tag(name: str, days: float = 0, **fields: Any) -> Candidate:
    """Return a tag that was pushed so many days ago; ``pulled`` is in days too."""
    pulled = fields.pop("pulled", None)
    return Candidate(
        name,
        Digest.of(name.encode()),
        NOW - days * DAY,
        None if pulled is None else NOW - pulled * DAY,
        frozenset(fields.pop("platforms", ())),
        **fields,
    )


def kept(candidates: list[Candidate], *rules: Rule, counts_pulls: bool = True) -> set[str]:
    verdicts = judge(Candidates(tuple(candidates), counts_pulls), rules, NOW)
    assert verdicts.keys() == {candidate.tag for candidate in candidates}
    return {name for name, verdict in verdicts.items() if verdict.is_kept}


def rule(name: str = "rule", **said: Any) -> Rule:
    return Rule(name, **said)


FOUR = [tag("v1", 4, pulled=0), tag("v2", 3), tag("v3", 2, pulled=2), tag("main", 1, pulled=1)]
VERSIONS = [
    tag(name, days)
    for days, name in enumerate(
        ["1.0.0", "v1.2.0", "v1.10.0", "v2.0.0-rc.9", "v2.0.0-rc.10", "latest", "v2.0"]
    )
]
SEVERAL = [
    tag("plain", platforms={"linux/amd64"}),
    tag("multi", platforms={"linux/arm64/v8", "windows/amd64"}),
    tag("arm", platforms={"linux/arm/v7"}),
    tag("artifact"),
]


@pytest.mark.parametrize(
    ("candidates", "said", "expected"),
    [
        pytest.param(FOUR, {"tags": ("v*",)}, {"v1", "v2", "v3"}, id="pattern"),
        pytest.param(FOUR, {"tags": ("v{1,3}", "main")}, {"v1", "v3", "main"}, id="braces"),
        pytest.param(FOUR, {"tags": ("V*",)}, set(), id="case counts"),
        pytest.param(FOUR, {"tags_regex": ("i",)}, {"main"}, id="regex anywhere"),
        pytest.param(FOUR, {"tags": ("v1",), "tags_regex": ("3$",)}, {"v1", "v3"}, id="glob or regex"),
        pytest.param(FOUR, {"except_tags": ("v[12]",)}, {"v3", "main"}, id="all but"),
        pytest.param(FOUR, {"tags": ("*",), "except_tags": ("*",)}, set(), id="exception wins"),
        pytest.param(FOUR, {"newest_pushed": 2}, {"main", "v3"}, id="newest by push"),
        pytest.param(FOUR, {"newest_pushed": 2, "tags": ("v*",)}, {"v3", "v2"}, id="newest of a pattern"),
        pytest.param(FOUR, {"newest_pushed": 9}, {"v1", "v2", "v3", "main"}, id="more than there are"),
        pytest.param(FOUR, {"newest_pulled": 2}, {"v1", "main"}, id="newest by pull"),
        pytest.param(FOUR, {"newest_pulled": 9}, {"v1", "main", "v3"}, id="never pulled has no rank"),
        pytest.param(FOUR, {"pushed_within": 2 * DAY}, {"v3", "main"}, id="pushed within, the end included"),
        pytest.param(FOUR, {"pulled_within": DAY}, {"v1", "main"}, id="pulled within"),
        pytest.param(FOUR, {"pushed_within": 3 * DAY, "newest_pulled": 2}, {"main"}, id="all of a rule"),
        pytest.param(VERSIONS, {"newest_versions": 2}, {"v2.0.0-rc.10", "v2.0.0-rc.9"}, id="versions"),
        pytest.param(
            VERSIONS, {"newest_versions": 2, "except_tags": ("*-*",)}, {"v1.10.0", "v1.2.0"}, id="releases"
        ),
        pytest.param(
            [tag("2.0.0-rc.1"), tag("2.0.0"), tag("1.0.0")],
            {"newest_versions": 1},
            {"2.0.0"},
            id="release first",
        ),
        pytest.param(SEVERAL, {"platforms": ("linux/amd64",)}, {"plain"}, id="platform"),
        pytest.param(SEVERAL, {"platforms": ("linux/arm64",)}, {"multi"}, id="platform without its variant"),
        pytest.param(SEVERAL, {"platforms": ("linux/arm", "windows")}, {"arm", "multi"}, id="platforms"),
        pytest.param(
            [tag("new", 1), tag("old", 2, platforms={"linux/arm"})],
            {"platforms": ("linux/arm",), "newest_pushed": 1},
            {"old"},
            id="newest of a platform",
        ),
        pytest.param(
            [tag("a", has_referrers=True), tag("b")], {"has_referrers": True}, {"a"}, id="has referrers"
        ),
        pytest.param(
            [tag("a", has_referrers=True), tag("b")], {"has_referrers": False}, {"b"}, id="has no referrers"
        ),
        pytest.param(
            [tag("a", has_subject=True), tag("b")], {"has_subject": True}, {"a"}, id="has a subject"
        ),
        pytest.param(
            [tag("b", 1), tag("a", 1), tag("c", 1)], {"newest_pushed": 2}, {"a", "b"}, id="ties by name"
        ),
        pytest.param([tag("v1.0.0"), tag("1.0.0")], {"newest_versions": 1}, {"1.0.0"}, id="equal versions"),
    ],
)
def test_rule_keeps(candidates: list[Candidate], said: dict[str, Any], expected: set[str]) -> None:
    assert kept(candidates, rule(**said)) == expected


def test_any_rule_is_enough() -> None:
    assert kept(FOUR, rule("a", tags=("v1",)), rule("b", tags=("main",))) == {"v1", "main"}


def test_without_rules_every_tag_stays() -> None:
    assert kept(FOUR) == {"v1", "v2", "v3", "main"}


def test_immutable_tag_stays_whatever_rules_say() -> None:
    locked = tag("locked", 900, locked_by="the lock l*")
    verdict = judge(Candidates((locked, tag("other"))), [rule(tags=("nothing",))], NOW)["locked"]
    assert (verdict.is_kept, verdict.rule, verdict.reason) == (True, IMMUTABLE, "the lock l*")


@pytest.mark.parametrize("said", [{"newest_pulled": 1}, {"pulled_within": DAY}])
def test_where_no_pull_was_ever_counted_a_rule_about_pulls_drops_nothing(said: dict[str, Any]) -> None:
    unknown = [tag("v1", 900), tag("v2", 900), tag("main", 900)]
    assert kept(unknown, rule(tags=("v*",), **said), counts_pulls=False) == {"v1", "v2"}
    assert kept(unknown, rule(tags=("v*",), **said), counts_pulls=True) == set()


def test_first_rule_that_keeps_is_named_with_its_reasons() -> None:
    rules = [
        rule("not this", tags=("x*",)),
        rule("last three", newest_pushed=3, pushed_within=30 * DAY),
        rule("all", tags=("*",)),
    ]
    verdicts = judge(Candidates(tuple(FOUR)), rules, NOW)
    assert (verdicts["v2"].rule, verdicts["v2"].reason) == (
        "last three",
        "3rd of 3 by push, pushed within 30d",
    )
    assert (verdicts["v1"].rule, verdicts["v1"].reason) == ("all", "it is one of the rule's tags")
    dropped = judge(Candidates(tuple(FOUR)), rules[:2], NOW)["v1"]
    assert (dropped.is_kept, dropped.rule, dropped.reason) == (False, None, "no rule keeps it")


def test_ranks_are_said_in_english() -> None:
    many = [tag(f"t{number:03}", number) for number in range(112)]
    verdicts = judge(Candidates(tuple(many)), [rule(newest_pushed=200)], NOW)
    said = [
        verdicts[f"t{number - 1:03}"].reason.split()[0] for number in (1, 2, 3, 4, 11, 12, 13, 21, 111, 112)
    ]
    assert said == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "111th", "112th"]


# --- policies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repository", "expected"),
    [("team/a", "team"), ("team/a/b", "team"), ("team", "rest"), ("a/team/b", "rest"), ("ops", "ops")],
)
def test_first_policy_that_matches_counts(repository: str, expected: str) -> None:
    policies = [Policy("team", ("team/**",)), Policy("ops", ("ops*", "dev")), Policy("rest", ("**",))]
    found = policy_of(policies, repository)
    assert found is not None
    assert found.name == expected
    assert policy_of(policies[:1], "elsewhere") is None


def test_fingerprint_is_that_of_what_policies_say() -> None:
    def policies(days: int = 30, order: int = 1) -> list[Policy]:
        return [
            Policy("a", ("a/**",), (rule(pushed_within=timedelta(days=days)),)),
            Policy("b", ("b/**",), keeps_referrers=True),
        ][::order]

    assert fingerprint(policies()) == fingerprint(policies())
    assert len({fingerprint(policies()), fingerprint(policies(31)), fingerprint(policies(order=-1))}) == 3
    assert fingerprint([Policy("a", ("a",))]) != fingerprint([Policy("a", ("a",), keeps_referrers=True)])


# --- properties -------------------------------------------------------------------------------

_NAMES = st.from_regex(r"v?[0-2]\.[0-2]\.[0-2](-rc\.[0-3])?|[a-c]{1,2}", fullmatch=True)
_DAYS = st.integers(0, 5)
_CANDIDATES = st.lists(
    st.builds(
        tag,
        _NAMES,
        _DAYS,
        pulled=st.none() | _DAYS,
        platforms=st.sets(st.sampled_from(["linux/amd64", "linux/arm64"])),
        has_referrers=st.booleans(),
        has_subject=st.booleans(),
        locked_by=st.sampled_from([None, None, "a lock"]),
    ),
    unique_by=lambda candidate: candidate.tag,
    max_size=12,
)
_COUNTS = st.none() | st.integers(1, 4)
_LENGTHS = st.none() | st.builds(timedelta, days=_DAYS)
_RULES = st.lists(
    st.builds(
        Rule,
        st.uuids().map(str),
        tags=st.sampled_from([(), ("v*",), ("*rc*", "a")]),
        except_tags=st.sampled_from([(), ("*1*",)]),
        platforms=st.sampled_from([(), ("linux/amd64",)]),
        newest_pushed=_COUNTS,
        newest_pulled=_COUNTS,
        newest_versions=_COUNTS,
        pushed_within=_LENGTHS,
        pulled_within=_LENGTHS,
        has_referrers=st.none() | st.booleans(),
        has_subject=st.none() | st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@given(_CANDIDATES, _RULES, st.randoms(use_true_random=False), st.booleans())
def test_order_of_rows_never_matters(
    candidates: list[Candidate], rules: list[Rule], random: Any, counts_pulls: bool
) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)
    one = judge(Candidates(tuple(candidates), counts_pulls), rules, NOW)
    assert judge(Candidates(tuple(shuffled), counts_pulls), rules, NOW) == one


@given(_CANDIDATES, _RULES, _RULES, st.booleans())
def test_one_more_rule_never_drops_more(
    candidates: list[Candidate], rules: list[Rule], more: list[Rule], counts_pulls: bool
) -> None:
    before = kept(candidates, *rules, counts_pulls=counts_pulls)
    assert before <= kept(candidates, *rules, *more, counts_pulls=counts_pulls)
    assert before <= kept(candidates, *more, *rules, counts_pulls=counts_pulls)
    assert {candidate.tag for candidate in candidates if candidate.locked_by} <= before


_IDENTIFIERS = st.sampled_from(["0", "1", "9", "10", "rc", "alpha", "1a", "-"])
_VERSION_TEXTS = st.builds(
    lambda numbers, pre: ".".join(map(str, numbers)) + (f"-{'.'.join(pre)}" if pre else ""),
    st.tuples(*[st.integers(0, 11)] * 3),
    st.lists(_IDENTIFIERS, max_size=3),
)


@given(_VERSION_TEXTS, _VERSION_TEXTS)
def test_any_two_versions_sort_as_their_specification_says(one: str, other: str) -> None:
    keys = version_key(one), version_key(f"v{other}")
    assert keys[0] is not None
    assert keys[1] is not None
    expected = Version.parse(one).compare(other)
    assert (keys[0] > keys[1]) - (keys[0] < keys[1]) == expected


def test_versions_have_the_order_of_their_specification() -> None:
    text = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0"
    keys = [version_key(version) for version in text.split()]  # semver.org, point 11
    assert keys == sorted(key for key in keys if key is not None)


@pytest.mark.parametrize(
    "text", ["latest", "1.2", "v1", "1.2.3.4", "01.2.3", "vv1.2.3", "1.2.3-", "v", "_", "1.2.3_1"]
)
def test_other_tags_are_no_versions(text: str) -> None:
    assert version_key(text) is None
