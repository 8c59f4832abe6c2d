"""Verification at work: threads that wait for nobody, what is kept until it is marked, many intents."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from regmeta.app import Writing
from regmeta.errors import Contention
from regmeta.maintain.verify import data, run
from regmeta.models import Intent
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore, new_key
from regmeta.store.filesystem import FilesystemStore
from tests.builders import LayoutBuilder, digest_of
from tests.support.registry import commit_one, import_all, key_of, rows
from tests.support.verified import Noted, kinds, spoil, verified

TIMEOUT_S = 30
IMAGES = 40
TIMES = {"created_at": datetime(2026, 1, 1, tzinfo=UTC), "expires_at": datetime(2096, 1, 1, tzinfo=UTC)}


class FirstIsSlow:
    """A store whose first object, in the order of keys, is read when so many others were."""

    def __init__(self, store: BlobStore, first: str, others: int) -> None:
        self._store = store
        self._first = first
        self._left = others
        self._lock = threading.Lock()
        self._read = threading.Event()
        self.waited_in_vain = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def open(self, key: str, start: int = 0) -> Iterator[Any]:
        # The main thread reads configurations, before any bytes are hashed.
        if threading.current_thread() is not threading.main_thread():
            if key == self._first:
                self.waited_in_vain |= not self._read.wait(TIMEOUT_S)
            with self._lock:
                self._left -= 1
                if self._left == 0:
                    self._read.set()
        with self._store.open(key, start) as stream:
            yield stream


def test_large_object_holds_up_nothing_but_its_own_thread(
    writing: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "GROUP_OBJECTS", 1)
    for number in range(IMAGES):
        builder.tag(builder.image([b"%d" % number]), f"v{number}")
    import_all(writing, builder.write(layout))
    keys = sorted(key for (key,) in rows(writing.database, "SELECT key FROM blobs"))
    store: Any = FirstIsSlow(writing.store, keys[0], len(keys) - 1)
    report = verified(writing.database, store)
    assert report.findings == []
    assert report.objects_read == len(keys) == 3 * IMAGES
    assert not store.waited_in_vain


@pytest.mark.inconsistent
def test_what_was_found_is_kept_until_it_is_marked(
    writing: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = builder.image([b"rotten"])
    commit_one(writing, builder, image, layout)
    path = Path(writing.store.location) / "blobs" / key_of(writing.database, digest_of(image))
    spoil(path, b" " * path.stat().st_size)
    monkeypatch.setattr(run, "CHECKPOINT_S", 0.0)
    checkpoint = Noted()

    def refused(*_: object) -> int:
        raise Contention("another is at it")

    with monkeypatch.context() as patch:
        patch.setattr(run, "mark_damaged", refused)
        with pytest.raises(Contention):
            verified(writing.database, writing.store, checkpoint=checkpoint, mark=True)
    report = verified(writing.database, writing.store, checkpoint=checkpoint, mark=True)
    assert report.resumed_at is not None
    assert kinds(report) == {("object-corrupt", image["digest"])}
    assert report.marked == 1
    assert checkpoint.load() is None
    assert kinds(verified(writing.database, writing.store)) == {("blob-damaged", image["digest"])}


@pytest.mark.inconsistent
def test_stale_intent_behind_many_of_processes_at_work_is_found(
    writing: Writing, store: FilesystemStore
) -> None:
    stagings = [store.open_staging() for _ in range(2)]
    ended = uuid4()
    add_intents(writing, [staging.owner for staging in stagings] * 600)
    [stale] = add_intents(writing, [ended])
    add_intents(writing, [stagings[0].owner] * 3)
    assert kinds(verified(writing.database, writing.store, host="here")) == {("intent-stale", stale)}
    for staging in stagings:
        staging.close()


@pytest.fixture
def store(writing: Writing) -> Iterator[FilesystemStore]:
    found = FilesystemStore(writing.store.location)
    yield found
    found.close()


def add_intents(writing: Writing, owners: list[UUID]) -> list[str]:
    """Reserve a key for each, as a process on this host does."""
    digest = Digest.of(b"new")
    keys = [new_key(digest) for _ in owners]
    with writing.database.transaction("test") as connection:
        connection.execute(
            sa.insert(Intent),
            [
                {"key": key, "digest": digest, "owner": owner, "host": "here", **TIMES}
                for key, owner in zip(keys, owners, strict=True)
            ],
        )
    return keys
