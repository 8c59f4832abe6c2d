"""What is refused: with which exit code, naming what, and changing nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from regmeta.cli.root import Program
from regmeta.db import Database
from tests.builders import LayoutBuilder, make_layout
from tests.cli.conftest import Command
from tests.crash.processes import published, run, staged_files, started, wait_for
from tests.support.registry import change, dump, settings_of

Spoil = Callable[[LayoutBuilder, Path], str]


def _contents(home: Path) -> tuple[Any, list[str]]:
    """Return all rows and all files of a registry."""
    database = Database(f"sqlite:///{home / 'regmeta.db'}")
    try:
        rows = dump(database)
    finally:
        database.close()
    return rows, sorted(str(path) for path in (home / "store").rglob("*"))


# --- bad sources: each returns what the message must name ------------------------------------------


def _flipped_bit(builder: LayoutBuilder, path: Path) -> str:
    layer = builder.layer(b"content")
    builder.tag(builder.image([layer]), "v1")
    builder.blobs[layer["digest"]] = b"contenu"
    builder.write(path)
    return str(layer["digest"])


def _missing_child(builder: LayoutBuilder, path: Path) -> str:
    child = builder.image()
    builder.tag(builder.index([child]), "v1")
    del builder.blobs[child["digest"]]
    builder.write(path)
    return str(child["digest"])


def _symlinked_blob(builder: LayoutBuilder, path: Path) -> str:
    layer = builder.layer(b"content")
    builder.tag(builder.image([layer]), "v1")
    builder.write(path)
    file = path / "blobs" / layer["digest"].replace(":", "/")
    file.rename(path / "elsewhere")
    file.symlink_to(path / "elsewhere")
    return str(layer["digest"])


def _wrong_size(builder: LayoutBuilder, path: Path) -> str:
    layer = {**builder.layer(b"content"), "size": 6}
    builder.tag(builder.image([layer]), "v1")
    builder.write(path)
    return str(layer["digest"])


def _image_and_index(builder: LayoutBuilder, path: Path) -> str:
    both = builder.image(manifests=[])
    builder.tag(both, "v1")
    builder.write(path)
    return str(both["digest"])


def _truncated_archive(builder: LayoutBuilder, path: Path) -> str:
    builder.tag(builder.image(), "v1")
    builder.write_tar(path)
    os.truncate(path, path.stat().st_size // 2)
    return str(path)


def _nothing(_builder: LayoutBuilder, path: Path) -> str:
    return str(path)


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        (4, _flipped_bit),
        (3, _missing_child),
        (3, _symlinked_blob),
        (4, _wrong_size),
        (3, _image_and_index),
        (3, _truncated_archive),
        (3, _nothing),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else str(value),
)
def test_bad_source_is_refused_by_name_and_changes_nothing(
    regmeta: Command, home: Path, builder: LayoutBuilder, layout: Path, code: int, spoil: Spoil
) -> None:
    culprit = spoil(builder, layout)
    make_layout(layout.with_name("good"), 1, seed=9)
    assert regmeta("import", layout.with_name("good"), "good").code == 0
    rows, files = _contents(home)
    done = regmeta("import", layout, "app")
    assert (done.code, culprit in done.err) == (code, True), done.err
    found_rows, found_files = _contents(home)
    # Keys that were promised and not used are dead: what was published under them is collected.
    assert found_rows == rows
    assert found_files == files


@pytest.mark.parametrize(
    ("code", "arguments", "named"),
    [
        (3, ("import", "LAYOUT", "UPPER"), "UPPER"),
        (3, ("import", "LAYOUT", "a//b"), "a//b"),
        (2, ("import", "LAYOUT", "app", "--tag", "none"), "none"),
        (2, ("import", "LAYOUT", f"app@sha256:{'0' * 64}"), "0000"),
        (3, ("export", "app:none", "TARGET"), "app:none"),
        (3, ("tag", "show", "app:none"), "app:none"),
        (3, ("tag", "rm", "app:none"), "app:none"),
        (3, ("tag", "set", "app:new", "none"), "app:none"),
        (3, ("tag", "set", "app:new", f"sha256:{'0' * 64}"), "0000"),
        (3, ("tag", "show", "app"), "app"),
        (3, ("tag", "ls", "none"), "none"),
        (3, ("repo", "show", "none"), "none"),
        (3, ("manifest", "ls", "none"), "none"),
        (3, ("manifest", "show", "none:v0"), "none"),
        (3, ("blob", "show", "sha256:abc"), "sha256:abc"),
        (3, ("blob", "show", f"sha256:{'0' * 64}"), "0000"),
        (2, ("repo", "ls", "--limit", "0"), "limit"),
        (2, ("nonsense",), "nonsense"),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_bad_argument_is_refused_by_name_and_changes_nothing(
    regmeta: Command,
    home: Path,
    layout: Path,
    tmp_path: Path,
    code: int,
    arguments: tuple[str, ...],
    named: str,
) -> None:
    make_layout(layout, 1)
    assert regmeta("import", layout, "app").code == 0
    before = _contents(home)
    places = {"LAYOUT": str(layout), "TARGET": str(tmp_path / "target")}
    done = regmeta(*(places.get(argument, argument) for argument in arguments))
    assert (done.code, named in done.err, done.out) == (code, True, ""), done.err
    assert _contents(home) == before
    assert not (tmp_path / "target").exists()


# --- registries that cannot be used -----------------------------------------------------------------


@pytest.mark.parametrize("command", [("status",), ("import", "LAYOUT", "app"), ("tag", "rm", "app:v0")])
def test_home_without_a_registry_is_refused_with_a_hint(
    bare: Command, home: Path, layout: Path, command: tuple[str, ...]
) -> None:
    make_layout(layout, 1)
    done = bare("--home", home, *(str(layout) if part == "LAYOUT" else part for part in command))
    assert (done.code, "regmeta init" in done.err, done.out) == (6, True, "")
    assert not home.exists()


def test_store_of_another_database_is_refused(
    regmeta: Command, bare: Command, home: Path, tmp_path: Path, layout: Path
) -> None:
    make_layout(layout, 1)
    other = tmp_path / "other"
    assert bare("--home", other, "init").code == 0
    shutil.rmtree(home / "store")
    shutil.copytree(other / "store", home / "store")
    done = regmeta("import", layout, "app")
    assert (done.code, "describes the store" in done.err) == (6, True)


def test_schema_that_is_behind_is_refused_with_a_hint(regmeta: Command, home: Path, layout: Path) -> None:
    make_layout(layout, 1)
    database = Database(f"sqlite:///{home / 'regmeta.db'}")
    change(database, "UPDATE alembic_version SET version_num = '0000'")
    database.close()
    for command in (("status",), ("import", layout, "app")):
        done = regmeta(*command)
        assert (done.code, "regmeta db upgrade" in done.err) == (6, True)


def test_home_that_cannot_be_made_is_unavailable(bare: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = bare("--home", tmp_path / "file" / "home", "init")
    assert (done.code, str(tmp_path / "file" / "home") in done.err) == (5, True)


# --- settings ---------------------------------------------------------------------------------------


def test_home_is_taken_from_the_environment(
    regmeta: Command, bare: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGMETA_HOME", str(home))
    assert str(home) in bare("status").out


def test_settings_are_taken_from_a_file(bare: Command, tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text('home = "here"\nactor = "somebody"\n')
    assert bare("--config", config, "init").err == f"made the registry in {tmp_path}/here\n"
    make_layout(tmp_path / "app", 1)
    assert bare("--config", config, "import", tmp_path / "app").code == 0
    found = bare("--config", config, "tag", "show", "app:v0", "--json").json
    assert found["history"][0]["started_by"] == "somebody"


@pytest.mark.parametrize(
    ("content", "named"),
    [("colour = 1", "colour"), ("layouts = 'some'", "layouts"), ("home =", "settings.toml")],
)
def test_file_with_a_bad_setting_is_refused_by_name(
    bare: Command, tmp_path: Path, content: str, named: str
) -> None:
    (tmp_path / "settings.toml").write_text(content)
    done = bare("--config", tmp_path / "settings.toml", "status")
    assert (done.code, named in done.err) == (2, True), done.err
    assert bare("--config", tmp_path / "none.toml", "status").code == 2


# --- interrupted --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupted_import_says_so_and_the_next_run_completes_it(
    regmeta: Command, home: Path, layout: Path
) -> None:
    make_layout(layout, {"v1": [bytes(192 * 1024 * 1024)]})
    settings = settings_of(home, f"sqlite:///{home / 'regmeta.db'}")
    with started(settings, "import", str(layout), "app") as process:
        wait_for(lambda: max(staged_files(settings).values(), default=0) > 1024 * 1024, process)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert said == "regmeta: interrupted; what was reported as done is done, run it again for the rest\n"
    assert (published(settings), list((home / "store" / "staging").iterdir())) == (0, [])
    assert regmeta("status", "--json").json["open_ingests"] == []
    assert "1 image imported" in run(settings, "import", str(layout), "app").stderr


def test_error_that_an_interrupt_leads_to_is_no_defect() -> None:
    program = typer.Typer(cls=Program)

    @program.command()
    def break_off() -> None:
        # Between taking a lock and the block that lets go of it, an interrupt is seen as another error.
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("release unlocked lock") from error

    @program.command()
    def fail() -> None:
        raise RuntimeError("release unlocked lock")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupted, failed = (CliRunner().invoke(program, [name]) for name in ("break-off", "fail"))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert (interrupted.exit_code, interrupted.stderr.startswith("regmeta: interrupted;")) == (130, True)
    assert (failed.exit_code, "internal error: RuntimeError" in failed.stderr) == (70, True)


def test_reader_that_has_enough_ends_a_listing_quietly(regmeta: Command, home: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "regmeta", "--home", str(home), "status"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
