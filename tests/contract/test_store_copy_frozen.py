"""A process that stands still over a move of all objects does no harm when it goes on (I1, I6)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from regmeta import app
from regmeta.app import store_copy, verification
from regmeta.app.stores import open_store
from regmeta.db import Database
from regmeta.errors import IdentityMismatch, Locked, LostReservation, StoreUnavailable
from regmeta.ingest.adopt import lock_adoption
from regmeta.ingest.store_moves import mark_of
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.store_copy import fence
from regmeta.models import Intent
from regmeta.settings import Settings
from regmeta.sources.open import open_source
from tests.builders import LayoutBuilder
from tests.support.registry import change, commit_one, counts, ingest_of, keys_in, requests, scalar, tags
from tests.support.seaweed import Buckets

pytestmark = pytest.mark.inconsistent  # the store of ``settings`` is closed: the new one is checked

ROOT = Path(__file__).parents[2]


class Waking:
    """The process, and where it stands still."""

    def __init__(self, settings: Settings, layout: Path, point: str) -> None:
        command = [sys.executable, "-m", "tests.support.waking_writer", settings.home, settings.store]
        self._process = subprocess.Popen(
            [*command, settings.database, str(layout), point],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == point
        os.kill(self._process.pid, signal.SIGSTOP)

    def wake(self) -> str:
        """Let it go on to its end; return what became of its import."""
        os.kill(self._process.pid, signal.SIGCONT)
        said, _ = self._process.communicate("\n", timeout=60)
        return said.strip()

    def kill(self) -> None:
        """End it where it stands still."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def started(settings: Settings, tmp_path: Path) -> Iterator[list[Waking]]:
    """Processes to be ended after the test."""
    found: list[Waking] = []
    yield found
    for each in found:
        each.kill()


@pytest.fixture
def late(tmp_path: Path) -> Path:
    """What the process imports."""
    builder = LayoutBuilder(seed=7)
    builder.tag(builder.image([builder.layer(b"late")]), "late")
    return builder.write(tmp_path / "late")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "new")


def move(settings: Settings, target: str) -> None:
    store_copy.copy(settings, target, lambda: nullcontext(NoProgress()))


def fill(settings: Settings, builder: LayoutBuilder, layout: Path) -> None:
    with app.open_for_writing(settings) as writing:
        commit_one(writing, builder, builder.image(), layout)


def intents_of(database: Database) -> list[dict[str, Any]]:
    with database.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(*Intent.__table__.columns)).mappings()]


def assert_whole(settings: Settings) -> None:
    assert verification.verify(settings, NoProgress(), read_data="all", restart=True).findings == []


POINTS = ["reserve.committed", "stage.flushed", "publish.renamed", "publish.flushed"]


@pytest.mark.parametrize("point", [*POINTS[:1], POINTS[-1]])
def test_process_that_slept_over_a_move_acknowledges_nothing(
    settings: Settings,
    builder: LayoutBuilder,
    layout: Path,
    late: Path,
    folder: str,
    started: list[Waking],
    point: str,
) -> None:
    if point == "reserve.committed" and settings.database.startswith("sqlite"):
        point = "stage.created"  # the same moment: the file is let go of
    fill(settings, builder, layout)
    process = Waking(settings, late, point)
    started.append(process)
    move(settings, folder)
    assert process.wake().startswith("IdentityMismatch: the registry's objects were moved")
    moved = msgspec.structs.replace(settings, store=folder)
    with app.open_for_writing(moved) as writing:
        assert tags(writing.database, "late") == {}
    assert_whole(moved)


def test_process_that_slept_over_a_move_to_a_bucket_acknowledges_nothing(
    settings: Settings,
    builder: LayoutBuilder,
    layout: Path,
    late: Path,
    buckets: Buckets,
    started: list[Waking],
) -> None:
    fill(settings, builder, layout)
    process = Waking(settings, late, "publish.flushed")
    started.append(process)
    url = buckets.url()
    move(settings, url)
    assert process.wake().startswith("IdentityMismatch")
    assert_whole(msgspec.structs.replace(settings, store=url))


@pytest.mark.parametrize("point", ["stage.created", "publish.flushed"])
def test_process_that_slept_over_a_move_that_failed_goes_on(
    settings: Settings,
    builder: LayoutBuilder,
    layout: Path,
    late: Path,
    folder: str,
    started: list[Waking],
    point: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its keys were taken back, so it brings everything again under new ones."""
    fill(settings, builder, layout)
    process = Waking(settings, late, point)
    started.append(process)

    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("not today")

    monkeypatch.setattr(fence, "switch", fail)
    with pytest.raises(StoreUnavailable, match="not today"):
        move(settings, folder)
    assert process.wake() == "acknowledged"
    with app.open_for_writing(settings) as writing:
        assert "late" in tags(writing.database, "late")
    assert_whole(settings)
    monkeypatch.undo()
    move(settings, folder)
    assert_whole(msgspec.structs.replace(settings, store=folder))


def test_key_whose_intent_is_made_after_the_fence_gets_into_no_row(
    settings: Settings, builder: LayoutBuilder, layout: Path, late: Path, folder: str
) -> None:
    """A reservation that had read the row before the fence, and wrote after it."""
    fill(settings, builder, layout)
    with app.open_for_writing(settings) as old, closing(open_source(str(late))) as source:
        first, second = (ingest_of(old, request) for request in (*requests(source), *requests(source)))
        first.prepare()
        second.prepare()
        intents = intents_of(old.database)
        assert len(intents) > 2
        change(old.database, "DELETE FROM intents")  # they are made when the fence is up

        def make_intents() -> None:
            with old.database.transaction("test") as connection:
                connection.execute(sa.insert(Intent), intents)

        begin, refused = fence.fence, []

        def fenced(*given: Any) -> int:
            taken: int = begin(*given)
            make_intents()
            with pytest.raises(LostReservation):
                first.commit()
            refused.append(taken)
            return taken

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fence, "fence", fenced)
            move(settings, folder)
        assert refused == [0]
        with pytest.raises(LostReservation):
            second.commit()
        assert tags(old.database).keys() == {"v1"}


def test_object_of_the_store_of_before_is_not_adopted(
    settings: Settings, builder: LayoutBuilder, layout: Path, folder: str
) -> None:
    fill(settings, builder, layout)
    with app.open_for_writing(settings) as old:
        begin = fence.fence

        def fenced(*given: Any) -> int:
            taken: int = begin(*given)
            with pytest.raises(Locked), old.database.transaction("test") as connection:
                lock_adoption(connection, old.writer.store_id)
            return taken

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fence, "fence", fenced)
            move(settings, folder)
        with pytest.raises(IdentityMismatch), old.database.transaction("test") as connection:
            lock_adoption(connection, old.writer.store_id)


KILLED = """
import os, signal, sys
from contextlib import nullcontext
from pathlib import Path
from regmeta.app import store_copy
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.store_copy import fence
from tests.support.registry import settings_of
home, store, url, target, how = sys.argv[1:]
def stop(*_, **__):
    print("fenced", flush=True)
    sys.stdin.readline()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return switch(*_, **__)
switch = fence.switch
fence.switch = stop
try:
    store_copy.copy(settings_of(Path(home), url, store=store), target, lambda: nullcontext(NoProgress()))
except Exception as error:
    print(type(error).__name__, error, flush=True)
else:
    print("moved", flush=True)
"""


def mover(settings: Settings, target: str, how: str) -> subprocess.Popen[str]:
    """Start a move that stands still just before its switch."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, settings.home, settings.store, settings.database, target, how],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "fenced"
    return process


def test_mark_of_a_move_that_was_killed_is_lifted_by_the_next_writer(
    settings: Settings, builder: LayoutBuilder, layout: Path, folder: str
) -> None:
    fill(settings, builder, layout)
    process = mover(settings, folder, "kill")
    with app.open_for_writing(settings) as writing:
        assert mark_of(scalar(writing.database, "SELECT hold_reason FROM store_identity")) is not None
        with pytest.raises(Locked, match="being moved"):
            commit_one(writing, builder, builder.image(), layout, "refused")
    process.communicate("\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    with app.open_for_writing(settings) as writing:
        assert scalar(writing.database, "SELECT hold_reason FROM store_identity") is None
        commit_one(writing, builder, builder.image(), layout, "after")
    with (
        pytest.raises(IdentityMismatch),
        app.open_for_writing(msgspec.structs.replace(settings, store=folder)),
    ):
        pass
    move(settings, folder)
    assert_whole(msgspec.structs.replace(settings, store=folder))


def test_mover_that_slept_while_another_finished_the_move_changes_nothing(
    settings: Settings, builder: LayoutBuilder, layout: Path, folder: str
) -> None:
    fill(settings, builder, layout)
    process = mover(settings, folder, "go on")
    os.kill(process.pid, signal.SIGSTOP)
    move(settings, folder)
    moved = msgspec.structs.replace(settings, store=folder)
    with app.open_for_writing(moved) as writing:
        commit_one(writing, builder, builder.image(), layout, "after")
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate("\n", timeout=60)
    assert "moved" in said or "Mismatch" in said
    with app.open_for_writing(moved) as writing:
        assert counts(writing.database, "intents")["intents"] == 0
    assert_whole(moved)


def test_mover_that_slept_while_writers_were_let_go_does_not_switch(
    settings: Settings, builder: LayoutBuilder, layout: Path, folder: str
) -> None:
    fill(settings, builder, layout)
    process = mover(settings, folder, "go on")
    os.kill(process.pid, signal.SIGSTOP)
    store_copy.abandon(settings)
    with app.open_for_writing(settings) as writing:
        commit_one(writing, builder, builder.image(), layout, "after")
        keys = keys_in(writing.database, "blobs")
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate("\n", timeout=60)
    assert said.startswith("Refused")
    assert "given up meanwhile" in said
    with closing(open_store(settings)) as store:
        assert all(store.stat(key) is not None for key in keys)
    assert_whole(settings)
