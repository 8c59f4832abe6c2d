"""A PgBouncer in transaction mode before the PostgreSQL of the tests, for as long as a test runs."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
START_TIMEOUT_S: Final = 20

CONFIGURATION: Final = """
[databases]
* = host={server} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 100
server_idle_timeout = 5
admin_users = postgres
logfile = {folder}/log
pidfile = {folder}/pid
"""


class Pooler:
    """Where a pooler is reached."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, database: str) -> str:
        """Return the URL of a database behind it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def reconnect(self, database: str) -> None:
        """Let it open new connections to the server, as after a restart of that."""
        address = f"host=127.0.0.1 port={self.port} user=postgres dbname=pgbouncer"
        with psycopg.connect(address, autocommit=True, prepare_threshold=None) as admin:
            psycopg.ClientCursor(admin).execute(f"RECONNECT {database}")


@contextmanager
def pgbouncer(server_folder: str, *, connections: int = 2) -> Iterator[Pooler]:
    """Run one that shares *connections* to the server of a socket folder among all who come."""
    assert PROGRAM is not None
    folder = Path(tempfile.mkdtemp(prefix="rmpb-", dir="/tmp"))
    account: dict[str, Any] = {}
    if os.getuid() == 0:  # it refuses root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    port = _free_port()
    configuration = CONFIGURATION.format(
        server=server_folder, port=port, folder=folder, connections=connections
    )
    (folder / "ini").write_text(configuration)
    (folder / "users").write_text('"postgres" ""\n')
    process = subprocess.Popen(
        [PROGRAM, "-q", str(folder / "ini")],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **account,
    )
    try:
        _wait(process, port, folder)
        yield Pooler(port)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                log = folder / "log"
                raise RuntimeError(f"no pgbouncer: {log.read_text() if log.exists() else ''}") from None
            time.sleep(0.02)
