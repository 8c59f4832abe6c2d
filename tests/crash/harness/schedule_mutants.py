"""Breaks of the protocol that only an unlucky order of several processes brings to light.

Each is applied in a worker of ``schedules``, and goes with it.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

import sqlalchemy as sa

from regmeta import db
from regmeta.ingest import commit, reserve
from regmeta.ingest.statements import Change, LockedRepository
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.collect import manifests, run, tasks
from regmeta.maintain.collect.manifests import Collected
from regmeta.maintain.delete import manifest as deleting
from regmeta.models import Manifest, Repository
from regmeta.oci.digest import Digest

_NO_UUID: Final = "0" * 32


def without_fence() -> None:
    """Let commits drop their intents, and not look at whether they were still there."""
    commit._fence = lambda context: None


def digest_named_keys() -> None:
    """Give a digest the same key each time."""

    def new_key(digest: Digest) -> str:
        return f"{digest.algorithm}/{digest.hex[:2]}/{digest.hex}.{_NO_UUID}"

    setattr(reserve, "new_key", new_key)  # noqa: B010


def judged_outside() -> None:
    """Let the collector choose in one transaction and delete in another, with foreign keys off (SQLite)."""
    db.PRAGMAS = tuple(  # type: ignore[misc, assignment]
        pragma.replace("foreign_keys=ON", "foreign_keys=OFF") for pragma in db.PRAGMAS
    )

    def manifest_tasks(self: Any, repository_id: int) -> Collected:
        writer: Writer = self._writer
        with writer.database.transaction("judge") as connection:
            change = Change(db.stamp(connection), writer.actor, uuid4())
            claimed = tasks.claim_manifests(connection, repository_id, change.stamp.now)
            judged = manifests._judge(connection, claimed, (repository_id, ""), change.stamp.now, self.terms)
            tasks.settle(connection, tasks.of_targets(claimed, set(claimed) - judged.put_off.keys()), {})
            dead = {manifest: row.digest for manifest, row in judged.dead.items()}
        blobs = 0
        if dead:
            with writer.database.transaction("collect") as connection:
                change = Change(db.stamp(connection), writer.actor, uuid4())
                blobs = manifests.delete_manifests(connection, change, repository_id, dead, writer.lifetimes)
        return Collected(len(claimed), len(dead), blobs)

    setattr(run._Run, "_manifest_tasks", manifest_tasks)  # noqa: B010


def listed_before_the_lock() -> None:
    """Let a delete by digest look for an index that lists it before it has the repository's lock."""
    check, delete = deleting._check_not_listed, deleting.delete_manifest
    find = (
        sa.select(Repository.id, Manifest.id.label("manifest_id"))
        .join(Manifest, Manifest.repository_id == Repository.id)
        .where(Repository.name == sa.bindparam("name"), Manifest.digest == sa.bindparam("of"))
    )

    def looking_first(writer: Writer, repository: str, digest: Digest, **options: Any) -> Any:
        with writer.database.read() as connection:
            row = connection.execute(find, {"name": repository, "of": digest}).first()
            if row is not None:
                of = LockedRepository(row.id, repository, "active", None)
                check(connection, of, digest, row.manifest_id)
        return delete(writer, repository, digest, **options)

    setattr(deleting, "_check_not_listed", lambda *_: None)  # noqa: B010
    setattr(deleting, "delete_manifest", looking_first)  # noqa: B010
