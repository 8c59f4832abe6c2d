"""Database and store know each other, however often and in whatever order they are set up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from regmeta import errors
from regmeta.app import initialise, open_for_reading, open_for_writing
from regmeta.db import Database
from regmeta.maintain.setup import Identity, check_identity, make_identity
from regmeta.settings import Settings
from regmeta.store import BlobStore
from regmeta.store.filesystem import FilesystemStore
from tests.support.registry import change, open_parts, rows, settings_of


@contextmanager
def parts(settings: Settings) -> Iterator[tuple[Database, BlobStore]]:
    database, store = open_parts(settings)
    try:
        yield database, store
    finally:
        store.close()
        database.close()


@pytest.fixture
def fresh(registry_home: Path, database_url: str) -> Settings:
    """A schema and an empty folder that were never tied."""
    return settings_of(registry_home, database_url)


def test_identity_is_made_once_and_found_again(fresh: Settings) -> None:
    with parts(fresh) as (database, store):
        made = make_identity(database, store)
        assert made.epoch == 1
        assert make_identity(database, store) == check_identity(database, store) == made
        record = store.read_record("store.json")
        assert record is not None
        assert Identity.from_record(record, "x") == made
        assert json.loads(record)["format"] == 1
        assert len(rows(database, "SELECT * FROM store_identity")) == 1


def test_init_that_was_stopped_before_the_record_is_finished(
    fresh: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with parts(fresh) as (database, store):
        with monkeypatch.context() as patch:
            patch.setattr(store, "open_staging", stopped)
            with pytest.raises(KeyboardInterrupt):
                make_identity(database, store)
        with pytest.raises(errors.IdentityMismatch, match=r"store\.json"):
            check_identity(database, store)
        made = make_identity(database, store)
        assert check_identity(database, store) == made


def test_store_of_another_database_is_refused(fresh: Settings, tmp_path: Path) -> None:
    with parts(fresh) as (database, store):
        make_identity(database, store)
        other_root = tmp_path / "other"
        other_root.mkdir()
        other = Identity(uuid4(), uuid4(), 1)
        (other_root / "store.json").write_bytes(other.to_record())
        other_store = FilesystemStore(str(other_root))
        for check in (check_identity, make_identity):
            with pytest.raises(errors.IdentityMismatch, match=str(other.store_id)) as caught:
                check(database, other_store)
            assert caught.value.exit_code == 6
        other_store.close()


def test_new_database_does_not_take_a_store_that_is_in_use(fresh: Settings) -> None:
    with parts(fresh) as (database, store):
        make_identity(database, store)
        change(database, "DELETE FROM store_identity")
        with pytest.raises(errors.IdentityMismatch, match="belongs to the database"):
            make_identity(database, store)
        assert rows(database, "SELECT * FROM store_identity") == []


@pytest.mark.parametrize("epoch", [0, 2])
def test_database_of_another_epoch_is_refused(settings: Settings, epoch: int) -> None:
    with parts(settings) as (database, store):
        change(database, "UPDATE store_identity SET epoch = :epoch", epoch=epoch)
        with pytest.raises(errors.IdentityMismatch, match=f"epoch {epoch}"):
            check_identity(database, store)
        with pytest.raises(errors.IdentityMismatch), open_for_writing(settings):
            pass
        change(database, "UPDATE store_identity SET epoch = 1")


def test_database_that_was_never_tied_is_refused(fresh: Settings) -> None:
    with pytest.raises(errors.SchemaMismatch, match="init"), open_for_writing(fresh):
        pass


@pytest.mark.inconsistent
def test_store_that_is_not_mounted_is_refused_and_nothing_is_written_to_it(settings: Settings) -> None:
    shutil.rmtree(settings.store)
    with pytest.raises(errors.StoreUnavailable), open_for_writing(settings):
        pass
    Path(settings.store).mkdir()
    with pytest.raises(errors.IdentityMismatch, match="not mounted"), open_for_writing(settings):
        pass
    assert list(Path(settings.store).iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"format": 2, "store_id": "x"}',
        b'{"format": 1, "store_id": "x", "database_id": "y", "epoch": 1}',
    ],
)
def test_record_that_is_not_understood_is_refused(settings: Settings, content: bytes) -> None:
    path = Path(settings.store) / "store.json"
    before = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(errors.IdentityMismatch, match=r"store\.json"), open_for_writing(settings):
        pass
    path.write_bytes(before)


def test_init_makes_everything_and_again_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    settings = settings_of(home, f"sqlite:///{home / 'db' / 'regmeta.db'}")
    assert initialise(settings)
    record = (home / "store" / "store.json").read_bytes()
    assert not initialise(settings)
    assert (home / "store" / "store.json").read_bytes() == record
    with open_for_writing(settings):
        pass
    with open_for_reading(settings):
        pass


def test_init_makes_the_schema_of_an_empty_database(empty_database_url: str, registry_home: Path) -> None:
    settings = settings_of(registry_home, empty_database_url)
    assert initialise(settings)
    assert not initialise(settings)
    with open_for_writing(settings):
        pass


def stopped(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
