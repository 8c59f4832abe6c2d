"""What pushes, pulls and collection cost, counted at the servers: rows, bytes, round trips, requests."""

import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.scale.counted import CountedRequests
from benchmarks.scale.servers import make_database, url_of
from regmeta import app
from regmeta.app import Writing
from regmeta.content.streams import open_blob
from regmeta.ingest.plan import ImageRequest
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.collect.run import collect
from regmeta.oci.names import Reference
from regmeta.query.catalog import resolve, resolve_in
from regmeta.query.tree import StoredBlob, blobs
from regmeta.settings import Settings
from regmeta.sources.open import open_source
from tests.builders import make_layout
from tests.support.registry import AT_ONCE, requests
from tests.support.round_trips import CountingProxy

LAYERS = 5  # of an image, one of which is its own
LAYER_BYTES = 20_000


@dataclass(frozen=True)
class Cost:
    """Of one thing, on average."""

    what: str
    count: int
    rows: dict[str, float]  # inserted, updated and deleted rows by table
    log_bytes: float
    round_trips: float
    requests: dict[str, float]
    wall_s: float
    client_cpu_s: float

    def __str__(self) -> str:
        rows = sum(self.rows.values())
        most = sorted(self.rows.items(), key=lambda item: -item[1])[:6]
        said = ", ".join(f"{name} {number:.1f}" for name, number in most)
        asked = ", ".join(f"{number:.1f} {name}" for name, number in sorted(self.requests.items())) or "none"
        return (
            f"{self.what:28} {rows:6.1f} rows, {self.log_bytes / 1024:7.1f} KiB of log,"
            f" {self.round_trips:5.1f} round trips, S3: {asked};"
            f" {self.wall_s * 1e3:.1f} ms, {self.client_cpu_s * 1e3:.1f} ms CPU here\n{'':28} ({said})"
        )

    def shared(self, what: str, count: int) -> "Cost":
        """Return the cost of one of the *count* things that this was for."""
        return Cost(
            what,
            count,
            {name: number / count for name, number in self.rows.items()},
            self.log_bytes / count,
            self.round_trips / count,
            {name: number / count for name, number in self.requests.items()},
            self.wall_s / count,
            self.client_cpu_s / count,
        )


class Meter:
    """Reads the servers' counters around a piece of work."""

    def __init__(self, folder: str, name: str, trips: CountingProxy, requests: CountedRequests) -> None:
        self._connection = psycopg.connect(f"host={folder} user=postgres dbname={name}", autocommit=True)
        self._trips = trips
        self._requests = requests
        self.settle: Callable[[], None] = lambda: None

    def measure(self, what: str, count: int, work: Callable[[], object]) -> Cost:
        """Do *work*, which is *count* times the same; return what one costs."""
        rows, log = self._rows(), self._log()
        trips, asked = self._trips.trips, Counter(self._requests.counts)
        cpu_s, start_s = _cpu_s(), time.perf_counter()
        work()
        wall_s, cpu_s = time.perf_counter() - start_s, _cpu_s() - cpu_s
        log_bytes = self._log() - log
        changed = {name: number - rows.get(name, 0) for name, number in self._rows().items()}
        done = Counter(self._requests.counts)
        done.subtract(asked)
        return Cost(
            what,
            count,
            {name: number / count for name, number in changed.items() if number},
            log_bytes / count,
            (self._trips.trips - trips) / count,
            {name: number / count for name, number in done.items() if number},
            wall_s / count,
            cpu_s / count,
        )

    def close(self) -> None:
        self._connection.close()

    def _rows(self) -> dict[str, int]:
        self.settle()  # a connection tells what it has changed when it ends, else when it has long been idle
        time.sleep(0.5)
        found = self._connection.execute(
            "SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables"
        )
        return {name: int(number) for name, number in found}

    def _log(self) -> int:
        row = self._connection.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
        ).fetchone()
        assert row is not None
        return int(row[0])


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure_costs(folder: str, trips: CountingProxy, counted: CountedRequests, images: int) -> list[Cost]:
    """Push, push again, pull and collect *images* small images, one by one and as one batch."""
    make_database(folder, "costs")
    with tempfile.TemporaryDirectory(prefix="rm-scale-") as scratch:
        home = Path(scratch)
        settings = Settings(
            home=scratch,
            database=url_of(str(trips.folder), "costs"),
            store=f"s3://regmeta/scale-{time.time_ns()}",
            actor="bench",
        )
        app.initialise(settings)
        single, batch = home / "layout", home / "batch"
        for path, mark in ((single, b"s"), (batch, b"b")):
            make_layout(path, {f"v{number}": _contents(mark, number) for number in range(images)})
        meter = Meter(folder, "costs", trips, counted)
        try:
            with app.open_for_writing(settings, lifetimes=AT_ONCE) as writing:
                return _measure(meter, writing, single, batch, images)
        finally:
            meter.close()


def _contents(mark: bytes, number: int) -> list[bytes]:
    """Return layers of which all images of a layout share all but the last."""
    shared = [mark + bytes([layer]) * LAYER_BYTES for layer in range(LAYERS - 1)]
    return [*shared, mark + str(number).encode() * (LAYER_BYTES // 4)]


def _measure(meter: Meter, writing: Writing, single: Path, batch: Path, images: int) -> list[Cost]:
    meter.settle = writing.database.engine.dispose
    with closing(open_source(str(single))) as source:
        wanted = requests(source, "team/single")
        _push(writing, wanted[:1])  # tables, pools and prepared statements
        others = wanted[1:]
        costs = [
            meter.measure(what, len(others), lambda: _push_each(writing, others))
            for what in ("push of one image", "push of what is here")
        ]
    with closing(open_source(str(batch))) as source:
        many = requests(source, "team/batch")
        costs.append(meter.measure(f"push, {images} in a batch", images, lambda: _push(writing, many)))
    names = [f"v{number}" for number in range(images)]
    tags = [Reference("team/single", name) for name in names]
    costs.append(
        meter.measure("pull: tag to digest", images, lambda: [resolve(writing.database, tag) for tag in tags])
    )
    stored = _stored(writing, names[:20])
    costs.append(meter.measure("pull: one blob", len(stored), lambda: _read(writing, stored)))
    before = _objects(writing)
    for name in names:
        remove_tag(writing.writer, "team/batch", name)
    in_all = meter.measure("collection", 1, lambda: collect(writing.writer, writing.store))
    gone = before - _objects(writing)
    if not gone:
        raise SystemExit("nothing was collected")
    costs.append(in_all.shared("per collected object", gone))
    return costs


def _push(writing: Writing, wanted: list[ImageRequest]) -> None:
    for outcome in writing.registry.import_images(wanted):
        if outcome.error is not None:
            raise outcome.error


def _push_each(writing: Writing, wanted: list[ImageRequest]) -> None:
    for each in wanted:
        _push(writing, [each])


def _stored(writing: Writing, names: list[str]) -> list[StoredBlob]:
    with writing.database.read() as connection:
        roots = [resolve_in(connection, Reference("team/single", tag), None, None)[0] for tag in names]
        return blobs(connection, roots)


def _read(writing: Writing, wanted: list[StoredBlob]) -> None:
    buffer = memoryview(bytearray(1 << 16))
    for blob in wanted:
        with open_blob(writing.store, blob) as stream:
            while stream.readinto(buffer):
                continue


def _objects(writing: Writing) -> int:
    return sum(1 for _ in writing.store.walk())
