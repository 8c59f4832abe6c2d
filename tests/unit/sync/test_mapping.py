"""Where repositories go, and the way back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmeta.errors import InvalidName
from regmeta.sync.mapping import collision, destination_of, upstream_of
from regmeta.sync.policy import ContentRule, Policy
from regmeta.sync.selection import rule_of


def policy(*rules: ContentRule) -> Policy:
    return Policy("hub", rules)


@pytest.mark.parametrize(
    ("said", "upstream", "local"),
    [
        ({"prefix": "**"}, "team/app", "team/app"),
        ({"prefix": "**", "destination": "mirror/hub"}, "team/app", "mirror/hub/team/app"),
        ({"prefix": "team/**", "strip_prefix": True}, "team/app/x", "app/x"),
        ({"prefix": "team/**", "strip_prefix": True, "destination": "m"}, "team/app/x", "m/app/x"),
        ({"prefix": "a/b/c*/d", "strip_prefix": True}, "a/b/cc/d", "cc/d"),
        ({"prefix": "a/{b,c}/*", "strip_prefix": True}, "a/c/d", "c/d"),
        ({"prefix": "te*/x", "strip_prefix": True}, "team/x", "team/x"),
        ({"prefix": "library/alpine", "strip_prefix": True}, "library/alpine", "alpine"),
        ({"prefix": "alpine", "strip_prefix": True, "destination": "m"}, "alpine", "m/alpine"),
        ({"prefix": "library/alpine", "destination": "m"}, "library/alpine", "m/library/alpine"),
    ],
)
def test_repository_goes_where_documented_and_back(said: dict[str, Any], upstream: str, local: str) -> None:
    rule = ContentRule(**said)

    assert destination_of(rule, upstream) == local
    assert upstream_of(policy(rule), local) == (rule, upstream)


def test_place_that_no_repository_can_have_is_refused() -> None:
    with pytest.raises(InvalidName, match="would be mirrored"):
        destination_of(ContentRule("**", destination="a" * 250), "team/app")


@pytest.mark.parametrize(
    "local", ["m", "mirror/app", "other/app", "m/app", "m/team", "M/team/app", "m//x", ""]
)
def test_repository_that_mirrors_nothing_has_no_upstream(local: str) -> None:
    assert upstream_of(policy(ContentRule("team/**", destination="m")), local) is None


PARTS = st.sampled_from(["a", "b", "c", "ab"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
PREFIXES = st.lists(
    st.sampled_from(["a", "b", "*", "**", "a*", "{a,b}", "?", "[ab]"]), min_size=1, max_size=3
)
RULES = st.builds(
    ContentRule,
    PREFIXES.map("/".join).filter(lambda text: text.count("**") < 3),
    st.just("") | NAMES,
    st.booleans(),
)


@given(st.lists(RULES, min_size=1, max_size=3), NAMES)
def test_way_back_leads_to_the_repository_or_to_another_that_goes_to_the_same_place(
    rules: list[ContentRule], name: str
) -> None:
    of = policy(*rules)
    rule = rule_of(of, name)
    if rule is None:
        return
    local = destination_of(rule, name)

    back = upstream_of(of, local)

    assert back is not None
    assert rule_of(of, back[1]) is back[0]
    assert destination_of(*back) == local


@given(RULES, NAMES)
def test_way_back_of_one_rule_is_exact(rule: ContentRule, name: str) -> None:
    of = policy(rule)
    if rule_of(of, name) is rule:
        assert upstream_of(of, destination_of(rule, name)) == (rule, name)
        assert collision(of) is None


@pytest.mark.parametrize(
    ("rules", "local"),
    [
        ([("a/**", "m", True), ("b/**", "m", True)], "m/x"),
        ([("a/x", "", True), ("b/x", "", True)], "x"),
        ([("a/**", "", True), ("b/app", "", True)], "app"),
        ([("a/b/*", "", True), ("*", "", False)], "x"),
        ([("team/*", "x", True), ("**", "", False)], "x/x"),
        ([("a/[bc]?", "", True), ("d/{bx,e}", "", True)], "bx"),
    ],
)
def test_two_repositories_of_one_place_are_seen(rules: list[tuple[str, str, bool]], local: str) -> None:
    of = policy(*(ContentRule(prefix, destination, strip) for prefix, destination, strip in rules))

    found = collision(of)

    assert found is not None
    assert found.local == local
    assert upstream_of(of, local) == (of.content[0], found.wins)
    loser = rule_of(of, found.loses)
    assert loser is not None
    assert destination_of(loser, found.loses) == local


def test_rules_that_share_a_destination_but_no_place_are_let_pass() -> None:
    of = policy(ContentRule("a/**", "m"), ContentRule("b/**", "m"), ContentRule("a/x", "other"))

    assert collision(of) is None
