"""Commits a second on PostgreSQL, rows only: ``python -m benchmarks.postgresql [SECONDS]``.

What is measured is ``UnitOfWork.reserve`` and ``commit`` of one image of three layers, its tag moved, by some
threads, each with a repository of its own. No object is written. The floor is about the same rows by the
driver alone, in its pipeline mode, SQL written by hand. Both in the same run, on a server that flushes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from regmeta.app import Writing, open_for_writing
from regmeta.ingest.unit_of_work import Phase, UnitOfWork
from regmeta.maintain.setup import make_identity
from regmeta.store import Staged
from tests.builders import LayoutBuilder
from tests.support import postgres_server
from tests.support.postgres import Postgres
from tests.support.registry import open_parts, request, settings_of, source_of

AT_ONCE = (1, 2, 4, 8)
LAYERS = 3
PLANNED = 400  # images of each thread, at most
FLUSHING = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}


def rate(work: Callable[[int], Callable[[], None]], threads: int, seconds: float) -> float:
    """Return how often a second all threads together do their work."""
    done = [0] * threads
    works = [work(number) for number in range(threads)]
    began = time.monotonic()
    until = began + seconds

    def run(number: int) -> None:
        while time.monotonic() < until and done[number] < PLANNED:
            works[number]()
            done[number] += 1

    started = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return sum(done) / (time.monotonic() - began)


def ours(writing: Writing, folder: Path) -> Callable[[int], Callable[[], None]]:
    """Return what pushes an image, without its bytes."""

    def of(number: int) -> Callable[[], None]:
        builder = LayoutBuilder(seed=number)
        made = [builder.image([builder.layer(os.urandom(16)) for _ in range(LAYERS)]) for _ in range(PLANNED)]
        with source_of(builder, folder / uuid4().hex) as source:
            planned = [
                writing.registry.copy_manifest(request(source, image, f"r{number}", "v1")) for image in made
            ]

        def push() -> None:
            image = planned.pop()
            unit = UnitOfWork(writing.writer, "benchmark")
            unit.reserve(image.blobs)
            unit._staged.update(
                {digest: Staged(key, digest, image.blobs[digest], "") for digest, key in unit.keys.items()}
            )
            unit._published.update(unit.keys)
            unit.phase = Phase.PUBLISHED
            unit.commit([image])

        return push

    return of


def floor(address: str) -> Callable[[int], Callable[[], None]]:
    """Return what writes the rows of an image by the driver alone."""

    def of(number: int) -> Callable[[], None]:
        connection = psycopg.connect(address, autocommit=True)
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO repositories (name, created_at, updated_at) VALUES (%s, 0, 0) RETURNING id",
                [f"floor{number}"],
            )

            row: Any = cursor.fetchone()
        return lambda: _floor_push(connection, row[0])

    return of


def _floor_push(connection: psycopg.Connection[Any], repository: int) -> None:
    digests = [b"\x01" + os.urandom(32) for _ in range(5)]
    keys = [f"sha256/{digest.hex()}" for digest in digests]
    owner = uuid4()
    with connection.pipeline() as pipeline:
        send = connection.execute
        send("BEGIN")
        found = send("SELECT id, digest FROM blobs WHERE digest = ANY(%s)", [digests])
        pipeline.sync()
        found.fetchall()
        send(
            "INSERT INTO intents (key, digest, owner, host, created_at, expires_at)"
            " SELECT k, d, %s, 'h', 0, 1 FROM unnest(%s::text[], %s::bytea[]) AS u(k, d)",
            [owner, keys, digests],
        )
        send("COMMIT")
        pipeline.sync()
        send("BEGIN")
        send("UPDATE repositories SET revision = revision + 1 WHERE id = %s", [repository])
        pipeline.sync()
        ingest = uuid4()
        send("INSERT INTO ingests VALUES (%s, 0, 'a', 's', '{}')", [ingest])
        send("DELETE FROM intents WHERE owner = %s", [owner])
        send("SELECT id FROM blobs WHERE digest = ANY(%s) ORDER BY id FOR KEY SHARE", [digests])
        pipeline.sync()
        made = send(
            "INSERT INTO blobs (digest, size_bytes, key, lease_until, created_at)"
            " SELECT d, 1, k, 0, 0 FROM unnest(%s::bytea[], %s::text[]) AS u(d, k) RETURNING id",
            [digests, keys],
        )
        pipeline.sync()
        ids = [row[0] for row in made.fetchall()]
        image = send(
            "INSERT INTO manifests (repository_id, digest, kind, media_type, size_bytes, content, blob_id,"
            " pushed_at, pushed_by, lease_until) VALUES (%s, %s, 'image', 'm', 500, %s, %s, 0, 'a', 0)"
            " RETURNING id",
            [repository, digests[0], bytes(500), ids[0]],
        )
        pipeline.sync()
        (manifest,) = image.fetchone() or (0,)
        send(
            "INSERT INTO repository_blobs SELECT %s, b, 0 FROM unnest(%s::bigint[]) AS u(b)",
            [repository, ids],
        )
        send(
            "INSERT INTO manifest_blobs (manifest_id, position, role, blob_id) SELECT %s, p - 1,"
            " CASE p WHEN 1 THEN 'config' ELSE 'layer' END, b"
            " FROM unnest(%s::bigint[]) WITH ORDINALITY AS u(b, p)",
            [manifest, ids[1:]],
        )
        now = time.time_ns() // 1000
        send(
            "UPDATE tags SET ended_at = %s, ended_by = 'a' WHERE repository_id = %s AND ended_at IS NULL",
            [now, repository],
        )
        send(
            "INSERT INTO tags (repository_id, name, manifest_digest, manifest_id, started_at, started_by)"
            " VALUES (%s, 'v1', %s, %s, %s, 'a')",
            [repository, digests[0], manifest, now],
        )
        send(
            "INSERT INTO events (occurred_at, kind, repository_id, digest, actor) VALUES"
            " (0, 'manifest.pushed', %s, %s, 'a'), (0, 'tag.moved', %s, %s, 'a')",
            [repository, digests[0], repository, digests[0]],
        )
        send("UPDATE ingests SET result = '{\"a\": 1}' WHERE id = %s", [ingest])
        send("COMMIT")


@contextmanager
def flushing_server() -> Iterator[Postgres]:
    """Run a PostgreSQL as the tests do, but one that flushes."""
    postgres_server.SETTINGS.update(FLUSHING)
    data = Path(tempfile.mkdtemp(prefix="rmpg-", dir="/tmp"))
    account = postgres_server._account(data)
    server = postgres_server._start(postgres_server._binaries(data), data, account)
    try:
        with closing(Postgres(str(data))) as postgres:
            postgres.make_template()
            yield postgres
    finally:
        postgres_server._stop(server)
        shutil.rmtree(data, ignore_errors=True)


def main(seconds: float) -> None:
    """Print the rates and their ratios."""
    with tempfile.TemporaryDirectory() as home, flushing_server() as postgres:
        settings = settings_of(Path(home), postgres.url(postgres.create()))
        (Path(home) / "store").mkdir()
        with closing(open_parts(settings)[0]) as database, closing(open_parts(settings)[1]) as store:
            make_identity(database, store)
        with open_for_writing(settings) as writing:
            print("threads  regmeta/s  floor/s  ratio")
            for threads in AT_ONCE:
                address = f"host={postgres.socket_folder} user=postgres dbname={postgres.create()}"
                mine = rate(ours(writing, Path(home) / "layouts"), threads, seconds)
                least = rate(floor(address), threads, seconds)
                print(f"{threads:7} {mine:10.1f} {least:8.1f} {mine / least:6.2f}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0)
