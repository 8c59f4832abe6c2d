"""What each command prints, and where: data on stdout, talk on stderr."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from regmeta import __version__
from tests.builders import AMD64, ARM64, LayoutBuilder, digest_of, make_layout
from tests.cli.conftest import Answer, Command


@pytest.fixture
def hello(regmeta: Command, layout: Path) -> dict[str, str]:
    """A repository with two tagged indexes; tag to digest."""
    made = make_layout(layout, 2, platforms=[AMD64, ARM64])
    assert regmeta("import", layout, "hello").code == 0
    return {tag: str(digest) for tag, digest in made.items()}


# --- init, status, db ---------------------------------------------------------------------------


def test_init_makes_a_registry_and_finds_it_the_second_time(bare: Command, home: Path) -> None:
    first, second = bare("--home", home, "init"), bare("--home", home, "init")
    assert (first.code, first.out, first.err) == (0, "", f"made the registry in {home}\n")
    assert (second.code, second.out, second.err) == (0, "", f"found the registry in {home}\n")


def test_status_counts_what_is_there(regmeta: Command, hello: dict[str, str]) -> None:
    found = regmeta("status", "--json").json
    assert (found["repositories"], found["tags"], found["manifests"]) == (1, 2, 6)
    assert (found["open_ingests"], found["snapshots_behind"], found["damaged_blobs"]) == ([], [], 0)
    shown = regmeta("status")
    assert (shown.code, shown.err) == (0, "")
    assert "open ingests      none" in shown.out


def test_db_commands_tell_the_revision_and_that_the_schema_is_right(regmeta: Command) -> None:
    found = regmeta("db", "current", "--json")
    assert (found.code, found.json["current"]) == (0, found.json["needed"])
    assert regmeta("db", "history", "--json").json[0]["revision"] == found.json["needed"]
    checked = regmeta("db", "check")
    assert (checked.code, checked.out, checked.err) == (0, "", "the schema is as expected\n")
    assert regmeta("db", "check", "--json").json == []
    assert regmeta("db", "upgrade").code == 0


def test_db_downgrade_asks_for_yes_and_refuses_to_leave_nothing(regmeta: Command) -> None:
    head = regmeta("db", "current", "--json").json["needed"]
    unsure = regmeta("db", "downgrade", head)
    assert (unsure.code, "--yes" in unsure.err) == (2, True)
    nothing = regmeta("db", "downgrade", "base", "--yes")
    assert (nothing.code, "first revision" in nothing.err) == (2, True)
    assert regmeta("db", "downgrade", head, "--yes").code == 0
    assert regmeta("db", "check").code == 0


# --- import -------------------------------------------------------------------------------------


def test_import_takes_all_named_images_and_skips_them_the_second_time(regmeta: Command, layout: Path) -> None:
    made = make_layout(layout, 2)
    first = regmeta("import", layout, "hello", "--json")
    assert [(item["image"], item["status"], item["error"]) for item in first.json] == [
        ("hello:v0", "imported", None),
        ("hello:v1", "imported", None),
    ]
    assert [item["digest"] for item in first.json] == [str(made["v0"]), str(made["v1"])]
    assert first.err.startswith("2 images imported (")
    second = regmeta("import", layout, "hello")
    assert (second.code, second.err) == (0, "0 images imported (0 B), 2 here already, 0 failed\n")


def test_import_of_one_tag_takes_only_that_one(regmeta: Command, layout: Path) -> None:
    make_layout(layout, 3)
    assert regmeta("import", layout, "hello", "--tag", "v1").code == 0
    assert [tag["name"] for tag in regmeta("tag", "ls", "hello", "--json").json["items"]] == ["v1"]


def test_import_under_another_tag_needs_one_image(regmeta: Command, layout: Path) -> None:
    make_layout(layout, 2)
    refused = regmeta("import", layout, "hello:stable")
    assert (refused.code, "hello:stable" in refused.err, refused.out) == (2, True, "")
    assert regmeta("import", layout, "hello:stable", "-t", "v1").code == 0
    assert [tag["name"] for tag in regmeta("tag", "ls", "hello", "--json").json["items"]] == ["stable"]


def test_import_without_a_destination_takes_the_name_of_the_source(regmeta: Command, tmp_path: Path) -> None:
    make_layout(tmp_path / "Some-App.tar", 1, tar=True)
    assert regmeta("import", tmp_path / "Some-App.tar").code == 0
    assert [item["name"] for item in regmeta("repo", "ls", "--json").json["items"]] == ["some-app"]


def test_import_of_all_takes_referrers_too(regmeta: Command, builder: LayoutBuilder, layout: Path) -> None:
    image = builder.image()
    builder.tag(image, "v1")
    builder.tag(builder.artifact(b"sbom", "application/sbom", image))
    builder.write(layout)
    assert regmeta("import", layout, "hello").code == 0
    assert len(regmeta("manifest", "ls", "hello", "--json").json["items"]) == 1
    assert regmeta("import", layout, "hello", "--all").code == 0
    assert len(regmeta("manifest", "ls", "hello", "--json").json["items"]) == 2


def _with_bad_image(builder: LayoutBuilder, layout: Path) -> str:
    builder.tag(builder.image(), "good")
    layer = builder.layer(b"right")
    builder.tag(builder.image([layer]), "bad")
    builder.blobs[layer["digest"]] = b"wrong"
    builder.write(layout)
    return str(layer["digest"])


def test_import_leaves_a_bad_image_out_and_reports_it(
    regmeta: Command, builder: LayoutBuilder, layout: Path
) -> None:
    culprit = _with_bad_image(builder, layout)
    done = regmeta("import", layout, "hello", "--json")
    assert done.code == 4
    assert [item["status"] for item in done.json] == ["imported", "failed"]
    assert culprit in done.json[1]["error"]
    assert "1 failed" in done.err
    assert [tag["name"] for tag in regmeta("tag", "ls", "hello", "--json").json["items"]] == ["good"]


def test_atomic_import_takes_nothing_if_one_image_is_bad(
    regmeta: Command, builder: LayoutBuilder, layout: Path
) -> None:
    culprit = _with_bad_image(builder, layout)
    done = regmeta("import", layout, "hello", "--atomic")
    assert (done.code, culprit in done.err, done.out) == (4, True, "")
    assert regmeta("repo", "ls", "--json").json["items"] == []


def test_sparse_import_takes_an_index_without_all_children(
    regmeta: Command, builder: LayoutBuilder, layout: Path
) -> None:
    here, gone = builder.image(platform=AMD64), builder.image(platform=ARM64)
    builder.tag(builder.index([here, gone]), "v1")
    del builder.blobs[gone["digest"]]
    builder.write(layout)
    refused = regmeta("import", layout, "hello")
    assert (refused.code, gone["digest"] in refused.err) == (3, True)
    assert regmeta("import", layout, "hello", "--sparse").code == 0
    assert regmeta("status", "--json").json["absent_children"] == 1


def test_first_import_makes_the_default_registry(bare: Command, layout: Path, tmp_path: Path) -> None:
    make_layout(layout, 1)
    done = bare("import", layout, "hello")
    assert done.code == 0
    assert done.err.startswith(f"made the registry in {tmp_path}/data/regmeta\n")


# --- export -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_export_is_imported_again_and_refuses_to_overwrite(
    regmeta: Command, hello: dict[str, str], tmp_path: Path, name: str
) -> None:
    done = regmeta("export", "hello", tmp_path / name)
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("2 images, ")
    again = regmeta("export", "hello", tmp_path / name)
    assert (again.code, f"{tmp_path / name}: is there already" in again.err) == (2, True)
    assert regmeta("import", tmp_path / name, "copy").code == 0
    found = {tag["name"]: tag["digest"] for tag in regmeta("tag", "ls", "copy", "--json").json["items"]}
    assert found == hello


# --- repo, tag, manifest, blob -------------------------------------------------------------------


def test_repositories_are_listed_and_shown(regmeta: Command, hello: dict[str, str]) -> None:
    assert regmeta("repo", "ls").out.split()[:5] == ["REPOSITORY", "TAGS", "MANIFESTS", "CHANGED", "hello"]
    found = regmeta("repo", "show", "hello", "--json").json
    assert (found["name"], found["state"], found["tags"], found["manifests"]) == ("hello", "active", 2, 6)
    assert "repository" in regmeta("repo", "show", "hello").out


def test_tag_is_moved_removed_and_its_history_is_kept(regmeta: Command, hello: dict[str, str]) -> None:
    moved = regmeta("tag", "set", "hello:v0", "v1")
    assert (moved.code, moved.out) == (0, "")
    assert moved.err == f"hello:v0 is {hello['v1']} (was {hello['v0']})\n"
    assert "already" in regmeta("tag", "set", "hello:v0", hello["v1"]).err
    removed = regmeta("tag", "rm", "hello:v0")
    assert (removed.code, removed.err) == (0, f"hello:v0 is removed (was {hello['v1']})\n")
    found = regmeta("tag", "show", "hello:v0", "--json").json
    assert found["digest"] is None
    assert {item["digest"] for item in found["history"]} == set(hello.values())
    assert "(removed)" in regmeta("tag", "show", "hello:v0").out
    assert [tag["name"] for tag in regmeta("tag", "ls", "hello", "--json").json["items"]] == ["v1"]
    assert hello["v1"] in regmeta("tag", "ls", "hello").out


def test_manifest_is_shown_as_a_tree_as_json_and_raw(regmeta: Command, hello: dict[str, str]) -> None:
    raw = regmeta("manifest", "show", "hello:v0", "--raw")
    assert f"sha256:{hashlib.sha256(raw.raw).hexdigest()}" == hello["v0"]
    found = regmeta("manifest", "show", f"hello@{hello['v0']}", "--json").json
    assert (found["digest"], len(found["tree"]["children"])) == (hello["v0"], 2)
    shown = regmeta("manifest", "show", "hello:v0")
    assert shown.out.count("layer ") == 4
    assert len(regmeta("manifest", "ls", "hello", "--json").json["items"]) == 6
    assert hello["v0"] in regmeta("manifest", "ls", "hello").out


def test_blob_is_shown_with_its_users(regmeta: Command, hello: dict[str, str]) -> None:
    found = regmeta("blob", "show", hello["v0"], "--json").json
    assert (found["digest"], found["state"], found["uses"][0]["repository"]) == (
        hello["v0"],
        "live",
        "hello",
    )
    assert "state" in regmeta("blob", "show", hello["v0"]).out


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("repo", "ls"),
        ("repo", "show", "hello"),
        ("tag", "ls", "hello"),
        ("tag", "show", "hello:v0"),
        ("manifest", "ls", "hello"),
        ("manifest", "show", "hello:v0"),
        ("db", "current"),
        ("db", "history"),
        ("db", "check"),
    ],
    ids=" ".join,
)
def test_json_is_all_there_is_on_stdout(
    regmeta: Command, hello: dict[str, str], command: tuple[str, ...]
) -> None:
    done: Answer = regmeta(*command, "--json")
    assert (done.code, done.json is not None) == (0, True)


def test_escape_sequences_in_labels_and_names_do_not_reach_the_terminal(
    regmeta: Command, builder: LayoutBuilder, layout: Path
) -> None:
    layers = [builder.layer()]
    config = builder.config(layers, Labels={"evil\x1b[2J": "\x1b]0;title\x07\u202e"})
    image = builder.image(layers, config, annotations={"note": "\x1b[31mred"})
    builder.tag(image, "v1")
    builder.tag(builder.image(), "\x1b[31mtag")
    builder.write(layout)
    done = regmeta("import", layout, "hello")
    assert done.code == 3
    shown = regmeta("manifest", "show", "hello:v1")
    for text in (done.out + done.err, shown.out):
        assert not any(character in text for character in "\x1b\x07\u202e")
    assert "\\x1b[31mred" in shown.out
    assert str(digest_of(image)) in shown.out


# --- the program itself ---------------------------------------------------------------------------


def test_version_is_printed(bare: Command) -> None:
    assert bare("--version").out == f"regmeta {__version__}\n"


@pytest.mark.parametrize(
    "command",
    ["init", "import", "export", "status", "repo ls", "tag set", "manifest show", "blob show", "db check"],
)
def test_help_of_each_command_has_an_example(bare: Command, command: str) -> None:
    done = bare(*command.split(), "--help")
    assert (done.code, f"  regmeta {command}" in done.out or f"regmeta {command}" in done.out) == (0, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_printed(shell: str) -> None:
    """Asked for as the shells do it: the option looks at which shell called it."""
    done = subprocess.run(
        [Path(sys.executable).with_name("regmeta")],
        env={**os.environ, "_REGMETA_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_REGMETA_COMPLETE" in done.stdout
