"""The one transaction of an ingest: all rows of its images, or nothing.

Order of locks: where objects are adopted what ``ingest.adopt`` locks, then repositories by id, then blobs by
id (new ones by digest). Everything that is decided from rows is read after the repository's lock, in a
statement of its own; at READ COMMITTED a statement sees what was committed before it began, and not what was
committed before the transaction did.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import db
from regmeta.errors import LostReservation
from regmeta.ingest import rows, searchable
from regmeta.ingest.adopt import check_unnamed, lock_adoption
from regmeta.ingest.immutable import TagTerms
from regmeta.ingest.inserting import Conflict, many
from regmeta.ingest.plan import CommitResult, Lifetimes, PlannedImage, PlannedManifest, TagChange
from regmeta.ingest.reserve import bury, chunks
from regmeta.ingest.revive import revive
from regmeta.ingest.statements import (
    Change,
    ask_one_effect,
    check_one_effect,
    lock_repositories,
    queue_manifests,
    record_events,
    record_result,
)
from regmeta.ingest.store_moves import of_store
from regmeta.ingest.tag_moves import Known, Question, move_tags
from regmeta.models import (
    Blob,
    IndexMember,
    Intent,
    Label,
    Manifest,
    ManifestBlob,
    RepositoryBlob,
)
from regmeta.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """All that the transaction is made from: it can be run again and has the same effect."""

    ingest_id: UUID
    owner: UUID
    actor: str
    source: str
    images: Sequence[PlannedImage]
    keys: Mapping[Digest, str]  # objects that this ingest published
    lifetimes: Lifetimes
    tag_terms: TagTerms
    adopted: Mapping[Digest, str] = field(default_factory=dict)  # objects that no row names; no intents
    lost: Mapping[Digest, str] = field(default_factory=dict)  # keys without objects: the rows are damaged
    healing: Mapping[Digest, int] = field(default_factory=dict)  # sizes; only for rows that are damaged
    store_id: UUID | None = None  # where the objects are; see ``store_moves``


@dataclass(slots=True)
class _Context:
    """What is known inside the transaction."""

    connection: Connection
    plan: CommitPlan
    change: Change
    needed: dict[Digest, int] = field(default_factory=dict)  # sizes [bytes] of all blobs of the images
    kept: set[str] = field(default_factory=set)  # my keys whose intents were there
    found: dict[Digest, Any] = field(default_factory=dict)  # rows of blobs, locked
    blob_ids: dict[Digest, int] = field(default_factory=dict)
    new_blobs: int = 0
    new_manifests: int = 0
    tags_changed: list[TagChange] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        """The database's clock after the lock."""
        return self.change.stamp.now


def commit(connection: Connection, plan: CommitPlan) -> CommitResult:
    """Write all rows of *plan*.

    Raises:
        AlreadyCommitted: an earlier try of the same ingest took effect.
        LostReservation: keys were taken back, or blobs or children have gone; nothing has happened.
        RepositoryNotActive: a repository is being removed; nothing has happened.
        ImmutableTag: tags may not be moved; nothing has happened.
    """
    if plan.adopted:
        lock_adoption(connection, plan.store_id)
    by_repository: dict[str, list[PlannedImage]] = {}
    for image in plan.images:
        by_repository.setdefault(image.request.repository, []).append(image)
    locked = lock_repositories(connection, by_repository)
    context = _Context(connection, plan, Change(locked.stamp, plan.actor, plan.ingest_id))
    _take_effect(context)
    _fence(context)
    _blobs(context)
    for name, repository_id in sorted(locked.ids.items(), key=lambda item: item[1]):
        _repository(context, repository_id, name, by_repository[name])
    # Another transaction with the same texts waits for the end of this one: so all at once, and last.
    searchable.add_tags(connection, [tag.tag for tag in context.tags_changed])
    searchable.add_labels(connection, context.labels)
    result = CommitResult(
        tuple(sorted((number, name) for name, number in locked.ids.items())),
        context.new_manifests,
        context.new_blobs,
        tuple(context.tags_changed),
        tuple(sorted(locked.revived)),
    )
    events = [context.change.event("repository.restored", number) for number in result.revived]
    record_events(connection, events)
    record_result(connection, context.change, result)
    return result


# --- one effect, and the fence ----------------------------------------------------------------

_FENCE: Final = (
    sa.delete(Intent)
    .where(
        Intent.owner == sa.bindparam("of"),
        Intent.key.in_(sa.bindparam("keys", expanding=True)),
        of_store(),
    )
    .returning(Intent.key)
)


def _take_effect(context: _Context) -> None:
    """Note the ingest, delete my intents and lock the blobs, in this order and in one round trip.

    What was not committed before is decided here; what else the answers say is looked at by who comes next.
    """
    connection, plan = context.connection, context.plan
    for image in plan.images:
        context.needed.update(image.blobs)
    fences = [
        (_FENCE, {"of": plan.owner, "of_store": plan.store_id, "keys": some})
        for some in chunks(sorted(plan.keys.values()))
    ]
    effect, *answers = db.together(
        connection,
        ask_one_effect(connection, context.change, plan.source),
        *fences,
        *_ask_for_blobs(context.needed.keys() | plan.healing.keys()),
    )
    check_one_effect(connection, context.change, effect)
    for answer in answers[: len(fences)]:
        context.kept.update(answer.scalars())
    context.found.update(_by_digest(answers[len(fences) :]))


def _fence(context: _Context) -> None:
    """My intents were deleted; each must still have been there, or its object may be dead already (I1)."""
    lost = frozenset(digest for digest, key in context.plan.keys.items() if key not in context.kept)
    if lost:
        raise LostReservation(lost)


# --- blobs ------------------------------------------------------------------------------------

_LOCK_BLOBS: Final = (
    sa.select(Blob.id, Blob.digest, Blob.key, Blob.state)
    .where(Blob.digest.in_(sa.bindparam("digests", expanding=True)))
    .order_by(Blob.id)
    .with_for_update(read=True, key_share=True)
)


def _blobs(context: _Context) -> None:
    """Find or make the row of every blob that the images need."""
    plan, needed, found = context.plan, context.needed, context.found
    unused = _heal_or_drop(context, found, {**plan.healing, **needed})
    # A damaged blob that was collected meanwhile needs no healing.
    unused += [plan.keys[digest] for digest in plan.healing.keys() - needed.keys() - found.keys()]
    new = needed.keys() - found.keys()
    adopted = {digest: key for digest, key in plan.adopted.items() if digest in new}
    check_unnamed(context.connection, adopted)
    mine = {d: key for keys in (plan.lost, adopted, plan.keys) for d, key in keys.items() if d in new}
    vanished = needed.keys() - found.keys() - mine.keys()
    if vanished:
        raise LostReservation(frozenset(vanished))
    context.blob_ids.update({digest: row.id for digest, row in found.items()})
    unused += _insert_blobs(context, needed, mine)
    bury(context.connection, unused, "not needed", context.now, context.plan.lifetimes.tombstone)


def _ask_for_blobs(digests: Collection[Digest]) -> list[db.Asked]:
    return [(_LOCK_BLOBS, {"digests": some}) for some in chunks(sorted(digests))]


def _by_digest(results: Iterable[sa.CursorResult[Any]]) -> dict[Digest, Any]:
    return {row.digest: row for result in results for row in result}


def _heal_or_drop(context: _Context, found: Mapping[Digest, Any], sizes: Mapping[Digest, int]) -> list[str]:
    """Give damaged rows the objects that were published, and their sizes; return keys that nobody needs."""
    unused = []
    for digest, row in found.items():
        mine = context.plan.keys.get(digest)
        if row.state == "live":
            if mine is not None:
                unused.append(mine)  # someone else was first
        elif mine is not None:
            context.connection.execute(
                sa.update(Blob)
                .where(Blob.id == row.id)
                .values(key=mine, state="live", size_bytes=sizes[digest])
            )
            unused.append(row.key)
        elif digest not in context.plan.adopted and digest not in context.plan.lost:
            # Only who brings verified bytes heals; who adopts leaves it to the next import.
            raise LostReservation(frozenset({digest}))
    return unused


def _insert_blobs(context: _Context, needed: Mapping[Digest, int], mine: Mapping[Digest, str]) -> list[str]:
    """Insert blobs in digest order; return my keys of those that someone else inserted first."""
    if not mine:
        return []
    now = context.now
    lease_until = now + context.plan.lifetimes.lease
    values = [
        {
            "digest": digest,
            "size_bytes": needed[digest],
            "key": mine[digest],
            "state": "damaged" if mine[digest] == context.plan.lost.get(digest) else "live",
            "lease_until": lease_until,
            "created_at": now,
        }
        for digest in sorted(mine)
    ]
    inserted: Any = context.connection.execute(
        *many(context.connection, Blob, values, conflict=Conflict(("digest",)), returning=("digest", "id"))
    )
    ids = dict(inserted.all())
    context.new_blobs = len(ids)
    context.blob_ids.update(ids)
    lost_race = mine.keys() - ids.keys()
    if lost_race:
        theirs = _by_digest(db.together(context.connection, *_ask_for_blobs(lost_race)))
        if theirs.keys() != lost_race or any(row.state != "live" for row in theirs.values()):
            raise LostReservation(frozenset(lost_race))
        context.blob_ids.update({digest: row.id for digest, row in theirs.items()})
    return [mine[digest] for digest in lost_race if digest in context.plan.keys]


# --- manifests --------------------------------------------------------------------------------

_MANIFESTS_BY_DIGEST: Final = sa.select(Manifest.digest, Manifest.id, Manifest.deleted_at).where(
    Manifest.repository_id == sa.bindparam("repository"),
    Manifest.digest.in_(sa.bindparam("digests", expanding=True)),
)
_BY_DIGEST: Final = Conflict(("repository_id", "digest"))
_LINKED: Final = Conflict(("repository_id", "blob_id"))
_RENEW_MANIFESTS: Final = (
    sa.update(Manifest)
    .where(
        Manifest.id.in_(sa.bindparam("ids", expanding=True)),
        Manifest.lease_until < sa.bindparam("below"),
    )
    .values(lease_until=sa.bindparam("until"))
)
_CHILD: Final = Manifest.__table__.alias("child")
_FILL_IN: Final = (
    sa.update(IndexMember)
    .where(
        IndexMember.child_digest.in_(sa.bindparam("digests", expanding=True)),
        IndexMember.absence.is_not(None),
        IndexMember.index_id.in_(
            sa.select(Manifest.id).where(Manifest.repository_id == sa.bindparam("repository"))
        ),
    )
    .values(
        child_id=sa.select(_CHILD.c.id)
        .where(
            _CHILD.c.repository_id == sa.bindparam("repository"),
            _CHILD.c.digest == IndexMember.child_digest,
        )
        .scalar_subquery(),
        absence=None,
    )
)


def _repository(context: _Context, repository_id: int, name: str, images: Sequence[PlannedImage]) -> None:
    """Write what the images are to one repository, whose lock is held."""
    connection = context.connection
    planned = {m.document.digest: m for image in images for m in image.manifests}
    tags = {image.request.tag: image.root for image in images if image.request.tag is not None}
    ids, known = _insert_manifests(context, repository_id, planned, tags)
    new = [digest for digest in planned if digest in ids]
    existing = [digest for digest in planned if digest not in ids]
    outside = {digest for image in images for digest in image.here_already}
    # A child that the source did not hold may have come meanwhile, from elsewhere; one that is not wanted may
    # be here anyway.
    left_out = {digest for image in images for digest in image.absent | image.unwanted}
    absent = left_out - ids.keys()
    found, deleted = _manifest_ids(context, repository_id, [*existing, *outside, *absent])
    ids.update(found)
    lost = (outside - ids.keys()) | (outside & deleted)
    if lost:
        raise LostReservation(frozenset(lost))
    # What is pushed again, and what an index lists, is here again.
    if deleted:
        roots, lease = [ids[digest] for digest in deleted], context.plan.lifetimes.lease
        revive(connection, context.change, repository_id, roots, lease)
    _link_blobs(context, repository_id, images)
    _edges(context, images, [planned[digest] for digest in new], ids)
    _keep(context, [ids[digest] for digest in existing])
    _fill_in(context, repository_id, list(planned))
    record_events(
        connection,
        [context.change.event("manifest.pushed", repository_id, digest=digest) for digest in new],
    )
    lifetimes = context.plan.lifetimes
    times = {image.request.tag: image.request.times.tagged_at for image in images}
    since = {tag: at for tag, at in times.items() if tag is not None and at is not None}
    context.tags_changed += move_tags(
        connection, context.change, (repository_id, name), tags, ids, context.plan.tag_terms, known, since
    )
    untagged = {image.root for image in images if image.request.tag is None}.intersection(new)
    queue_manifests(
        connection,
        context.change,
        repository_id,
        [ids[digest] for digest in untagged],
        "pushed without a tag",
        lifetimes.lease,
    )
    context.new_manifests += len(new)


def _insert_manifests(
    context: _Context,
    repository_id: int,
    planned: Mapping[Digest, PlannedManifest],
    tags: Collection[str],
) -> tuple[dict[Digest, int], Known]:
    """Insert those that are not there, and learn of the tags; returns the ids of what was inserted."""
    connection = context.connection
    question = Question(connection, repository_id, tags, context.plan.tag_terms)
    asked = list(question.asked)
    if planned:
        values = [
            rows.manifest(
                item,
                repository_id=repository_id,
                blob_id=context.blob_ids[item.document.digest],
                now=context.now,
                actor=context.plan.actor,
                lease_until=context.now + context.plan.lifetimes.lease,
            )
            for item in planned.values()
        ]
        asked.append(many(connection, Manifest, values, conflict=_BY_DIGEST, returning=("digest", "id")))
    results = db.together(connection, *asked)
    inserted: Any = results.pop().all() if planned else ()
    return dict(inserted), question.answered(results)


def _manifest_ids(
    context: _Context, repository_id: int, digests: Sequence[Digest]
) -> tuple[dict[Digest, int], set[Digest]]:
    """Return the ids of those that there are, and which of them somebody has deleted."""
    found: dict[Digest, int] = {}
    deleted: set[Digest] = set()
    for some in chunks(digests):
        parameters = {"repository": repository_id, "digests": some}
        for digest, number, deleted_at in context.connection.execute(_MANIFESTS_BY_DIGEST, parameters):
            found[digest] = number
            if deleted_at is not None:
                deleted.add(digest)
    return found, deleted


def _link_blobs(context: _Context, repository_id: int, images: Sequence[PlannedImage]) -> None:
    digests = {digest for image in images for digest in image.blobs}
    if not digests:
        return
    values = [
        {"repository_id": repository_id, "blob_id": blob_id, "linked_at": context.now}
        for blob_id in sorted(context.blob_ids[digest] for digest in digests)
    ]
    context.connection.execute(*many(context.connection, RepositoryBlob, values, conflict=_LINKED))


def _edges(
    context: _Context,
    images: Sequence[PlannedImage],
    new: Sequence[PlannedManifest],
    ids: Mapping[Digest, int],
) -> None:
    absent = {digest: "sparse" for image in images for digest in image.absent}
    absent |= {digest: "policy" for image in images for digest in image.unwanted}
    labels = rows.labels(new, ids)
    for model, values in (
        (ManifestBlob, rows.blob_edges(new, ids, context.blob_ids)),
        (IndexMember, rows.index_members(new, ids, context.blob_ids, absent)),
        (Label, labels),
    ):
        if values:
            context.connection.execute(*many(context.connection, model, values))
    context.labels += labels


def _keep(context: _Context, manifest_ids: Sequence[int]) -> None:
    """Renew the leases of manifests that were here already, if less than half is left."""
    lease, now = context.plan.lifetimes.lease, context.now
    for some in chunks(sorted(manifest_ids)):
        context.connection.execute(
            _RENEW_MANIFESTS, {"ids": some, "below": now + lease / 2, "until": now + lease}
        )


def _fill_in(context: _Context, repository_id: int, here: Sequence[Digest]) -> None:
    """Give indexes the children that were absent when they were pushed."""
    for some in chunks(here):
        context.connection.execute(_FILL_IN, {"repository": repository_id, "digests": some})
