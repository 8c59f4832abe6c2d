"""What keeps a manifest or a blob, as conditions on its row: the collector and ``verify`` must mean the same.

Leases and the history of tags keep by time, and are looked at where they are. So do policies, which these
conditions do not know: what only a policy keeps (an untagged referrer without its subject, an untagged
manifest) has a task, and each time that it is due the collector puts it off. So it is no forgotten garbage
for ``verify`` and ``reconcile``, and it goes soon after its policy has.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from regmeta.models import Blob, GcTask, IndexMember, Manifest, Repository, Tag
from regmeta.query.collection import IS_NOT_NAMED

_subject = aliased(Manifest)

IS_TAGGED: Final = sa.exists().where(Tag.manifest_id == Manifest.id, Tag.ended_at.is_(None))
IS_LISTED: Final = sa.exists().where(IndexMember.child_id == Manifest.id)
HAS_SUBJECT: Final = sa.exists().where(
    _subject.repository_id == Manifest.repository_id,
    _subject.digest == Manifest.subject_digest,
    # A referrer that was deleted itself goes before its subject.
    Manifest.deleted_at.is_(None),
)
_KEEPERS: Final = (IS_TAGGED, IS_LISTED, HAS_SUBJECT)
IS_KEPT: Final = sa.or_(*_KEEPERS)
"""Of a manifest: a live tag names it, an index lists it, or what it refers to is here."""
# Not "not any": PostgreSQL makes joins of these.
IS_NOT_KEPT: Final = sa.and_(*(~keeper for keeper in _KEEPERS))

# Garbage that no task will collect. What is leased still is not garbage yet; bind ``now``.
MANIFEST_IS_FORGOTTEN: Final = sa.and_(
    Manifest.lease_until < sa.bindparam("now"),
    IS_NOT_KEPT,
    ~sa.exists().where(GcTask.kind == "manifest", GcTask.target_id == Manifest.id),
)
BLOB_IS_FORGOTTEN: Final = sa.and_(
    Blob.lease_until < sa.bindparam("now"),
    IS_NOT_NAMED,
    ~sa.exists().where(GcTask.kind == "blob", GcTask.target_id == Blob.id),
)
REPOSITORY_IS_FORGOTTEN: Final = sa.and_(
    sa.or_(
        Repository.state == "purging",
        sa.and_(Repository.state == "deleted", Repository.deleted_at.is_not(None)),
    ),
    ~sa.exists().where(GcTask.kind == "repository", GcTask.target_id == Repository.id),
)
"""Of a repository: it was deleted, it was not emptied since, and no task will do that."""
