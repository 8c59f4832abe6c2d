"""Which images an image is built on, and which are built on it: by the chain of their layers.

An image's chain digest names all its layers in order, uncompressed where its configuration says so; so
images that compress a layer differently share it. A **base** of an image has a chain that is a proper prefix
of its own; a **derived** image is the other way round. Images with the very same layers are neither. An image
without layers has no chain and no kin, and neither has an artifact. An index is asked about for each of its
images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from regmeta import models
from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.models.base import BigId, DigestType
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query import catalog, cursors, tree
from regmeta.query.catalog import PAGE
from regmeta.query.results import Page
from regmeta.query.visibility import Visibility, seen

_KEYS: Final = (int, int, int)  # image, step, kin
_below = tree.below()
_is_image: Final = models.Manifest.config_media_type.in_(sorted(media_types.IMAGE_CONFIGS))
_IMAGES: Final = (
    sa.select(
        models.Manifest.id,
        models.Manifest.digest,
        models.Manifest.os,
        models.Manifest.architecture,
        models.Manifest.variant,
        models.Manifest.layer_count,
        models.Manifest.chain_digest,
    )
    .where(
        models.Manifest.id.in_(sa.select(_below.c.id)),
        models.Manifest.chain_digest.is_not(None),
        models.Manifest.deleted_at.is_(None),
        _is_image,
    )
    .order_by(models.Manifest.id)
)
_whole = aliased(models.Manifest)
_PREFIXES: Final = (
    sa.select(models.ManifestBlob.position, models.ManifestBlob.chain_digest)
    .where(
        models.ManifestBlob.manifest_id == sa.bindparam("image"),
        models.ManifestBlob.position < sa.bindparam("top"),
        models.ManifestBlob.chain_digest.is_not(None),
        sa.exists().where(_whole.chain_digest == models.ManifestBlob.chain_digest),
    )
    .order_by(models.ManifestBlob.position.desc())
)
_KIN: Final = (
    sa.select(
        models.Manifest.id,
        models.Repository.name,
        models.Manifest.digest,
        models.Manifest.os,
        models.Manifest.architecture,
        models.Manifest.variant,
        models.Manifest.layer_count,
        models.Manifest.total_size_bytes,
        models.Manifest.pushed_at,
    )
    .join(models.Repository, models.Repository.id == models.Manifest.repository_id)
    .where(models.Repository.state == "active", models.Manifest.deleted_at.is_(None), _is_image)
    .limit(sa.bindparam("page"))
)
_chain: Final[Any] = sa.bindparam("chain", type_=DigestType())
_behind: Final[Any] = sa.bindparam("behind", type_=BigId)
_WHOLE: Final = _KIN.where(models.Manifest.chain_digest == _chain, models.Manifest.id > _behind).order_by(
    models.Manifest.id
)
_DERIVED: Final = (
    _KIN.join(models.ManifestBlob, models.ManifestBlob.manifest_id == models.Manifest.id)
    .where(
        models.ManifestBlob.chain_digest == _chain,
        models.ManifestBlob.manifest_id > _behind,
        models.Manifest.chain_digest != _chain,
    )
    .order_by(models.ManifestBlob.manifest_id)
)
_INDEX_TAGS: Final = (
    sa.select(models.IndexMember.child_id, models.Tag.name)
    .join(models.Tag, models.Tag.manifest_id == models.IndexMember.index_id)
    .where(
        models.IndexMember.child_id.in_(sa.bindparam("ids", expanding=True)), models.Tag.ended_at.is_(None)
    )
    .distinct()
    .order_by(models.IndexMember.child_id, models.Tag.name)
)


@dataclass(frozen=True, slots=True)
class Kin:
    """An image that shares its first layers with the one that was asked about.

    ``of`` is that image, or the one of its index, for ``of_platform``; of some with equal layers, the first.
    ``layers`` is how many it has, ``shared_layers`` how many of them, from the bottom up, both have.
    ``index_tags`` are the tags of indexes that list the image. ``total_bytes`` counts its configuration and
    layers.
    """

    repository: str
    digest: Digest
    tags: tuple[str, ...]
    index_tags: tuple[str, ...]
    platform: str | None
    layers: int
    shared_layers: int
    total_bytes: int
    pushed_at: datetime
    of: Digest
    of_platform: str | None


@dataclass(frozen=True, slots=True)
class _Step:
    """One piece of a list: images of one chain, in the order of their ids."""

    image: Any
    rank: int  # ascending within an image
    chain: Digest
    shared: int


def bases(
    database: Database,
    reference: Reference,
    *,
    platform: str | None = None,
    after: str | None = None,
    limit: int = PAGE,
    visible: Visibility | None = None,
) -> Page[Kin]:
    """Return one page of the images that an image is built on, those with the most layers first.

    For an index, those of its first image come first, and so on. With *platform* (``os/architecture`` and
    maybe ``/variant``) only bases for it. A copy of a base in another repository is one more. Pages are of
    the digest that the reference means: page on by the digest if the tag may move.

    Raises:
        NotFound: the reference means nothing here.
        UsageError: *after* is not the cursor of this list, *platform* is none, or *limit* is out of range.
    """
    question, choose = f"bases {platform}", _on(_WHOLE, platform, visible)
    return _kin(database, reference, question, choose, _steps_down, after, limit, visible)


def derived(
    database: Database,
    reference: Reference,
    *,
    platform: str | None = None,
    after: str | None = None,
    limit: int = PAGE,
    visible: Visibility | None = None,
) -> Page[Kin]:
    """Return one page of the images that are built on an image, in the order in which they came.

    Arguments and errors are as for :func:`bases`. Images with the very same layers are not among them: see
    :func:`same_layers`. Work grows with the page, not with how many images are built on this one.
    """
    question, choose = f"derived {platform}", _on(_DERIVED, platform, visible)
    return _kin(database, reference, question, choose, _step_here, after, limit, visible)


def same_layers(
    database: Database,
    reference: Reference,
    *,
    platform: str | None = None,
    after: str | None = None,
    limit: int = PAGE,
    visible: Visibility | None = None,
) -> Page[Kin]:
    """Return one page of the images with the very same layers, in the order in which they came.

    They are copies of it in other repositories, and images that differ in their configuration or in how they
    are compressed. Arguments and errors are as for :func:`bases`.
    """
    question, choose = f"same layers {platform}", _on(_WHOLE, platform, visible)
    return _kin(database, reference, question, choose, _step_here, after, limit, visible)


def _kin(
    database: Database,
    reference: Reference,
    question: str,
    statement: Any,
    steps_of: Callable[[Connection, Any], Sequence[_Step]],
    after: str | None,
    limit: int,
    visible: Visibility | None,
) -> Page[Kin]:
    """Go from step to step until the page is full; each reads its piece in the order of an index."""
    cursors.check_limit(limit)
    with database.read() as connection:
        root, digest = catalog.resolve_in(connection, reference, visible=visible)
        question = f"{question} {reference.repository}@{digest}"
        first, rank, behind = (0, 0, 0) if after is None else cursors.decode(question, after, _KEYS)
        images = connection.execute(_IMAGES, {"roots": [root]})
        found: list[tuple[_Step, Any]] = []
        for image in _one_of_each_chain(images):
            if image.id < first:
                continue
            for step in steps_of(connection, image):
                if (image.id, step.rank) < (first, rank):
                    continue
                at = behind if (image.id, step.rank) == (first, rank) else 0
                room = limit + 1 - len(found)
                asked = {"chain": step.chain, "behind": at, "page": room + 1}
                rows = [row for row in connection.execute(statement, asked) if row.id != image.id]
                found.extend((step, row) for row in rows[:room])
                if len(found) > limit:
                    break
            if len(found) > limit:
                break
        kept = found[:limit]
        items = _described(connection, kept)
    return Page(items, cursors.following(question, found, limit, _place, _KEYS))


def _place(found: tuple[_Step, Any]) -> list[int]:
    step, row = found
    return [step.image.id, step.rank, row.id]


def _one_of_each_chain(images: Iterable[Any]) -> list[Any]:
    """Leave out images of an index whose layers another one of it has: their kin are the same."""
    first: dict[Digest, Any] = {}
    for image in images:
        first.setdefault(image.chain_digest, image)
    return list(first.values())


def _steps_down(connection: Connection, image: Any) -> list[_Step]:
    """Return the prefixes of an image's chain that are the whole chain of some image, the longest first."""
    rows = connection.execute(_PREFIXES, {"image": image.id, "top": image.layer_count})
    return [_Step(image, image.layer_count - row.position, row.chain_digest, row.position) for row in rows]


def _step_here(connection: Connection, image: Any) -> list[_Step]:
    return [_Step(image, 0, image.chain_digest, image.layer_count)]


def _on(statement: Any, platform: str | None, visible: Visibility | None) -> Any:
    """Return a statement for one platform and for who sees only some repositories."""
    if platform is not None:
        parts = platform.split("/")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise UsageError(f"{platform!r} is no platform: write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT")
        columns = (models.Manifest.os, models.Manifest.architecture, models.Manifest.variant)
        statement = statement.where(*(column == part for column, part in zip(columns, parts, strict=False)))
    return seen(statement, visible)


def _described(connection: Connection, found: Sequence[tuple[_Step, Any]]) -> tuple[Kin, ...]:
    ids = sorted({row.id for _, row in found})
    own = catalog.tags_of(connection, ids) if ids else {}
    of_indexes: dict[int, list[str]] = {}
    if ids:
        for child, name in connection.execute(_INDEX_TAGS, {"ids": ids}):
            of_indexes.setdefault(cast("int", child), []).append(name)
    return tuple(
        Kin(
            row.name,
            row.digest,
            own.get(row.id, ()),
            tuple(of_indexes.get(row.id, ())),
            catalog.platform(row.os, row.architecture, row.variant),
            row.layer_count,
            step.shared,
            row.total_size_bytes,
            row.pushed_at,
            step.image.digest,
            catalog.platform(step.image.os, step.image.architecture, step.image.variant),
        )
        for step, row in found
    )
