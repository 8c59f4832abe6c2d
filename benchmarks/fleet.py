"""How many images a second 1, 2, 4 and 8 processes push to PostgreSQL and S3, next to the floor.

The floor is taken in the same run, right beside each measurement, with as many processes: the same blobs put
by the bare client of the object store (8 at once in each process), and for each batch of images two
transactions of bare SQL with as many rows as regmeta writes: intents; then blobs, links, manifests, edges,
tags and events, and the intents deleted. PostgreSQL flushes each commit. Both servers run on this machine,
and take part of its processors.

Usage: python -m benchmarks.fleet [IMAGES_PER_PROCESS]
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from regmeta import app
from tests.builders import LayoutBuilder
from tests.crash.harness.fleet_servers import Servers
from tests.crash.harness.fleet_workers import settings_on
from tests.support.seaweed_server import BUCKET

COUNTS: Final = (1, 2, 4, 8)
IMAGES: Final = 200
BATCH_IMAGES: Final = 100
LAYER_BYTES: Final = 4096
PUTS_AT_ONCE: Final = 8

_FLOOR_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS floor_rows (id bigserial PRIMARY KEY, kind text NOT NULL,"
    " key text NOT NULL UNIQUE, value bytea, other bigint, at bigint)"
)
_FLOOR_INSERT: Final = (
    "INSERT INTO floor_rows (kind, key, value, other, at)"
    " SELECT %s, k, decode(md5(k), 'hex'), 1, 1 FROM unnest(%s::text[]) t(k)"
)


def main(images: int) -> None:
    """Measure, and print a table."""
    import random

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end as well
    servers = Servers(random.Random(1))
    folder = Path(tempfile.mkdtemp(prefix="regmeta-fleet-"))
    try:
        servers.start()
        print(f"{'processes':>9} {'images/s':>9} {'floor':>9} {'ratio':>6}")
        for count in COUNTS:
            floor = _together(servers, folder, "floor", count, images)
            pushed = _together(servers, folder, "push", count, images)
            print(f"{count:9} {pushed:9.1f} {floor:9.1f} {pushed / floor:6.2f}", flush=True)
    finally:
        servers.stop()
        subprocess.run(["rm", "-rf", folder], check=True)


def _together(servers: Servers, folder: Path, what: str, count: int, images: int) -> float:
    """Let *count* processes do it at the same time; returns images a second [1/s] of all of them."""
    store = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    database = servers.postgres.url
    home = folder / uuid.uuid4().hex
    if what == "push":
        _renew_database(servers)
        made = [sys.executable, "-m", "benchmarks.fleet", "init", str(home), database, store]
        subprocess.run(made, check=True)
    processes = []
    for number in range(count):
        layout = folder / f"layout-{number}"
        if not layout.exists():
            _write(layout, number, images)
        command = [sys.executable, "-m", "benchmarks.fleet", what, str(home), database, store, str(layout)]
        processes.append(
            subprocess.Popen(
                [*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    for process in processes:  # each has opened everything
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    began_s = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
    elapsed_s = time.perf_counter() - began_s
    for process in processes:
        process.communicate()
    return count * images / elapsed_s


def _write(layout: Path, number: int, images: int) -> None:
    builder = LayoutBuilder(seed=number)
    shared = builder.layer(b"shared by all")
    for image in range(images):
        own = builder.layer(os.urandom(LAYER_BYTES))
        builder.tag(builder.image([shared, own]), f"v{image}")
    builder.write(layout)


def _renew_database(servers: Servers) -> None:
    import psycopg

    where = f"host={servers.postgres.folder} user=postgres dbname=postgres"
    with psycopg.connect(where, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS regmeta WITH (FORCE)")
    servers.postgres.create_database()


# --- one process --------------------------------------------------------------------------------


def _wait() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def _init(home: str, database: str, store: str) -> None:
    app.initialise(settings_on(Path(home), 0, database, store, "bench"))


def _push(home: str, database: str, store: str, layout: str, number: str) -> None:
    from contextlib import closing

    from regmeta.sources.open import open_source
    from tests.support.registry import requests

    settings = settings_on(Path(home), int(number), database, store, "bench")
    with app.open_for_writing(settings) as registry, closing(open_source(layout)) as source:
        wanted = requests(source, f"bench/{number}")
        _wait()
        for outcome in registry.registry.import_images(wanted):
            assert outcome.error is None, outcome.error
        print("done", flush=True)


def _floor(home: str, database: str, store: str, layout: str, number: str) -> None:
    import obstore
    import psycopg
    from obstore.store import S3Store

    prefix = store.rpartition("/")[2]
    client = S3Store(BUCKET, prefix=prefix, client_options={"allow_http": True})
    index = json.loads(Path(layout, "index.json").read_bytes())
    entries = index["manifests"]
    with psycopg.connect(database) as connection, ThreadPoolExecutor(PUTS_AT_ONCE) as pool:
        connection.execute("SELECT pg_advisory_lock(1)")
        connection.execute(_FLOOR_TABLE)
        connection.execute("SELECT pg_advisory_unlock(1)")
        connection.commit()
        _wait()
        seen: set[str] = set()
        for first in range(0, len(entries), BATCH_IMAGES):
            _floor_batch(connection, pool, client, obstore, Path(layout), entries[first : first + 100], seen)
        print("done", flush=True)


def _floor_batch(
    connection: Any,
    pool: ThreadPoolExecutor,
    client: Any,
    obstore: Any,
    layout: Path,
    entries: Sequence[Any],
    seen: set[str],
) -> None:
    blobs: dict[str, bytes] = {}
    edges = 0
    for entry in entries:
        content = _read(layout, entry["digest"])
        blobs[entry["digest"]] = content
        manifest = json.loads(content)
        for part in (manifest["config"], *manifest["layers"]):
            edges += 1
            if part["digest"] not in seen:
                blobs[part["digest"]] = _read(layout, part["digest"])
    seen.update(blobs)
    keys = {digest: f"blobs/{digest.replace(':', '/')}.{uuid.uuid4().hex}" for digest in blobs}
    _insert(connection, {"intent": list(keys.values())})  # and commit
    list(pool.map(lambda digest: obstore.put(client, keys[digest], blobs[digest]), blobs))
    written = list(keys.values())
    connection.execute("DELETE FROM floor_rows WHERE kind = 'intent' AND key = ANY(%s)", [written])
    rows = {"blob": len(keys), "link": len(keys), "manifest": len(entries), "edge": edges}
    rows |= {"tag": len(entries), "event": 2 * len(entries)}
    _insert(connection, {kind: [uuid.uuid4().hex for _ in range(count)] for kind, count in rows.items()})
    obstore.put(client, f"layouts/{uuid.uuid4().hex}.json", json.dumps(entries).encode())


def _insert(connection: Any, rows: dict[str, list[str]]) -> None:
    with connection.cursor() as cursor:
        for kind, keys in rows.items():
            cursor.execute(_FLOOR_INSERT, [kind, keys])
    connection.commit()


def _read(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


_ONE: Final[dict[str, Callable[..., None]]] = {"init": _init, "push": _push, "floor": _floor}

if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in _ONE:
        _ONE[sys.argv[1]](*sys.argv[2:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
