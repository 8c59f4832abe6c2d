"""How far a replica's rows are behind the primary's."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.db import Database

LOOKS: Final = 5
PAUSE_S: Final = 0.05  # between looks: what an idle primary writes by itself comes within it

_PRIMARY: Final = sa.text("SELECT CAST(pg_current_wal_lsn() AS text)")
_INSTANCE: Final = sa.text(
    "SELECT pg_is_in_recovery() AS is_standby,"
    " CAST(extract(epoch FROM pg_postmaster_start_time()) AS text) AS started,"
    " (SELECT system_identifier FROM pg_control_system()) AS cluster"
)
_STANDBY: Final = sa.text(
    "SELECT CAST(pg_wal_lsn_diff(CAST(:at AS pg_lsn), pg_last_wal_replay_lsn()) AS bigint) AS bytes,"
    " CAST(floor(extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000) AS bigint) AS shown_us,"
    " EXISTS (SELECT FROM pg_stat_wal_receiver) AS is_receiving,"
    " CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS is_paused"
)
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Instance:
    """One running server."""

    cluster: int
    started: str
    is_standby: bool

    def is_same(self, other: Instance) -> bool:
        """Whether it is the same process. A promoted copy has the cluster's number, and other rows."""
        return (self.cluster, self.started) == (other.cluster, other.started)


@dataclass(frozen=True, slots=True)
class ReplicaLag:
    """What a replica has yet to show of what was committed when it was asked for."""

    missing_bytes: int
    """Of the write-ahead log; 0 where the replica shows all."""
    behind_s: float | None
    """Age of the last change that it shows, by the primary's clock; 0 if it shows all, None if none."""
    is_receiving: bool
    """Whether it is connected to a server that sends; one that is fed from an archive is not."""
    is_paused: bool


def instance_of(connection: Connection) -> Instance:
    """Return which server of PostgreSQL a connection has reached."""
    row = connection.execute(_INSTANCE).one()
    return Instance(row.cluster, row.started, row.is_standby)


def replica_lag(primary: Database, replica: Database) -> ReplicaLag:
    """Compare a replica with its primary. Waits up to a quarter of a second for it to come up.

    Raises:
        DatabaseUnavailable: one of them does not answer, or the primary is a standby itself.
    """
    with primary.read() as connection:
        now, at = db.clock(connection), connection.execute(_PRIMARY).scalar_one()
    for look in range(LOOKS):
        if look:
            time.sleep(PAUSE_S)
        with replica.read() as connection:
            if not instance_of(connection).is_standby:
                return ReplicaLag(0, 0.0, is_receiving=True, is_paused=False)
            row = connection.execute(_STANDBY, {"at": at}).one()
        if row.bytes <= 0:
            break
    return _lag(row, now)


def _lag(row: Any, now: datetime) -> ReplicaLag:
    missing = max(0, int(row.bytes or 0))
    behind_s: float | None = 0.0
    if missing:
        shown = None if row.shown_us is None else _EPOCH + timedelta(microseconds=row.shown_us)
        behind_s = None if shown is None else max(0.0, (now - shown).total_seconds())
    return ReplicaLag(missing, behind_s, row.is_receiving, row.is_paused)
