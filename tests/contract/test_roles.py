"""Three roles of PostgreSQL: each can do its work, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from typer.testing import CliRunner

from regmeta import errors
from regmeta.app import initialise, migrations_folder
from regmeta.cli.root import app
from regmeta.db import SCHEMA_HEAD, Database
from regmeta.maintain import schema
from regmeta.maintain.doctor.server import check_rights
from regmeta.maintain.roles import LIMITS, Roles, apply_roles, role_statements
from tests.builders import LayoutBuilder, digest_of, make_layout
from tests.support.consistency import assert_consistent
from tests.support.copies import load_dump, use_client_programs
from tests.support.postgres import Postgres
from tests.support.registry import open_parts, rows, scalar, settings_of

HOSTILE = "\"; DROP TABLE tags; -- 'x' ü%s :a \\"
"""A part of the roles' names that none but good quoting lets through."""


@dataclass
class Place:
    """A registry whose database is a server's, with three roles."""

    home: Path
    postgres: Postgres
    name: str
    roles: Roles
    environment: dict[str, str | None]

    def url(self, role: str) -> str:
        """Return the URL that a role connects with."""
        of = sa.URL.create(
            "postgresql", username=role, database=self.name, query={"host": self.postgres.socket_folder}
        )
        return of.render_as_string(hide_password=False)

    def database(self, role: str) -> Database:
        return Database(self.url(role))

    def run(self, role: str, *arguments: object) -> Any:
        """Run a command as a role."""
        done = CliRunner().invoke(
            app,
            ["--home", str(self.home), *map(str, arguments)],
            env={**self.environment, "REGMETA_DATABASE": self.url(role)},
        )
        assert "Traceback" not in done.output
        assert "internal error" not in done.output, done.output
        return done

    def check(self, role: str, *arguments: object, code: int = 0) -> Any:
        """Run a command that ends with *code*."""
        done = self.run(role, *arguments)
        assert done.exit_code == code, (arguments, done.output)
        return done

    def refused(self, role: str, statement: str) -> None:
        """See that a role may not do something."""
        with closing(self.database(role)) as database, pytest.raises(errors.NotPermitted) as told:
            run(database, statement)
        assert told.value.exit_code == 6


def run(database: Database, *statements: str) -> None:
    """Run statements in one transaction, just as they are."""
    with database.transaction("test") as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def superuser(postgres: Postgres) -> psycopg.Connection[Any]:
    return psycopg.connect(f"host={postgres.socket_folder} user=postgres dbname=postgres", autocommit=True)


@pytest.fixture
def place(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """An empty database, and names for roles that there are not yet."""
    use_client_programs(monkeypatch)
    name = postgres.create(migrated=False)
    own = uuid4().hex[:8]
    roles = Roles(*(f"{kind}{own}{HOSTILE}" for kind in ("m", "r", "q")))
    home = tmp_path / "home"
    home.mkdir()
    environment: dict[str, str | None] = {"REGMETA_ACTOR": "tester", "REGMETA_STORE": None}
    yield Place(home, postgres, name, roles, environment)
    postgres.drop(name)
    with superuser(postgres) as connection:
        for role in (roles.runtime, roles.read, roles.migrate):
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


@pytest.fixture
def registry(place: Place) -> Place:
    """A registry that ``migrate`` has made."""
    with closing(place.database("postgres")) as database:
        apply_roles(database, place.roles)
    initialise(settings_of(place.home, place.url(place.roles.migrate)))
    with closing(place.database("postgres")) as database:
        apply_roles(database, place.roles)
    return place


@pytest.fixture
def images(registry: Place, builder: LayoutBuilder, layout: Path) -> tuple[str, str]:
    """Two images that ``runtime`` has imported, v1 and v2; their digests."""
    found = builder.image(), builder.image()
    builder.tag(found[0], "v1")
    builder.tag(found[1], "v2")
    builder.write(layout)
    registry.check(registry.roles.runtime, "import", layout, "app")
    return str(digest_of(found[0])), str(digest_of(found[1]))


# --- runtime ----------------------------------------------------------------------------------


def test_runtime_can_do_all_work_on_rows(registry: Place, images: tuple[str, str], layout: Path) -> None:
    one, _ = images
    (registry.home / "regmeta.toml").write_text(
        "[[retention.policies]]\nname = 'p'\nrepositories = ['app']\n"
        "[[retention.policies.keep]]\ntags = ['*']\nnewest_pushed = 1\n"
    )
    plan, copy = registry.home / "plan.json", registry.home / "copy.dump"
    for line in (
        ["import", layout, "other"],
        ["tag", "set", "app:v3", one],
        ["tag", "lock", "app", "v3"],
        ["tag", "unlock", "app", "v3"],
        ["tag", "rm", "app:v3"],
        ["tag", "restore", "app:v3"],
        ["stats", "star", "app", "--user", "ann"],
        ["stats", "bookmark", "app", "--user", "ann"],
        ["stats", "unstar", "app", "--user", "ann"],
        ["usage", "record"],
        ["events", "prune", "--older", "400d"],
        ["manifest", "rm", f"app@{one}", "--cascade"],
        ["manifest", "undelete", f"app@{one}", "--tags"],
        ["retention", "plan", "--output", plan],
        ["retention", "apply", plan],
        ["repo", "rm", "other"],
        ["repo", "undelete", "other"],
        ["recover"],
        ["gc", "run"],
        ["gc", "reconcile"],
        ["gc", "retry"],
        ["gc", "sweep"],
        ["verify", "--mark", "--read-data"],
        ["repair"],
        ["rebuild"],
        ["db", "rebuild-search"],
        ["db", "current"],
        ["db", "check"],
        ["db", "upgrade"],
        ["init"],
        ["export", "other:v2", registry.home / "v2.tar"],
        ["backup", copy],
    ):
        registry.check(registry.roles.runtime, *line)
    with closing(registry.database(registry.roles.runtime)) as database:
        _, store = open_parts(settings_of(registry.home, registry.url(registry.roles.runtime)))
        with closing(store):
            assert_consistent(database, store)


def test_copy_is_restored_by_who_owns_the_schema_and_runtime_goes_on(
    registry: Place, images: tuple[str, str], layout: Path
) -> None:
    copy = registry.home / "copy.dump"
    registry.check(registry.roles.runtime, "backup", copy)
    settings = settings_of(registry.home, registry.url(registry.roles.migrate))
    with closing(registry.database(registry.roles.runtime)) as database:
        before = rights(database)
    load_dump(settings, copy)
    registry.check(registry.roles.migrate, "restore", "--loaded", "--yes")
    with closing(registry.database("postgres")) as database:
        apply_roles(database, registry.roles)  # a dump grants beside the default privileges
        assert rights(database) == before
    registry.check(registry.roles.runtime, "import", layout, "later")
    registry.check(registry.roles.read, "repo", "ls")


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE tags",
        "TRUNCATE favorites",
        "ALTER TABLE tags ADD COLUMN mine integer",
        "CREATE INDEX mine ON tags (actor)",
        "CREATE TABLE mine (id integer)",
        "CREATE TEMPORARY TABLE mine (id integer)",
        "CREATE SCHEMA mine",
        "CREATE EXTENSION pg_visibility",
        "DROP VIEW v_tags",
        "UPDATE alembic_version SET version_num = '0001'",
        "DROP TABLE favorites",
        "SELECT pg_read_file('postgresql.conf')",
        "COPY tags TO PROGRAM 'cat'",
    ],
)
def test_neither_runtime_nor_read_changes_the_schema(registry: Place, statement: str) -> None:
    for role in (registry.roles.runtime, registry.roles.read):
        registry.refused(role, statement)


def test_runtime_is_told_what_it_lacks_where_the_schema_is_to_be_changed(registry: Place) -> None:
    told = registry.check(registry.roles.runtime, "db", "downgrade", "0004", "--yes", code=6)
    assert "must be owner of" in told.stderr
    assert "this role may not do that: see 'regmeta db roles'" in told.stderr
    names = [
        value for kind in ("migrate", "runtime", "read") for value in (f"--{kind}", f"n{uuid4().hex[:8]}")
    ]
    told = registry.check(registry.roles.runtime, "db", "roles", *names, "--apply", code=6)
    assert "permission denied to create role" in told.stderr


# --- read -------------------------------------------------------------------------------------


def test_read_can_run_every_command_that_reads(registry: Place, images: tuple[str, str]) -> None:
    one, two = images
    with closing(registry.database(registry.roles.read)) as database:
        blob = scalar(database, "SELECT v.digest FROM v_blobs v ORDER BY 1 LIMIT 1")
    for line in (
        ["status"],
        ["search", "app"],
        ["referrers", "app:v1"],
        ["bases", "app:v1"],
        ["derived", "app:v1"],
        ["sql", "SELECT * FROM v_tags"],
        ["repo", "ls", "--total"],
        ["repo", "ls", "--deleted"],
        ["repo", "show", "app"],
        ["tag", "locks", "app"],
        ["tag", "ls", "app"],
        ["tag", "show", "app:v1"],
        ["tag", "history", "app:v1"],
        ["tag", "history", "app"],
        ["manifest", "ls", "app"],
        ["manifest", "ls", "app", "--deleted"],
        ["manifest", "children", "app:v1"],
        ["manifest", "parents", f"app@{one}"],
        ["manifest", "show", f"app@{two}", "--raw"],
        ["blob", "ls"],
        ["blob", "show", blob],
        ["blob", "users", blob],
        ["blob", "users", blob, "--repositories"],
        ["blob", "find", blob[7:13]],
        ["blob", "dedup"],
        ["image", "show", "app:v1"],
        ["image", "tree", "app:v1"],
        ["image", "history", "app:v1"],
        ["image", "layers", "app:v1"],
        ["image", "diff", "app:v1", "app:v2"],
        ["usage", "show"],
        ["usage", "show", "--now"],
        ["usage", "growth"],
        ["stats", "show", "app"],
        ["stats", "top"],
        ["stats", "favorites", "--user", "ann"],
        ["events", "tail", "--limit", "3"],
        ["gc", "status"],
        ["sync", "status"],
        ["sync", "history"],
        ["db", "current"],
        ["db", "history"],
        ["db", "check"],
        ["db", "rebuild-search", "--check"],
        ["verify"],
        ["export", "app:v1", registry.home / "v1.tar"],
        ["backup", registry.home / "copy.dump"],
    ):
        registry.check(registry.roles.read, *line)


def test_read_is_refused_all_that_writes_and_nothing_has_happened(
    registry: Place, images: tuple[str, str], layout: Path
) -> None:
    one, _ = images
    with closing(registry.database("postgres")) as database:
        before = rows(database, "SELECT * FROM v_tags"), rows(database, "SELECT * FROM repositories")
    for line in (
        ["import", layout, "app2"],
        ["tag", "set", "app:v9", one],
        ["tag", "rm", "app:v1"],
        ["manifest", "rm", f"app@{one}", "--cascade"],
        ["repo", "rm", "app"],
        ["stats", "star", "app", "--user", "ann"],
        ["usage", "record"],
        ["events", "prune", "--older", "1s"],
        ["gc", "run"],
        ["verify", "--mark"],
    ):
        told = registry.check(registry.roles.read, *line, code=6)
        assert "this role may " in told.stderr, line
    with closing(registry.database("postgres")) as database:
        assert (
            rows(database, "SELECT * FROM v_tags"),
            rows(database, "SELECT * FROM repositories"),
        ) == before


@pytest.mark.parametrize("table", ["tags", "blobs", "alembic_version"])
def test_read_has_no_right_to_write_whatever_it_sets(registry: Place, table: str) -> None:
    with (
        closing(registry.database(registry.roles.read)) as database,
        pytest.raises(errors.NotPermitted, match="permission denied"),
    ):
        run(database, "SET TRANSACTION READ WRITE", f"DELETE FROM {table}")


# --- migrate ----------------------------------------------------------------------------------


def test_tables_of_a_later_revision_are_covered(
    registry: Place, images: tuple[str, str], layout: Path, tmp_path: Path
) -> None:
    later = tmp_path / "migrations"
    shutil.copytree(migrations_folder(), later)
    (later / "versions" / "9999_later.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        "revision, down_revision, branch_labels, depends_on = '9999', '0005', None, None\n"
        "def upgrade():\n"
        "    id = sa.Column('id', sa.BigInteger, primary_key=True)\n"
        "    op.create_table('later', id, sa.Column('n', sa.Text))\n"
        "    op.add_column('tags', sa.Column('later', sa.Text))\n"
        "    op.execute('CREATE VIEW v_later AS SELECT * FROM later')\n"
        "def downgrade():\n    pass\n".replace("'0005'", repr(SCHEMA_HEAD))
    )
    with closing(registry.database(registry.roles.migrate)) as database:
        schema.upgrade(database, str(later))
    with closing(registry.database(registry.roles.runtime)) as database:
        run(
            database,
            "INSERT INTO later (n) VALUES ('a'), ('b')",
            "UPDATE later SET n = 'c' WHERE id = 1",
            "DELETE FROM later WHERE id = 2",
            "UPDATE tags SET later = 'x'",
        )
    with closing(registry.database(registry.roles.read)) as database:
        assert rows(database, "SELECT id, n FROM v_later") == [(1, "c")]
    registry.refused(registry.roles.runtime, "DROP TABLE later")
    registry.refused(registry.roles.read, "DROP TABLE later")


def test_roles_of_a_registry_that_one_role_made_take_it_over(place: Place, layout: Path) -> None:
    make_layout(layout, 1)
    initialise(settings_of(place.home, place.url("postgres")))
    with closing(place.database("postgres")) as database:
        with database.transaction("test") as connection:
            connection.exec_driver_sql("GRANT ALL ON tags TO PUBLIC")
            connection.exec_driver_sql("CREATE TABLE notes_of_others (id integer)")
        apply_roles(database, place.roles)
    place.check(place.roles.runtime, "import", layout, "app")
    place.check(place.roles.read, "tag", "ls", "app")
    place.refused(place.roles.read, "SELECT * FROM notes_of_others")
    with closing(place.database(place.roles.migrate)) as database:
        assert rows(
            database,
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tableowner <> current_user",
        ) == [("notes_of_others",)]
        schema.downgrade(database, migrations_folder(), "0004")
        schema.upgrade(database, migrations_folder())
    place.check(place.roles.read, "tag", "ls", "app")


def test_owner_of_the_database_who_may_make_roles_can_do_it_without_being_a_superuser(
    place: Place, postgres: Postgres, layout: Path
) -> None:
    make_layout(layout, 1)
    admin = f"admin{uuid4().hex[:8]}"
    with superuser(postgres) as connection:
        connection.execute(f"CREATE ROLE {admin} LOGIN CREATEROLE")
        connection.execute(f"ALTER DATABASE {place.name} OWNER TO {admin}")
    try:
        initialise(settings_of(place.home, place.url(admin)))
        with closing(place.database(admin)) as database:
            apply_roles(database, place.roles)
            apply_roles(database, place.roles)
        place.check(place.roles.runtime, "import", layout, "app")
        place.check(place.roles.read, "tag", "ls", "app")
        place.refused(place.roles.runtime, "DROP TABLE tags")
    finally:
        with superuser(postgres) as connection:
            connection.execute(f"ALTER DATABASE {place.name} OWNER TO postgres")
        with closing(place.database("postgres")) as database, database.transaction("test") as of_schema:
            of_schema.exec_driver_sql(f"REASSIGN OWNED BY {admin} TO postgres")
            of_schema.exec_driver_sql(f"DROP OWNED BY {admin}")
        postgres.drop(place.name)
        with superuser(postgres) as connection:
            for role in (place.roles.runtime, place.roles.read, place.roles.migrate):
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
            connection.execute(f"DROP ROLE {admin}")


# --- the statements ---------------------------------------------------------------------------


RIGHTS = (
    "SELECT 'object', relname, CAST(CAST(relowner AS regrole) AS text), CAST(relacl AS text) FROM pg_class"
    " WHERE relnamespace = to_regnamespace('public') AND relkind IN ('r', 'v', 'S')",
    "SELECT 'schema', nspname, '', CAST(nspacl AS text) FROM pg_namespace WHERE nspname = 'public'",
    "SELECT 'later', CAST(defaclobjtype AS text), '', CAST(defaclacl AS text) FROM pg_default_acl",
    "SELECT 'database', '', '', CAST(datacl AS text) FROM pg_database WHERE datname = current_database()",
    "SELECT 'session', '', CAST(CAST(setrole AS regrole) AS text), CAST(setconfig AS text)"
    " FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = current_database()",
)


def rights(database: Database) -> list[tuple[Any, ...]]:
    """Return who may do what, as the catalog has it."""
    return sorted((row for of in RIGHTS for row in rows(database, of)), key=repr)


def test_run_again_they_change_nothing_and_undo_what_was_given_by_hand(registry: Place) -> None:
    with closing(registry.database("postgres")) as database:
        before = rights(database)
        statements = apply_roles(database, registry.roles)
        assert rights(database) == before
        assert not [
            statement for statement in statements if "OWNER" in statement or "CREATE ROLE" in statement
        ]
        with database.transaction("test") as connection:
            connection.exec_driver_sql("GRANT ALL ON tags TO PUBLIC")
            connection.exec_driver_sql("GRANT CREATE ON SCHEMA public TO PUBLIC")
            connection.exec_driver_sql(f"ALTER DATABASE {registry.name} SET search_path = pg_catalog")
        assert rights(database) != before
        with database.transaction("test") as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {registry.name} RESET search_path")
        apply_roles(database, registry.roles)
        assert rights(database) == before


def test_what_is_written_is_what_is_run(place: Place) -> None:
    names = ["--migrate", place.roles.migrate, "--runtime", place.roles.runtime, "--read", place.roles.read]
    written = place.check("postgres", "db", "roles", *names).stdout
    with closing(place.database("postgres")) as database:
        assert written.splitlines() == [
            f"{line};" for line in ("BEGIN", *role_statements(database, place.roles), "COMMIT")
        ]
        before = rights(database)
    with psycopg.connect(
        f"host={place.postgres.socket_folder} user=postgres dbname={place.name}", autocommit=True
    ) as by_hand:
        by_hand.execute(written.encode())
    with closing(place.database("postgres")) as database:
        by_psql = rights(database)
        assert by_psql != before
    told = place.check("postgres", "db", "roles", *names, "--apply", "--json")
    assert json.loads(told.stdout)["applied"]
    with closing(place.database("postgres")) as database:
        assert rights(database) == by_psql


def test_sessions_have_limits_and_a_pinned_search_path(registry: Place) -> None:
    for kind, role in zip(
        LIMITS, (registry.roles.migrate, registry.roles.runtime, registry.roles.read), strict=True
    ):
        with psycopg.connect(
            host=registry.postgres.socket_folder, user=role, dbname=registry.name
        ) as connection:
            for name, value in {**LIMITS[kind], "search_path": "public, pg_temp"}.items():
                found = connection.execute(f"SHOW {name}").fetchone()
                assert found is not None
                assert found[0].replace("1min", "60s").replace('"', "") == value, (kind, name)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a", "b", "a"), "three names that differ"),
        (("", "b", "c"), "printable"),
        (("a\n", "b", "c"), "printable"),
        (("a", "b\0", "c"), "printable"),
        (("a", "b", "\u202eb"), "printable"),
        (("a", "public", "c"), "PostgreSQL's own"),
        (("a", "none", "c"), "PostgreSQL's own"),
        (("pg_monitor", "b", "c"), "PostgreSQL's own"),
        (("a", "b", "ü" * 32), "longer than 63 bytes"),
    ],
)
def test_names_that_are_no_names_are_refused(names: tuple[str, str, str], said: str) -> None:
    with pytest.raises(errors.UsageError, match=said):
        Roles(*names)


def test_roles_that_no_grant_limits_are_refused(place: Place) -> None:
    with closing(place.database("postgres")) as database:
        with pytest.raises(errors.Refused, match="is a superuser"):
            role_statements(database, Roles("a", "postgres", "c"))
        apply_roles(database, place.roles)
        with database.transaction("test") as connection:
            connection.exec_driver_sql(
                "GRANT {} TO {}".format(*(quoted(n) for n in (place.roles.migrate, place.roles.read)))
            )
        with pytest.raises(errors.Refused, match="is a member of"):
            apply_roles(database, place.roles)
        with database.transaction("test") as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {place.name} OWNER TO {quoted(place.roles.runtime)}")
        with pytest.raises(errors.Refused, match="owns the database"):
            apply_roles(database, place.roles)
        with database.transaction("test") as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {place.name} OWNER TO postgres")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def test_sqlite_has_no_roles(tmp_path: Path, sqlite_template: Path) -> None:
    with (
        closing(Database(f"sqlite:///{sqlite_template}")) as database,
        pytest.raises(errors.UsageError, match="PostgreSQL's"),
    ):
        role_statements(database, Roles("a", "b", "c"))


# --- doctor -----------------------------------------------------------------------------------


def test_doctor_tells_what_a_role_may_do_that_it_need_not(registry: Place) -> None:
    def told(role: str) -> tuple[str, str]:
        with closing(registry.database(role)) as database:
            [check] = check_rights(database)
        return check.level, check.found.removeprefix(repr(role)).strip()

    def by_hand(statement: str) -> None:
        with closing(registry.database("postgres")) as database:
            run(database, statement)

    runtime, read = registry.roles.runtime, registry.roles.read
    assert told(runtime) == ("ok", "may read and write rows only")
    assert told(read) == ("ok", "may read rows only")
    assert told(registry.roles.migrate) == ("ok", "owns the tables: it may change the schema")
    assert told("postgres") == ("warning", "is a superuser: nothing holds back a mistake")
    by_hand("GRANT CREATE ON SCHEMA public TO PUBLIC")
    assert told(runtime) == ("warning", "every role may make objects in the schema 'public'")
    by_hand("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    by_hand(f"GRANT CREATE ON SCHEMA public TO {quoted(runtime)}")
    assert told(runtime) == ("warning", "owns no table, and may make objects in the schema 'public'")
    by_hand(f"ALTER TABLE tags OWNER TO {quoted(runtime)}")
    level, found = told(runtime)
    assert (level, found[:10]) == ("warning", "owns 1 of ")
