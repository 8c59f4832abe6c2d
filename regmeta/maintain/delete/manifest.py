"""Deleting a manifest by its digest: all its tags end, and no reader finds it any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from regmeta.errors import NotFound, Refused
from regmeta.ingest.one_change import change_repository
from regmeta.ingest.plan import CommitResult
from regmeta.ingest.reserve import chunks
from regmeta.ingest.revive import hide
from regmeta.ingest.statements import Change, LockedRepository
from regmeta.ingest.tag_moves import end_tags
from regmeta.ingest.tag_sets import later_than_all
from regmeta.ingest.unit_of_work import Writer
from regmeta.models import IndexMember, Manifest, Tag
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest

_index = aliased(Manifest)
_root: Final[Any] = sa.bindparam("root")
_ids: Final[Any] = sa.bindparam("ids", expanding=True)


def _below() -> Any:
    """Return what a manifest reaches, itself included, of what is here."""
    start = sa.select(Manifest.id.label("id")).where(Manifest.id == _root).cte("below", recursive=True)
    return start.union(
        sa.select(IndexMember.child_id)
        .join(start, IndexMember.index_id == start.c.id)
        .join(Manifest, sa.and_(Manifest.id == IndexMember.child_id, Manifest.deleted_at.is_(None)))
    )


_tree = _below()
_FIND: Final = sa.select(Manifest.id, Manifest.deleted_at).where(
    Manifest.repository_id == sa.bindparam("repository"), Manifest.digest == sa.bindparam("of")
)
_A_TAG: Final = (
    sa.select(sa.func.min(Tag.name))
    .where(Tag.manifest_id == _index.id, Tag.ended_at.is_(None))
    .scalar_subquery()
)
# A tagged one if there is one: that is where its user looks.
_LISTED_BY: Final = (
    sa.select(_index.id, _index.digest, _A_TAG.label("tag"))
    .join(IndexMember, IndexMember.index_id == _index.id)
    .where(IndexMember.child_id == sa.bindparam("child"), _index.deleted_at.is_(None))
    .order_by(_A_TAG.is_(None), _index.id)
    .limit(1)
)
_LIVE_TAGS: Final = sa.select(Tag.name).where(Tag.manifest_id == _root, Tag.ended_at.is_(None))
_LAST_CHANGE: Final = sa.select(
    sa.func.max(Tag.started_at, type_=UtcTime()), sa.func.max(Tag.ended_at, type_=UtcTime())
).where(Tag.manifest_id == _root)
_IN_TREE: Final = sa.select(Manifest.id, Manifest.digest).where(Manifest.id.in_(sa.select(_tree.c.id)))
_EDGES: Final = sa.select(IndexMember.index_id, IndexMember.child_id).where(
    IndexMember.index_id.in_(sa.select(_tree.c.id)), IndexMember.child_id.in_(sa.select(_tree.c.id))
)
_TAGGED_IN_TREE: Final = (
    sa.select(Tag.manifest_id, sa.func.min(Tag.name))
    .where(Tag.manifest_id.in_(sa.select(_tree.c.id)), Tag.ended_at.is_(None))
    .group_by(Tag.manifest_id)
)
_LISTED_OUTSIDE: Final = (
    sa.select(IndexMember.child_id, sa.func.min(IndexMember.index_id))
    .join(_index, sa.and_(_index.id == IndexMember.index_id, _index.deleted_at.is_(None)))
    .where(
        IndexMember.child_id.in_(sa.select(_tree.c.id)), IndexMember.index_id.not_in(sa.select(_tree.c.id))
    )
    .group_by(IndexMember.child_id)
)
_DIGESTS: Final = sa.select(Manifest.id, Manifest.digest).where(Manifest.id.in_(_ids))


class StillListed(Refused):
    """An index that is here lists the manifest."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A manifest of a tree that was left, and why."""

    digest: Digest
    why: str


@dataclass(frozen=True, slots=True)
class DeleteReport:
    """What was deleted: the manifest first, then what it reached."""

    repository: str
    digest: Digest
    deleted: tuple[Digest, ...]
    tags_ended: tuple[str, ...]
    kept: tuple[Kept, ...]


def delete_manifest(
    writer: Writer, repository: str, digest: Digest, *, cascade: bool = False
) -> DeleteReport:
    """Delete a manifest by its digest: its tags end in the same transaction, and no reader finds it.

    With *cascade* what it lists goes with it, and so on down, but for what a live tag names, or an index
    that stays lists. Without, children stay, reachable by their digests, until they are collected. Referrers
    stay while the manifest's row does, which is for the history window.

    Others may push and move tags meanwhile: a push of an index that lists it comes before, and this is
    refused, or after, and brings it back.

    Raises:
        NotFound: no such repository, or no such manifest, or it was deleted before.
        StillListed: names the index that lists it, and from where that is reached; nothing has happened.
        ImmutableTag: one of its tags may not be removed; nothing has happened.
        RepositoryNotActive: the repository is being purged.
        Unavailable, Locked: the database did not take it.
    """

    def work(connection: Connection, of: LockedRepository, change: Change) -> CommitResult:
        root = _find(connection, of, digest)
        _check_not_listed(connection, of, digest, root)
        dead: dict[int, Digest] = {root: digest}
        kept: dict[Digest, str] = {}
        if cascade:
            dead, kept = _tree_to_delete(connection, root)
        at = _time_of_deletion(connection, root, change)
        names = connection.execute(_LIVE_TAGS, {"root": root}).scalars().all()
        then = replace(change, stamp=replace(change.stamp, now=at))
        changes = end_tags(connection, then, (of.id, of.name), names, writer.tag_terms)
        hide(connection, then, of.id, dead, writer.lifetimes.history)
        details = {
            "deleted": [str(item) for item in dead.values()],
            "tags": list(names),
            "kept": {str(item): why for item, why in kept.items()},
        }
        return CommitResult(((of.id, of.name),), tags_changed=tuple(changes), details=details)

    result = change_repository(
        writer,
        repository,
        f"delete {repository}@{digest}",
        lambda: writer.database.transaction("manifest_deleted"),
        work,
    )
    return DeleteReport(
        repository,
        digest,
        tuple(map(Digest.parse, result.details["deleted"])),
        tuple(result.details["tags"]),
        tuple(Kept(Digest.parse(item), why) for item, why in result.details["kept"].items()),
    )


def _find(connection: Connection, of: LockedRepository, digest: Digest) -> int:
    of.require_active()
    row = connection.execute(_FIND, {"repository": of.id, "of": digest}).first()
    if row is None:
        raise NotFound(f"{of.name}@{digest}: no such manifest")
    manifest_id, deleted_at = row
    if deleted_at is not None:
        raise NotFound(f"{of.name}@{digest}: no such manifest; it was deleted at {deleted_at:%FT%TZ}")
    return manifest_id


def _check_not_listed(connection: Connection, of: LockedRepository, digest: Digest, manifest_id: int) -> None:
    """Refuse while an index that is here lists it. Says where that can be found, going up from there."""
    listing: Any = connection.execute(_LISTED_BY, {"child": manifest_id}).first()
    if listing is None:
        return
    top = listing
    while top.tag is None:
        above: Any = connection.execute(_LISTED_BY, {"child": top.id}).first()
        if above is None:
            break
        top = above
    where = f"{of.name}:{top.tag}" if top.tag is not None else f"{of.name}@{top.digest}, which has no tag"
    raise StillListed(
        f"{of.name}@{digest}: the index {listing.digest} lists it, reached through {where};"
        " delete that first, with --cascade to delete both"
    )


def _tree_to_delete(connection: Connection, root: int) -> tuple[dict[int, Digest], dict[Digest, str]]:
    """Return what goes with *root*, which goes, and what of its tree stays, with the reason.

    What stays keeps what it lists: a manifest that is here never lists a deleted one.
    """
    of = {"root": root}
    digests: dict[int, Digest] = dict(connection.execute(_IN_TREE, of).all())
    children: dict[int, list[int]] = {}
    edges: Any = connection.execute(_EDGES, of)
    for index_id, child_id in edges:
        children.setdefault(index_id, []).append(child_id)
    why: dict[int, str] = {}
    outside: Any = connection.execute(_LISTED_OUTSIDE, of).all()
    names = _digests(connection, [index_id for _, index_id in outside])
    why.update({child: f"the index {names[index]} lists it" for child, index in outside})
    tagged: Any = connection.execute(_TAGGED_IN_TREE, of)
    why.update({manifest: f"the tag {name} names it" for manifest, name in tagged})
    why.pop(root, None)  # its tags end
    waiting = list(why)
    while waiting:
        index_id = waiting.pop()
        for child in children.get(index_id, ()):
            if child not in why and child != root:
                why[child] = f"the index {digests[index_id]} lists it, which stays"
                waiting.append(child)
    dead = {root: digests[root], **{n: d for n, d in sorted(digests.items()) if n not in why}}
    return dead, {digests[number]: reason for number, reason in sorted(why.items())}


def _digests(connection: Connection, ids: list[int]) -> Mapping[int, Digest]:
    found: dict[int, Digest] = {}
    for some in chunks(sorted(set(ids))):
        found.update(connection.execute(_DIGESTS, {"ids": some}).all())
    return found


def _time_of_deletion(connection: Connection, root: int, change: Change) -> datetime:
    """Return a time later than any change of its tags: those that end then are those that this ends."""
    return later_than_all(change.stamp.now, connection.execute(_LAST_CHANGE, {"root": root}).one())
