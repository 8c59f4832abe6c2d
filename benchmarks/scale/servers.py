"""The servers of a benchmark: PostgreSQL that flushes its log, and an S3 server, with data of their own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

import psycopg

from benchmarks.scale.counted import CountedRequests
from tests.support import postgres_server
from tests.support.round_trips import CountingProxy, counting_proxy
from tests.support.seaweed import reaching
from tests.support.seaweed_server import Seaweed

DURABLE = {
    **postgres_server.SETTINGS,
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_wal_size": "8GB",
    "shared_buffers": "512MB",
    "checkpoint_timeout": "15min",
}


@contextmanager
def durable_postgres() -> Iterator[str]:
    """Run a server as operators do; give the folder of its socket."""
    data = Path(tempfile.mkdtemp(prefix="rmbp-", dir="/tmp"))
    server = None
    try:
        with patch.dict(postgres_server.SETTINGS, DURABLE):
            account = postgres_server._account(data)
            server = postgres_server._start(postgres_server._binaries(data), data, account)
        yield str(data)
    finally:
        if server is not None:
            postgres_server._stop(server)
        shutil.rmtree(data, ignore_errors=True)


def make_database(socket_folder: str, name: str) -> str:
    """Make an empty database; return its URL."""
    with psycopg.connect(
        f"host={socket_folder} user=postgres dbname=postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    return url_of(socket_folder, name)


def url_of(socket_folder: str, name: str) -> str:
    """Return the URL of a database as the settings take it."""
    return f"postgresql://postgres@/{name}?host={socket_folder}"


@contextmanager
def counted_servers() -> Iterator[tuple[str, CountingProxy, CountedRequests]]:
    """Run both, each behind something that counts; give the folder of PostgreSQL's own socket as well."""
    with durable_postgres() as folder, counting_proxy(folder) as trips:
        server = Seaweed(Path(tempfile.mkdtemp(prefix="rmbs-", dir="/tmp")))
        try:
            server.start()
            found = urlsplit(server.endpoint)
            counted = CountedRequests(found.hostname or "", found.port or 0)
            with patch.dict(os.environ, reaching(counted.endpoint)):
                yield folder, trips, counted
            counted.close()
        finally:
            server.remove()
