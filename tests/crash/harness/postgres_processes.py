"""A PostgreSQL whose processes may be killed. It flushes all that it writes, unlike that of other tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from sqlalchemy import event

from regmeta.app import Writing
from tests.crash.harness.children import Acknowledge
from tests.crash.harness.places import MEMORY
from tests.support import postgres_server

DATABASE: Final = "regmeta"
READY_S: Final = 60.0
ATTACHED_S: Final = 10.0
SAFE: Final = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}


# --- the server -------------------------------------------------------------------------------


class Server:
    """A PostgreSQL whose processes may be killed."""

    def __init__(self) -> None:
        # Short, since its socket lies in it; in memory, like the other registries that only processes die of.
        memory = MEMORY if os.access(MEMORY, os.W_OK) else "/tmp"
        self.folder = Path(tempfile.mkdtemp(prefix="rmpg-", dir=memory))
        self._account = postgres_server._account(self.folder)
        self._binaries = postgres_server._binaries(self.folder)
        self._process: subprocess.Popen[bytes] | None = None
        made = f"-D {self._data} -U postgres -A trust -E UTF8 --no-locale --no-sync"
        subprocess.run(
            [self._binaries / "initdb", *made.split()], check=True, capture_output=True, **self._common
        )

    @property
    def url(self) -> str:
        """The URL of its one database."""
        return f"postgresql://postgres@/{DATABASE}?host={self.folder}"

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, on the data that there are."""
        options = {**postgres_server.SETTINGS, **SAFE, "restart_after_crash": "on"}
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, "-k", self.folder, *given],
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._common,
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it takes connections."""
        deadline_s = time.monotonic() + READY_S
        while True:
            try:
                psycopg.connect(f"host={self.folder} user=postgres dbname=postgres").close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.02)

    def create_database(self) -> None:
        """Make its one database."""
        with psycopg.connect(f"host={self.folder} user=postgres dbname=postgres", autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0")

    def restart_when_dead(self) -> None:
        """Wait for the postmaster's death and that of all its processes, then start it again."""
        assert self._process is not None
        self._process.wait()
        while any(self._processes()):
            time.sleep(0.01)
        self.start()

    def stop(self) -> None:
        """End it, and remove its data."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self.folder / "d"

    @property
    def _common(self) -> dict[str, Any]:
        environment = {"LC_ALL": "C", "PATH": os.defpath}
        return {"cwd": "/", "stdin": subprocess.DEVNULL, "env": environment, **self._account}

    def _processes(self) -> Iterator[int]:
        """Give the processes that work in its data."""
        for name in os.listdir("/proc"):
            with suppress(OSError):
                if name.isdigit() and os.readlink(f"/proc/{name}/cwd") == str(self._data):
                    yield int(name)


# --- kills ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """Where a backend is killed."""

    operation: str  # at its first COMMIT
    system_call: str | None  # None: before COMMIT is sent
    has_rival: bool = False  # another moves the same tag before the client tries again

    def __str__(self) -> str:
        call = f"/{self.system_call}" if self.system_call else ""
        return f"{self.operation}.committing{call}{'/rival' if self.has_rival else ''}"


class Backend:
    """Knows which backend serves the transaction that has begun last, and kills it."""

    def __init__(self, kill: Kill, acknowledge: Acknowledge) -> None:
        self._kill = kill
        self._acknowledge = acknowledge
        self._pid = 0
        self._is_armed = False
        self._killed = False
        self._rival: Callable[[], None] | None = None
        self._tracer: subprocess.Popen[bytes] | None = None

    def watch(self, registry: Writing) -> None:
        """Look at which backend serves each transaction of *registry*."""

        @event.listens_for(registry.database.engine, "begin")
        def begin(connection: sa.Connection) -> None:
            driver_connection: Any = connection.connection.dbapi_connection
            self._pid = driver_connection.info.backend_pid
            if self._killed and self._rival is not None:
                rival, self._rival = self._rival, None
                rival()

    def arm(self, rival: Callable[[], None] | None = None) -> None:
        """Kill at the first point from now on; *rival* comes before the transaction that follows."""
        self._is_armed = True
        self._rival = rival

    def reached(self, name: str) -> None:
        """Kill, if this is the point."""
        if not self._is_armed or name != f"{self._kill.operation}.committing":
            return
        self._is_armed = False
        self._killed = True
        self._acknowledge("killing", str(self._pid))
        if self._kill.system_call is None:
            os.kill(self._pid, signal.SIGKILL)
        else:
            self._trace(self._kill.system_call)

    def end(self) -> None:
        """Let go of the backend, if it has not come to its call."""
        if self._tracer is not None and self._tracer.poll() is None:
            self._tracer.kill()
            self._tracer.wait()

    def _trace(self, call: str) -> None:
        inject = f"inject={call}:signal=SIGKILL:when=1"
        self._tracer = subprocess.Popen(
            ["strace", "-qq", "-o", "/dev/null", "-p", str(self._pid), "-e", f"trace={call}", "-e", inject],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline_s = time.monotonic() + ATTACHED_S
        while "TracerPid:\t0\n" in Path(f"/proc/{self._pid}/status").read_text():
            assert time.monotonic() < deadline_s, "strace does not attach"
            time.sleep(0.005)
        time.sleep(0.05)  # from being attached to looking at each call
