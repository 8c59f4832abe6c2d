"""``db copy`` that is stopped, resumed or given up, and processes that stand still while it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing, nullcontext, suppress
from pathlib import Path

import pytest

from regmeta import app, failpoints
from regmeta.app import Writing, database_copy
from regmeta.db import Database
from regmeta.errors import DatabaseMoved, Error, IdentityMismatch, Refused
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.database_copy import freeze
from regmeta.maintain.progress import NoProgress
from regmeta.settings import Settings
from tests.builders import LayoutBuilder, digest_of
from tests.support import ddl
from tests.support.consistency import assert_consistent
from tests.support.database_copies import at, copy, stop_at
from tests.support.logical_dump import logical_dump
from tests.support.registry import change, commit_one, counts, open_parts, rows, scalar, tags

pytestmark = pytest.mark.inconsistent


@pytest.fixture
def filled(writing: Writing, builder: LayoutBuilder, layout: Path, settings: Settings) -> Settings:
    image = builder.image([builder.layer(b"base")])
    commit_one(writing, builder, image, layout, tag="v1")
    set_tag(writing.writer, "app", "v2", digest_of(image))
    return settings


def opens_for_writing(settings: Settings) -> bool:
    """Tell whether a registry opens, and a tag can be set in it."""
    with suppress(Error), app.open_for_writing(settings) as writing:
        set_tag(writing.writer, "app", "probe", next(iter(tags(writing.database).values())))
        remove_tag(writing.writer, "app", "probe")
        return True
    return False


STOPS = [
    ("copy_began.committed", 1),
    ("copy_froze.committing", 1),
    ("copy_froze.committed", 1),
    ("copy_rows.committed", 9),
    ("copy_rows.committing", 12),
    ("copy_parts.committed", 5),
    ("copy_completed.committed", 1),
    ("copy_retired.committed", 1),
    ("record.renamed", 1),
]


@pytest.mark.parametrize(("point", "number"), STOPS)
def test_run_that_was_stopped_is_finished_by_the_next_one(
    filled: Settings, other_url: str, point: str, number: int
) -> None:
    with app.open_database(filled) as database:
        before = logical_dump(database)
    stop_at(filled, other_url, point, number)
    new = at(filled, other_url)
    opened = [opens_for_writing(filled), opens_for_writing(new)]
    assert opened[1] == (point == "record.renamed")
    assert opened[0] == (point in ("copy_began.committed", "copy_froze.committing"))
    done = copy(filled, other_url)
    assert len(done.resumed) >= (9 if point == "copy_rows.committed" else 0)
    assert [opens_for_writing(filled), opens_for_writing(new)] == [False, True]
    database, store = open_parts(new)
    with closing(database), closing(store):
        found = logical_dump(database)
        assert found["manifests"] == before["manifests"]
        assert found["tags"] == before["tags"]
        assert_consistent(database, store)


def test_registry_can_be_read_while_rows_are_copied(filled: Settings, other_url: str) -> None:
    stop_at(filled, other_url, "copy_rows.committed", 3)
    with app.open_for_reading(filled, check_store=True) as reading:
        assert set(tags(reading.database)) == {"v1", "v2"}
    with (
        pytest.raises(DatabaseMoved, match="being filled by 'regmeta db copy'"),
        app.open_for_reading(at(filled, other_url)),
    ):
        pass


def test_writers_are_told_where_the_rows_go(filled: Settings, other_url: str, writing: Writing) -> None:
    stop_at(filled, other_url, "copy_rows.committed", 3)
    new = Database(other_url).location
    with pytest.raises(DatabaseMoved) as raised:
        remove_tag(writing.writer, "app", "v1")
    assert new in str(raised.value)
    assert raised.value.exit_code == 6


@pytest.mark.parametrize("point", ["copy_froze.committed", "copy_rows.committed", "copy_completed.committed"])
def test_copy_that_is_given_up_leaves_the_registry_as_it_was(
    filled: Settings, other_url: str, point: str
) -> None:
    with app.open_database(filled) as database:
        shape, before = ddl.schema_of(database), logical_dump(database)
    stop_at(filled, other_url, point)
    assert database_copy.abandon(filled).state == "copying"
    with app.open_database(filled) as database:
        assert ddl.differences(shape, ddl.schema_of(database)) == []
        assert logical_dump(database) == before
    assert opens_for_writing(filled)
    assert not opens_for_writing(at(filled, other_url))
    with pytest.raises(Refused, match="nothing to abandon"):
        database_copy.abandon(filled)
    if point != "copy_froze.committed":
        with pytest.raises(Refused):  # what was copied may be old
            copy(filled, other_url)
        assert opens_for_writing(filled)


def test_run_that_stood_still_while_it_was_given_up_does_not_switch(filled: Settings, other_url: str) -> None:
    def handler(name: str) -> None:
        if name == "copy_completed.committed":
            database_copy.abandon(filled)

    with failpoints.armed(handler), pytest.raises(Refused, match="given up"):
        copy(filled, other_url)
    assert opens_for_writing(filled)
    assert not opens_for_writing(at(filled, other_url))


class Overtaken(NoProgress):
    """A progress that lets another run do everything when this one has read its first rows of a table."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings, self._url = settings, url
        self.was_overtaken = False

    def began(self, what: str, total: int | None) -> None:
        if what == "rows: tags" and not self.was_overtaken:
            self.was_overtaken = True
            copy(self._settings, self._url)
            with closing(Database(self._url)) as database:
                change(database, "DELETE FROM tags WHERE name = 'v2'")


def test_run_that_stood_still_while_another_finished_brings_nothing_back(
    filled: Settings, other_url: str
) -> None:
    """It goes on with rows that were deleted since."""
    shown = Overtaken(filled, other_url)
    with pytest.raises(Error):
        database_copy.copy(filled, other_url, lambda: nullcontext(shown))
    assert shown.was_overtaken
    with app.open_for_writing(at(filled, other_url)) as writing:
        assert set(tags(writing.database)) == {"v1"}


def test_frozen_writer_that_wakes_up_after_the_switch_commits_nothing(
    settings: Settings, writing: Writing, builder: LayoutBuilder, layout: Path, other_url: str
) -> None:
    """A real process: stopped when it is about to begin its commit; its objects lie in the store."""
    commit_one(writing, builder, builder.image([builder.layer(b"1")]), layout, tag="v1")
    late = LayoutBuilder()
    late.tag(late.image([late.layer(b"late")]), "late")
    source = late.write(layout.parent / "late")
    process = subprocess.Popen(
        [sys.executable, "-m", "regmeta", "import", str(source), "late"],
        env={
            **os.environ,
            "REGMETA_HOME": settings.home,
            "REGMETA_STORE": settings.store,
            "REGMETA_DATABASE": settings.database,
            "REGMETA_TESTING": "1",
            "REGMETA_FAILPOINT": "publish.renamed=stop",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_until_stopped(process.pid)
        copy(settings, other_url)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 6, (out, err)
    assert "regmeta db copy" in err
    with app.open_for_writing(at(settings, other_url)) as moved:
        assert set(tags(moved.database)) == {"v1"}
        assert counts(moved.database, "manifests") == {"manifests": 1}
    if settings.database.startswith("sqlite"):
        with closing(Database(settings.database)) as old:
            assert scalar(old, "SELECT count(*) FROM manifests") == 1
            assert rows(old, "SELECT name FROM repositories_retired") == [("app",)]


def _wait_until_stopped(pid: int) -> None:
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"ended: {status}"


def test_insert_that_ignores_conflicts_is_refused_as_well(filled: Settings, writing: Writing) -> None:
    from uuid import uuid4

    freeze.freeze(writing.database, "postgresql://somewhere:5432/else's", uuid4())
    for statement in (
        "INSERT INTO tag_names (name, folded) VALUES ('x', 'x') ON CONFLICT DO NOTHING",
        "UPDATE repositories SET revision = revision + 1",
        "DELETE FROM tags",
        "UPDATE alembic_version SET version_num = '0001'",
    ):
        with pytest.raises(DatabaseMoved, match="moves the rows to postgresql://somewhere:5432/else's"):
            change(writing.database, statement)
    freeze.thaw(writing.database)
    change(writing.database, "UPDATE repositories SET revision = revision + 1")


def test_old_database_is_not_the_stores_any_more(filled: Settings, other_url: str) -> None:
    from regmeta.maintain.setup import check_identity

    copy(filled, other_url)
    old, store = open_parts(filled)
    with closing(old), closing(store), pytest.raises(IdentityMismatch):
        check_identity(old, store)
