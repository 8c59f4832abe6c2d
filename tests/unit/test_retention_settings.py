"""What the settings say of retention is refused where it can only be a mistake; policy and key are named."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from regmeta.app.retention import keeps_referrers, policies_of, untagged
from regmeta.errors import UsageError
from regmeta.maintain.retention.policy import Policy, Rule, Untagged
from regmeta.settings import Settings, load_settings

WHOLE = """
[[retention.policies]]
name = "releases"
repositories = ["team/**", "ops"]
referrers = "keep"
untagged = { newest_pushed = 5, pushed_within = "2w" }
[[retention.policies.keep]]
name = "last ten"
tags = ["v*"]
tags_regex = ["^r[0-9]+$"]
except_tags = ["*-rc*"]
platforms = ["linux/amd64"]
newest_pushed = 10
newest_pulled = 11
newest_versions = 12
pushed_within = "30d"
pulled_within = "12h"
has_referrers = true
has_subject = false
[[retention.policies.keep]]
tags = ["latest"]

[[retention.policies]]
repositories = ["**"]
untagged = { keep = "all" }
"""


def loaded(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "regmeta.toml"
    path.write_text(text)
    return load_settings(str(path), home=str(tmp_path))


def test_settings_become_policies_with_names_for_all(tmp_path: Path) -> None:
    settings = loaded(tmp_path, WHOLE)
    assert policies_of(settings) == (
        Policy(
            "releases",
            ("team/**", "ops"),
            (
                Rule(
                    "last ten",
                    ("v*",),
                    ("^r[0-9]+$",),
                    ("*-rc*",),
                    ("linux/amd64",),
                    10,
                    11,
                    12,
                    timedelta(days=30),
                    timedelta(hours=12),
                    has_referrers=True,
                    has_subject=False,
                ),
                Rule("rule 2", ("latest",)),
            ),
            Untagged(newest_pushed=5, pushed_within=timedelta(weeks=2)),
            keeps_referrers=True,
        ),
        Policy("policy 2", ("**",), untagged=Untagged(keeps_all=True)),
    )
    keeps = keeps_referrers(settings)
    assert (keeps("team/a"), keeps("other")) == (True, False)
    assert untagged(settings) is not None


def test_without_settings_nothing_is_kept_or_dropped_by_policy(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "")
    assert policies_of(settings) == ()
    assert not keeps_referrers(settings)("any")
    assert untagged(settings) is None
    assert untagged(loaded(tmp_path, _policy('untagged = { keep = "none" }'))) is None


def _policy(more: str = "", repositories: str = '["**"]') -> str:
    return f'[[retention.policies]]\nname = "p"\nrepositories = {repositories}\n{more}\n'


def _rule(said: str) -> str:
    return _policy(f'[[retention.policies.keep]]\nname = "r"\n{said}')


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (_policy("colour = 1"), r"unknown field `colour`.* \(policy 'p'\)"),
        (
            _rule("newest = 3"),
            r"unknown field `newest` - at `\$\.retention\.policies\[0\]\.keep\[.+\]` \(policy 'p'\)",
        ),
        (_rule('newest_pushed = "many"'), r"policies\[0\].* \(policy 'p'\)"),
        (_rule("newest_pushed = 0"), r">= 1.*newest_pushed.* \(policy 'p'\)"),
        ('[[retention.policies]]\nname = "p"', r"retention policy 'p': repositories: there are none"),
        (_policy(repositories="[]"), r"retention policy 'p': repositories: there are none"),
        (_policy(repositories='["team/["]'), r"retention policy 'p': repositories: 'team/\['"),
        ('[[retention.policies]]\nrepositories = [""]', r"retention policy 1: repositories: ''"),
        (_policy() * 2, r"retention policy 'p': name: there are two"),
        (_policy('referrers = "drop"'), r"'drop'.*referrers.* \(policy 'p'\)"),
        (_rule(""), r"retention policy 'p', rule 'r': says nothing of what it keeps"),
        (_policy("keep = [{}]"), r"retention policy 'p', rule 1: says nothing of what it keeps"),
        (_rule('tags = ["v{1"]'), r"retention policy 'p', rule 'r': tags: 'v\{1'"),
        (_rule('tags = ["a/b"]'), r"retention policy 'p', rule 'r': tags: 'a/b': no tag has a slash"),
        (_rule('except_tags = ["x y"]'), r"retention policy 'p', rule 'r': except_tags: 'x y'"),
        (_rule('tags_regex = ["("]'), r"retention policy 'p', rule 'r': tags_regex: '\(': missing \)"),
        (_rule('platforms = ["linux//v7"]'), r"retention policy 'p', rule 'r': platforms: 'linux//v7'"),
        (_rule('pushed_within = "a week"'), r"retention policy 'p', rule 'r': pushed_within: 'a week'"),
        (_rule('pulled_within = "7"'), r"retention policy 'p', rule 'r': pulled_within: '7'"),
        (
            _rule('tags = ["a"]\n[[retention.policies.keep]]\nname = "r"\ntags = ["b"]'),
            r"keep: there are two rules 'r'",
        ),
        (_policy("untagged = {}"), r"retention policy 'p': untagged: says nothing"),
        (_policy('untagged = { keep = "all", newest_pushed = 1 }'), r"untagged: keep = 'all' leaves nothing"),
        (
            _policy('untagged = { pushed_within = "1y" }'),
            r"retention policy 'p': untagged: pushed_within: '1y'",
        ),
        (_policy('untagged = { keep = "some" }'), r"'some'.*untagged.* \(policy 'p'\)"),
    ],
)
def test_mistake_is_refused_and_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        loaded(tmp_path, text)


def test_commands_without_patterns_load_no_library_for_them(tmp_path: Path) -> None:
    """It would cost every command that only reads."""
    code = (
        "import sys; from regmeta.cli.root import app; from regmeta.settings import load_settings;"
        f" load_settings(home={str(tmp_path)!r}); print(sorted({{'wcmatch', 'semver'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
