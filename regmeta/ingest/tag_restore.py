"""Putting a tag back to what it was, while the history window still holds its image."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.errors import NotFound
from regmeta.ingest.plan import CommitResult, TagChange
from regmeta.ingest.revive import revive
from regmeta.ingest.statements import Change
from regmeta.ingest.tag_moves import move_tags
from regmeta.ingest.tags import change_tags
from regmeta.ingest.unit_of_work import Writer
from regmeta.models import Manifest, Tag
from regmeta.oci import names
from regmeta.oci.digest import Digest

_VALUES: Final = (
    sa.select(Tag.manifest_digest, Tag.started_at, Tag.ended_at)
    .where(Tag.repository_id == sa.bindparam("repository"), Tag.name == sa.bindparam("tag"))
    .order_by(Tag.started_at.desc(), Tag.id.desc())
)
_MANIFEST: Final = sa.select(Manifest.id, Manifest.deleted_at).where(
    Manifest.repository_id == sa.bindparam("repository"), Manifest.digest == sa.bindparam("of")
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which value of its history a tag is to have: at a time, or a digest, or the last one before now's."""

    at: datetime | None = None
    to: Digest | None = None


def restore_tag(writer: Writer, repository: str, tag: str, wanted: Wanted) -> CommitResult:
    """Point a tag at what it pointed at before; a manifest that was deleted comes back with all it lists.

    What it was is read under the repository's lock, so others may move the tag meanwhile: one after the
    other. A tag that has the value already is left as it is. With neither a time nor a digest, a second run
    goes back to where the first one came from.

    Raises:
        NotFound: no such repository; the tag never had such a value; or its image was collected, and then
            the digest is named.
        ImmutableTag: the tag is there, points elsewhere, and may not be moved.
        RepositoryNotActive: the repository is being removed.
    """
    names.tag_name(tag)
    where = f"{repository}:{tag}"

    def restore(connection: Connection, change: Change, of: tuple[int, str]) -> list[TagChange]:
        values = connection.execute(_VALUES, {"repository": of[0], "tag": tag}).all()
        value: Any = _chosen(values, wanted, where)
        digest: Digest = value.manifest_digest
        found: Any = connection.execute(_MANIFEST, {"repository": of[0], "of": digest}).first()
        if found is None:
            until = "" if value.ended_at is None else f" until {value.ended_at:%Y-%m-%d %H:%M:%SZ}"
            raise NotFound(
                f"{where}: was {digest}{until}; the time for which history is kept is over, and the image"
                " was collected: import it again"
            )
        # First: what refuses the tag refuses the rest of the transaction.
        changes = move_tags(connection, change, of, {tag: digest}, {digest: found.id}, writer.tag_terms)
        if found.deleted_at is not None:
            revive(connection, change, of[0], [found.id], writer.lifetimes.garbage)
        return changes

    return change_tags(writer, repository, f"restore {where}", restore)


def _chosen(values: Any, wanted: Wanted, where: str) -> Any:
    """Return the interval of the wanted value, the newest that has it; *values* are the newest first."""
    if not values:
        raise NotFound(f"{where}: no such tag, now or before")
    if wanted.to is not None:
        return _first(
            (value for value in values if value.manifest_digest == wanted.to), where, str(wanted.to)
        )
    if wanted.at is not None:
        at = wanted.at
        covering = (v for v in values if v.started_at <= at and (v.ended_at is None or at < v.ended_at))
        return _first(covering, where, f"anything at {at:%Y-%m-%d %H:%M:%SZ}")
    now = values[0].manifest_digest if values[0].ended_at is None else None
    return _first((value for value in values if value.manifest_digest != now), where, "anything else")


def _first(values: Any, where: str, what: str) -> Any:
    found = next(iter(values), None)
    if found is None:
        raise NotFound(f"{where}: it never was {what}")
    return found
