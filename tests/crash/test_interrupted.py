"""Ctrl-C: a clean message, nothing damaged, and the same command goes on."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from regmeta.app import open_for_writing
from regmeta.settings import Settings
from tests.builders import LayoutBuilder
from tests.crash.processes import ROOT, environment, run
from tests.support.consistency import findings
from tests.support.registry import import_all, open_parts, tags


def interrupted(settings: Settings, point: str, *arguments: str) -> str:
    """Interrupt a command when it has come to a failpoint; return what it said."""
    marked = {**environment(settings), "REGMETA_TESTING": "1", "REGMETA_FAILPOINT": f"{point}=sleep:60"}
    process = subprocess.Popen(
        [sys.executable, "-m", "regmeta", *arguments],
        env=marked,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        deadline = time.monotonic() + 60
        while not _sleeps(process.pid):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "it never came to that point"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    return said


def _sleeps(pid: int) -> bool:
    """Tell whether a process stands in the long sleep of its failpoint."""
    try:
        call = Path(f"/proc/{pid}/syscall").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # clock_nanosleep, with TIMER_ABSTIME: only time.sleep() of the main thread does that here.
    return call[0] == "230"


@pytest.fixture
def layout_of_many(layout: Path) -> Path:
    builder = LayoutBuilder()
    for number in range(120):  # more than one batch
        builder.tag(builder.image(), f"v{number}")
    return builder.write(layout)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows the calls of one processor only")
def test_interrupted_import_says_so_and_goes_on(settings: Settings, layout_of_many: Path) -> None:
    said = interrupted(settings, "ingest.committed", "import", str(layout_of_many), "app")
    assert "interrupted" in said
    database, store = open_parts(settings)
    with closing(database), closing(store):
        assert len(tags(database)) == 100
        assert [line for line in findings(database, store) if not line.startswith("staging/")] == []
        assert "0 failed" in run(settings, "import", str(layout_of_many), "app").stderr
        assert len(tags(database)) == 120


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows the calls of one processor only")
def test_interrupted_rebuild_says_so_and_goes_on(settings: Settings, layout_of_many: Path) -> None:
    if not settings.database.startswith("sqlite"):
        pytest.skip("a PostgreSQL database is not lost by removing a file")
    with open_for_writing(settings) as writing:
        for repository in ("one", "two", "three"):
            import_all(writing, layout_of_many, repository)
    for path in Path(settings.home).glob("regmeta.db*"):
        path.unlink()
    command = ("rebuild", "--lost-database", "--yes")
    assert "interrupted" in interrupted(settings, "rebuild.committed", *command)
    refused = run(settings, "tag", "set", "one:x", "v1", expect=6)
    assert "belongs to the database" in refused.stderr
    run(settings, *command)
    database, store = open_parts(settings)
    with closing(database), closing(store):
        assert [len(tags(database, name)) for name in ("one", "two", "three")] == [120, 120, 120]
    run(settings, "verify", "--read-data", "--mark")
    run(settings, "gc", "run")
