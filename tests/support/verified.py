"""Verification in tests: run as the command runs it, with parts that a test can look into."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from regmeta.app import open_for_writing
from regmeta.db import Database
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.verify.data import Subset
from regmeta.maintain.verify.run import Options, VerifyReport, verify
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.store import BlobStore
from tests.builders import AMD64, ARM64, S390X, Json, LayoutBuilder, digest_of
from tests.support.registry import change, commit_one, key_of, open_parts

NOW = timedelta()
AT_ONCE = Lifetimes(
    intent=timedelta(hours=1), lease=NOW, garbage=NOW, tombstone=NOW, history=NOW, max_upload=NOW
)
EVERYTHING = Subset.parse("all")


@dataclass
class Noted:
    """A checkpoint in memory that counts."""

    state: dict[str, Any] | None = None
    saved: list[dict[str, Any]] = field(default_factory=list)

    def load(self) -> dict[str, Any] | None:
        return self.state

    def save(self, state: dict[str, Any]) -> None:
        self.state = dict(state)
        self.saved.append(self.state)

    def clear(self) -> None:
        self.state = None


class Told:
    """Progress that runs something when so many bytes were read."""

    def __init__(self, after_bytes: int | None = None, then: Callable[[], None] | None = None) -> None:
        self.passes: list[tuple[str, int | None]] = []
        self.bytes_read = 0
        self._after_bytes = after_bytes
        self._then = then
        self._lock = threading.Lock()

    def began(self, what: str, total: int | None) -> None:
        self.passes.append((what, total))

    def advanced(self, steps: int) -> None:
        if self.passes[-1][0] != "bytes":
            return
        with self._lock:
            self.bytes_read += steps
            due = self._after_bytes is not None and self.bytes_read >= self._after_bytes
        if due and self._then is not None:
            self._then()


def interrupted() -> None:
    raise KeyboardInterrupt


def verified(
    database: Database,
    store: BlobStore,
    *,
    checkpoint: Noted | None = None,
    progress: Told | None = None,
    read_data: Subset | None = EVERYTHING,
    **options: Any,
) -> VerifyReport:
    """Verify everything, bytes included."""
    chosen = Options(read_data, **options)
    return verify(database, store, chosen, checkpoint or Noted(), progress or Told())


def verified_settings(settings: Settings, **options: Any) -> VerifyReport:
    """Verify a registry that is not open."""
    database, store = open_parts(settings)
    with closing(store), closing(database):
        return verified(database, store, **options)


def kinds(report: VerifyReport) -> set[tuple[str, str]]:
    """Return (kind, subject) of each finding; none may be there twice."""
    found = [(str(finding.kind), finding.subject) for finding in report.findings]
    assert len(found) == len(set(found)) or len(report.findings) == len(set(report.findings))
    return set(found)


def files_of(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return all files below a folder: size, time of change and mode."""
    return {
        str(path.relative_to(root)): (path.lstat().st_size, path.lstat().st_mtime_ns, path.lstat().st_mode)
        for path in root.rglob("*")
    }


@dataclass
class Rich:
    """What stands in a registry that has something of everything: descriptors by name."""

    images: dict[str, Json] = field(default_factory=dict)
    dead: str = ""  # the key of a rotten object that was healed

    def __getitem__(self, name: str) -> str:
        return str(self.images[name]["digest"])


def fill(settings: Settings, folder: Path) -> Rich:
    """Make a registry with something of everything, sound, with traces of all that ever happens to one."""
    builder = LayoutBuilder()
    rich = Rich()
    with open_for_writing(settings, lifetimes=AT_ONCE) as impatient:
        commit_one(impatient, builder, builder.image(), folder / "gone", "team/app", "old")
        remove_tag(impatient.writer, "team/app", "old")
        assert collect(impatient.writer, impatient.store).blobs == 4
    foreign = builder.blob(b"foreign", sorted(media_types.NON_DISTRIBUTABLE)[0])
    del builder.blobs[foreign["digest"]]
    layers = [builder.layer(b"base"), builder.layer(b"app"), foreign]
    config = builder.config(layers, Labels={"team": "a"})
    labelled = builder.image(layers, config, {"note": "b"}, AMD64)
    arm = builder.layer(b"arm")
    other = builder.image([b"base", arm], platform=ARM64)
    index = builder.index([labelled, other, builder.blob(b"?", "application/vnd.example.other")])
    nested = builder.index([index, builder.image([b"base"], platform=S390X)], {"deep": "yes"})
    signature = builder.artifact(b"signed", "application/vnd.example.signature", index)
    plain = builder.image([b"base", b"plain"])
    docker = LayoutBuilder(docker=True)
    docker_list = docker.index([docker.image(platform=AMD64), docker.image(platform=ARM64)])
    long = LayoutBuilder(algorithm="sha512")
    rich.images = {
        "app": layers[1],
        "config": config,
        "labelled": labelled,
        "arm": arm,
        "other": other,
        "index": index,
        "nested": nested,
        "plain": plain,
        "plain layer": builder.layer(b"plain"),
        "docker": docker_list,
    }
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, nested, folder / "a", "team/app", "v1")
        commit_one(writing, builder, signature, folder / "a", "team/app", None)
        commit_one(writing, builder, plain, folder / "a", "team/app", "v2")
        set_tag(writing.writer, "team/app", "v1", digest_of(index))
        commit_one(writing, builder, index, folder / "a", "team/app/more", "a")  # shares, as a mount does
        commit_one(writing, builder, plain, folder / "a", "team/app/more", "gone")
        remove_tag(writing.writer, "team/app/more", "gone")
        commit_one(writing, docker, docker_list, folder / "docker", "docker", "l")
        commit_one(writing, long, long.image([b"base", b"long"]), folder / "long", "long", "l")
        del builder.blobs[other["digest"]]
        commit_one(writing, builder, index, folder / "thin", "sparse", "s", sparse=True)
        rich.dead = key_of(writing.database, digest_of(rich.images["plain layer"]))
        spoil(Path(settings.store) / "blobs" / rich.dead, b"rotte")
        change(writing.database, "UPDATE blobs SET state = 'damaged' WHERE key = :at", at=rich.dead)
        commit_one(writing, builder, plain, folder / "a", "team/app", "v2")
        # The layout of the other repository showed the rotten object.
        commit_one(writing, builder, plain, folder / "a", "team/app/more", "gone")
        remove_tag(writing.writer, "team/app/more", "gone")
        change(writing.database, "UPDATE repositories SET revision = revision + 1 WHERE name = 'long'")
        change(
            writing.database,
            "INSERT INTO layout_outbox (repository_id, revision, queued_at)"
            " SELECT id, revision, updated_at FROM repositories WHERE name = 'long'",
        )
    return rich


def spoil(path: Path, content: bytes) -> None:
    """Put other bytes into an object, in place: links show them too."""
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(0o444)


@dataclass
class Damaged:
    """A registry that can be damaged in ways that no program of regmeta's could, on both databases."""

    settings: Settings
    database: Database
    store: BlobStore
    rich: Rich

    @property
    def root(self) -> Path:
        return Path(self.settings.store)

    def sql(self, statement: str, **values: Any) -> None:
        """Change rows, whatever the constraints say."""
        if self.database.is_sqlite:
            path = self.settings.database.removeprefix("sqlite:///")
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("PRAGMA ignore_check_constraints = ON")
                assert connection.execute(statement, values).rowcount != 0, statement
            return
        with self.database.transaction("test") as transaction:
            transaction.execute(sa.text("SET LOCAL session_replication_role = replica"))
            checks = transaction.execute(
                sa.text(
                    "SELECT CAST(conrelid AS regclass), conname FROM pg_constraint WHERE contype = 'c'"
                    " AND conrelid <> 0 AND connamespace = CAST('public' AS regnamespace)"
                )
            )
            for table, name in checks.all():
                transaction.execute(sa.text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
            assert transaction.execute(sa.text(statement), values).rowcount != 0, statement

    def key(self, digest: str) -> str:
        return key_of(self.database, Digest.parse(digest))

    def path(self, digest: str) -> Path:
        """Return the object of a blob."""
        return self.root / "blobs" / self.key(digest)

    def kinds(self, **options: Any) -> set[tuple[str, str]]:
        """Return (kind, subject) of all that is found."""
        return kinds(verified(self.database, self.store, host="here", **options))
