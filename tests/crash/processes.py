"""Running the program as its users do: in processes of its own, which can be killed and frozen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regmeta.settings import Settings

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 90


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment that makes the program use a registry."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REGMETA_")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "REGMETA_HOME": settings.home,
        "REGMETA_DATABASE": settings.database,
        "REGMETA_STORE": settings.store,
        "REGMETA_ACTOR": settings.actor,
    }


def run(settings: Settings, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; it must end with *expect*, and never with a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "regmeta", *arguments],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == expect, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def ask(settings: Settings, *arguments: str) -> Any:
    """Return the answer of a command that reads."""
    return json.loads(run(settings, *arguments, "--json").stdout)


@contextmanager
def started(settings: Settings, *arguments: str, module: str = "regmeta") -> Iterator[subprocess.Popen[str]]:
    """Start a command; it does not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=environment(settings),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], pause_s: float = 0.0005) -> None:
    """Wait until something holds; fail if the process has ended before it did."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, f"ended too early: {process.communicate()}"
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(pause_s)


def staged_files(settings: Settings) -> dict[str, int]:
    """Return the files in all staging folders, with their sizes, the locks left out."""
    found = {}
    for path in Path(settings.store, "staging").glob("*/*"):
        try:
            if path.name != "lock":
                found[str(path)] = path.stat().st_size
        except FileNotFoundError:
            continue
    return found


def published(settings: Settings) -> int:
    """Return how many objects there are."""
    return sum(1 for _ in Path(settings.store, "blobs").glob("*/*/*"))
