"""What the rows of a manifest should be, from its bytes, beside what they are."""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.ingest import rows as derived
from regmeta.ingest.plan import PlannedManifest
from regmeta.ingest.reserve import chunks
from regmeta.maintain.verify.pages import raw
from regmeta.models import Blob, IndexMember, Label, Manifest, ManifestBlob, Repository, RepositoryBlob
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Index

Row = dict[str, Any]

_ids: Any = sa.bindparam("ids", expanding=True)
_ROWS: Final = (
    sa.select(
        *(raw(c) if c.key.endswith("digest") else c for c in Manifest.__table__.c),
        Repository.name.label("repository"),
        raw(Blob.digest).label("blob_digest"),
        Blob.key.label("blob_key"),
        Blob.state.label("blob_state"),
    )
    .join(Repository, Repository.id == Manifest.repository_id)
    .outerjoin(Blob, Blob.id == Manifest.blob_id)
    .where(Manifest.id.in_(_ids))
    .order_by(Manifest.id)
)
_BLOB_EDGES: Final = sa.select(
    *(raw(c) if c.key.endswith("_digest") else c for c in ManifestBlob.__table__.c)
).where(ManifestBlob.manifest_id.in_(_ids))
_MEMBERS: Final = sa.select(
    *(raw(c) if c.key.endswith("_digest") else c for c in IndexMember.__table__.c)
).where(IndexMember.index_id.in_(_ids))
_LABELS: Final = sa.select(*Label.__table__.c).where(Label.manifest_id.in_(_ids))
_BLOBS: Final = sa.select(Blob.digest, Blob.id, Blob.key, Blob.state, Blob.size_bytes).where(
    Blob.digest.in_(sa.bindparam("digests", expanding=True))
)
_CHILDREN: Final = sa.select(Manifest.digest, Manifest.id).where(
    Manifest.repository_id == sa.bindparam("repository"),
    Manifest.digest.in_(sa.bindparam("digests", expanding=True)),
)
_LINKS: Final = sa.select(RepositoryBlob.blob_id).where(
    RepositoryBlob.repository_id == sa.bindparam("repository"), RepositoryBlob.blob_id.in_(_ids)
)
# Not in the bytes: who brought it, when, and for how long it is left alone.
NOT_DERIVED: Final = frozenset(
    {"repository_id", "digest", "content", "blob_id", "pushed_at", "pushed_by", "lease_until"}
)
NOWHERE: Final = -1  # the id of no row
FROM_CONFIG: Final = frozenset({"os", "architecture", "variant", "image_created_at", "chain_digest"})


@dataclass(slots=True)
class Actual:
    """The rows of some manifests, of one moment."""

    manifests: Sequence[Any]
    edges: Mapping[int, list[Row]]
    members: Mapping[int, list[Row]]
    labels: Mapping[int, list[Row]]


@dataclass(slots=True)
class Surroundings:
    """What the rows of one repository's manifests refer to, by digest."""

    blobs: dict[Digest, Any] = field(default_factory=dict)
    blob_ids: dict[Digest, int] = field(default_factory=lambda: defaultdict(lambda: NOWHERE))
    children: dict[Digest, int] = field(default_factory=dict)
    linked: set[int] = field(default_factory=set)


def actual_rows(connection: Connection, ids: Sequence[int]) -> Actual:
    """Read the rows of some manifests and their edges."""
    parameters = {"ids": ids}
    return Actual(
        connection.execute(_ROWS, parameters).all(),
        _grouped(connection.execute(_BLOB_EDGES, parameters), "manifest_id"),
        _grouped(connection.execute(_MEMBERS, parameters), "index_id"),
        _grouped(connection.execute(_LABELS, parameters), "manifest_id"),
    )


def surroundings(
    connection: Connection, repository_id: int, blobs: set[Digest], children: set[Digest]
) -> Surroundings:
    """Read what the bytes of some manifests name."""
    found = Surroundings()
    for some in chunks(sorted(blobs)):
        found.blobs.update({row.digest: row for row in connection.execute(_BLOBS, {"digests": some})})
    for some in chunks(sorted(children)):
        rows: Any = connection.execute(_CHILDREN, {"repository": repository_id, "digests": some})
        found.children.update(rows.all())
    found.blob_ids.update({digest: row.id for digest, row in found.blobs.items()})
    for ids in chunks(sorted(found.blob_ids.values())):
        parameters: dict[str, Any] = {"repository": repository_id, "ids": ids}
        found.linked.update(connection.execute(_LINKS, parameters).scalars())
    return found


def manifest_differences(row: Any, planned: PlannedManifest, *, config_known: bool) -> Iterator[str]:
    """Give each column that is not what the bytes say."""
    expected = derived.manifest(
        planned,
        repository_id=row.repository_id,
        blob_id=row.blob_id,
        now=row.pushed_at,
        actor=row.pushed_by,
        lease_until=row.pushed_at,
    )
    for name, value in expected.items():
        if name in NOT_DERIVED or (name in FROM_CONFIG and not config_known):
            continue
        actual = getattr(row, name)
        if isinstance(value, Digest):
            value = value.to_bytes()
        if actual != value:
            yield f"{name} is {actual!r}, the bytes say {value!r}"[:300]


def edge_differences(
    row: Any, planned: PlannedManifest, actual: Actual, around: Surroundings, *, config_known: bool
) -> Iterator[str]:
    """Give each table whose rows are not what the bytes say."""
    ids = ChainMap({planned.document.digest: row.id}, around.children)
    members = actual.members.get(row.id, [])
    absences = {bytes(member["child_digest"]): member["absence"] for member in members}
    absent = {
        child.digest: absences.get(child.digest.to_bytes()) or "sparse"
        for child in (planned.document.manifests if isinstance(planned.document, Index) else ())
        if child.digest not in ids
    }
    pairs: list[tuple[str, list[Row], list[Row], frozenset[str]]] = [
        (
            "manifest_blobs",
            actual.edges.get(row.id, []),
            derived.blob_edges([planned], ids, around.blob_ids),
            frozenset() if config_known else frozenset({"chain_digest"}),
        ),
        (
            "index_manifests",
            members,
            derived.index_members([planned], ids, around.blob_ids, absent),
            frozenset(),
        ),
    ]
    labels, said = actual.labels.get(row.id, []), derived.labels([planned], ids)
    if not config_known:
        labels = [label for label in labels if label["origin"] != "config"]
    pairs.append(("labels", labels, said, frozenset()))
    for table, found, expected, ignored in pairs:
        if _comparable(found, ignored) != _comparable(expected, ignored):
            missing = _comparable(expected, ignored) - _comparable(found, ignored)
            extra = _comparable(found, ignored) - _comparable(expected, ignored)
            yield f"{table}: {len(missing)} rows are missing, {len(extra)} are too many"


def _comparable(rows: Sequence[Row], ignored: frozenset[str]) -> set[tuple[tuple[str, Any], ...]]:
    return {
        tuple(
            (name, value.to_bytes() if isinstance(value, Digest) else value)
            for name, value in sorted(row.items())
            if name not in ignored
        )
        for row in rows
    }


def _grouped(result: Any, column: str) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in result.mappings():
        values = {
            name: bytes(value) if isinstance(value, memoryview) else value for name, value in row.items()
        }
        found[row[column]].append(values)
    return found
