"""A server that all processes of a test run share: the first one starts it, it ends with the last.

The script that runs it writes ``server.json`` when it is ready, holds on until an exclusive ``flock`` on
``users`` is free, and removes its data.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 90


@contextmanager
def shared_server(
    folder: Path, script: Path, prepare: Callable[[dict[str, Any]], None] = lambda _: None
) -> Iterator[dict[str, Any]]:
    """Use the server of *folder*, which all processes of a test run name; give what it says of itself.

    Each process *prepares* it while no other does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "users", "a") as users, open(folder / "start.lock", "a") as start_lock:
        # Waits while a server that nobody used any more is stopped.
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(start_lock, fcntl.LOCK_EX)
        state = folder / "server.json"
        if not state.exists():
            _start(folder, state, script)
        found: dict[str, Any] = json.loads(state.read_text())
        if "error" in found:
            raise RuntimeError(f"{script.stem}: {found['error']}")
        prepare(found)
        fcntl.flock(start_lock, fcntl.LOCK_UN)
        yield found


def _start(folder: Path, state: Path, script: Path) -> None:
    with open(folder / "server.log", "ab") as log:
        starter = subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not state.exists():
        if starter.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{script.stem}: {(folder / 'server.log').read_text()}")
        time.sleep(0.02)
    # It outlives this process on purpose, and is nobody's to wait for.
    starter.returncode = 0
