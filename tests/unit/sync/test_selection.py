"""Which repositories and which tags are wanted."""

from __future__ import annotations

import re
from typing import Any

import pytest

from regmeta.errors import UsageError
from regmeta.oci.versions import constraint
from regmeta.sync.policy import ContentRule, Policy
from regmeta.sync.selection import exact_repositories, is_companion_tag, select_repositories, select_tags

HEX = "ab" * 32
SIGNATURE = f"sha256-{HEX}.sig"
TAGS = ["latest", "1.0.0", "v1.2.0", "1.2.0-rc.1", "2.0.0", "nightly", SIGNATURE, f"sha256-{HEX}"]


def rule(prefix: str = "**", **said: Any) -> ContentRule:
    for key in ("tags", "exclude"):
        said[key] = tuple(re.compile(text) for text in said.get(key, ()))
    return ContentRule(prefix, **said)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ["latest", "1.0.0", "v1.2.0", "1.2.0-rc.1", "2.0.0", "nightly"]),
        ({"tags": ["latest", r"1\..*"]}, ["latest", "1.0.0", "1.2.0-rc.1"]),
        ({"tags": ["late"]}, []),  # all of the tag, not its beginning
        ({"exclude": ["latest", ".*ly", "2"]}, ["1.0.0", "v1.2.0", "1.2.0-rc.1", "2.0.0"]),
        ({"tags": [r"1\..*"], "exclude": [".*rc.*"]}, ["1.0.0"]),
        ({"semver": True}, ["1.0.0", "v1.2.0", "1.2.0-rc.1", "2.0.0"]),
        ({"versions": (">=1.0.0", "<2.0.0")}, ["1.0.0", "v1.2.0", "1.2.0-rc.1"]),
        ({"versions": (">=v1.2.0", "!=2.0.0")}, ["v1.2.0"]),
        ({"semver": True, "tags": ["latest"]}, []),
        # Companions come with their image, unless one asks for them in so many words.
        ({"tags": [".*"], "semver": False}, ["latest", "1.0.0", "v1.2.0", "1.2.0-rc.1", "2.0.0", "nightly"]),
        ({"tags": [r".*\.sig"]}, [SIGNATURE]),
        ({"tags": ["sha256-.*"]}, [SIGNATURE, f"sha256-{HEX}"]),
    ],
)
def test_tags_are_selected_as_documented(said: dict[str, Any], expected: list[str]) -> None:
    assert select_tags(rule(**said), TAGS) == expected


def test_what_is_no_tag_is_not_selected_and_none_is_selected_twice() -> None:
    assert select_tags(rule(), ["b", "a", "b", "../x", "", "a" * 129]) == ["b", "a"]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        (SIGNATURE, True),
        (f"sha256-{HEX}.att", True),
        (f"sha256-{HEX}.sbom", True),
        (f"sha256-{HEX}", True),
        (f"sha512-{HEX}", True),  # the tag schema cuts the hash
        (f"sha512-{HEX}{HEX}.sig", True),
        (f"sha512-{HEX}.sig", False),
        (f"sha256-{HEX}.other", False),
        ("sha256-abcdef", False),
        ("v1.sig", False),
    ],
)
def test_companions_are_told_by_their_tags(tag: str, expected: bool) -> None:
    assert is_companion_tag(tag) is expected


def test_first_rule_that_matches_counts() -> None:
    special, general = rule("team/app", tags=["v.*"]), rule("team/**")
    policy = Policy("hub", (special, general))

    assert select_repositories(policy, ["team/app", "other", "team/b", "team/app"]) == [
        ("team/app", special),
        ("team/b", general),
    ]


def test_catalog_is_needed_for_patterns_only() -> None:
    one, two = rule("library/alpine"), rule("library/busybox")

    assert exact_repositories(Policy("hub", (one, two, rule("library/alpine")))) == [
        ("library/alpine", one),
        ("library/busybox", two),
    ]
    for pattern in ("library/*", "library/{a,b*}", "library/alpin?", "library/[ab]"):
        assert exact_repositories(Policy("hub", (one, rule(pattern)))) is None


def test_names_in_braces_are_spelt_out() -> None:
    both, numbers = rule("library/{alpine,debian}"), rule("team/app{1..2}")
    assert exact_repositories(Policy("hub", (both, numbers))) == [
        ("library/alpine", both),
        ("library/debian", both),
        ("team/app1", numbers),
        ("team/app2", numbers),
    ]


@pytest.mark.parametrize(
    "text", ["", ">=", ">=1.2", "~1.2.0", ">=1.2.0,<2.0.0", "latest", ">= =1.0.0", ">=" + "1" * 300]
)
def test_what_is_no_constraint_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no constraint on versions"):
        constraint(text)
