"""What refers to a manifest: signatures, bills of materials, whatever names it as its subject.

A subject is a digest and need not be here (distribution-spec, "Pushing Manifests with Subject"). Signatures
are referrers as any other. Lists go in the order in which the referrers came.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.oci import media_types, signatures
from regmeta.oci.digest import Digest
from regmeta.query import cursors
from regmeta.query.catalog import PAGE, repository_id
from regmeta.query.results import Page
from regmeta.query.visibility import Visibility

DEPTH: Final = 8
"""How many steps from the subject a tree of referrers goes."""
DEEPEST: Final = 100
"""How many it may go."""
TREE: Final = 1000
"""How many referrers a tree holds."""

_COLUMNS: Final = sa.select(
    models.Manifest.id,
    models.Manifest.subject_digest,
    models.Manifest.digest,
    models.Manifest.media_type,
    models.Manifest.artifact_type,
    models.Manifest.size_bytes,
    models.Manifest.pushed_at,
)
_HERE: Final = (models.Manifest.repository_id == sa.bindparam("of"), models.Manifest.deleted_at.is_(None))
_OF_ONE: Final = (*_HERE, models.Manifest.subject_digest == sa.bindparam("subject"))
_typed: Final = models.Manifest.artifact_type.in_(sa.bindparam("types", expanding=True))
_COUNT: Final = sa.select(sa.func.count()).select_from(models.Manifest).where(*_OF_ONE)
_COUNT_TYPED: Final = _COUNT.where(_typed)
_ALL: Final = (
    _COLUMNS.where(*_OF_ONE, models.Manifest.id > sa.bindparam("behind"))
    .order_by(models.Manifest.id)
    .limit(sa.bindparam("page"))
)
_TYPED: Final = _ALL.where(_typed)
_OF_MANY: Final = (
    _COLUMNS.where(*_HERE, models.Manifest.subject_digest.in_(sa.bindparam("subjects", expanding=True)))
    .order_by(models.Manifest.id)
    .limit(sa.bindparam("page"))
)
_ANNOTATIONS: Final = (
    sa.select(models.Label.manifest_id, models.Label.name, models.Label.value)
    .where(
        models.Label.manifest_id.in_(sa.bindparam("ids", expanding=True)),
        models.Label.origin == "annotation",
    )
    .order_by(models.Label.manifest_id, models.Label.name)
)


@dataclass(frozen=True, slots=True)
class Referrer:
    """One referrer, as "Listing Referrers" describes it; ``size_bytes`` is that of its manifest.

    ``artifact_type`` is its own, or its configuration's media type. Very long annotations are cut, as in
    search. ``signature`` says what form of signature it is, None if it is none.
    """

    digest: Digest
    media_type: str
    artifact_type: str | None
    size_bytes: int
    annotations: Mapping[str, str]
    pushed_at: datetime
    signature: signatures.Form | None


@dataclass(frozen=True, slots=True)
class ReferrerNode:
    """A referrer, and what refers to it in turn."""

    referrer: Referrer
    referrers: tuple[ReferrerNode, ...]


@dataclass(frozen=True, slots=True)
class ReferrerTree:
    """All that refers to a subject, directly or not; ``is_cut`` says that there is more than a tree holds."""

    subject: Digest
    referrers: tuple[ReferrerNode, ...]
    is_cut: bool


def referrers(
    database: Database,
    repository: str,
    subject: Digest,
    *,
    artifact_types: Collection[str] = (),
    after: str | None = None,
    limit: int = PAGE,
    total: bool = False,
    visible: Visibility | None = None,
) -> Page[Referrer]:
    """Return one page of what refers to a subject in a repository, whether or not the subject is here.

    With *artifact_types* only those of one of these types; an empty one asks for all, as it does in a
    registry's URL. A page reads the index entries of all referrers of the subject.

    Raises:
        NotFound: there is no such repository.
        UsageError: *after* is not the cursor of this list, or *limit* is out of range.
    """
    cursors.check_limit(limit)
    types = () if "" in artifact_types else tuple(sorted(set(artifact_types)))
    question = f"referrers {repository} {subject} {types}"
    behind = 0 if after is None else cursors.decode(question, after, [int])[0]
    with database.read() as connection:
        of = repository_id(connection, repository, visible=visible)
        asked: dict[str, Any] = {"of": of, "subject": subject, **({"types": types} if types else {})}
        rows = connection.execute(
            _TYPED if types else _ALL, {**asked, "behind": behind, "page": limit + 1}
        ).all()
        found = _referrers(connection, rows[:limit])
        in_all = connection.execute(_COUNT_TYPED if types else _COUNT, asked).scalar_one() if total else None
    following = cursors.following(question, rows, limit, lambda row: [row.id], [int])
    return Page(tuple(found), following, in_all)


def referrer_tree(
    database: Database,
    repository: str,
    subject: Digest,
    *,
    depth: int = DEPTH,
    limit: int = TREE,
    visible: Visibility | None = None,
) -> ReferrerTree:
    """Return what refers to a subject, and to that in turn, at most *depth* steps and *limit* referrers.

    One statement for each step, and one for annotations.

    Raises:
        NotFound: there is no such repository.
        UsageError: *depth* is not from 1 to 100, or *limit* is out of range.
    """
    if not 1 <= depth <= DEEPEST:
        raise UsageError(f"depth {depth}: a tree of referrers has 1 to {DEEPEST} steps")
    cursors.check_limit(limit)
    found: dict[Digest, Any] = {}
    with database.read() as connection:
        of = repository_id(connection, repository, visible=visible)
        last: list[Digest] = [subject]
        is_cut = False
        for _step in range(depth + 1):
            room = limit - len(found)
            asked = {"of": of, "subjects": last, "page": room + 1}
            rows = [row for row in connection.execute(_OF_MANY, asked) if row.digest not in found]
            # The step behind the last one is asked only whether there is one.
            is_cut = len(rows) > room or (bool(rows) and _step == depth)
            kept = [] if _step == depth else rows[:room]
            found.update((row.digest, row) for row in kept)
            last = [row.digest for row in kept]
            if is_cut or not last:
                break
        described = dict(zip(found, _referrers(connection, found.values()), strict=True))
    of_subject: dict[Digest, list[Digest]] = {}
    for digest, row in found.items():
        of_subject.setdefault(row.subject_digest, []).append(digest)
    return ReferrerTree(subject, _nodes(subject, of_subject, described), is_cut)


def _nodes(
    subject: Digest, of_subject: Mapping[Digest, Iterable[Digest]], described: Mapping[Digest, Referrer]
) -> tuple[ReferrerNode, ...]:
    return tuple(
        ReferrerNode(described[digest], _nodes(digest, of_subject, described))
        for digest in of_subject.get(subject, ())
    )


def _referrers(connection: Connection, rows: Iterable[Any]) -> list[Referrer]:
    rows = list(rows)
    annotations: dict[int, dict[str, str]] = {}
    label: Any
    if rows:
        for label in connection.execute(_ANNOTATIONS, {"ids": [row.id for row in rows]}):
            annotations.setdefault(label.manifest_id, {})[label.name] = label.value
    found = []
    for row in rows:
        said = annotations.get(row.id, {})
        form = signatures.form_of(row.artifact_type, said.get(signatures.PREDICATE))
        kind = media_types.telling_artifact_type(row.artifact_type)
        found.append(Referrer(row.digest, row.media_type, kind, row.size_bytes, said, row.pushed_at, form))
    return found
