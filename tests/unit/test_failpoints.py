"""Every durable step has a failpoint, and failpoints do nothing unless a test has asked for it."""

from __future__ import annotations

import ast
import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from regmeta import failpoints
from regmeta.errors import UsageError
from regmeta.settings import load_settings
from tests.support.points import ROOT, named_points, transaction_names

CHANGES_FILES: Final = {
    *("fsync", "fdatasync", "sync", "rename", "renames", "replace", "link", "symlink", "unlink", "remove"),
    *("rmdir", "removedirs", "mkdir", "makedirs", "truncate", "ftruncate", "posix_fallocate", "rmtree"),
    *("move", "copyfile", "copy", "copy2", "copytree", "touch", "write_bytes", "write_text"),
    *("hardlink_to", "symlink_to"),
}
ALLOWED: Final = {
    ("store/durable.py", name): "with its failpoint"
    for name in ("fsync", "rename", "link", "unlink", "mkdir", "rmdir", "rmtree")
} | {
    ("store/exports.py", name): "a layout for others, beside the registry"
    for name in ("rename", "makedirs", "rmtree", "unlink")
}
ALLOWED[("app/metrics.py", "replace")] = "what was counted, for others, and no part of the registry"
ALLOWED[("app/metrics.py", "unlink")] = "the same"
ALLOWED[("store/filesystem.py", "sync")] = "settle(): what others wrote, once"


def calls() -> Iterator[tuple[str, int, str, ast.Call]]:
    """Give every call of an attribute in the package: module, line, name, call."""
    package = ROOT / "regmeta"
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield str(path.relative_to(package)), node.lineno, node.func.attr, node


def test_calls_that_change_files_are_made_where_they_have_a_failpoint() -> None:
    found = {}
    for module, line, name, call in calls():
        assert isinstance(call.func, ast.Attribute)
        receiver = call.func.value
        owner = receiver.id if isinstance(receiver, ast.Name) else ""
        if name in CHANGES_FILES and owner in ("os", "shutil", "path", "folder", "Path"):
            found[module, name] = line
    assert found.keys() == ALLOWED.keys()


def test_transactions_are_named_and_no_two_share_a_name() -> None:
    named = transaction_names()
    assert all(named), "a transaction without a literal name"
    assert len(named) == len(set(named)), sorted(named)


@pytest.mark.slow
def test_points_are_of_the_form_that_the_variable_takes() -> None:
    found = named_points()
    assert len(found) > 40
    for name in found:
        failpoints.arm(f"{name}:2=sleep:0")
    failpoints._handler = None


def test_point_does_nothing_when_none_is_armed() -> None:
    assert failpoints._handler is None
    failpoints.reach("anything")


def test_armed_points_are_told_and_forgotten_afterwards() -> None:
    seen: list[str] = []
    with failpoints.armed(seen.append):
        failpoints.reach("one")
        with failpoints.armed(lambda name: None):
            failpoints.reach("two")
        failpoints.reach("three")
    failpoints.reach("four")
    assert seen == ["one", "three"]


@pytest.fixture
def disarmed() -> Iterator[None]:
    """Points that are off again afterwards."""
    yield
    failpoints._handler = None


@pytest.mark.usefixtures("disarmed")
def test_point_fails_the_time_that_was_asked_for_and_only_then() -> None:
    failpoints.arm("a.b:2=raise:ENOSPC")
    failpoints.reach("a.b")
    failpoints.reach("a.c")
    with pytest.raises(OSError, match="ENOSPC") as raised:
        failpoints.reach("a.b")
    assert raised.value.errno == errno.ENOSPC
    failpoints.reach("a.b")


@pytest.mark.parametrize(
    "spec", ["", "a", "a=", "a=die", "a:0=kill", "a:x=kill", "a=raise:NOTHING", "A=kill"]
)
def test_spec_of_another_form_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="REGMETA_FAILPOINT"):
        failpoints.arm(spec)


@pytest.mark.parametrize("testing", [None, "", "0", "yes"])
def test_variable_is_refused_outside_tests(monkeypatch: pytest.MonkeyPatch, testing: str | None) -> None:
    monkeypatch.setenv("REGMETA_FAILPOINT", "ingest.committing=kill")
    if testing is not None:
        monkeypatch.setenv("REGMETA_TESTING", testing)
    with pytest.raises(UsageError, match="refused without REGMETA_TESTING=1"):
        load_settings()
    assert failpoints._handler is None


def test_variable_kills_a_process_at_its_point(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "regmeta", "--home", str(tmp_path / "home"), "init"],
        env={"REGMETA_FAILPOINT": "identity.committing=kill", "REGMETA_TESTING": "1", "PATH": ""},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
