"""A primary and a standby that streams from it: two servers of a test's own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.support import postgres_server

SETTINGS = {
    **postgres_server.SETTINGS,
    "wal_level": "replica",
    "max_wal_senders": "4",
    "max_connections": "40",
    "hot_standby_feedback": "off",
    "max_standby_streaming_delay": "50ms",
    "wal_receiver_status_interval": "1s",
}
WAIT_S = 30.0


@dataclass
class Server:
    """One server: a folder of data, and one for its socket."""

    folder: Path
    binaries: Path
    account: dict[str, Any]
    settings: dict[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def socket_folder(self) -> Path:
        return self.folder / "s"

    def url(self, database: str, user: str = "postgres") -> str:
        """Return the URL of a database as the settings take it."""
        return f"postgresql://{user}@/{database}?host={self.socket_folder}"

    def ask(self, statement: str, database: str = "postgres") -> Any:
        """Return the one value that a statement gives."""
        with psycopg.connect(
            f"host={self.socket_folder} user=postgres dbname={database}", autocommit=True
        ) as connection:
            row = connection.execute(statement.encode()).fetchone()
        return None if row is None else row[0]

    def run(self, statement: str, database: str = "postgres") -> None:
        """Run a statement that gives nothing."""
        with psycopg.connect(
            f"host={self.socket_folder} user=postgres dbname={database}", autocommit=True
        ) as connection:
            connection.execute(statement.encode())

    def program(self, name: str, *arguments: object) -> None:
        """Run one of the server's programs, as who runs the server."""
        done = subprocess.run(
            [str(self.binaries / name), *map(str, arguments)],
            cwd="/",
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            check=False,
            **self.account,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    def start(self) -> None:
        options = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.folder / "d", "-k", self.socket_folder, *options],
                cwd="/",
                env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self.account,
            )
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text(errors="replace")
        try:
            return bool(self.ask("SELECT true"))
        except psycopg.OperationalError:
            return False

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(2)  # fast: sessions are ended
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


@dataclass
class Pair:
    """The two, and what can be done to what lies between them."""

    primary: Server
    standby: Server

    def catch_up(self) -> None:
        """Wait until the standby shows all that is committed now."""
        at = self.primary.ask("SELECT pg_current_wal_insert_lsn()::text")
        self.write_log()  # else the last record may lie unsent
        wait_until(lambda: bool(self.standby.ask(f"SELECT pg_last_wal_replay_lsn() >= '{at}'")))

    def write_log(self) -> None:
        """Let the primary write what it has committed: these servers do not wait for that."""
        self.primary.run("SELECT pg_switch_wal()")

    def pause(self) -> None:
        """Let the standby receive and not show."""
        self.standby.run("SELECT pg_wal_replay_pause()")
        wait_until(lambda: self.standby.ask("SELECT pg_get_wal_replay_pause_state()") == "paused")

    def go_on(self) -> None:
        self.standby.run("SELECT pg_wal_replay_resume()")


@contextmanager
def streaming(*, durable: bool = False) -> Iterator[Pair]:
    """Start a primary and a standby; both are stopped and removed at the end.

    They are fast and not durable, unless they are to be such as an operator sets up.
    """
    settings = {name: value for name, value in SETTINGS.items() if not (durable and value == "off")}
    root = Path(tempfile.mkdtemp(prefix="rmpr-", dir="/tmp"))
    pair = None
    try:
        account = postgres_server._account(root)
        binaries = postgres_server._binaries(root)
        pair = Pair(*(Server(root / name, binaries, account, settings) for name in ("p", "q")))
        for server in (pair.primary, pair.standby):
            for folder in (server.folder, server.socket_folder):
                folder.mkdir()
                if account:
                    shutil.chown(folder, account["user"], account["group"])
        initdb = f"-D {pair.primary.folder}/d -U postgres -A trust -E UTF8 --no-locale --no-sync -N"
        pair.primary.program("initdb", *initdb.split())
        pair.primary.start()
        copy = f"-h {pair.primary.socket_folder} -U postgres -D {pair.standby.folder}/d -R -c fast -N"
        pair.standby.program("pg_basebackup", *copy.split())
        pair.standby.start()
        yield pair
    finally:
        if pair is not None:
            pair.standby.stop()
            pair.primary.stop()
        shutil.rmtree(root, ignore_errors=True)


def wait_until(holds: Any) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)
