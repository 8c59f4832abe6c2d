"""What must hold when a fleet has come to its end: bytes, rows, history, and nothing that nobody needs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from regmeta import app
from regmeta.app.stores import open_store
from regmeta.db import Database
from regmeta.errors import Error
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.settings import Settings
from regmeta.store.bucket import MARKER, BucketStore
from tests.crash.harness.fleet_images import Gallery
from tests.crash.harness.soak_end import AT_ONCE, ROUNDS, _let_time_pass, _live
from tests.crash.harness.workers import Tag, Value
from tests.support import consistency
from tests.support import registry as looking
from tests.support.derived import text

Found = Iterator[tuple[str, str]]  # kind, text
Log = Sequence[tuple[Value, bool]]  # of one tag: what it was to be, and whether that was acknowledged

_HISTORY: Final = (
    "SELECT r.name, t.name, t.manifest_digest, t.started_at, t.ended_at FROM tags t"
    " JOIN repositories r ON r.id = t.repository_id ORDER BY t.started_at, t.id"
)


@dataclass(frozen=True)
class Mirror:
    """A bucket's content in a folder, for what looks at files."""

    location: str


def settle(
    hosts: Sequence[Settings],
    folder: Path,
    gallery: Gallery,
    expected: Mapping[Tag, frozenset[Value]],
    logs: Mapping[Tag, Log],
) -> Found:
    """Read everything back, clear up on each host, collect all garbage, and give all that must not be."""
    settings = hosts[0]
    yield from _whole(settings, gallery, expected)
    yield from _history(settings, logs)
    try:
        for each in hosts:  # a host clears up after its own processes
            with app.open_for_writing(each):
                pass
        _collect_all(settings)
    except Error as error:
        yield "error", f"clearing up: {type(error).__name__}: {error}"
    yield from _whole(settings, gallery, expected)
    yield from _counted(settings, folder, gallery)


def _collect_all(settings: Settings) -> None:
    with app.open_for_writing(settings, lifetimes=AT_ONCE) as registry:
        for _ in range(ROUNDS):
            _let_time_pass(registry.database)
            sweep(registry.database, registry.store, AT_ONCE)
            collect(registry.writer, registry.store)
            if not any(looking.counts(registry.database, "gc_tasks", "tombstones").values()):
                break


def _whole(settings: Settings, gallery: Gallery, expected: Mapping[Tag, frozenset[Value]]) -> Found:
    """Each tag is what was acknowledged last, or what was under way; and every byte of it is there."""
    with closing(Database(settings.database)) as database, closing(open_store(settings)) as store:
        live = _live(database)
        keys = {text(bytes(raw)): key for raw, key in looking.rows(database, "SELECT digest, key FROM blobs")}
        for tag, allowed in expected.items():
            if live.get(tag) not in allowed:
                yield "lost", f"{tag} is {live.get(tag)}, and should be one of {sorted(map(str, allowed))}"
        for tag in live.keys() - expected.keys():
            yield "error", f"{tag} is there, and nobody made it"
        for digest in sorted({digest for root in live.values() for digest in gallery.trees[root]}):
            if digest not in keys:
                yield "partial", f"{digest}: no blob"
                continue
            try:
                found = _read(store, keys[digest])
            except Error as error:
                yield "partial", f"{digest}: {type(error).__name__}: {error}"
                continue
            if found != gallery.contents[digest]:
                yield "partial", f"{digest}: other bytes"


def _read(store: Any, key: str) -> bytes:
    content, buffer = bytearray(), memoryview(bytearray(1 << 20))
    with store.open(key) as stream:
        while got := stream.readinto(buffer):
            content += buffer[:got]
    return bytes(content)


def _history(settings: Settings, logs: Mapping[Tag, Log]) -> Found:
    """Every acknowledged change has its interval, in its order, and there is no other."""
    rows: dict[Tag, list[tuple[str, Any, Any]]] = {}
    with closing(Database(settings.database)) as database:
        for repository, name, raw, started, ended in looking.rows(database, _HISTORY):
            rows.setdefault((repository, name), []).append((text(bytes(raw)), started, ended))
    for tag, log in logs.items():
        values = _values(rows.get(tag, []))
        if not _explains(log, values):
            yield "lost", f"{tag}: the history is {values}, and {list(log)} was done"


def _values(intervals: Sequence[tuple[str, Any, Any]]) -> list[Value]:
    """Return what a tag was, one after the other: None where it was not there."""
    values: list[Value] = [None]
    ended_at = None
    for digest, started_at, ends_at in intervals:
        if values[-1] is not None and ended_at != started_at:
            values.append(None)
        values.append(digest)
        ended_at = ends_at
    if values[-1] is not None and ended_at is not None:
        values.append(None)
    return values


def _explains(log: Log, values: Sequence[Value]) -> bool:
    """Tell whether all that was acknowledged, and some of the rest, leads through exactly these values."""
    at = {0}
    for value, is_acknowledged in log:
        moved = {here for here in at if values[here] == value}
        moved |= {here + 1 for here in at if here + 1 < len(values) and values[here + 1] == value}
        at = moved if is_acknowledged else at | moved
    return len(values) - 1 in at


def _counted(settings: Settings, folder: Path, gallery: Gallery) -> Found:
    """All that is left is what tags reach."""
    with closing(Database(settings.database)) as database, closing(open_store(settings)) as store:
        assert isinstance(store, BucketStore)
        mirror, signs = _mirrored(store, folder / "mirror")
        for line in consistency.findings(database, mirror):  # type: ignore[arg-type]
            yield "orphans" if "no row knows it" in line else "dangling", line
        for table, count in looking.counts(
            database, "intents", "tombstones", "gc_tasks", "layout_outbox"
        ).items():
            if count:
                yield "orphans", f"{count} rows in {table}"
        for key in {info.key for info in store.walk()} ^ looking.keys_in(database, "blobs"):
            yield "orphans", f"object or row without the other: {key}"
        reached = {digest for root in _live(database).values() for digest in gallery.trees[root]}
        stored = {text(bytes(raw)) for (raw,) in looking.rows(database, "SELECT digest FROM blobs")}
        for digest in stored - reached:
            yield "orphans", f"{digest}: a blob that nothing reaches was not collected"
        for sign in signs:
            yield "orphans", sign
        left = store.abort_uploads(0)
        if left:
            yield "orphans", f"{left} uploads that nobody finished"


def _mirrored(store: BucketStore, folder: Path) -> tuple[Mirror, list[str]]:
    """Copy a bucket into a folder; returns also the signs of processes that lie there."""
    signs = []
    for top in ("blobs", "layouts", "staging"):
        for found in store._bucket.walk(top):
            if top == "staging":
                signs.append(found.name)
                continue
            path = folder / found.name
            if found.name == MARKER:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(store._bucket.read(found.name) or ()))
            if top == "blobs":
                os.chmod(path, 0o444)
    return Mirror(str(folder)), signs
