"""Run a command and measure its wall time, its CPU time and its peak memory.

A child's peak RSS, as the kernel reports it, starts at that of the process that spawned it. So each
command is spawned by a small launcher (this file, run as a script, about 13 MiB) and not by the
benchmark itself. Start-up of the launcher is not part of the times.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One measurement: wall and CPU (user + system) seconds, peak RSS in bytes (0: unknown)."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int = 0


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of measured commands: this one's, but bytecode may be cached.

    With PYTHONDONTWRITEBYTECODE a program in a source tree would compile itself at each start.
    """
    environment = {**os.environ, **(extra or {})}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def measure(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Sample:
    """Run `argv` to its end, standard output discarded, and measure it.

    Raises SystemExit with the end of its standard error when it fails.
    """
    if shutil.which(argv[0]) is None:
        raise SystemExit(f"{argv[0]}: command not found")
    launcher = [sys.executable, "-I", "-S", __file__, *argv]
    env = environment if environment is not None else child_environment()
    done = subprocess.run(launcher, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: the launcher failed\n{done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    if report["exit_code"]:
        reason = f"exit code {report['exit_code']}\n{done.stderr[-2000:]}"
        raise SystemExit(f"{' '.join(argv)}: {reason}")
    return Sample(report["wall_s"], report["cpu_s"], report["peak_rss_bytes"])


def total(samples: Sequence[Sample]) -> Sample:
    """Add the times of commands that ran one after the other; memory is the greatest."""
    return Sample(
        sum(sample.wall_s for sample in samples),
        sum(sample.cpu_s for sample in samples),
        max(sample.peak_rss_bytes for sample in samples),
    )


def _used_by(usage: resource.struct_rusage) -> dict[str, float]:
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_rss_bytes": usage.ru_maxrss * 1024}


def _launch(argv: list[str]) -> None:
    discard = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    start = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=[discard])
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - start
    exit_code = os.waitstatus_to_exitcode(status)
    print(json.dumps({"exit_code": exit_code, "wall_s": wall_s, **_used_by(usage)}))


if __name__ == "__main__":
    _launch(sys.argv[1:])
