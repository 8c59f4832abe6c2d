"""The two servers of a fleet, and what is done to them: cut off, killed, frozen, started again."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

import psycopg

from tests.crash.harness.places import MEMORY
from tests.crash.harness.postgres_processes import DATABASE, Server
from tests.support.seaweed import reaching
from tests.support.seaweed_server import Seaweed

BACKENDS: Final = (
    "SELECT pid, state FROM pg_stat_activity"
    f" WHERE datname = '{DATABASE}' AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


class Servers:
    """A PostgreSQL that flushes what it writes, and an S3 server. What is done to them is counted."""

    def __init__(self, rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._frozen_until_s: float | None = None
        self._dead_until_s: float | None = None
        memory = MEMORY if os.access(MEMORY, os.W_OK) else "/tmp"
        self.bucket = Seaweed(Path(tempfile.mkdtemp(prefix="rms3-", dir=memory)))
        self.postgres = Server()

    def start(self) -> None:
        """Start both, and say in the environment where the S3 server is."""
        self.postgres.start()
        self.postgres.create_database()
        self.bucket.start()
        os.environ.update(reaching(self.bucket.endpoint))

    def stop(self) -> None:
        """End both, and remove what they hold."""
        self.mend()
        self.bucket.remove()
        self.postgres.stop()

    # --- PostgreSQL -----------------------------------------------------------------------------

    def cut_off(self) -> None:
        """End one connection, as an administrator does."""
        with suppress(psycopg.Error), self._connected() as admin:
            found = admin.execute(BACKENDS).fetchall()
            if found:
                admin.execute("SELECT pg_terminate_backend(%s)", [self._chosen(found)])
                self.counts["backends terminated"] += 1

    def kill_backend(self) -> None:
        """Kill the process of one connection: the server ends all others, and recovers."""
        pid = None
        with suppress(psycopg.Error), self._connected() as admin:
            found = admin.execute(BACKENDS).fetchall()
            pid = self._chosen(found) if found else None
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.counts["backends killed"] += 1

    def kill_postmaster(self) -> None:
        """Kill the server, and start it again when all its processes have gone."""
        os.kill(self.postgres.pid, signal.SIGKILL)
        self.postgres.restart_when_dead()
        self.counts["PostgreSQL killed"] += 1

    def _connected(self) -> psycopg.Connection[tuple[int, str]]:
        where = f"host={self.postgres.folder} user=postgres dbname=postgres connect_timeout=5"
        return psycopg.connect(where, autocommit=True)

    def _chosen(self, found: list[tuple[int, str]]) -> int:
        at_work = [pid for pid, state in found if state != "idle"]
        return self._rng.choice(at_work or [pid for pid, _ in found])

    # --- S3 ---------------------------------------------------------------------------------------

    def kill_bucket(self, for_s: float) -> None:
        """Kill the S3 server; it is started again *for_s* later, see :meth:`tend`."""
        if self._frozen_until_s is None and self._dead_until_s is None:
            self.bucket.kill()
            self._dead_until_s = time.monotonic() + for_s
            self.counts["S3 killed"] += 1

    def freeze_bucket(self, for_s: float) -> None:
        """Let the S3 server stand still."""
        process = self.bucket.process
        if process is not None and self._frozen_until_s is None:
            os.killpg(process.pid, signal.SIGSTOP)
            self._frozen_until_s = time.monotonic() + for_s
            self.counts["S3 frozen"] += 1

    def tend(self) -> None:
        """Let it go on, or start it again, when its time has come."""
        now_s = time.monotonic()
        if self._frozen_until_s is not None and self._frozen_until_s <= now_s:
            self._wake()
        if self._dead_until_s is not None and self._dead_until_s <= now_s:
            self._dead_until_s = None
            self.bucket.start()

    def mend(self) -> None:
        """Let both work from now on."""
        if self._frozen_until_s is not None:
            self._wake()
        if self._dead_until_s is not None:
            self._dead_until_s = None
            self.bucket.start()

    def _wake(self) -> None:
        self._frozen_until_s = None
        if self.bucket.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.bucket.process.pid, signal.SIGCONT)
