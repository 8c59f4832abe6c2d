"""All that there is to say of an image, of one or of a page of them: a fixed number of statements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.db import Database
from regmeta.errors import Error, IntegrityError
from regmeta.oci import media_types, signatures
from regmeta.oci.annotations import Labelled, described
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query.catalog import platform, resolve_in
from regmeta.query.images import statements
from regmeta.query.images.results import Entry, ImageSummary, Unreadable
from regmeta.query.stored import digest_of, digest_or_none, time_of, time_or_none
from regmeta.query.visibility import Visibility, seen

_ROOTS: Final[Any] = (
    sa.select(models.Manifest.id, models.Repository.name)
    .join(models.Repository, models.Repository.id == models.Manifest.repository_id)
    .where(
        models.Manifest.id.in_(statements.ROOTS),
        models.Repository.state == "active",
        models.Manifest.deleted_at.is_(None),
    )
)
_NAMED: Final[Any] = (
    sa.select(models.Repository.id, models.Repository.name)
    .where(
        models.Repository.name.in_(sa.bindparam("names", expanding=True)), models.Repository.state == "active"
    )
    .order_by(models.Repository.id)
)
# Each of two lists is followed by the index; SQLite reads the whole table for a list of pairs.
_TAGGED: Final = sa.select(models.Tag.repository_id, models.Tag.name, models.Tag.manifest_id).where(
    models.Tag.repository_id.in_(sa.bindparam("of", expanding=True)),
    models.Tag.name.in_(sa.bindparam("wanted", expanding=True)),
    models.Tag.ended_at.is_(None),
)
_BY_DIGEST: Final = sa.select(
    models.Manifest.repository_id, models.Manifest.digest, models.Manifest.id
).where(
    models.Manifest.repository_id.in_(sa.bindparam("of", expanding=True)),
    models.Manifest.digest.in_(sa.bindparam("wanted", expanding=True)),
    models.Manifest.deleted_at.is_(None),
)
_MAX_IDS: Final = 5000
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def summary(
    database: Database, reference: Reference, *, at: datetime | None = None, visible: Visibility | None = None
) -> ImageSummary:
    """Return all that there is to say of what a reference means, or meant at a time.

    At a time, tags, signatures and referrers are those of then; pulls are counted until now. Absent children
    that came later are shown as they are now.

    Raises:
        NotFound: the reference means nothing here.
        IntegrityError: its own row is damaged.
    """
    with database.read() as connection:
        root, _ = resolve_in(connection, reference, at, visible)
        return summary_in(connection, root, reference.repository, at)


def summaries(
    database: Database, references: Sequence[Reference], *, visible: Visibility | None = None
) -> tuple[ImageSummary | Unreadable, ...]:
    """Return the summaries of a page of images, in the order in which they are asked for.

    One that is not here, or is damaged, is said in its place. The number of statements does not grow with
    the images.
    """
    with database.read() as connection:
        ids = _resolved(connection, references, visible)
        found = summaries_in(connection, ids.values(), visible=visible)
    return tuple(
        found[ids[reference]] if reference in ids else Unreadable(f"{reference}", "no such image")
        for reference in references
    )


def summary_in(
    connection: Connection, manifest_id: int, repository: str, at: datetime | None = None
) -> ImageSummary:
    """Return the summary of a manifest that may be seen.

    Raises:
        IntegrityError: its own row is damaged.
    """
    found = load(connection, {manifest_id: repository}, at)[manifest_id]
    if isinstance(found, Unreadable):
        raise IntegrityError(f"{found.reference}: {found.why}")
    return found


def summaries_in(
    connection: Connection, manifest_ids: Iterable[int], *, visible: Visibility | None = None
) -> dict[int, ImageSummary | Unreadable]:
    """Return the summaries of manifests, by id, for who has a page of them. One that is gone is not in it."""
    roots = list(dict.fromkeys(manifest_ids))
    if not roots:
        return {}
    return load(connection, _names(connection, seen(_ROOTS, visible), roots))


def load(
    connection: Connection, names: Mapping[int, str], at: datetime | None = None
) -> dict[int, ImageSummary | Unreadable]:
    """Return the summaries of manifests that may be seen; *names* has their repositories, by id."""
    if not names:
        return {}
    rows = _Rows.read(connection, list(names), at)
    found: dict[int, ImageSummary | Unreadable] = {}
    for root, name in names.items():
        try:
            found[root] = _summary(rows, root, name)
        except (Error, TypeError, ValueError) as error:
            shown = digest_or_none(rows.manifests[root].digest)
            found[root] = Unreadable(f"{name}@{shown}" if shown else f"{name}, manifest {root}", f"{error}")
    return found


def tree_ids(connection: Connection, roots: Sequence[int]) -> list[int]:
    """Return the ids of manifests and of all that are below them, at any depth."""
    return list(connection.execute(statements.TREES, {"roots": list(roots)}).scalars())


def blobs_of(connection: Connection, manifest_ids: Sequence[int]) -> dict[int, dict[int, int]]:
    """Return the blobs that each manifest is made of, its own bytes included: id to size in bytes."""
    found: dict[int, dict[int, int]] = {}
    for some in chunks(manifest_ids):
        for manifest_id, blob_id, size_bytes in connection.execute(statements.EDGES, {"ids": some}):
            found.setdefault(manifest_id, {})[blob_id] = size_bytes
    return found


def chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Return parts of a long list; a statement takes only so many values."""
    for start in range(0, len(ids), _MAX_IDS):
        yield ids[start : start + _MAX_IDS]


def _names(connection: Connection, statement: Any, roots: list[int]) -> dict[int, str]:
    rows: Any = connection.execute(statement, {"roots": roots})
    return dict(rows.all())


def _resolved(
    connection: Connection, references: Sequence[Reference], visible: Visibility | None
) -> dict[Reference, int]:
    """Return the ids of the manifests that references mean, of those that mean one."""
    wanted = sorted({reference.repository for reference in references})
    ids: dict[str, int] = {}
    if wanted:
        named = connection.execute(seen(_NAMED, visible), {"names": wanted})
        ids = {name: repository_id for repository_id, name in named}
    here = [(ids[each.repository], each) for each in references if each.repository in ids]
    digests = {(of, r.digest) for of, r in here if r.digest is not None}
    tags = {(of, r.tag or "latest") for of, r in here if r.digest is None}
    meant: dict[tuple[int, Digest | str], int] = {}
    for statement, pairs in ((_BY_DIGEST, digests), (_TAGGED, tags)):
        if pairs:
            lists = {"of": list({of for of, _ in pairs}), "wanted": list({each for _, each in pairs})}
            for of, named_by, manifest_id in connection.execute(statement, lists):
                meant[of, named_by] = manifest_id
    keys = {reference: (of, reference.digest or reference.tag or "latest") for of, reference in here}
    return {reference: meant[key] for reference, key in keys.items() if key in meant}


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that summaries are made of, as they are."""

    manifests: Mapping[int, Any]
    members: Mapping[int, Sequence[Any]]
    annotations: Mapping[int, Mapping[str, str]]
    labels: Mapping[int, Mapping[str, str]]
    blobs: Mapping[int, Mapping[int, int]]
    tags: Mapping[int, Sequence[Any]]
    pulls: Mapping[int, Any]
    referrers: Mapping[int, Mapping[str, int]]
    signatures: Mapping[int, Mapping[str, int]]

    @classmethod
    def read(cls, connection: Connection, roots: Sequence[int], at: datetime | None) -> _Rows:
        ids = tree_ids(connection, roots)
        of: dict[str, Any] = {"roots": roots} if at is None else {"roots": roots, "at": at}

        def run(statement: Any) -> Iterator[Any]:
            for some in chunks(ids):
                yield from connection.execute(statement, {**of, "ids": some})

        timed = statements.timed(at is not None)
        said: dict[str, dict[int, dict[str, str]]] = {"annotation": {}, "config": {}}
        for manifest_id, origin, name, value in run(statements.LABELS):
            said[origin].setdefault(manifest_id, {})[name] = value
        referrers: dict[int, dict[str, int]] = {}
        signing: dict[int, dict[str, int]] = {}
        for (manifest_id,) in run(timed.signed_by_tag):
            signing[manifest_id] = {"cosign-tag": 1}
        for manifest_id, artifact_type, predicate, count in run(timed.referrers):
            _add(referrers, manifest_id, artifact_type or "", count)
            form = signatures.form_of(artifact_type, predicate)
            if form is not None:
                _add(signing, manifest_id, form, count)
        return cls(
            {row.id: row for row in run(statements.MANIFESTS)},
            _grouped(run(statements.MEMBERS)),
            said["annotation"],
            said["config"],
            blobs_of(connection, ids),
            _grouped(connection.execute(timed.tags, of)),
            {manifest_id: (int(pulls), last) for manifest_id, pulls, last in run(statements.PULLS)},
            referrers,
            signing,
        )


def _summary(rows: _Rows, root: int, name: str) -> ImageSummary:
    row = rows.manifests[root]
    pulls, last_pulled_at = rows.pulls.get(root, (0, None))
    tags = rows.tags.get(root, ())
    below = _below(rows, root)
    about = described(_labelled(rows, root), (_labelled(rows, item) for item in below.manifests))
    digest, pushed_at = digest_of(row.digest), time_of(row.pushed_at)
    if digest is None or pushed_at is None:
        raise IntegrityError("its row is damaged")
    return ImageSummary(
        root,
        name,
        digest,
        row.kind,
        row.media_type,
        media_types.telling_artifact_type(row.artifact_type),
        row.config_media_type,
        digest_of(row.subject_digest),
        tuple(tag for _, tag, _ in tags),
        tuple(below.entries),
        _size(rows, [root, *below.manifests]),
        row.size_bytes,
        about.created_at,
        pushed_at,
        row.pushed_by,
        max((at for at in (time_or_none(since) for _, _, since in tags) if at is not None), default=None),
        time_or_none(last_pulled_at),
        pulls,
        dict(sorted(rows.signatures.get(root, {}).items())),
        dict(sorted(rows.referrers.get(root, {}).items())),
        rows.annotations.get(root, {}),
        rows.labels.get(root, {}),
        about,
    )


@dataclass(slots=True)
class _Below:
    """What is below an index, each manifest where it is first listed."""

    entries: list[Entry] = field(default_factory=list)
    manifests: list[int] = field(default_factory=list)
    met: set[int] = field(default_factory=set)


def _below(rows: _Rows, root: int) -> _Below:
    found = _Below()
    if rows.manifests[root].kind == "index":
        found.met.add(root)
        _walk(rows, root, found)
    else:
        found.entries.append(_entry(rows, root, None))
    return found


def _walk(rows: _Rows, index_id: int, found: _Below) -> None:
    for member in rows.members.get(index_id, ()):
        child = rows.manifests.get(member.child_id)
        if child is None:
            found.entries.append(_other(member))
        elif child.id not in found.met:
            found.met.add(child.id)
            found.manifests.append(child.id)
            if child.kind == "index":
                _walk(rows, child.id, found)
            else:
                found.entries.append(_entry(rows, child.id, member))


def _entry(rows: _Rows, manifest_id: int, member: Any) -> Entry:
    """Return an image; the index that lists it decides what its platform is, if it says one."""
    row = rows.manifests[manifest_id]
    says = row if member is None or not (member.os or member.architecture) else member
    digest = digest_or_none(row.digest)
    if digest is None and member is not None:
        return _other(member, "damaged")
    return Entry(
        "image",
        digest,
        platform(says.os, says.architecture, says.variant),
        None if member is None else member.os_version,
        _size(rows, [manifest_id]),
        row.layer_count,
        described(_labelled(rows, manifest_id)).created_at,
        rows.pulls.get(manifest_id, (0, None))[0],
        sum(rows.signatures.get(manifest_id, {}).values()),
        sum(rows.referrers.get(manifest_id, {}).values()),
    )


def _other(member: Any, absence: str | None = None) -> Entry:
    """Return what stands for content that is no manifest, or is not here."""
    shown = platform(member.os, member.architecture, member.variant)
    digest = digest_or_none(member.child_digest)
    if member.blob_id is not None and absence is None:
        return Entry("blob", digest, shown, member.os_version, member.size_bytes)
    return Entry("absent", digest, shown, member.os_version, absence=absence or member.absence or "damaged")


def _labelled(rows: _Rows, manifest_id: int) -> Labelled:
    return Labelled(
        rows.annotations.get(manifest_id, _NOTHING),
        rows.labels.get(manifest_id, _NOTHING),
        time_or_none(rows.manifests[manifest_id].image_created_at),
    )


def _size(rows: _Rows, manifest_ids: Iterable[int]) -> int:
    once: dict[int, int] = {}
    for manifest_id in manifest_ids:
        once.update(rows.blobs.get(manifest_id, {}))
    return sum(once.values())


def _grouped(rows: Iterable[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(row)
    return found


def _add(counts: dict[int, dict[str, int]], manifest_id: int, name: str, count: int) -> None:
    of = counts.setdefault(manifest_id, {})
    of[name] = of.get(name, 0) + count
