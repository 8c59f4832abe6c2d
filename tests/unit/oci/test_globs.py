"""Patterns for names: what each sign means, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from regmeta.errors import UsageError
from regmeta.oci import globs

MATCHES = [
    ("v1", "v1", True),
    ("v1", "v10", False),
    ("v1", "V1", False),
    ("v*", "v", True),
    ("v*", "v1.2-rc_3", True),
    ("*", "1.0", True),
    ("*.*", "latest", False),
    ("v?", "v1", True),
    ("v?", "v10", False),
    ("[0-9]*", "1.0", True),
    ("[!0-9]*", "1.0", False),
    ("{stable,1.*}", "stable", True),
    ("{stable,1.*}", "1.0", True),
    ("{stable,1.*}", "2.0", False),
    ("v{1..3}", "v2", True),
    ("v{1..3}", "v4", False),
    ("prod/*", "prod/app", True),
    ("prod/*", "prod", False),
    ("prod/*", "prod/app/cache", False),
    ("prod/**", "prod/app", True),
    ("prod/**", "prod/app/cache", True),
    ("prod/**", "prod", False),
    ("prod/**", "production/app", False),
    ("**", "a", True),
    ("**", "a/b/c", True),
    ("**/cache", "cache", True),
    ("**/cache", "a/b/cache", True),
    ("**/cache", "a/b/cached", False),
    ("{prod,test}/**", "test/a", True),
    ("a**", "ab/c", False),
    ("a.b", "axb", False),
]


@pytest.mark.parametrize(("pattern", "name", "expected"), MATCHES)
def test_pattern_means_what_is_documented(pattern: str, name: str, expected: bool) -> None:
    assert globs.matches([globs.check(pattern)], name) is expected


def test_name_is_matched_by_any_of_several_patterns_and_by_none_of_none() -> None:
    assert globs.matches(["a", "b*"], "bc")
    assert not globs.matches(["a", "b*"], "c")
    assert not globs.matches([], "c")


@pytest.mark.parametrize(
    "pattern",
    [
        "**/a/**/a/**/a/**/a",
        *("", " ", "a b", "a\\*", "!(a)", "~root", "a\n", "ä", "a" * 501, "v1|v2", "@(a)"),
        *("[a", "a]", "{a", "a}", "}{", "[]", "[!]", "{}", "{a,{b}"),
        *("/a", "a/", "a//b", "/"),
        *("{1..2000}", "{a,b}" * 20),
    ],
)
def test_pattern_that_can_only_be_a_mistake_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError) as caught:
        globs.check(pattern)
    assert caught.value.exit_code == 2
    assert repr(pattern[:100]) in str(caught.value)


def test_library_is_loaded_by_who_has_a_pattern_only() -> None:
    code = "import sys, regmeta.settings, regmeta.ingest.unit_of_work; assert 'wcmatch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
