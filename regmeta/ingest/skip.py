"""May an image be skipped? The answer comes from the rows that readers see.

Without a write it is yes only where a live tag of the repository reaches the digest: what a live tag
reaches is not collected. A tag reaches what it names, what an index that it reaches lists, and what refers to
a manifest that it reaches: the collector keeps a referrer for as long as its subject is there. Anything else
goes through an ingest, which copies nothing that is here but renews the leases first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from regmeta.db import Database
from regmeta.ingest.reserve import chunks
from regmeta.models import Blob, IndexMember, Manifest, Repository, Tag
from regmeta.oci.digest import Digest

ANY_DAMAGED: Final = sa.exists().where(Blob.state == "damaged")
_ANY_ABSENT: Final = sa.exists().where(
    IndexMember.absence.is_not(None),
    IndexMember.index_id == Manifest.id,
    Manifest.repository_id == Repository.id,
)
_TAGS: Final = (
    sa.select(Tag.name, Tag.manifest_digest, ANY_DAMAGED, _ANY_ABSENT)
    .join(Repository, Repository.id == Tag.repository_id)
    .where(
        Repository.name == sa.bindparam("repository"),
        Repository.state == "active",
        Tag.name.in_(sa.bindparam("names", expanding=True)),
        Tag.ended_at.is_(None),
    )
)


def _climb() -> Any:
    start = (
        sa.select(Manifest.digest.label("root"), Manifest.id.label("id"))
        .join(Repository, Repository.id == Manifest.repository_id)
        .where(
            Repository.name == sa.bindparam("repository"),
            Repository.state == "active",
            Manifest.digest.in_(sa.bindparam("digests", expanding=True)),
        )
        .cte("above", recursive=True)
    )
    # A recursive part may name itself once, and there are two ways up: the first row of `way` is to the
    # indexes that list a manifest, the second to what it refers to. A referrer that was deleted is not kept.
    way = sa.values(sa.column("number", sa.Integer), name="way").data([(0,), (1,)]).cte("way")
    referrer, subject = aliased(Manifest), aliased(Manifest)
    return start.union(
        sa.select(start.c.root, sa.func.coalesce(IndexMember.index_id, subject.id))
        .select_from(start)
        .join(way, sa.true())
        .outerjoin(IndexMember, sa.and_(way.c.number == 0, IndexMember.child_id == start.c.id))
        .outerjoin(
            referrer,
            sa.and_(way.c.number == 1, referrer.id == start.c.id, referrer.deleted_at.is_(None)),
        )
        .outerjoin(
            subject,
            sa.and_(
                subject.repository_id == referrer.repository_id, subject.digest == referrer.subject_digest
            ),
        )
        .where(sa.or_(IndexMember.index_id.is_not(None), subject.id.is_not(None)))
    )


def _descend() -> Any:
    start = (
        sa.select(Manifest.digest.label("root"), Manifest.id.label("id"))
        .join(Repository, Repository.id == Manifest.repository_id)
        .where(
            Repository.name == sa.bindparam("repository"),
            Manifest.digest.in_(sa.bindparam("digests", expanding=True)),
        )
        .cte("below", recursive=True)
    )
    return start.union(
        sa.select(start.c.root, IndexMember.child_id).join(
            start, sa.and_(IndexMember.index_id == start.c.id, IndexMember.child_id.is_not(None))
        )
    )


_above = _climb()
_REACHED: Final = (
    sa.select(_above.c.root, ANY_DAMAGED)
    .join(Tag, sa.and_(Tag.manifest_id == _above.c.id, Tag.ended_at.is_(None)))
    .distinct()
)
_below = _descend()
_INCOMPLETE: Final = (
    sa.select(_below.c.root)
    .join(IndexMember, IndexMember.index_id == _below.c.id)
    .where(IndexMember.absence.is_not(None))
    .distinct()
)


def skippable(
    database: Database,
    repository: str,
    wanted: Iterable[tuple[str | None, Digest]],
    *,
    sparse: bool = False,
) -> set[tuple[str | None, Digest]]:
    """Return which of *wanted* (tag or none, digest) are in the repository, whole, and safe to rely on.

    One statement for up to 500 tags. A repository or manifest that is not there means no. An image with
    absent children is whole only for a *sparse* caller; while any blob is damaged nothing is skipped, since
    an ingest heals it.

    Raises:
        DatabaseUnavailable: it could not be found out; that is never an answer.
    """
    items = list(wanted)
    with database.read() as connection:
        found = _tagged(connection, repository, [i for i in items if i[0] is not None], sparse)
        found |= _reached(connection, repository, [i for i in items if i[0] is None], sparse)
    return found


def _tagged(
    connection: Connection,
    repository: str,
    items: Sequence[tuple[str | None, Digest]],
    sparse: bool,
) -> set[tuple[str | None, Digest]]:
    found: set[tuple[str | None, Digest]] = set()
    for some in chunks(items):
        names = [name for name, _ in some]
        rows = connection.execute(_TAGS, {"repository": repository, "names": names}).all()
        if rows and rows[0][2]:
            continue
        here = set(some).intersection((name, digest) for name, digest, _, _ in rows)
        if here and rows[0][3] and not sparse:
            incomplete = _incomplete(connection, repository, {digest for _, digest in here})
            here = {(name, digest) for name, digest in here if digest not in incomplete}
        found |= here
    return found


def _reached(
    connection: Connection,
    repository: str,
    items: Sequence[tuple[str | None, Digest]],
    sparse: bool,
) -> set[tuple[str | None, Digest]]:
    found: set[tuple[str | None, Digest]] = set()
    for some in chunks(items):
        digests = {digest for _, digest in some}
        rows = connection.execute(_REACHED, {"repository": repository, "digests": digests}).all()
        here = {digest for digest, damaged in rows if not damaged}
        if here and not sparse:
            here -= _incomplete(connection, repository, here)
        found |= {(None, digest) for digest in here}
    return found


def _incomplete(connection: Connection, repository: str, digests: Iterable[Digest]) -> set[Digest]:
    parameters = {"repository": repository, "digests": list(digests)}
    return set(connection.execute(_INCOMPLETE, parameters).scalars())
