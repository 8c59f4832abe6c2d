"""Three roles on PostgreSQL: who changes the schema, who reads and writes rows, and who only reads.

``migrate`` owns the schema's objects. ``runtime`` and ``read`` get rights on rows, also on those of tables
that later revisions make (default privileges). What the statements say is the whole of what the roles may do
to the registry's objects: run again, after rights were added by hand, they put things back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import Database
from regmeta.errors import Refused, UsageError
from regmeta.models import VIEWS, Base

LONGEST_NAME_BYTES: Final = 63  # NAMEDATALEN - 1: PostgreSQL cuts longer ones, so two may become one
VERSION_TABLE: Final = "alembic_version"
_RESERVED: Final = ("public", "none")  # mean something else to GRANT, even in quotes

LIMITS: Final[dict[str, dict[str, str]]] = {
    "migrate": {
        "lock_timeout": "10s",
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "10min",
    },
    "runtime": {
        "lock_timeout": "10s",
        "statement_timeout": "60s",
        "idle_in_transaction_session_timeout": "60s",
    },
    "read": {
        "lock_timeout": "10s",
        "statement_timeout": "60s",
        "idle_in_transaction_session_timeout": "60s",
        "default_transaction_read_only": "on",
    },
}
"""What sessions of each role have until they say otherwise; connections of regmeta say so themselves."""

_PLACE: Final = sa.text(
    "SELECT current_database() AS database, current_schema() AS schema, current_user AS me,"
    " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,"
    " pg_get_userbyid(datdba) AS owner FROM pg_database WHERE datname = current_database()"
)
_ROLES: Final = sa.text("SELECT rolname, rolsuper FROM pg_roles WHERE rolname IN :names").bindparams(
    sa.bindparam("names", expanding=True)
)
_IS_MEMBER: Final = sa.text("SELECT pg_has_role(CAST(:one AS name), CAST(:other AS name), 'MEMBER')")
_OBJECTS: Final = sa.text(
    "SELECT c.relname, c.relkind, pg_get_userbyid(c.relowner) AS owner FROM pg_class c"
    " WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema()))"
    " AND c.relkind IN ('r', 'v') AND c.relname IN :names ORDER BY c.relkind, c.relname"
).bindparams(sa.bindparam("names", expanding=True))
_SEQUENCES: Final = sa.text(
    "SELECT s.relname FROM pg_class s JOIN pg_depend d ON d.objid = s.oid AND d.deptype IN ('a', 'i')"
    " AND d.classid = CAST('pg_class' AS regclass) AND d.refclassid = d.classid"
    " JOIN pg_class t ON t.oid = d.refobjid"
    " WHERE s.relkind = 'S' AND t.relname IN :names AND t.relnamespace = s.relnamespace"
    " AND t.relnamespace = to_regnamespace(quote_ident(current_schema()))"
    " ORDER BY s.relname"
).bindparams(sa.bindparam("names", expanding=True))


@dataclass(frozen=True, slots=True)
class Roles:
    """The names of the three roles.

    Raises:
        UsageError: a name is empty, too long, reserved or not printable, or one is given twice.
    """

    migrate: str
    runtime: str
    read: str

    def __post_init__(self) -> None:
        for name in astuple(self):
            if not name or not name.isprintable():
                raise UsageError(f"role {name!r}: give a name of printable characters")
            if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME_BYTES:
                raise UsageError(f"role {name!r}: longer than {LONGEST_NAME_BYTES} bytes")
            if name in _RESERVED or name.startswith("pg_"):
                raise UsageError(f"role {name!r}: the name is PostgreSQL's own")
        if len(set(astuple(self))) != 3:
            raise UsageError("roles: give three names that differ")


@dataclass(frozen=True, slots=True)
class _Place:
    """What there is already."""

    database: str
    schema: str
    is_superuser: bool
    is_member: bool
    missing: tuple[str, ...]
    others: tuple[tuple[str, str], ...]
    """Kind and name of what belongs to somebody else than ``migrate``."""
    tables: tuple[str, ...]
    views: tuple[str, ...]
    sequences: tuple[str, ...]
    has_version: bool


def role_statements(database: Database, roles: Roles) -> list[str]:
    """Return the SQL that makes *roles* what they should be, without semicolons; changes nothing.

    Raises:
        UsageError: the database is an SQLite file.
        Refused: a role is one that no grant can limit: a superuser, the database's owner, a member of
            ``migrate``.
    """
    if database.is_sqlite:
        raise UsageError("roles are PostgreSQL's: an SQLite file is guarded by its permissions")
    with database.read() as connection:
        return list(_statements(roles, _look(connection, roles)))


def apply_roles(database: Database, roles: Roles) -> list[str]:
    """Run what :func:`role_statements` returns, all or nothing, and return it. May be repeated.

    Raises:
        UsageError, Refused: as there.
        NotPermitted: who is connected may not do that.
    """
    statements = role_statements(database, roles)
    with database.schema_connection() as connection, connection.begin():
        for statement in statements:
            # The driver fills in what follows a percent sign, and names may have one.
            connection.exec_driver_sql(statement.replace("%", "%%"))
    return statements


def _look(connection: Connection, roles: Roles) -> _Place:
    place = connection.execute(_PLACE).one()
    if place.schema is None:
        raise Refused(f"{place.database}: no schema of the search path exists")
    known = {row.rolname: row.rolsuper for row in connection.execute(_ROLES, {"names": astuple(roles)})}
    for name in (roles.runtime, roles.read):
        if known.get(name):
            raise Refused(f"role {name!r} is a superuser: no grant limits it")
        if place.owner == name:
            raise Refused(f"role {name!r} owns the database, and so may change the schema: change its owner")
        if name in known and roles.migrate in known and _is_member(connection, name, roles.migrate):
            raise Refused(f"role {name!r} is a member of {roles.migrate!r}, and may do what that may")
    tables = [table.name for table in Base.metadata.tables.values()]
    names = [*tables, *VIEWS, VERSION_TABLE]
    objects = connection.execute(_OBJECTS, {"names": names}).all()
    kinds: dict[Any, str] = {"r": "TABLE", "v": "VIEW"}
    here = {row.relname for row in objects}
    return _Place(
        place.database,
        place.schema,
        place.is_superuser,
        place.me == roles.migrate
        or (roles.migrate in known and _is_member(connection, place.me, roles.migrate)),
        tuple(name for name in astuple(roles) if name not in known),
        tuple((kinds[row.relkind], row.relname) for row in objects if row.owner != roles.migrate),
        tuple(sorted(here.intersection(tables))),
        tuple(sorted(here.intersection(VIEWS))),
        tuple(connection.execute(_SEQUENCES, {"names": names}).scalars()),
        VERSION_TABLE in here,
    )


def _is_member(connection: Connection, one: str, other: str) -> bool:
    return bool(connection.execute(_IS_MEMBER, {"one": one, "other": other}).scalar())


def _statements(roles: Roles, place: _Place) -> Iterator[str]:
    migrate, runtime, read = map(_name, astuple(roles))
    database, schema = _name(place.database), _name(place.schema)
    for name in place.missing:
        yield f"CREATE ROLE {_name(name)} LOGIN"
    if not (place.is_superuser or place.is_member):
        # Only members may give away what they have, and say what the role's new tables grant.
        yield f"GRANT {migrate} TO CURRENT_USER"
    yield f"REVOKE CREATE, TEMPORARY ON DATABASE {database} FROM PUBLIC, {runtime}, {read}"
    yield f"GRANT CONNECT ON DATABASE {database} TO {migrate}, {runtime}, {read}"
    yield f"GRANT CREATE, TEMPORARY ON DATABASE {database} TO {migrate}"  # CREATE: extensions
    yield f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC, {runtime}, {read}"
    yield f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {migrate}"
    yield f"GRANT USAGE ON SCHEMA {schema} TO {runtime}, {read}"
    for kind, name in place.others:
        yield f"ALTER {kind} {schema}.{_name(name)} OWNER TO {migrate}"
    yield from _rights(place, schema, runtime, read)
    yield from _rights_of_later_tables(schema, migrate, runtime, read)
    for role, limits in zip((migrate, runtime, read), LIMITS.values(), strict=True):
        yield f"ALTER ROLE {role} IN DATABASE {database} SET search_path = {schema}, pg_temp"
        for name, value in limits.items():
            yield f"ALTER ROLE {role} IN DATABASE {database} SET {name} = '{value}'"


def _rights(place: _Place, schema: str, runtime: str, read: str) -> Iterator[str]:
    """Take all rights on what there is, and give those that are meant."""
    version = (VERSION_TABLE,) if place.has_version else ()
    tables = _listed(schema, place.tables)
    readable = _listed(schema, (*place.tables, *place.views, *version))
    sequences = _listed(schema, place.sequences)
    if readable:
        yield f"REVOKE ALL ON {readable} FROM PUBLIC, {runtime}, {read}"
        yield f"GRANT SELECT ON {readable} TO {runtime}, {read}"
    if tables:
        yield f"GRANT INSERT, UPDATE, DELETE ON {tables} TO {runtime}"
    if sequences:
        yield f"REVOKE ALL ON SEQUENCE {sequences} FROM PUBLIC, {runtime}, {read}"
        yield f"GRANT USAGE, SELECT ON SEQUENCE {sequences} TO {runtime}"
        yield f"GRANT SELECT ON SEQUENCE {sequences} TO {read}"


def _rights_of_later_tables(schema: str, migrate: str, runtime: str, read: str) -> Iterator[str]:
    later = f"ALTER DEFAULT PRIVILEGES FOR ROLE {migrate} IN SCHEMA {schema} GRANT"
    yield f"{later} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {runtime}"
    yield f"{later} USAGE, SELECT ON SEQUENCES TO {runtime}"
    yield f"{later} SELECT ON TABLES TO {read}"
    yield f"{later} SELECT ON SEQUENCES TO {read}"


def _listed(schema: str, names: Sequence[str]) -> str:
    return ", ".join(f"{schema}.{_name(name)}" for name in names)


def _name(name: str) -> str:
    """Return a name as SQL has it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'
