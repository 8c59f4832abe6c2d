"""``regmeta adopt``: what its commands say, with which code they end, and the JSON that scripts read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from tests.builders import LayoutBuilder, digest_of
from tests.cli.conftest import Command
from tests.support.old_registries.docker_tree import DockerTree
from tests.support.old_registries.layouts import zot_folder

DEFECT: Final = {"repository", "kind", "image", "subject", "detail", "outcome", "found_at"}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A docker-registry's storage with a good image, one without a layer, and an upload."""
    tree = DockerTree(tmp_path / "old")
    builder = LayoutBuilder()
    tree.image("app", builder, builder.image([b"good"]), "v1")
    lost = builder.layer(b"lost")
    tree.image("app", builder, builder.image([lost]), "v2")
    tree.data(lost["digest"]).unlink()
    (tree.folder("begun") / "_uploads").mkdir(parents=True)
    return tmp_path / "old"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A docker-registry's storage in which nothing is wrong."""
    tree = DockerTree(tmp_path / "good")
    builder = LayoutBuilder()
    tree.image("app", builder, builder.image([b"good"]), "v1")
    return tmp_path / "good"


def test_good_registry_ends_with_0_from_plan_to_end(regmeta: Command, good: Path) -> None:
    for command in ("plan", "run", "verify", "finalize"):
        done = regmeta("adopt", command, good)
        assert done.code == 0, done.err
    assert "is finalized" in done.err
    assert regmeta("adopt", "status").code == 0
    assert regmeta("adopt", "defects", good).out.splitlines()[1:] == []
    assert regmeta("tag", "show", "app:v1").code == 0


def test_source_alone_is_a_run(regmeta: Command, good: Path) -> None:
    short = regmeta("adopt", good, "--json")
    assert (short.code, short.json["brought"]) == (0, 1)
    long = regmeta("adopt", "run", good, "--json")
    assert (long.json["brought"], long.json["unchanged"]) == (0, 1)


def test_command_that_was_mistyped_is_no_source(regmeta: Command) -> None:
    done = regmeta("adopt", "veryfi", "/nowhere")
    assert done.code == 2
    assert "did you mean 'regmeta adopt verify'?" in done.err


def test_what_is_broken_ends_with_1_and_is_named(regmeta: Command, old: Path) -> None:
    plan = regmeta("adopt", "plan", old)
    assert plan.code == 1
    assert "1 missing-blob (left out)" in plan.err
    run = regmeta("adopt", old)
    assert run.code == 1
    assert "1 image brought" in run.err
    assert f"regmeta adopt defects {old}" in run.err
    shown = regmeta("adopt", "defects", old)
    assert shown.code == 0
    assert {tuple(line.split()[:3]) for line in shown.out.splitlines()[1:]} == {
        ("app", "missing-blob", "v2"),
        ("begun", "no-manifests-folder", "-"),
    }
    verify = regmeta("adopt", "verify", old)
    assert verify.code == 0, verify.out
    assert "missing-blob" in verify.out
    assert "equal, but for" in verify.err


def test_plan_writes_nothing_and_needs_no_registry_here(bare: Command, home: Path, old: Path) -> None:
    done = bare("--home", home, "adopt", "plan", old, "--json")
    assert done.code == 1
    assert done.json["images"] == 1
    assert not home.exists()


def test_json_of_a_plan(regmeta: Command, old: Path) -> None:
    found = regmeta("adopt", "plan", old, "--json").json
    assert found.pop("estimate_s") >= 0
    defects = found.pop("defects")
    assert all(each.pop("detail") for each in defects)
    lost = next(each for each in defects if each["class"] == "missing-blob")
    assert lost.pop("subject").startswith("sha256:")
    assert lost == {"repository": "app", "class": "missing-blob", "image": "v2", "outcome": "left out"}
    repositories = {each["source"]: each for each in found.pop("repositories")}
    assert repositories.keys() == {"app", "begun"}
    assert repositories["app"].pop("size_bytes") == found.pop("size_bytes") > 0
    assert repositories["app"] == {
        "source": "app",
        "destination": "app",
        "tags": 2,
        "manifests": 2,
        "images": 1,
        "defects": 1,
    }
    assert found == {
        "location": str(old),
        "kind": "docker",
        "images": 1,
        "left_out": 1,
        "blobs": 3,
        "failures": [],
    }


def test_json_of_a_run(regmeta: Command, old: Path) -> None:
    found = regmeta("adopt", "run", old, "--json", "--copy").json
    assert found.pop("new_bytes") > 0
    assert found == {
        "location": str(old),
        "kind": "docker",
        "repositories": 2,
        "unchanged": 0,
        "brought": 1,
        "here_already": 0,
        "left_out": 1,
        "removed_tags": 0,
        "linked_bytes": 0,
        "defects": [
            {"class": "missing-blob", "outcome": "left out", "count": 1},
            {"class": "no-manifests-folder", "outcome": "brought", "count": 1},
        ],
        "failures": [],
    }


def test_json_of_a_comparison(regmeta: Command, old: Path) -> None:
    regmeta("adopt", old)
    for options in ([], ["--deep"]):
        found = regmeta("adopt", "verify", old, "--json", *options).json
        assert found.keys() == {"equal", "repositories"}
        assert found["equal"] is True
        app, begun = found["repositories"]
        assert {each["explained_by"] for each in app.pop("differences")} == {"missing-blob"}
        assert app.pop("blobs") > 0
        assert app == {
            "repository": "app",
            "destination": "app",
            "equal": True,
            "tags": 1,
            "manifests": 1,
            "failure": None,
        }
        assert begun["equal"]


def test_json_of_defects_and_status(regmeta: Command, old: Path) -> None:
    regmeta("adopt", old)
    defects = regmeta("adopt", "defects", old, "--json").json
    assert [each.keys() for each in defects] == [DEFECT, DEFECT]
    [status] = regmeta("adopt", "status", "--json").json
    assert regmeta("adopt", "status", old, "--json").json == [status]
    assert status["adoption"]["location"] == str(old)
    assert status["adoption"]["finalized_at"] is None
    assert (status["repositories"], status["tags"], status["unfinished"]) == (2, 2, [])
    done: dict[str, Any] = regmeta("adopt", "finalize", old, "--json").json
    assert done["finalized_at"] is not None
    assert done.keys() == status["adoption"].keys()


def test_difference_ends_with_1(regmeta: Command, good: Path) -> None:
    regmeta("adopt", good)
    assert regmeta("tag", "rm", "app:v1").code == 0
    done = regmeta("adopt", "verify", good)
    assert done.code == 1
    assert "NOT EXPLAINED" in done.out
    assert "NOT EQUAL" in done.err
    assert regmeta("adopt", "verify", good, "--json").json["equal"] is False


def test_finalized_it_is_refused_until_it_is_reopened(regmeta: Command, good: Path) -> None:
    assert regmeta("adopt", "finalize", good).code == 3
    regmeta("adopt", good)
    regmeta("adopt", "finalize", good)
    assert regmeta("adopt", good).code == 6
    assert regmeta("adopt", good, "--reopen").code == 0


def test_change_refuses_the_end_unless_it_is_unchecked(regmeta: Command, good: Path) -> None:
    regmeta("adopt", good)
    builder = LayoutBuilder(seed=3)
    DockerTree(good).image("new", builder, builder.image(), "v1")
    done = regmeta("adopt", "finalize", good)
    assert done.code == 6
    assert "new changed since" in done.err
    shutil.rmtree(good)
    assert regmeta("adopt", "finalize", good).code == 3
    assert regmeta("adopt", "finalize", good, "--unchecked").code == 0


@pytest.mark.parametrize("command", ["plan", "run", "verify", "finalize"])
def test_source_that_is_none_ends_with_3(regmeta: Command, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    for name in ("nowhere", "empty", "file"):
        done = regmeta("adopt", command, tmp_path / name)
        assert done.code == 3
        assert str(tmp_path / name) in done.err
        assert done.out == ""


def test_prefix_that_is_none_ends_with_2(regmeta: Command, good: Path) -> None:
    for command in ("plan", "run"):
        assert regmeta("adopt", command, good, "--prefix", "UPPER").code == 2


def test_zot_is_found_by_looking(regmeta: Command, tmp_path: Path) -> None:
    served = zot_folder(tmp_path / "zot", 6)
    done = regmeta("adopt", served.root, "--prefix", "old", "--json")
    assert (done.code, done.json["kind"], done.json["left_out"]) == (0, "layouts", 0)
    assert regmeta("adopt", "verify", served.root, "--deep").code == 0


def test_folder_within_docker_s_registry_is_the_same_source(regmeta: Command, good: Path) -> None:
    regmeta("adopt", good)
    again = regmeta("adopt", "run", good / "docker/registry/v2", "--json")
    assert (again.json["location"], again.json["unchanged"]) == (str(good), 1)
    for command in ("status", "defects", "verify", "finalize"):
        assert regmeta("adopt", command, good / "docker/registry").code == 0


def test_files_that_name_nobody_s_text_are_shown_in_print(regmeta: Command, good: Path) -> None:
    tree = DockerTree(good)
    digest = str(digest_of(LayoutBuilder().image([b"good"])))
    tree.tag("app", "\x1b[31mred", digest)
    for command in ("plan", "run", "defects"):
        done = regmeta("adopt", command, good)
        assert "\x1b" not in done.out + done.err
        assert regmeta("adopt", command, good, "--json").json
