"""Do a database and a store agree? Looked at from outside: raw SQL, plain files, bytes parsed again."""

from __future__ import annotations

import fcntl
import json
import re
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import Database
from regmeta.store import BlobStore
from tests.support import derived, snapshot_check
from tests.support.bucket_files import as_folder

Row = dict[str, Any]

_NOW_US = {
    "sqlite": "SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
    "postgresql": "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)",
}
_KEY = re.compile(r"(sha256|sha512)/([0-9a-f]{2})/\2[0-9a-f]+\.[0-9a-f]{32}")


def assert_consistent(database: Database, store: BlobStore) -> None:
    """Check all that must hold between commits.

    Raises:
        AssertionError: lists everything that does not.
    """
    found = findings(database, store)
    assert not found, "database and store disagree:\n" + "\n".join(f"  - {line}" for line in found)


def findings(database: Database, store: BlobStore) -> list[str]:
    """Return what does not hold, in words."""
    scratch = getattr(store, "scratch", "")
    with as_folder(store.location, scratch) as root, database.engine.connect() as connection:
        return list(_Check(connection, root).run())


class _Check:
    """All rows and all files, read once."""

    def __init__(self, connection: Connection, root: Path) -> None:
        self.connection = connection
        self.root = root
        self.objects = {
            str(path.relative_to(root / "blobs")): path
            for path in sorted((root / "blobs").rglob("*"))
            if not path.is_dir() or path.is_symlink()
        }
        self.blobs = {row["id"]: row for row in self.rows("blobs")}
        self.repositories = {row["id"]: row for row in self.rows("repositories")}
        self.manifests = {row["id"]: row for row in self.rows("manifests")}
        self.documents = {number: self._document(row["content"]) for number, row in self.manifests.items()}
        self.edges = self._grouped("manifest_blobs", "manifest_id")
        self.members = self._grouped("index_manifests", "index_id")
        self.tags = self.rows("tags")

    def rows(self, table: str) -> list[Row]:
        """Return all rows of a table."""
        found = self.connection.execute(sa.text(f"SELECT * FROM {table}")).mappings()
        return [
            {name: bytes(value) if isinstance(value, memoryview) else value for name, value in row.items()}
            for row in found
        ]

    def run(self) -> Iterator[str]:
        """Give every finding."""
        yield from self._integrity()
        yield from self._live_blobs()
        yield from self._objects()
        for number, row in self.manifests.items():
            yield from self._manifest(number, row)
        yield from self._tags()
        yield from self._trees()
        yield from self._deleted()
        yield from self._queued()
        epoch = self.connection.execute(sa.text("SELECT epoch FROM store_identity")).scalar()
        outbox = self.rows("layout_outbox")
        yield from snapshot_check.findings(
            self.root, epoch, self.repositories, self.manifests, self.tags, outbox
        )
        yield from self._staging()

    def _grouped(self, table: str, column: str) -> dict[int, list[Row]]:
        found: dict[int, list[Row]] = defaultdict(list)
        for row in self.rows(table):
            found[row[column]].append(row)
        for some in found.values():
            some.sort(key=lambda row: int(row["position"]))
        return found

    @staticmethod
    def _document(content: bytes) -> Row:
        try:
            document = json.loads(content)
            return document if isinstance(document, dict) else {}
        except ValueError:
            return {}

    def _integrity(self) -> Iterator[str]:
        if self.connection.dialect.name == "sqlite":
            for row in self.connection.exec_driver_sql("PRAGMA foreign_key_check"):
                yield f"foreign key: {row[0]} row {row[1]} refers to a {row[2]} that is not there"
            for (line,) in self.connection.exec_driver_sql("PRAGMA integrity_check"):
                if line != "ok":
                    yield f"integrity check: {line}"
            return
        broken = sa.text("SELECT conname FROM pg_constraint WHERE NOT convalidated")
        for (name,) in self.connection.execute(broken):
            yield f"constraint {name} is not valid"

    def _live_blobs(self) -> Iterator[str]:
        for row in self.blobs.values():
            digest = derived.text(row["digest"])
            if row["state"] != "live":
                continue
            path = self.objects.get(row["key"])
            if path is None:
                yield f"blob {digest}: its object {row['key']} is not there"
                continue
            content = path.read_bytes()
            if len(content) != row["size_bytes"]:
                yield f"blob {digest}: {len(content)} bytes stored, the row says {row['size_bytes']}"
            if derived.hash_of(digest, content) != digest:
                yield f"blob {digest}: the stored bytes have another digest"

    def _objects(self) -> Iterator[str]:
        named: dict[str, list[str]] = defaultdict(list)
        for table in ("blobs", "intents", "tombstones"):
            for row in self.rows(table):
                named[row["key"]].append(table)
        for key, tables in named.items():
            if len(tables) > 1:
                yield f"key {key}: in {' and '.join(tables)}"
        for key, path in self.objects.items():
            status = path.lstat()
            mode = status.st_mode
            if not stat.S_ISREG(mode) or not _KEY.fullmatch(key):
                yield f"object {key}: not an object that a store writes"
            elif stat.S_IMODE(mode) != 0o444 and status.st_nlink == 1:  # a linked file keeps its own rights
                yield f"object {key}: mode {stat.S_IMODE(mode):o}"
            if key not in named:
                yield f"object {key}: no row knows it"

    def _content(self, blob_id: int | None) -> bytes | None:
        row = self.blobs.get(blob_id) if blob_id is not None else None
        path = self.objects.get(row["key"]) if row else None
        return path.read_bytes() if path else None

    def _manifest(self, number: int, row: Row) -> Iterator[str]:
        digest = derived.text(row["digest"])
        where = f"manifest {digest}"
        if derived.hash_of(digest, row["content"]) != digest:
            yield f"{where}: the bytes in its row have another digest"
            return
        blob = self.blobs.get(row["blob_id"])
        if blob is None or blob["digest"] != row["digest"]:
            yield f"{where}: its blob is another"
        elif blob["state"] == "live" and self._content(row["blob_id"]) != row["content"]:
            yield f"{where}: the bytes in its row are not those of its object"
        document, edges = self.documents[number], self.edges[number]
        config: Row = {}
        if edges and derived.is_image_config(document.get("config", {}).get("mediaType", "")):
            config = derived.config_of(self._content(edges[0]["blob_id"]))
        expected = derived.manifest_row(document, config, len(row["content"]))
        for name, value in expected.items():
            actual = row[name]
            if name == "subject_digest":
                actual = actual and derived.text(actual)
            if actual != value:
                yield f"{where}: {name} is {actual!r}, its bytes say {value!r}"
        if (document.get("mediaType") or row["media_type"]) != row["media_type"]:
            yield f"{where}: media_type is {row['media_type']}"
        yield from self._blob_edges(number, where, derived.blob_edges(document, config))
        yield from self._index_members(row, where, derived.members(document))
        yield from self._linked(number, row, where)
        labels = {
            tuple(label)
            for label in self.connection.execute(
                sa.text("SELECT origin, name, value FROM labels WHERE manifest_id = :of"), {"of": number}
            )
        }
        if labels != derived.labels(document, config):
            yield f"{where}: labels are {labels ^ derived.labels(document, config)} off"

    def _blob_edges(self, number: int, where: str, expected: list[tuple[Any, ...]]) -> Iterator[str]:
        actual = []
        for edge in self.edges[number]:
            blob = self.blobs.get(edge["blob_id"])
            digest = edge["absent_digest"] if blob is None else blob["digest"]
            chain = edge["chain_digest"]
            actual.append(
                (
                    edge["position"],
                    edge["role"],
                    digest and derived.text(digest),
                    blob is None,
                    chain and derived.text(chain),
                )
            )
        if actual != expected:
            yield f"{where}: manifest_blobs are {actual}, its bytes say {expected}"

    def _index_members(self, row: Row, where: str, expected: list[tuple[Any, ...]]) -> Iterator[str]:
        actual = []
        for edge in self.members[row["id"]]:
            digest = edge["child_digest"]
            told = ("media_type", "size_bytes", "os", "architecture", "variant", "os_version")
            actual.append((edge["position"], derived.text(digest), *(edge[name] for name in told)))
            child, blob = self.manifests.get(edge["child_id"]), self.blobs.get(edge["blob_id"])
            if child and (child["digest"], child["repository_id"]) != (digest, row["repository_id"]):
                yield f"{where}: child {edge['position']} is another manifest"
            if blob and blob["digest"] != digest:
                yield f"{where}: child {edge['position']} is another blob"
            if edge["absence"] is not None and any(
                (other["digest"], other["repository_id"]) == (digest, row["repository_id"])
                for other in self.manifests.values()
            ):
                yield f"{where}: child {derived.text(digest)} is here, and marked {edge['absence']}"
        if actual != expected:
            yield f"{where}: index_manifests are {actual}, its bytes say {expected}"

    def _linked(self, number: int, row: Row, where: str) -> Iterator[str]:
        needed = {row["blob_id"]}
        needed |= {edge["blob_id"] for edge in (*self.edges[number], *self.members[number])} - {None}
        found = self.connection.execute(
            sa.text("SELECT blob_id FROM repository_blobs WHERE repository_id = :of"),
            {"of": row["repository_id"]},
        )
        missing = needed - set(found.scalars())
        if missing:
            yield f"{where}: its repository has no repository_blobs for {sorted(missing)}"

    def _tags(self) -> Iterator[str]:
        chains: dict[tuple[int, str], list[Row]] = defaultdict(list)
        for tag in self.tags:
            chains[tag["repository_id"], tag["name"]].append(tag)
        for (repository_id, name), chain in chains.items():
            where = f"tag {self.repositories[repository_id]['name']}:{name}"
            chain.sort(key=lambda tag: (tag["started_at"], tag["id"]))
            for tag, following in zip(chain, [*chain[1:], None], strict=True):
                ended_at = tag["ended_at"]
                if ended_at is not None and ended_at <= tag["started_at"]:
                    yield f"{where}: ends before it starts"
                if following and (ended_at is None or ended_at > following["started_at"]):
                    yield f"{where}: two intervals overlap"
                manifest = self.manifests.get(tag["manifest_id"])
                of = (tag["manifest_digest"], repository_id)
                if manifest and (manifest["digest"], manifest["repository_id"]) != of:
                    yield f"{where}: its digest is not that of its manifest"

    def _trees(self) -> Iterator[str]:
        """Every live tag reaches a whole tree (I3)."""
        for tag in self.tags:
            if tag["ended_at"] is not None:
                continue
            where = f"tag {self.repositories[tag['repository_id']]['name']}:{tag['name']}"
            waiting, seen = [tag["manifest_id"]], set()
            while waiting:
                number = waiting.pop()
                if number not in self.manifests:
                    yield f"{where}: reaches a manifest that is not there ({number})"
                elif number not in seen:
                    seen.add(number)
                    for edge in self.members[number]:
                        if edge["child_id"] is not None:
                            waiting.append(edge["child_id"])
                        elif edge["blob_id"] not in self.blobs and edge["absence"] is None:
                            yield f"{where}: child {edge['position']} of {number} is nothing"

    def _deleted(self) -> Iterator[str]:
        """What is here names nothing that was deleted, and a deleted repository has no tags."""
        gone = {number for number, row in self.manifests.items() if row["deleted_at"] is not None}
        for tag in self.tags:
            repository = self.repositories[tag["repository_id"]]
            if tag["ended_at"] is None and tag["manifest_id"] in gone:
                yield f"tag {repository['name']}:{tag['name']}: names a manifest that was deleted"
            if tag["ended_at"] is None and repository["state"] != "active":
                yield f"tag {repository['name']}:{tag['name']}: its repository is {repository['state']}"
        for number, members in self.members.items():
            for edge in members:
                if number not in gone and edge["child_id"] in gone:
                    digest = derived.text(self.manifests[number]["digest"])
                    yield f"manifest {digest}: child {edge['position']} was deleted"
        for row in self.repositories.values():
            if row["state"] == "active" and row["deleted_at"] is not None:
                yield f"repository {row['name']}: is active, and was deleted at {row['deleted_at']}"

    def _queued(self) -> Iterator[str]:
        """Whatever nothing refers to is leased, or a task of the collector is about it (T44)."""
        tasks = {(row["kind"], row["target_id"]) for row in self.rows("gc_tasks")}
        now = self.connection.execute(sa.text(_NOW_US[self.connection.dialect.name])).scalar_one()
        tagged = {tag["manifest_id"] for tag in self.tags if tag["ended_at"] is None}
        members = [edge for some in self.members.values() for edge in some]
        listed = {edge["child_id"] for edge in members}
        here = {(row["repository_id"], row["digest"]) for row in self.manifests.values()}
        for number, row in self.manifests.items():
            refers = row["deleted_at"] is None and (row["repository_id"], row["subject_digest"]) in here
            is_kept = number in tagged or number in listed or refers or row["lease_until"] >= now
            if not is_kept and ("manifest", number) not in tasks:
                yield f"manifest {derived.text(row['digest'])}: nothing keeps it, and no task is about it"
        named = {row["blob_id"] for row in self.manifests.values()} | {edge["blob_id"] for edge in members}
        named |= {edge["blob_id"] for some in self.edges.values() for edge in some}
        for number, row in self.blobs.items():
            if number not in named and row["lease_until"] < now and ("blob", number) not in tasks:
                yield f"blob {derived.text(row['digest'])}: nothing names it, and no task is about it"
        for number, row in self.repositories.items():
            is_full = row["state"] == "purging" or (row["state"] == "deleted" and row["deleted_at"])
            if is_full and ("repository", number) not in tasks:
                yield f"repository {row['name']}: is {row['state']}, and no task will empty it"

    def _staging(self) -> Iterator[str]:
        for lock in (self.root / "staging").glob("*/lock"):
            with open(lock, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
            yield f"staging/{lock.parent.name}: left by a process that has ended"
