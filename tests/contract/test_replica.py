"""A read replica answers queries, old ones at times; all else goes to the primary."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from typer.testing import CliRunner

from regmeta import errors
from regmeta.app import initialise, replicas
from regmeta.app.health import examine
from regmeta.cli.root import app
from regmeta.db import Database
from regmeta.maintain.doctor import server as doctor
from regmeta.query import sql
from regmeta.query.feed import events
from regmeta.query.replication import replica_lag
from regmeta.settings import Settings, load_settings
from tests.builders import make_layout
from tests.support.registry import rows, settings_of
from tests.support.replica import Pair, streaming, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with streaming() as found:
        yield found


@dataclass
class Place:
    """A registry on the primary, whose queries go to the standby."""

    home: Path
    pair: Pair
    name: str

    @property
    def settings(self) -> Settings:
        return load_settings(home=str(self.home))

    def replica(self) -> closing[Database]:
        """Open what the standby shows."""
        return closing(Database(self.pair.standby.url(self.name)))

    def primary(self) -> closing[Database]:
        return closing(Database(self.pair.primary.url(self.name)))

    def newest(self, column: str, repository: str = "app") -> str:
        """Return a tag or its digest, as the primary has it."""
        with self.primary() as database:
            statement = f"SELECT {column} FROM v_tags WHERE repository = '{repository}' ORDER BY tag LIMIT 1"
            return str(rows(database, statement)[0][0])

    def configure(self, replica: str) -> None:
        """Write the settings file; no replica if it is empty."""
        (self.home / "regmeta.toml").write_text(
            f'database = "{self.pair.primary.url(self.name)}"\nactor = "tester"\n'
            f'[postgresql]\nreplica = "{replica}"\n'
        )

    def run(self, *arguments: object, code: int = 0) -> Any:
        """Run a command that ends with *code*."""
        done = CliRunner().invoke(app, ["--home", str(self.home), *map(str, arguments)])
        assert "Traceback" not in done.output
        assert done.exit_code == code, (arguments, done.output)
        return done

    def named(self, *arguments: object) -> list[str]:
        """Return the repositories that a list has."""
        return [each["name"] for each in json.loads(self.run("repo", "ls", "--json").stdout)["items"]]


def make_place(pair: Pair, home: Path, layout: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("REGMETA_DATABASE", "REGMETA_HOME", "REGMETA_STORE", "REGMETA_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    home.mkdir()
    make_layout(layout, 2)
    place = Place(home, pair, f"t_{uuid4().hex[:8]}")
    pair.primary.run(f"CREATE DATABASE {place.name} TEMPLATE template0")
    initialise(settings_of(home, pair.primary.url(place.name)))
    place.configure(pair.standby.url(place.name))
    place.run("import", layout, "app")
    pair.catch_up()
    return place


@pytest.fixture
def place(pair: Pair, tmp_path: Path, layout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    found = make_place(pair, tmp_path / "home", layout, monkeypatch)
    yield found
    pair.go_on()
    pair.primary.run(f"DROP DATABASE {found.name} WITH (FORCE)")


# --- who reads where --------------------------------------------------------------------------


def test_queries_show_what_has_come_to_the_replica(place: Place, layout: Path) -> None:
    place.pair.pause()
    place.run("import", layout, "later")
    assert place.named() == ["app"]
    place.configure("")
    assert place.named() == ["app", "later"]
    place.configure(place.pair.standby.url(place.name))
    place.pair.go_on()
    place.pair.catch_up()
    assert place.named() == ["app", "later"]


def test_every_query_can_be_answered_by_a_standby_while_the_primary_is_down(
    place: Place, layout: Path
) -> None:
    tags = json.loads(place.run("tag", "ls", "app", "--json").stdout)["items"]
    tag, digest = f"app:{tags[0]['name']}", tags[0]["digest"]
    queries = (
        ["search", "app"],
        ["referrers", tag],
        ["bases", tag],
        ["derived", tag],
        ["sql", "SELECT * FROM v_tags"],
        ["repo", "ls", "--total"],
        ["repo", "ls", "--deleted"],
        ["repo", "show", "app"],
        ["tag", "ls", "app"],
        ["tag", "show", tag],
        ["tag", "history", tag],
        ["tag", "history", "app"],
        ["manifest", "ls", "app"],
        ["manifest", "ls", "app", "--deleted"],
        ["manifest", "children", tag],
        ["manifest", "parents", f"app@{digest}"],
        ["manifest", "show", tag],
        ["blob", "ls"],
        ["blob", "show", digest],
        ["blob", "users", digest],
        ["blob", "find", digest[7:13]],
        ["blob", "dedup"],
        ["image", "tree", tag],
        ["image", "layers", tag],
        ["usage", "show"],
        ["usage", "show", "--now"],
        ["usage", "growth"],
        ["stats", "show", "app"],
        ["stats", "top"],
        ["stats", "favorites", "--user", "ann"],
    )
    place.pair.primary.stop()
    try:
        for line in queries:
            place.run(*line)
        place.run("tag", "set", "app:v9", digest, code=5)
    finally:
        place.pair.primary.start()


def test_what_writes_decides_or_reads_objects_sees_the_primary(place: Place, layout: Path) -> None:
    place.pair.pause()
    place.run("import", layout, "later")
    tag = f"later:{place.newest('tag', 'later')}"
    for line in (
        ["export", tag, place.home / "out.tar"],
        ["image", "show", tag],
        ["image", "history", tag],
        ["tag", "rm", tag],
        ["gc", "run"],
        ["verify", "--read-data"],
        ["recover"],
    ):
        place.run(*line)
    told = place.run("events", "tail", "--repository", "later", "--json").stdout
    assert "tag.removed" in told
    assert json.loads(place.run("status", "--json").stdout)["repositories"] == 2


# --- what is refused --------------------------------------------------------------------------


def test_replica_that_is_down_is_named_and_writers_go_on(place: Place, layout: Path) -> None:
    place.pair.standby.stop()
    try:
        told = place.run("repo", "ls", code=5)
        assert f"regmeta: the replica: postgresql://postgres@/{place.name}" in told.stderr
        assert str(place.pair.standby.folder.name) in told.stderr
        place.run("import", layout, "later")
        assert "unknown: " in place.run("status").stdout
        found = {check.name: check for check in examine(place.settings)}["replica"]
        assert found.level == "problem"
    finally:
        place.pair.standby.start()
    place.pair.catch_up()
    assert place.named() == ["app", "later"]


def test_list_of_hosts_may_name_the_primary_as_well(place: Place) -> None:
    both = f"postgresql://postgres@/{place.name}?" + "".join(
        f"host={server.socket_folder}&" for server in (place.pair.standby, place.pair.primary)
    )
    place.configure(f"{both}target_session_attrs=prefer-standby")
    place.pair.pause()
    place.run("tag", "set", "app:v9", place.newest("digest"))
    assert "v9" not in place.run("tag", "ls", "app").stdout
    place.pair.standby.stop()
    try:
        assert "v9" in place.run("tag", "ls", "app").stdout
    finally:
        place.pair.standby.start()


def test_replica_of_another_registry_is_refused(place: Place, tmp_path: Path) -> None:
    other, empty = f"t_{uuid4().hex[:8]}", f"t_{uuid4().hex[:8]}"
    for name in (other, empty):
        place.pair.primary.run(f"CREATE DATABASE {name} TEMPLATE template0")
    (tmp_path / "other").mkdir()
    initialise(settings_of(tmp_path / "other", place.pair.primary.url(other)))
    place.pair.catch_up()
    place.configure(place.pair.standby.url(other))
    assert "store" in place.run("repo", "ls", code=6).stderr
    place.configure(place.pair.standby.url(empty))
    assert "holds no regmeta schema" in place.run("repo", "ls", code=6).stderr
    for name in (other, empty):
        place.pair.primary.run(f"DROP DATABASE {name} WITH (FORCE)")


def test_replica_that_is_behind_an_upgrade_is_refused_until_it_has_it(place: Place) -> None:
    place.run("db", "downgrade", "0004", "--yes")
    place.pair.catch_up()
    place.pair.pause()
    place.run("db", "upgrade")
    assert "is at schema revision 0004" in place.run("repo", "ls", code=6).stderr
    place.pair.go_on()
    place.pair.catch_up()
    assert place.named() == ["app"]


def test_replica_that_is_behind_a_restore_is_refused_until_it_has_it(place: Place) -> None:
    record = place.home / "store" / "store.json"
    place.pair.pause()
    with place.primary() as database, database.transaction("test") as connection:
        connection.exec_driver_sql("UPDATE store_identity SET epoch = 2")
    content = json.loads(record.read_text())
    record.chmod(0o644)
    record.write_text(json.dumps({**content, "epoch": 2}))
    assert "(epoch 1)" in place.run("repo", "ls", code=6).stderr
    place.pair.go_on()
    place.pair.catch_up()
    assert place.named() == ["app"]


def test_copy_that_was_promoted_is_refused_and_the_primary_is_not(
    tmp_path: Path, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with streaming() as own:
        place = make_place(own, tmp_path / "home", layout, monkeypatch)
        own.standby.run("SELECT pg_promote()")
        assert "it was promoted" in place.run("repo", "ls", code=6).stderr
        place.configure(own.primary.url(place.name))
        assert place.named() == ["app"]
        assert "shows all" in place.run("status").stdout


@pytest.mark.parametrize("url", ["sqlite:////none", "mysql://a@b/c", "nonsense"])
def test_replica_that_is_no_server_is_refused(place: Place, url: str) -> None:
    place.configure(url)
    assert "replica" in place.run("repo", "ls", code=2).stderr


# --- reads that give way ----------------------------------------------------------------------


def vacuumed(place: Place) -> None:
    """Remove row versions that a read on the standby may still want."""
    with psycopg.connect(
        f"host={place.pair.primary.socket_folder} user=postgres dbname={place.name}", autocommit=True
    ) as connection:
        connection.execute("UPDATE repositories SET revision = revision + 1")
        connection.execute("VACUUM repositories")


def read_and_be_in_the_way(place: Place) -> None:
    with replicas.open_for_queries(place.settings) as reading, reading.database.read() as connection:
        connection.exec_driver_sql("SELECT * FROM repositories").all()
        vacuumed(place)
        wait_until(lambda: not connection.exec_driver_sql("SELECT * FROM repositories").all())


def test_read_that_gave_way_to_what_is_replayed_says_so(place: Place) -> None:
    with pytest.raises(errors.DatabaseUnavailable, match="for what it had to replay") as told:
        read_and_be_in_the_way(place)
    assert told.value.exit_code == 5
    assert place.named() == ["app"]


def test_statement_of_a_person_that_gave_way_is_not_called_wrong(place: Place) -> None:
    timer = threading.Timer(0.5, vacuumed, [place])
    timer.start()
    with (
        pytest.raises(errors.DatabaseUnavailable, match="ended the read for what it had to replay"),
        replicas.open_for_queries(place.settings) as reading,
    ):
        sql.run(reading.database, "SELECT pg_sleep(10) FROM repositories")
    timer.join()


# --- the feed ---------------------------------------------------------------------------------


def test_snapshot_of_a_standby_leaves_out_who_is_at_work_so_the_feed_refuses_it(place: Place) -> None:
    """The reason why events are read from the primary: here the feed would pass what commits later."""
    with psycopg.connect(
        f"host={place.pair.primary.socket_folder} user=postgres dbname={place.name}"
    ) as at_work:
        at_work.execute("UPDATE repositories SET revision = revision")
        row = at_work.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        place.pair.primary.run("CREATE TABLE later (n integer)", place.name)
        place.pair.catch_up()
        snapshot = "SELECT pg_current_snapshot()::text"
        of_primary = place.pair.primary.ask(snapshot, place.name)
        of_standby = place.pair.standby.ask(snapshot, place.name)
        assert row[0] in of_primary.split(":")[2].split(",")
        assert int(of_standby.split(":")[1]) > int(row[0])
        assert of_standby.split(":")[2] == ""
    with place.replica() as replica, pytest.raises(errors.Refused, match="a standby"):
        events(replica)


# --- how far it is behind ---------------------------------------------------------------------


def test_lag_is_told_in_bytes_and_seconds_and_is_none_when_nothing_is_written(
    place: Place, layout: Path
) -> None:
    with place.primary() as primary, place.replica() as replica:
        found = replica_lag(primary, replica)
        assert (found.missing_bytes, found.behind_s, found.is_paused) == (0, 0.0, False)
        assert found.is_receiving
        place.pair.pause()
        place.run("import", layout, "later")
        place.pair.write_log()
        found = replica_lag(primary, replica)
        assert found.missing_bytes > 1000
        assert found.behind_s is not None
        assert found.behind_s >= 0
        assert found.is_paused
        assert "behind (paused)" in place.run("status").stdout
        status = json.loads(place.run("status", "--json").stdout)["replica"]
        assert status["lag"]["missing_bytes"] > 1000
        place.pair.go_on()
        place.pair.catch_up()
        assert replica_lag(primary, replica).missing_bytes == 0
    assert "shows all" in place.run("status").stdout


def test_doctor_tells_of_the_replica(place: Place, layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str = "replica") -> tuple[str, str]:
        check = {check.name: check for check in examine(place.settings)}[name]
        return check.level, check.found

    assert found() == ("ok", "shows all")
    assert found("role") == ("ok", "primary")
    place.pair.pause()
    place.run("import", layout, "later")
    place.pair.write_log()
    level, text = found()
    assert (level, "replay is paused; " in text, "bytes behind" in text) == ("warning", True, True)
    place.pair.go_on()
    place.pair.catch_up()
    monkeypatch.setattr(doctor, "KEPT_LOG_BYTES", -1)
    place.pair.primary.run("SELECT pg_create_physical_replication_slot('gone', true)")
    try:
        level, text = found("replication slots")
        assert (level, "gone (reserved" in text) == ("warning", True)
    finally:
        place.pair.primary.run("SELECT pg_drop_replication_slot('gone')")
    place.configure("")
    assert "replica" not in {check.name for check in examine(place.settings)}
