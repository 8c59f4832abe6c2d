"""Letting a system call of a process that is about to begin kill it, or fail: strace attaches to it.

``when=`` counts the calls of one name in one thread, and the call that is killed at does not happen. Children
work in one thread (see ``children``), so each number is one call, the same in each run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.crash.harness.children import Acknowledge, Mutate, Outcome, run_child

MUTATING: Final = (
    *("write", "pwrite64", "writev", "pwritev", "pwritev2", "fsync", "fdatasync", "sync", "syncfs"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "truncate", "ftruncate", "fallocate", "copy_file_range", "sendfile"),
    *("chmod", "fchmod", "fchmodat"),
)
"""What changes what is on a disk, or makes it last. ``openat`` that creates is left out: most of its calls
only open, and right after one that creates comes a write, or the lock, of what it has made."""
READING: Final = (
    "read",
    "pread64",
    "preadv",
    "openat",
    "newfstatat",
    "fstat",
    "getdents64",
    "flock",
    "lseek",
)
ATTACH_TIMEOUT_S: Final = 20
_COUNT: Final = re.compile(r"^\s*[0-9.]+\s+[0-9.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?([a-z0-9_]+)$", re.MULTILINE)


def unusable() -> str:
    """Return why strace cannot be used here; nothing if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()[:100]}"


def count(body: Callable[[Acknowledge], None], names: Iterable[str], mutate: Mutate = None) -> dict[str, int]:
    """Run *body* to its end and return how often it makes each of these calls, as ``strace -c`` says."""
    with tempfile.NamedTemporaryFile("r") as summary:
        options = ["-c", "-o", summary.name, "-e", f"trace={_known(names)}"]
        outcome = traced(body, options, mutate=mutate)
        if outcome.ended != "done":
            raise RuntimeError(f"it does not work under strace: {outcome.error}")
        found = {name: int(calls) for calls, name in _COUNT.findall(summary.read())}
    found.pop("total", None)
    return found


def traced(
    body: Callable[[Acknowledge], None], options: list[str], *, mutate: Mutate = None, seed: int = 1
) -> Outcome:
    """Run *body* in a child that strace watches with these options."""
    tracers: list[subprocess.Popen[bytes]] = []

    def attach(pid: int) -> None:
        command = ["strace", "-f", "-qqq", "-p", str(pid), *options]
        tracers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE))
        deadline = time.monotonic() + ATTACH_TIMEOUT_S
        while _tracer_of(pid) == 0:
            if tracers[0].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"strace did not attach: {tracers[0].communicate()[1]!r}")
            time.sleep(0.0005)

    try:
        return run_child(body, mutate=mutate, seed=seed, attach=attach)
    finally:
        for tracer in tracers:
            with suppress(subprocess.TimeoutExpired):
                tracer.communicate(timeout=ATTACH_TIMEOUT_S)
            tracer.kill()
            tracer.wait()


def inject(name: str, what: str, when: str) -> list[str]:
    """Return the options that tamper with one call: ``signal=SIGKILL`` or ``error=EIO``, and which time."""
    return ["-o", os.devnull, "-e", f"trace={name}", "-e", f"inject={name}:{what}:when={when}"]


def _tracer_of(pid: int) -> int:
    found = re.search(r"^TracerPid:\s+(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _known(names: Iterable[str]) -> str:
    return ",".join(f"?{name}" for name in names)  # machines differ in which of them there are
