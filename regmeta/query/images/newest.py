"""A repository at a glance, and which of its images is the newest.

The newest image is the one that a tag was set to last: that is what somebody did here, by the database's
clock. When an image says it was created decides only among tags set at the same moment, as one import sets
all of its tags; after that when it was pushed, then the tag's name, the last one first. Builders write any
time they like, and who makes the same bytes again writes the same old time again, so it cannot come first.

Companions of images are no images: what names a subject, and what tags of the form ``sha256-<hex>...`` mean
(cosign's signatures, attestations and bills of materials, and lists of referrers). A repository that has
nothing else has no newest image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.db import Database
from regmeta.errors import NotFound
from regmeta.oci.annotations import VENDOR_NAMES
from regmeta.query.catalog import platform, repository_id
from regmeta.query.images.results import UNKNOWN_PLATFORM, ImageSummary, RepositorySummary, Unreadable
from regmeta.query.images.summary import summaries_in
from regmeta.query.stored import raw_time, time_or_none
from regmeta.query.visibility import Visibility, seen

_NEVER: Final = -(2**62)  # [µs] sorts before all times
_SHORTEST_COMPANION: Final = len("sha256-") + 64
_of: Final[Any] = models.Repository.id
_tag = models.Tag
_is_live: Final = sa.and_(_tag.repository_id == _of, _tag.ended_at.is_(None))
_ids: Final[Any] = sa.bindparam("ids", expanding=True)


def is_companion(name: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a tag's name is one of those that companions of images have."""
    # What stands behind "-" in byte order is ".".
    named = [sa.and_(name >= f"{algorithm}-", name < f"{algorithm}.") for algorithm in ("sha256", "sha512")]
    return sa.and_(sa.func.length(name) >= _SHORTEST_COMPANION, sa.or_(*named))


# The index on live tags by time gives the order of the first key, so only tags of one moment are sorted.
_newest_tag = (
    sa.select(_tag.id)
    .join(models.Manifest, models.Manifest.id == _tag.manifest_id)
    .where(_is_live, ~is_companion(_tag.name), models.Manifest.subject_digest.is_(None))
    .order_by(
        _tag.started_at.desc(),
        sa.func.coalesce(raw_time(models.Manifest.image_created_at), _NEVER).desc(),
        models.Manifest.pushed_at.desc(),
        _tag.name.desc(),
    )
    .limit(1)
    .correlate(models.Repository)
    .scalar_subquery()
)
NEWEST: Final[Any] = (
    sa.select(models.Repository.id, _tag.name, _tag.manifest_id)
    .join(_tag, _tag.id == _newest_tag)
    .where(models.Repository.id.in_(_ids))
)


def _one(column: Any, *conditions: Any) -> Any:
    return sa.select(column).where(*conditions).correlate(models.Repository).scalar_subquery()


_pulls = models.PullStatistic
_favorite = models.Favorite
_user: Final[Any] = sa.bindparam("user")
_is_favorite = (_favorite.repository_id == _of, _favorite.user_name == _user)
_REPOSITORIES: Final[Any] = sa.select(
    models.Repository.id,
    models.Repository.name,
    _one(sa.func.count(), _is_live).label("tags"),
    _one(sa.func.count(), models.Manifest.repository_id == _of, models.Manifest.deleted_at.is_(None)).label(
        "manifests"
    ),
    _one(
        sa.func.coalesce(sa.func.sum(models.Blob.size_bytes), 0),
        models.RepositoryBlob.repository_id == _of,
        models.Blob.id == models.RepositoryBlob.blob_id,
    ).label("size_bytes"),
    _one(sa.func.coalesce(sa.func.sum(_pulls.pulls), 0), _pulls.repository_id == _of).label("pulls"),
    _one(raw_time(sa.func.max(_pulls.last_pulled_at)), _pulls.repository_id == _of).label("last_pulled_at"),
    _one(sa.func.count(), _favorite.repository_id == _of, _favorite.kind == "star").label("stars"),
    _one(sa.func.count(), *_is_favorite, _favorite.kind == "star").label("is_starred"),
    _one(sa.func.count(), *_is_favorite, _favorite.kind == "bookmark").label("is_bookmarked"),
    raw_time(models.Repository.created_at).label("created_at"),
    raw_time(models.Repository.updated_at).label("updated_at"),
    # Deleted manifests stand between those that count in the index, but are few.
    sa.select(raw_time(models.Manifest.pushed_at))
    .where(models.Manifest.repository_id == _of, models.Manifest.deleted_at.is_(None))
    .order_by(models.Manifest.pushed_at.desc())
    .limit(1)
    .correlate(models.Repository)
    .scalar_subquery()
    .label("pushed_at"),
    _one(raw_time(sa.func.max(_tag.started_at)), _is_live).label("tagged_at"),
).where(models.Repository.id.in_(_ids))
_PLATFORMS: Final[Any] = (
    sa.select(
        models.Manifest.repository_id,
        models.Manifest.os,
        models.Manifest.architecture,
        models.Manifest.variant,
    )
    .where(
        models.Manifest.repository_id.in_(_ids),
        models.Manifest.deleted_at.is_(None),
        models.Manifest.os.is_not(None),
    )
    .distinct()
)


def _label(origin: str, name: str) -> Any:
    return (
        sa.select(sa.func.nullif(sa.func.trim(models.Label.value), ""))
        .where(
            models.Label.manifest_id == models.Manifest.id,
            models.Label.origin == origin,
            models.Label.name == name,
        )
        .correlate(models.Manifest)
        .scalar_subquery()
    )


# Looked up for each manifest: a join would begin with all labels of the registry that name a vendor.
_VENDORS: Final[Any] = (
    sa.select(
        models.Manifest.repository_id,
        sa.func.coalesce(
            *(_label(origin, name) for origin in ("annotation", "config") for name in VENDOR_NAMES)
        ),
    )
    .where(models.Manifest.repository_id.in_(_ids), models.Manifest.deleted_at.is_(None))
    .distinct()
)
_NAMED: Final[Any] = sa.select(models.Repository.id, models.Repository.name).where(
    models.Repository.name.in_(sa.bindparam("names", expanding=True)), models.Repository.state == "active"
)


def newest_image(
    database: Database, repository: str, *, visible: Visibility | None = None
) -> tuple[str, ImageSummary | Unreadable] | None:
    """Return the tag and the summary of a repository's newest image, None if it has no image with a tag.

    Raises:
        NotFound: there is no such repository.
    """
    with database.read() as connection:
        of = repository_id(connection, repository, None, visible)
        found = connection.execute(NEWEST, {"ids": [of]}).first()
        if found is None:
            return None
        _, tag, manifest_id = found
        image = summaries_in(connection, [manifest_id]).get(manifest_id)
    return None if image is None else (tag, image)


def repository_summary(
    database: Database, repository: str, *, user: str | None = None, visible: Visibility | None = None
) -> RepositorySummary:
    """Return one repository at a glance; *user* is for whom it is starred or bookmarked.

    Costs time in proportion to its manifests, blobs and days of pulls.

    Raises:
        NotFound: there is no such repository.
    """
    [found] = repository_summaries(database, [repository], user=user, visible=visible)
    if isinstance(found, Unreadable):
        raise NotFound(f"{repository}: {found.why}")
    return found


def repository_summaries(
    database: Database,
    repositories: Sequence[str],
    *,
    user: str | None = None,
    visible: Visibility | None = None,
) -> tuple[RepositorySummary | Unreadable, ...]:
    """Return a page of repositories at a glance, in the order in which they are asked for.

    One that is not here is said in its place. The number of statements does not grow with the repositories.
    """
    if not repositories:
        return ()
    with database.read() as connection:
        named = connection.execute(seen(_NAMED, visible), {"names": list(dict.fromkeys(repositories))})
        found = _summaries(connection, [of for of, _ in named], user)
    return tuple(found.get(name) or Unreadable(name, "no such repository") for name in repositories)


def _summaries(
    connection: Connection, ids: list[int], user: str | None
) -> dict[str, RepositorySummary | Unreadable]:
    if not ids:
        return {}
    of = {"ids": ids}
    newest = {of_: (tag, manifest_id) for of_, tag, manifest_id in connection.execute(NEWEST, of)}
    images = summaries_in(connection, [manifest_id for _, manifest_id in newest.values()])
    platforms = _sets((row[0], platform(*row[1:])) for row in connection.execute(_PLATFORMS, of))
    vendors = _sets((row[0], row[1]) for row in connection.execute(_VENDORS, of))
    found: dict[str, RepositorySummary | Unreadable] = {}
    for row in connection.execute(_REPOSITORIES, {**of, "user": user}):
        tag, manifest_id = newest.get(row.id, (None, None))
        created_at, updated_at = time_or_none(row.created_at), time_or_none(row.updated_at)
        if created_at is None or updated_at is None:
            found[row.name] = Unreadable(row.name, "its row is damaged")
            continue
        found[row.name] = RepositorySummary(
            row.name,
            tag,
            images.get(manifest_id) if manifest_id is not None else None,
            row.tags,
            row.manifests,
            int(row.size_bytes),
            tuple(sorted(platforms.get(row.id, set()) - {UNKNOWN_PLATFORM})),
            tuple(sorted(vendors.get(row.id, set()))),
            int(row.pulls),
            time_or_none(row.last_pulled_at),
            row.stars,
            bool(row.is_starred),
            bool(row.is_bookmarked),
            created_at,
            updated_at,
            time_or_none(row.pushed_at),
            time_or_none(row.tagged_at),
        )
    return found


def _sets(pairs: Iterable[tuple[int, str | None]]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for of, value in pairs:
        if value:
            found.setdefault(of, set()).add(value)
    return found
