"""The physical floor of an import: the same objects, rows and flushes as regmeta, and nothing else.

For each batch of at most 100 images or 64 MiB (an image is never cut in two):

    1. one transaction: an intent for each new object
    2. each object streamed into staging and hashed, fsync, mode 0444, renamed to its unique key;
       then one fsync of each folder that changed
    3. one transaction: blobs, manifests, edges, tags, labels, events, outbox; intents deleted
    4. a snapshot of the repository, durable, then its outbox row deleted in a transaction
    5. hard links of the objects and an index.json that make an OCI layout; not flushed

Only the standard library, one writer, no retries, no hostile input. regmeta also ends a batch after
1 s; no set takes that long for one batch, so the floor leaves the clock out and its batches do not
depend on the machine's speed.

Usage: python benchmarks/floor.py LAYOUT DEST   (writes DEST/1 and DEST/8, prints both)
"""

import argparse
import hashlib
import json
import os
import sqlite3
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

THREAD_COUNTS: Final = (1, 8)
BATCH_IMAGES: Final = 100
BATCH_BYTES: Final = 64 << 20
BUFFER_BYTES: Final = 1 << 20
REF_NAME: Final = "org.opencontainers.image.ref.name"
REPOSITORY: Final = "bench"

SCHEMA: Final = Path(__file__).with_name("floor_schema.sql")


@dataclass(frozen=True)
class FloorResult:
    """Seconds from opening the source to the cleared outbox, and what was done in them."""

    seconds: float
    files: int  # objects, each with an fsync of its own
    folders_flushed: int  # fsyncs of folders
    transactions: int
    rows: int  # rows inserted


@dataclass(frozen=True)
class _Object:
    """A blob to store; `data` is set when it was read and verified already."""

    hex: str
    size_bytes: int
    data: bytes | None
    id: int
    key: str


class _Import:
    def __init__(self, layout: Path, dest: Path, pool: ThreadPoolExecutor | None) -> None:
        self.layout, self.dest, self.pool = layout, dest, pool
        self.owner = uuid.uuid4().hex
        self.staging = dest / "staging" / self.owner
        self.blobs = dest / "blobs" / "sha256"
        self.snapshots = dest / "layouts" / REPOSITORY
        self.links = dest / "repositories" / REPOSITORY / "_layout"
        link_blobs = self.links / "blobs" / "sha256"
        for folder in (self.staging, self.blobs, self.snapshots, link_blobs):
            folder.mkdir(parents=True)
        (self.links / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self.database = sqlite3.connect(dest / "floor.db", isolation_level=None)
        self.database.executescript(SCHEMA.read_text())
        self.blob_ids: dict[str, int] = {}
        self.manifest_ids: dict[str, int] = {}
        self.tags: list[dict[str, Any]] = []
        self.new: list[_Object] = []
        self.rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self.images = self.new_bytes = self.revision = 0
        self.done: Counter[str] = Counter()
        self.buffers = threading.local()

    def run(self) -> None:
        for entry in json.loads((self.layout / "index.json").read_bytes())["manifests"]:
            manifest_id, name = self._manifest(entry), entry["annotations"][REF_NAME]
            digest, now = bytes.fromhex(entry["digest"][7:]), time.time_ns()
            self.rows["tags"].append((None, 1, name, digest, manifest_id, now, None))
            self.rows["events"].append((None, 1, "tag", digest, name, now))
            self.tags.append(entry)
            if self.images >= BATCH_IMAGES or self.new_bytes >= BATCH_BYTES:
                self._flush()
        if self.tags and self.rows:
            self._flush()

    # -- read: what the layout says ----------------------------------------------------------

    def _read(self, descriptor: dict[str, Any]) -> bytes:
        digest = descriptor["digest"][7:]
        data: bytes = (self.layout / "blobs" / "sha256" / digest).read_bytes()
        _verify(digest, descriptor["size"], hashlib.sha256(data), len(data))
        return data

    def _blob(self, descriptor: dict[str, Any], data: bytes | None = None) -> int:
        digest = descriptor["digest"][7:]
        if digest not in self.blob_ids:
            self.blob_ids[digest] = blob_id = len(self.blob_ids) + 1
            key = f"{digest[:2]}/{digest}.{uuid.uuid4().hex}"
            size_bytes = descriptor["size"]
            self.new_bytes += size_bytes
            self.new.append(_Object(digest, size_bytes, data, blob_id, key))
            row = (blob_id, bytes.fromhex(digest), size_bytes, key, "live")
            self.rows["blobs"].append(row)
            self.rows["repository_blobs"].append((1, blob_id))
        return self.blob_ids[digest]

    def _manifest(self, descriptor: dict[str, Any]) -> int:
        digest = descriptor["digest"][7:]
        if digest in self.manifest_ids:
            return self.manifest_ids[digest]
        data = self._read(descriptor)
        manifest = json.loads(data)
        children = [(child, self._manifest(child)) for child in manifest.get("manifests", ())]
        blobs, config, labels = [], {}, {"annotation": manifest.get("annotations") or {}}
        if "config" in manifest:
            config_data = self._read(manifest["config"])
            config = json.loads(config_data)
            labels["label"] = config["config"].get("Labels") or {}
            blobs = [("config", self._blob(manifest["config"], config_data), b"")]
            chain = b""
            for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
                chain = hashlib.sha256(chain + diff_id.encode()).digest()
                blobs.append(("layer", self._blob(layer), chain))
            self.images += 1
        self.manifest_ids[digest] = manifest_id = len(self.manifest_ids) + 1
        raw, created = bytes.fromhex(digest), config.get("created")
        platform = (config.get("os"), config.get("architecture"))
        blob_id, media_type = self._blob(descriptor, data), descriptor["mediaType"]
        rows = self.rows
        rows["manifests"].append((manifest_id, 1, blob_id, raw, media_type, data, *platform, created))
        for position, (role, blob, chain) in enumerate(blobs):
            rows["manifest_blobs"].append((manifest_id, position, blob, role, chain))
        for position, (child, child_id) in enumerate(children):
            child_raw, text = bytes.fromhex(child["digest"][7:]), json.dumps(child.get("platform"))
            rows["index_manifests"].append((manifest_id, position, child_raw, child_id, text))
        for source, pairs in labels.items():
            rows["labels"].extend((manifest_id, source, *pair) for pair in pairs.items())
        rows["events"].append((None, 1, "push", raw, None, time.time_ns()))
        return manifest_id

    # -- write: one batch --------------------------------------------------------------------

    def _flush(self) -> None:
        expires_at = time.time_ns() + 10**12
        intents = [(new.key, self.owner, expires_at) for new in self.new]
        self._transact(lambda: self._insert("intents", intents))
        prefixes = {self.blobs / new.hex[:2] for new in self.new}
        made = [prefix for prefix in prefixes if not prefix.exists()]
        for prefix in made:
            prefix.mkdir()
        self._map(self._stage, self.new)
        self._map(_flush_folder, [*prefixes, *([self.blobs] if made else [])])
        self.done["files"] += len(self.new)
        self.done["folders"] += len(prefixes) + bool(made) + 1  # and the snapshot's
        self.revision += 1
        self._transact(self._commit)
        self._snapshot()
        clear = "DELETE FROM layout_outbox WHERE repository_id = 1 AND revision <= ?"
        self._transact(lambda: self.database.execute(clear, (self.revision,)))
        for new in self.new:
            os.link(self.blobs / new.key, self.links / "blobs" / "sha256" / new.hex)
        self._write_index(self.staging / "index.json", self.links / "index.json", durable=False)
        self.new, self.images, self.new_bytes = [], 0, 0
        self.rows.clear()

    def _map(self, work: Callable[[Any], None], items: Iterable[Any]) -> None:
        for _ in self.pool.map(work, items) if self.pool else map(work, items):
            pass

    def _stage(self, new: _Object) -> None:
        staged = self.staging / new.hex
        with staged.open("xb", buffering=0) as target:
            if new.data is not None:
                target.write(new.data)
            else:
                self._copy(new, target)
            os.fsync(target.fileno())
            os.fchmod(target.fileno(), 0o444)
        staged.rename(self.blobs / new.key)

    def _copy(self, new: _Object, target: Any) -> None:
        if not hasattr(self.buffers, "view"):
            self.buffers.view = memoryview(bytearray(BUFFER_BYTES))
        view, digest, copied = self.buffers.view, hashlib.sha256(), 0
        with (self.layout / "blobs" / "sha256" / new.hex).open("rb", buffering=0) as source:
            while count := source.readinto(view):
                digest.update(view[:count])
                target.write(view[:count])
                copied += count
        _verify(new.hex, new.size_bytes, digest, copied)

    def _transact(self, work: Callable[[], object]) -> None:
        self.database.execute("BEGIN IMMEDIATE")
        work()
        self.database.execute("COMMIT")
        self.done["transactions"] += 1

    def _insert(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self.database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            self.done["rows"] += len(rows)

    def _commit(self) -> None:
        bump = "UPDATE repositories SET revision = ? WHERE id = 1"
        self.database.execute(bump, (self.revision,))
        self._insert("ingests", [(uuid.uuid4().hex, time.time_ns())])
        self.database.executemany("DELETE FROM intents WHERE key = ?", [(n.key,) for n in self.new])
        for table in ("blobs", "repository_blobs", "manifests", "manifest_blobs"):
            self._insert(table, self.rows[table])
        for table in ("index_manifests", "tags", "labels", "events"):
            self._insert(table, self.rows[table])
        self._insert("layout_outbox", [(1, self.revision)])

    def _snapshot(self) -> None:
        name = f"1-{self.revision}.{uuid.uuid4().hex}.json"
        older = list(self.snapshots.iterdir())
        self._write_index(self.staging / name, self.snapshots / name, durable=True)
        _flush_folder(self.snapshots)
        for path in older:
            path.unlink()

    def _write_index(self, staged: Path, final: Path, *, durable: bool) -> None:
        with staged.open("xb", buffering=0) as file:
            file.write(json.dumps({"schemaVersion": 2, "manifests": self.tags}).encode())
            if durable:
                os.fsync(file.fileno())
        staged.rename(final)


def _verify(digest: str, size_bytes: int, found: Any, found_bytes: int) -> None:
    if found.hexdigest() != digest or found_bytes != size_bytes:
        raise ValueError(f"sha256:{digest}: the bytes do not match")


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


def run(layout: Path, dest: Path, threads: int) -> FloorResult:
    """Import `layout` into the new folder `dest` and time it; the empty database is not timed."""
    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    work = _Import(layout, dest, pool)
    start = time.perf_counter()
    work.run()
    seconds = time.perf_counter() - start
    work.database.close()
    if pool:
        pool.shutdown()
    done = work.done
    return FloorResult(seconds, done["files"], done["folders"], done["transactions"], done["rows"])


def main() -> None:
    """Print the floor of one layout with each number of threads."""
    parser = argparse.ArgumentParser(description="Time the physical floor of an import.")
    parser.add_argument("layout", type=Path)
    parser.add_argument("dest", type=Path, help="a folder; gets one new folder a thread count")
    arguments = parser.parse_args()
    for threads in THREAD_COUNTS:
        print(threads, run(arguments.layout, arguments.dest / str(threads), threads))


if __name__ == "__main__":
    main()
