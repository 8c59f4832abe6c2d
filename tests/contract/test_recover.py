"""What processes that have ended leave is cleared up by the next writer; what the living hold is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from regmeta import db
from regmeta.app import Writing, open_for_reading, open_for_writing
from regmeta.maintain.recover import RecoverReport, recover
from regmeta.models import Intent
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.store import new_key
from regmeta.store.owners import abandoned_folders
from regmeta.store.paths import Root
from tests.builders import make_layout
from tests.support.registry import (
    change,
    counts,
    dump,
    import_all,
    keys_in,
    objects,
    open_parts,
    rows,
    tags,
)

PHASES = ["reserved", "staged", "published"]
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(settings: Settings, layout: Path) -> Iterator[Start]:
    """Start a process that gets to a phase of an ingest and stays there."""
    make_layout(layout, {"v1": [b"one", b"two"]})
    root = Path(__file__).parents[2]

    with ExitStack() as stack:

        def start_one(phase: str) -> subprocess.Popen[str]:
            arguments = [settings.home, settings.database, str(layout), phase]
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.support.frozen_writer", *arguments],
                    cwd=root,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert len(process.stdout.readline().strip()) == 32
            return process

        yield start_one


def stagings(settings: Settings) -> set[str]:
    return {path.name for path in (Path(settings.store) / "staging").iterdir()}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.slow
def test_killed_process_is_cleared_up_by_the_next_writer(
    settings: Settings, start: Start, phase: str
) -> None:
    process = start(phase)
    process.kill()
    process.wait()
    database, store = open_parts(settings)
    left = keys_in(database, "intents")
    assert len(left) == 4
    assert len(objects(store)) == (4 if phase == "published" else 0)
    with open_for_writing(settings) as writing:
        assert counts(database, "intents") == {"intents": 0}
        assert keys_in(database, "tombstones") == left
        assert stagings(settings) == {writing.writer.staging.owner.hex}
        assert rows(database, "SELECT DISTINCT reason FROM tombstones") == [("abandoned",)]
        # Not deleted by it: that is the collector's, after the read window.
        assert len(objects(store)) == (4 if phase == "published" else 0)
    store.close()
    database.close()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.slow
def test_living_process_is_left_alone(settings: Settings, start: Start, phase: str) -> None:
    process = start(phase)
    with open_for_writing(settings) as writing:
        report = recover(writing.writer, writing.store)
        assert report == RecoverReport(0, 0, 0)
        assert counts(writing.database, "intents", "tombstones") == {"intents": 4, "tombstones": 0}
        assert len(stagings(settings)) == 2
    process.communicate("")
    assert process.returncode == 0
    assert stagings(settings) == set()


def test_process_whose_staging_folder_is_gone_is_taken_back(writing: Writing) -> None:
    owner = add_intent(writing, writing.writer.host)
    assert recover(writing.writer, writing.store).intents_taken_back == 1
    assert keys_in(writing.database, "intents") == set()
    assert owner != writing.writer.staging.owner


def test_process_of_another_host_is_left_alone_until_its_intents_expire(writing: Writing) -> None:
    add_intent(writing, "elsewhere.example")
    assert recover(writing.writer, writing.store).intents_taken_back == 0
    assert counts(writing.database, "intents", "tombstones") == {"intents": 1, "tombstones": 0}
    change(writing.database, "UPDATE intents SET expires_at = 1")
    assert recover(writing.writer, writing.store).intents_taken_back == 1
    assert counts(writing.database, "intents", "tombstones") == {"intents": 0, "tombstones": 1}


def test_own_intents_are_not_taken_back(writing: Writing) -> None:
    add_intent(writing, writing.writer.host, writing.writer.staging.owner)
    assert recover(writing.writer, writing.store).intents_taken_back == 0


def test_closing_gives_back_what_was_reserved(settings: Settings) -> None:
    with open_for_writing(settings) as writing:
        add_intent(writing, writing.writer.host, writing.writer.staging.owner)
    database, store = open_parts(settings)
    assert counts(database, "intents", "tombstones") == {"intents": 0, "tombstones": 1}
    assert stagings(settings) == set()
    store.close()
    database.close()


@pytest.mark.inconsistent
def test_reading_clears_nothing_up(settings: Settings, start: Start) -> None:
    process = start("published")
    process.kill()
    process.wait()
    with open_for_reading(settings) as reading:
        before = dump(reading.database), stagings(settings), objects(reading.store)
    with open_for_reading(settings) as reading:
        assert (dump(reading.database), stagings(settings), objects(reading.store)) == before


def test_recover_that_is_stopped_is_finished_by_the_next(
    settings: Settings, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows go first: a crash before the folders go leaves folders without intents."""
    process = start("published")
    process.kill()
    process.wait()
    database, store = open_parts(settings)

    @contextmanager
    def held(root: Root) -> Iterator[Sequence[UUID]]:
        with abandoned_folders(root) as owners:
            yield owners
            stopped()

    with monkeypatch.context() as patch:
        patch.setattr("regmeta.store.filesystem.abandoned_folders", held)
        with pytest.raises(KeyboardInterrupt), open_for_writing(settings):
            pass
    assert counts(database, "intents", "tombstones") == {"intents": 0, "tombstones": 4}
    assert len(stagings(settings)) == 1
    with open_for_writing(settings) as writing:
        assert stagings(settings) == {writing.writer.staging.owner.hex}
    assert counts(database, "tombstones") == {"tombstones": 4}
    store.close()
    database.close()


def test_recover_that_cannot_change_rows_keeps_the_folders(
    settings: Settings, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start("published")
    process.kill()
    process.wait()
    with monkeypatch.context() as patch:
        patch.setattr("regmeta.maintain.recover.bury", stopped)
        with pytest.raises(KeyboardInterrupt), open_for_writing(settings):
            pass
    database, store = open_parts(settings)
    assert counts(database, "intents", "tombstones") == {"intents": 4, "tombstones": 0}
    assert len(stagings(settings)) == 1
    store.close()
    database.close()
    with open_for_writing(settings):
        pass


def test_killed_writer_does_not_stop_the_same_import(settings: Settings, start: Start, layout: Path) -> None:
    process = start("published")
    process.kill()
    process.wait()
    with open_for_writing(settings) as writing:
        import_all(writing, layout)
        assert tags(writing.database).keys() == {"v1"}


def stopped(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def add_intent(writing: Writing, host: str, owner: UUID | None = None) -> UUID:
    """Reserve a key as another process would."""
    found = owner or uuid4()
    with writing.database.transaction("test") as connection:
        now = db.clock(connection)
        digest = Digest.of(b"x")
        connection.execute(
            sa.insert(Intent),
            {
                "key": new_key(digest),
                "digest": digest,
                "owner": found,
                "host": host,
                "created_at": now,
                "expires_at": now + writing.writer.lifetimes.intent,
            },
        )
    return found
