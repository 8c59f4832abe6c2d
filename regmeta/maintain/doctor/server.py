"""What a server of PostgreSQL does beside our statements, and what it lets us do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import Database
from regmeta.maintain.doctor.check import Check, ok, problem, warning
from regmeta.models import Base
from regmeta.query.replication import ReplicaLag

LONG_TRANSACTION: Final = timedelta(hours=1)
LONG_IDLE: Final = timedelta(minutes=5)
LONG_LAG_S: Final = 60.0
KEPT_LOG_BYTES: Final = 2**30
DEAD_ROWS: Final = 50_000  # of one table, and more than are alive: nobody has vacuumed it for long

_ROLES_ADVICE: Final = "give regmeta roles of its own: 'regmeta db roles'"
_TABLES: Final = tuple(table.name for table in Base.metadata.tables.values())
_NAMES: Final[sa.BindParameter[Any]] = sa.bindparam("names", value=_TABLES, expanding=True)

_EXTENSION: Final = sa.text("SELECT extversion FROM pg_extension WHERE extname = 'pg_trgm'")
_RIGHTS: Final = sa.text(
    "SELECT current_user AS me, current_schema() AS schema,"
    " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,"
    " has_schema_privilege(current_schema(), 'CREATE') AS may_create,"
    " EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = 0 AND a.privilege_type = 'CREATE')"
    " AS all_may_create,"
    " count(*) AS tables,"
    " count(*) FILTER (WHERE pg_has_role(c.relowner, 'USAGE')) AS owned,"
    " has_table_privilege('tags', 'INSERT') AS may_write"
    " FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind = 'r'"
    " AND c.relname IN :names WHERE n.nspname = current_schema() GROUP BY n.nspacl"
).bindparams(_NAMES)
_CONNECTIONS: Final = sa.text(
    "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS taken,"
    " CAST(current_setting('max_connections') AS integer)"
    " - CAST(current_setting('superuser_reserved_connections') AS integer) AS places"
)
_AUTOVACUUM: Final = sa.text(
    "SELECT current_setting('autovacuum') AS autovacuum, current_setting('track_counts') AS track_counts"
)
_DEAD_ROWS: Final = sa.text(
    "SELECT (SELECT string_agg(CAST(CAST(c.oid AS regclass) AS text), ', ')"
    " FROM pg_class c, unnest(c.reloptions) o WHERE c.relname IN :names"
    " AND c.relnamespace = to_regnamespace(quote_ident(current_schema()))"
    " AND o IN ('autovacuum_enabled=false', 'autovacuum_enabled=off', 'autovacuum_enabled=0')) AS left_out,"
    " (SELECT string_agg(relname || ' has ' || n_dead_tup, ', ') FROM pg_stat_user_tables"
    " WHERE relname IN :names AND schemaname = current_schema()"
    " AND n_dead_tup > :dead AND n_dead_tup > n_live_tup) AS bloated"
).bindparams(_NAMES, sa.bindparam("dead", DEAD_ROWS))
_TRANSACTIONS: Final = sa.text(
    "SELECT pid, usename, application_name, state,"
    " CAST(extract(epoch FROM clock_timestamp() - xact_start) AS bigint) AS old_s,"
    " CAST(extract(epoch FROM clock_timestamp() - state_change) AS bigint) AS idle_s"
    " FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = current_database()"
    " AND xact_start IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 20"
)
_SEES_ALL: Final = sa.text("SELECT pg_has_role('pg_read_all_stats', 'USAGE')")
_PREPARED: Final = sa.text(
    "SELECT gid, CAST(extract(epoch FROM clock_timestamp() - prepared) AS bigint) AS old_s"
    " FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared LIMIT 1"
)
_SLOTS: Final = sa.text(
    "SELECT slot_name, wal_status,"
    " CAST(coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0) AS bigint) AS kept"
    " FROM pg_replication_slots WHERE NOT active ORDER BY slot_name"
)
_IS_STANDBY: Final = sa.text("SELECT pg_is_in_recovery()")
_PROCESS: Final = sa.text("SELECT pg_backend_pid()")


def check_extension(database: Database) -> Iterator[Check]:
    """Look whether texts can be searched by parts."""
    with database.read() as connection:
        found = connection.execute(_EXTENSION).scalar()
    if found is None:
        advice = "as who owns the database: CREATE EXTENSION pg_trgm; then 'regmeta db check'"
        yield problem("extension", "pg_trgm is not there: searches read all rows", advice)
    else:
        yield ok("extension", f"pg_trgm {found}")


def check_rights(database: Database) -> Iterator[Check]:
    """Look what our role may do that it need not."""
    with database.read() as connection:
        row = connection.execute(_RIGHTS).one()
    me = repr(row.me)
    if row.is_superuser:
        yield warning("rights", f"{me} is a superuser: nothing holds back a mistake", _ROLES_ADVICE)
    elif row.all_may_create:
        found = f"every role may make objects in the schema {row.schema!r}"
        yield warning(
            "rights", found, f"REVOKE CREATE ON SCHEMA {row.schema} FROM PUBLIC, or {_ROLES_ADVICE}"
        )
    elif row.owned == row.tables:
        yield ok("rights", f"{me} owns the tables: it may change the schema")
    elif row.owned:
        found = f"{me} owns {row.owned} of {row.tables} tables: neither it nor another can change the schema"
        yield warning("rights", found, "let one role own all: 'regmeta db roles'")
    elif row.may_create:
        found = f"{me} owns no table, and may make objects in the schema {row.schema!r}"
        yield warning("rights", found, "run 'regmeta db roles' again")
    else:
        yield ok("rights", f"{me} may {'read and write' if row.may_write else 'read'} rows only")


def check_connections(database: Database, pool: int) -> Iterator[Check]:
    """Look whether there is room for the connections that one process may open, *pool* at most."""
    with database.read() as connection:
        row = connection.execute(_CONNECTIONS).one()
    found = f"{row.taken} of {row.places} are taken; a process of ours opens {pool} at most"
    if row.places - row.taken < pool:
        advice = "raise max_connections, make postgresql.pool_size smaller, or put PgBouncer between"
        yield warning("connections", found, advice)
    else:
        yield ok("connections", found)


def check_autovacuum(database: Database) -> Iterator[Check]:
    """Look whether dead rows are cleared at all."""
    with database.read() as connection:
        row = connection.execute(_AUTOVACUUM).one()
    off = [name for name in ("autovacuum", "track_counts") if getattr(row, name) != "on"]
    if off:
        found = f"{' and '.join(off)} off: dead rows stay, and every query reads past them"
        yield problem("autovacuum", found, f"set {off[0]} = on in postgresql.conf and reload")
    else:
        yield ok("autovacuum", "on")


def check_dead_rows(database: Database) -> Iterator[Check]:
    """Look for tables in which dead rows pile up; queues (``gc_tasks``) are rows that come and go."""
    with database.read() as connection:
        row = connection.execute(_DEAD_ROWS).one()
    if row.left_out:
        advice = "ALTER TABLE … RESET (autovacuum_enabled)"
        yield warning("dead rows", f"autovacuum is switched off for {row.left_out}", advice)
    elif row.bloated:
        advice = "VACUUM them; if they grow again look for old transactions, or let autovacuum do more"
        yield warning("dead rows", row.bloated, advice)
    else:
        yield ok("dead rows", "fewer than live ones")


def check_transactions(database: Database) -> Iterator[Check]:
    """Look for transactions that keep every dead row since their start."""
    with database.read() as connection:
        rows = connection.execute(_TRANSACTIONS).all()
        prepared = connection.execute(_PREPARED).first()
        sees_all = connection.execute(_SEES_ALL).scalar()
    if prepared is not None and prepared.old_s > LONG_TRANSACTION.total_seconds():
        found = f"the prepared transaction {prepared.gid!r} is {_age(prepared.old_s)} old"
        yield warning("old transactions", found, f"ROLLBACK PREPARED '{prepared.gid}', or COMMIT PREPARED it")
        return
    long = next(filter(_is_long, rows), None)
    if long is not None:
        found = (
            f"process {long.pid} of {long.usename!r} ({long.application_name or 'unnamed'}):"
            f" {long.state}, {_age(long.old_s)} old"
        )
        advice = f"nothing that died since is cleared: SELECT pg_terminate_backend({long.pid})"
        yield warning("old transactions", found, advice)
    else:
        yield ok(
            "old transactions", "none" if sees_all else "none of this role (pg_read_all_stats sees others)"
        )


def _is_long(row: Any) -> bool:
    if row.old_s > LONG_TRANSACTION.total_seconds():
        return True
    return str(row.state).startswith("idle in") and row.idle_s > LONG_IDLE.total_seconds()


def check_slots(database: Database) -> Iterator[Check]:
    """Look for replicas that are gone and for which the server keeps its log."""
    with database.read() as connection:
        if connection.execute(_IS_STANDBY).scalar():
            return
        rows = connection.execute(_SLOTS).all()
    bad = [row for row in rows if row.kept > KEPT_LOG_BYTES or row.wal_status == "lost"]
    if bad:
        named = ", ".join(f"{row.slot_name} ({row.wal_status}, {row.kept >> 20} MiB)" for row in bad)
        advice = f"start who reads it, or SELECT pg_drop_replication_slot('{bad[0].slot_name}')"
        yield warning("replication slots", f"log is kept for nobody: {named}", advice)
    else:
        yield ok("replication slots", "no log is kept for nobody")


def check_pooler(database: Database, pooler: str) -> Iterator[Check]:
    """Look whether a pooler stands between that the settings do not know of; *pooler* is theirs."""
    with database.read() as connection:
        is_between = _is_pooled(connection)
    if is_between and pooler == "none":
        yield warning(
            "pooler",
            "one stands between: settings of a session and prepared statements may be lost or another's",
            'set pooler = "transaction" in [postgresql], or connect to the server itself',
        )
    else:
        yield ok("pooler", "one stands between, as the settings say" if is_between else "none")


def _is_pooled(connection: Connection) -> bool:
    """Whether the process that greeted us is another than the one that answers."""
    driver: Any = connection.connection.dbapi_connection
    return bool(driver.info.backend_pid != connection.execute(_PROCESS).scalar())


def check_replica(lag: ReplicaLag) -> Iterator[Check]:
    """Look how far the replica is behind."""
    behind = "nobody knows how long" if lag.behind_s is None else f"{_age(lag.behind_s)}"
    found = f"{behind} and {lag.missing_bytes} bytes behind" if lag.missing_bytes else "shows all"
    if lag.is_paused:
        yield warning("replica", f"replay is paused; {found}", "there: SELECT pg_wal_replay_resume()")
    elif not lag.is_receiving:
        advice = "see its log and primary_conninfo; if it is fed from an archive, see that"
        yield warning("replica", f"receives nothing; {found}", advice)
    elif lag.missing_bytes and (lag.behind_s is None or lag.behind_s > LONG_LAG_S):
        advice = "see its disk and CPU, and reads that hold replay up (max_standby_streaming_delay)"
        yield warning("replica", found, advice)
    else:
        yield ok("replica", found)


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
