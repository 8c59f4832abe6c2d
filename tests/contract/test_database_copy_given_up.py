"""``db copy`` that was given up, and then begun again into the same database: nothing old comes along."""

from __future__ import annotations

from contextlib import closing, nullcontext, suppress
from pathlib import Path

import pytest

from regmeta import app
from regmeta.app import Writing, database_copy
from regmeta.db import Database
from regmeta.errors import Contention, Error
from regmeta.maintain.progress import NoProgress
from regmeta.settings import Settings
from tests.builders import LayoutBuilder
from tests.support.database_copies import at, copy, stop_at
from tests.support.registry import change, commit_one, rows, tags

pytestmark = pytest.mark.inconsistent


def opens(settings: Settings) -> bool:
    with suppress(Error), app.open_for_writing(settings):
        return True
    return False


@pytest.mark.parametrize("point", ["copy_rows.committed", "copy_parts.committed"])
def test_tables_that_were_empty_then_are_not_taken_for_copied(
    settings: Settings, builder: LayoutBuilder, layout: Path, other_url: str, point: str
) -> None:
    stop_at(settings, other_url, point)
    database_copy.abandon(settings)
    with app.open_for_writing(settings) as writing:
        commit_one(writing, builder, builder.image([builder.layer(b"new")]), layout, tag="v1")
    with suppress(Error):  # to refuse that database is as good
        copy(settings, other_url)
    new = at(settings, other_url)
    named = new if opens(new) else settings
    with app.open_for_writing(named) as writing:
        assert set(tags(writing.database)) == {"v1"}


class GivenUp(NoProgress):
    """A progress that, when a run has begun to read, gives it up and lets another one begin."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings, self._url = settings, url
        self.was_given_up = False

    def began(self, what: str, total: int | None) -> None:
        if what == "rows: blobs" and not self.was_given_up:
            try:
                database_copy.abandon(self._settings)
            except Contention:
                pytest.skip("who reads there cannot be given up")
            self.was_given_up = True
            with closing(Database(self._settings.database)) as database:
                change(database, "UPDATE blobs SET state = 'damaged'")
            stop_at(self._settings, self._url, "copy_froze.committed")


@pytest.mark.parametrize("backend", ["sqlite"])  # on PostgreSQL who reads holds up who gives up
def test_run_that_was_given_up_brings_no_old_rows_into_the_next_one(
    settings: Settings, writing: Writing, builder: LayoutBuilder, layout: Path, other_url: str
) -> None:
    commit_one(writing, builder, builder.image([builder.layer(b"base")]), layout, tag="v1")
    shown = GivenUp(settings, other_url)
    with suppress(Error):
        database_copy.copy(settings, other_url, lambda: nullcontext(shown))
    assert shown.was_given_up
    with suppress(Error):
        copy(settings, other_url)
    new = at(settings, other_url)
    with closing(Database(new.database if opens(new) else settings.database)) as database:
        assert set(rows(database, "SELECT state FROM blobs")) == {("damaged",)}
