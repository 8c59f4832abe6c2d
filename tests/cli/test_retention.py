"""``regmeta retention``: plans, plan files and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regmeta.oci.digest import Digest
from tests.builders import make_layout
from tests.cli.conftest import Command

POLICY = """
[[retention.policies]]
name = "releases"
repositories = ["team/**"]
[[retention.policies.keep]]
name = "two versions"
newest_versions = 2
"""


@pytest.fixture
def images(regmeta: Command, home: Path, tmp_path: Path) -> dict[str, Digest]:
    """Three versions, and one tag that is none, in a repository with a policy; the same in one without."""
    (home / "regmeta.toml").write_text(POLICY)
    found = make_layout(
        tmp_path / "layout", {tag: [tag.encode()] for tag in ("1.0.0", "1.1.0", "2.0.0", "test")}
    )
    for repository in ("team/app", "other"):
        assert regmeta("import", tmp_path / "layout", repository).code == 0
    return found


def live(regmeta: Command, repository: str = "team/app") -> set[str]:
    return {tag["name"] for tag in regmeta("tag", "ls", repository, "--json").json["items"]}


@pytest.mark.usefixtures("images")
def test_plan_is_a_table_with_the_rule_of_each_tag(regmeta: Command, images: dict[str, Digest]) -> None:
    answer = regmeta("retention", "plan")
    assert answer.code == 0
    assert [line.split(maxsplit=3) for line in answer.out.splitlines()[1:]] == [
        ["team/app:1.0.0", str(images["1.0.0"]), "drop", "no rule keeps it"],
        ["team/app:1.1.0", str(images["1.1.0"]), "keep", "two versions: 2nd of 2 by version"],
        ["team/app:2.0.0", str(images["2.0.0"]), "keep", "two versions: 1st of 2 by version"],
        ["team/app:test", str(images["test"]), "drop", "no rule keeps it"],
    ]
    assert answer.err == "1 repository: 2 tags kept, 2 dropped\n"
    only = regmeta("retention", "plan", "--dropped").out
    assert "2.0.0" not in only
    assert "team/app:test" in only


@pytest.mark.usefixtures("images")
def test_plan_as_json_says_the_same(regmeta: Command) -> None:
    found = regmeta("retention", "plan", "team/app", "--json").json
    assert (found["repositories"], found["kept"], found["dropped"]) == (1, 2, 2)
    first = found["decisions"][0]
    assert first.pop("digest").startswith("sha256:")
    assert first.pop("started_at").endswith("Z")
    assert first == {
        "repository": "team/app",
        "tag": "1.0.0",
        "decision": "drop",
        "policy": "releases",
        "rule": None,
        "reason": "no rule keeps it",
    }


@pytest.mark.usefixtures("images")
def test_apply_right_after_does_what_the_plan_listed_once(regmeta: Command, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    answer = regmeta("retention", "plan", "--output", plan, "--json")
    listed = [item["tag"] for item in answer.json["decisions"] if item["decision"] == "drop"]
    assert f"'regmeta retention apply {plan}' drops them" in answer.err
    foretold = regmeta("retention", "apply", plan, "--dry-run")
    assert (foretold.code, foretold.err) == (0, "2 tags would be dropped, 0 before, 0 repositories refused\n")
    assert live(regmeta) == {"1.0.0", "1.1.0", "2.0.0", "test"}
    done = regmeta("retention", "apply", plan, "--json")
    assert done.code == 0
    assert done.json == [{"repository": "team/app", "status": "applied", "tags": listed, "error": None}]
    assert live(regmeta) == {"1.1.0", "2.0.0"}
    assert live(regmeta, "other") == {"1.0.0", "1.1.0", "2.0.0", "test"}
    again = regmeta("retention", "apply", plan)
    assert (again.code, again.err) == (0, "0 tags dropped, 2 before, 0 repositories refused\n")
    assert regmeta("verify").code == 0


@pytest.mark.usefixtures("images")
def test_apply_is_refused_where_something_has_changed(regmeta: Command, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    regmeta("retention", "plan", "--output", plan)
    assert regmeta("tag", "set", "team/app:test", "2.0.0").code == 0
    for options in (["--dry-run"], []):
        answer = regmeta("retention", "apply", plan, *options)
        assert answer.code == 6
        assert "regmeta: team/app:test is sha256:" in answer.err
    assert live(regmeta) == {"1.0.0", "1.1.0", "2.0.0", "test"}


@pytest.mark.usefixtures("images")
def test_apply_is_refused_under_other_policies(regmeta: Command, home: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    regmeta("retention", "plan", "--output", plan)
    (home / "regmeta.toml").write_text(POLICY.replace("versions = 2", "versions = 3"))
    answer = regmeta("retention", "apply", plan)
    assert answer.code == 6
    assert "policies of the settings are not those" in answer.err


@pytest.mark.usefixtures("images")
def test_apply_is_refused_in_another_registry(
    regmeta: Command, bare: Command, home: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    regmeta("retention", "plan", "--output", plan)
    elsewhere = tmp_path / "elsewhere"
    assert bare("--home", elsewhere, "init").code == 0
    (elsewhere / "regmeta.toml").write_text(POLICY)
    answer = bare("--home", elsewhere, "retention", "apply", plan)
    assert answer.code == 6
    assert "the plan is for the store" in answer.err


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "{}",
        '{"kind": "regmeta retention plan", "format": 2}',
        "cut",
        "no digest",
        "no zone",
        "[" * 100_000,
        "\ufeff{}",
        "tag of no tag",
        "tag of another type",
        "repository of no name",
    ],
)
def test_file_that_is_no_plan_is_refused(regmeta: Command, tmp_path: Path, content: str | None) -> None:
    plan = tmp_path / "plan.json"
    regmeta("retention", "plan", "--output", plan)
    whole = plan.read_text()
    plan.unlink()
    document = json.loads(whole)
    if content == "cut":
        content = whole[:-40]
    elif content == "no digest":
        document["drops"]["team/app"][0]["digest"] = "sha256:no"
        content = json.dumps(document)
    elif content == "no zone":
        document["moment"] = "2026-01-01T00:00:00"
        content = json.dumps(document)
    elif content == "tag of no tag":
        document["drops"]["team/app"][0]["tag"] = "a\0b"
        content = json.dumps(document)
    elif content == "tag of another type":
        document["drops"]["team/app"][0]["tag"] = ["1.0.0"]
        content = json.dumps(document)
    elif content == "repository of no name":
        document["drops"]["\ud800"] = document["drops"].pop("team/app")
        content = json.dumps(document)
    if content is not None:
        plan.write_text(content)
    answer = regmeta("retention", "apply", plan)
    assert answer.code == 3
    assert str(plan) in answer.err
    assert len(live(regmeta)) == 4


def test_repository_that_is_not_there_is_named(regmeta: Command) -> None:
    answer = regmeta("retention", "plan", "nothing")
    assert (answer.code, answer.err) == (3, "regmeta: nothing: no such repository\n")


@pytest.mark.usefixtures("images")
def test_plan_that_drops_nothing_can_be_applied(regmeta: Command, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert (
        regmeta("retention", "plan", "other", "--output", plan).err
        == "1 repository: 4 tags kept, 0 dropped\n"
    )
    answer = regmeta("retention", "apply", plan)
    assert (answer.code, answer.err) == (0, "0 tags dropped, 0 before, 0 repositories refused\n")


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"])
def test_plan_whose_moment_was_edited_drops_no_tag_that_the_policy_keeps(
    regmeta: Command, home: Path, tmp_path: Path, moment: str
) -> None:
    (home / "regmeta.toml").write_text(POLICY.replace("newest_versions = 2", 'pushed_within = "1d"'))
    plan = tmp_path / "plan.json"
    regmeta("retention", "plan", "--output", plan)
    document = json.loads(plan.read_text())
    assert document["drops"] == {}
    document["moment"] = moment
    document["drops"] = {
        "team/app": [
            {"tag": tag["name"], "digest": tag["digest"], "started_at": tag["started_at"]}
            for tag in regmeta("tag", "ls", "team/app", "--json").json["items"]
        ]
    }
    plan.write_text(json.dumps(document))
    for options in (["--dry-run"], []):
        answer = regmeta("retention", "apply", plan, *options)
        assert (answer.code, answer.out) == (6, answer.out)
        assert len(live(regmeta)) == 4


@pytest.mark.parametrize("regex", ["a{99999999999}", "(" * 5000])
def test_regex_that_cannot_be_compiled_is_refused(regmeta: Command, home: Path, regex: str) -> None:
    (home / "regmeta.toml").write_text(POLICY.replace("newest_versions = 2", f'tags_regex = ["{regex}"]'))
    answer = regmeta("retention", "plan")
    assert answer.code == 2
    assert "tags_regex" in answer.err
    assert len(answer.err) < 1000
