"""What a registry says of what was taken over, but for what no two runs have in common."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from tests.support.derived import text
from tests.support.logical_dump import logical_dump

_RECORDS: Final = {
    "adoptions": "SELECT a.kind, a.prefix, a.actor, a.completed_at IS NOT NULL, a.finalized_at IS NOT NULL"
    " FROM adoptions a",
    "adoption_repositories": "SELECT r.source, r.destination, r.fingerprint, r.cursor, r.state, r.tags,"
    " r.manifests FROM adoption_repositories r",
    "adoption_defects": "SELECT r.source, d.kind, d.subject, d.image, d.detail, d.outcome,"
    " d.seen_in = r.passes FROM adoption_defects d JOIN adoption_repositories r ON r.id = d.repository_id",
}
_TIMES: Final = {
    "started": "SELECT r.name AS repository, t.name, t.manifest_digest, t.started_at, t.started_by"
    " FROM tags t JOIN repositories r ON r.id = t.repository_id WHERE t.ended_at IS NULL",
    "pushed": "SELECT r.name AS repository, m.digest, m.pushed_at, m.pushed_by FROM manifests m"
    " JOIN repositories r ON r.id = m.repository_id WHERE m.deleted_at IS NULL",
}

Rows = dict[str, list[tuple[Any, ...]]]


def adoption_records(database: Database) -> Rows:
    """Return how far each repository is and what was wrong with it; nothing, of an older release."""
    with database.read() as connection:
        if not sa.inspect(connection).has_table("adoptions"):
            return {}
    return _selected(database, _RECORDS)


def adopted_dump(database: Database) -> Rows:
    """Return all that two registries which took over the same storage say alike: names, times and actors."""
    found = logical_dump(database)
    found["repositories"] = [row[:2] for row in found["repositories"]]  # no revisions, no times
    return {**found, **adoption_records(database), **_selected(database, _TIMES)}


def _selected(database: Database, queries: dict[str, str]) -> Rows:
    with database.read() as connection:
        return {
            table: sorted(
                (tuple(map(_plain, row)) for row in connection.execute(sa.text(query))),
                key=repr,
            )
            for table, query in queries.items()
        }


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, memoryview)):
        return text(bytes(value))
    return value
