"""``db copy`` refuses what it cannot do, before anything has changed, and says what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from regmeta import app
from regmeta.app import Writing, database_copy
from regmeta.db import Database
from regmeta.errors import (
    DatabaseUnavailable,
    Error,
    IdentityMismatch,
    IntegrityError,
    Refused,
    SchemaMismatch,
    Unavailable,
    UsageError,
)
from regmeta.maintain import schema
from regmeta.maintain.database_copy import freeze
from regmeta.maintain.progress import NoProgress
from regmeta.settings import Settings
from tests.builders import LayoutBuilder
from tests.support.database_copies import at, copy
from tests.support.postgres import Postgres
from tests.support.registry import change, commit_one, scalar, settings_of

pytestmark = pytest.mark.inconsistent


@pytest.fixture
def filled(writing: Writing, builder: LayoutBuilder, layout: Path, settings: Settings) -> Settings:
    commit_one(writing, builder, builder.image([builder.layer(b"base")]), layout, tag="v1")
    return settings


@pytest.fixture
def server_url(postgres: Postgres) -> Iterator[str]:
    """An empty database on the server."""
    name = postgres.create(migrated=False)
    yield postgres.url(name)
    postgres.drop(name)


def is_refused(settings: Settings, url: str, error: type[Error], match: str) -> None:
    """Check that nothing has changed: the database takes changes still."""
    with pytest.raises(error, match=match) as raised:
        copy(settings, url)
    assert "Traceback" not in str(raised.value)
    with app.open_database(settings) as database:
        assert freeze.moved_to(database) is None
        change(database, "UPDATE repositories SET revision = revision")


def test_the_database_itself_is_refused(filled: Settings) -> None:
    is_file = filled.database.startswith("sqlite")
    error, words = (UsageError, "is the database itself") if is_file else (Refused, "is the database itself")
    is_refused(filled, filled.database, error, words)


def test_database_of_another_registry_is_refused(filled: Settings, tmp_path: Path) -> None:
    other = settings_of(tmp_path / "other", f"sqlite:///{tmp_path / 'other' / 'regmeta.db'}")
    app.initialise(other)
    is_refused(filled, other.database, IdentityMismatch, "of another registry")
    with app.open_for_writing(other):
        pass


def test_database_that_has_rows_is_refused(filled: Settings, server_url: str) -> None:
    with closing(Database(server_url)) as database:
        schema.upgrade(database, app.migrations_folder())
        change(database, "INSERT INTO tag_names (name, folded) VALUES ('x', 'x')")
    is_refused(filled, server_url, Refused, "is not empty .there are tag_names")


def test_database_that_was_moved_from_before_is_refused(filled: Settings, server_url: str) -> None:
    copy(filled, server_url)
    moved = at(filled, server_url)
    with pytest.raises(Refused, match="its rows are old: make an empty database"):
        copy(moved, filled.database)
    with app.open_for_writing(moved):
        pass


def test_database_with_tables_of_another_program_is_refused(filled: Settings, server_url: str) -> None:
    with closing(Database(server_url)) as database:
        change(database, "CREATE TABLE theirs (id integer)")
    is_refused(filled, server_url, Refused, "tables that are not regmeta's")


def test_empty_database_of_an_older_release_is_brought_up(filled: Settings, server_url: str) -> None:
    with closing(Database(server_url)) as database:
        schema.upgrade(database, app.migrations_folder(), "0003")
    copy(filled, server_url)
    with app.open_for_writing(at(filled, server_url)):
        pass


def test_database_of_an_unknown_release_is_refused(filled: Settings, server_url: str) -> None:
    with closing(Database(server_url)) as database:
        schema.upgrade(database, app.migrations_folder())
        change(database, "UPDATE alembic_version SET version_num = '9999'")
    is_refused(filled, server_url, SchemaMismatch, "9999")


def test_source_of_an_older_release_is_refused(filled: Settings, server_url: str) -> None:
    with app.open_database(filled) as database:
        schema.downgrade(database, app.migrations_folder(), "0004")
    with pytest.raises(SchemaMismatch, match="db upgrade"):
        copy(filled, server_url)


def test_server_that_does_not_answer_is_refused(filled: Settings, tmp_path: Path) -> None:
    url = f"postgresql://postgres@/nothing?host={tmp_path}"
    is_refused(filled, url, DatabaseUnavailable, "nothing")


@pytest.mark.parametrize("url", ["mysql://root@host/x", "postgres"])
def test_url_of_nothing_that_there_is_is_a_mistake(filled: Settings, url: str) -> None:
    is_refused(filled, url, UsageError, "database")


def test_second_target_is_refused_while_a_copy_goes_on(
    filled: Settings, server_url: str, tmp_path: Path
) -> None:
    from uuid import uuid4

    with app.open_database(filled) as database:
        freeze.freeze(database, "sqlite:////first.db", uuid4())
    with pytest.raises(Refused, match=r"being moved to sqlite:////first\.db"):
        copy(filled, server_url)


def test_password_is_never_said(filled: Settings) -> None:
    with pytest.raises(Error) as raised:
        copy(filled, "postgresql://user:secret@127.0.0.1:1/x")
    assert "secret" not in str(raised.value)


class Cut(NoProgress):
    """A progress that ends the server's sessions at one step."""

    def __init__(self, postgres: Postgres, name: str, when: str) -> None:
        self._postgres, self._name, self._when = postgres, name, when

    def began(self, what: str, total: int | None) -> None:
        if what == self._when:
            self._postgres._run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = '{self._name}' AND pid <> pg_backend_pid()"
            )


def test_server_that_goes_away_in_the_middle_stops_the_copy_and_the_next_run_goes_on(
    filled: Settings, server_url: str, postgres: Postgres, tmp_path: Path
) -> None:
    """On either side: the other one is a file if this is the server."""
    is_file = filled.database.startswith("sqlite")
    target = server_url if is_file else f"sqlite:///{tmp_path / 'rows.db'}"
    name = (target if is_file else filled.database).partition("@/")[2].partition("?")[0]
    # A session that lies idle is replaced without a word.
    cut = Cut(postgres, name, "comparing: tags" if is_file else "rows: tags")
    with pytest.raises(Unavailable):
        database_copy.copy(filled, target, lambda: nullcontext(cut))
    done = copy(filled, target)
    assert "manifests" in done.resumed
    with app.open_for_writing(at(filled, target)):
        pass


BAD = {
    "text that is no text": "UPDATE repositories SET state = 'active', leaf = CAST(x'ff61' AS TEXT)",
    "text with a NUL": "UPDATE repositories SET leaf = 'a' || char(0)",
    "a number that is none": "UPDATE repositories SET created_at = 'yesterday'",
    "a number that is too large": "UPDATE manifests SET layer_count = 5000000000",
    "a uuid that is none": "UPDATE events SET ingest_id = 'xyz'",
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("backend", ["sqlite"])
def test_row_that_postgresql_cannot_keep_is_named_and_the_copy_can_be_given_up(
    filled: Settings, server_url: str, what: str
) -> None:
    with app.open_database(filled) as database:
        change(database, BAD[what])
    table = BAD[what].split()[1]
    with pytest.raises(IntegrityError, match=f"table {table}"):
        copy(filled, server_url)
    database_copy.abandon(filled)
    with app.open_database(filled) as database:
        change(database, "UPDATE repositories SET leaf = 'app', created_at = 1")
        assert scalar(database, "SELECT count(*) FROM manifests") == 1


@pytest.mark.parametrize("backend", ["sqlite"])
def test_row_that_is_lost_on_the_way_is_noticed(
    filled: Settings, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regmeta.maintain.database_copy import streams

    whole = streams._sqlite_rows

    def lossy(*arguments: object) -> Iterator[list[tuple[object, ...]]]:
        for chunk in whole(*arguments):  # type: ignore[arg-type]
            yield chunk[:-1]

    monkeypatch.setattr(streams, "_sqlite_rows", lossy)
    with pytest.raises(IntegrityError, match="they differ"):
        copy(filled, server_url)


def test_row_that_changes_on_the_way_is_noticed(
    filled: Settings, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target gives back something else than it was given."""
    from regmeta.maintain.database_copy import loading

    whole = loading.read_again

    def other(connection: object, location: str, shape: object) -> str:
        if getattr(shape, "name", "") == "tags":
            change_one = "UPDATE tags SET started_by = 'nobody'"
            getattr(connection, "exec_driver_sql")(change_one)  # noqa: B009
        return whole(connection, location, shape)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "read_again", other)
    with pytest.raises(IntegrityError, match=r"table tags.*they differ"):
        copy(filled, server_url)
