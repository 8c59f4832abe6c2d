"""What two images have in common, and what not."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.db import Database
from regmeta.oci.descriptor import Platform
from regmeta.oci.names import Reference
from regmeta.query.catalog import resolve_in
from regmeta.query.images.choose import image_of
from regmeta.query.images.layers import layers_in
from regmeta.query.images.results import (
    Change,
    Entry,
    ImageDiff,
    ImageLayers,
    ImageSummary,
    PairDiff,
    Side,
)
from regmeta.query.images.summary import blobs_of, summary_in, tree_ids
from regmeta.query.visibility import Visibility

_LABELS: Final[Any] = sa.select(models.Label.name, models.Label.value).where(
    models.Label.manifest_id == sa.bindparam("of"), models.Label.origin == "config"
)
_CHILD: Final[Any] = sa.select(models.Manifest.id).where(
    models.Manifest.repository_id
    == sa.select(models.Manifest.repository_id)
    .where(models.Manifest.id == sa.bindparam("parent"))
    .scalar_subquery(),
    models.Manifest.digest == sa.bindparam("digest"),
)


def diff(
    database: Database,
    first: Reference,
    second: Reference,
    *,
    platform: Platform | None = None,
    visible: Visibility | None = None,
) -> ImageDiff:
    """Compare two images or indexes, of one moment, from rows alone; they may be of two repositories.

    With *platform*, the image of that platform stands for an index. Without, two indexes are compared as
    they are, and each platform that both have. What differs in their configurations beyond labels:
    ``content.configs.changes``.

    Raises:
        NotFound: a reference means nothing here, or has no image for this platform.
        UsageError: an image and an index of several, and no platform.
        IntegrityError: a row of one of them is damaged.
    """
    with database.read() as connection:
        sides = [_side(connection, each, platform, visible) for each in (first, second)]
        if {each.kind for _, _, each in sides} == {"image", "index"}:
            sides = [_image_side(connection, *each) for each in sides]
        (one, first_id, a), (two, second_id, b) = sides
        shared, only_a, only_b = _bytes(connection, first_id, second_id)
        in_a, in_b = set(a.platforms), set(b.platforms)
        return ImageDiff(
            _shown(one, a),
            _shown(two, b),
            shared,
            only_a,
            only_b,
            tuple(p for p in a.platforms if p in in_b),
            tuple(p for p in a.platforms if p not in in_b),
            tuple(p for p in b.platforms if p not in in_a),
            changes(a.annotations, b.annotations),
            tuple(_pairs(connection, (one, first_id, a), (two, second_id, b))),
        )


def changes(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[Change, ...]:
    """Return what differs between two maps, by name."""
    return tuple(
        Change(name, first.get(name), second.get(name))
        for name in sorted({*first, *second})
        if first.get(name) != second.get(name)
    )


_Sided = tuple[Reference, int, ImageSummary]


def _side(
    connection: Connection, reference: Reference, platform: Platform | None, visible: Visibility | None
) -> _Sided:
    manifest_id, _ = resolve_in(connection, reference, None, visible)
    if platform is not None:
        manifest_id, _ = image_of(connection, manifest_id, reference, platform)
    return reference, manifest_id, _loaded(connection, manifest_id, reference)


def _image_side(
    connection: Connection, reference: Reference, manifest_id: int, found: ImageSummary
) -> _Sided:
    if found.kind == "image":
        return reference, manifest_id, found
    manifest_id, _ = image_of(connection, manifest_id, reference, None)
    return reference, manifest_id, _loaded(connection, manifest_id, reference)


def _loaded(connection: Connection, manifest_id: int, reference: Reference) -> ImageSummary:
    return summary_in(connection, manifest_id, reference.repository)


def _shown(reference: Reference, found: ImageSummary) -> Side:
    return Side(
        f"{reference}",
        found.digest,
        found.kind,
        found.media_type,
        found.size_bytes,
        found.created_at,
        found.pushed_at,
        found.platforms,
    )


def _bytes(connection: Connection, first: int, second: int) -> tuple[int, int, int]:
    """Return the bytes of blobs that both use, that only the first uses, and that only the second uses."""
    one, two = (_blobs(connection, each) for each in (first, second))
    shared = sum(size for blob, size in one.items() if blob in two)
    return shared, sum(one.values()) - shared, sum(two.values()) - shared


def _blobs(connection: Connection, manifest_id: int) -> dict[int, int]:
    once: dict[int, int] = {}
    for blobs in blobs_of(connection, tree_ids(connection, [manifest_id])).values():
        once.update(blobs)
    return once


def _pairs(connection: Connection, first: _Sided, second: _Sided) -> list[PairDiff]:
    a, b = _images(connection, first), _images(connection, second)
    if first[2].kind == "image":
        ((shown, one),) = a.items()
        ((_, two),) = b.items()
        pairs = [(shown or None, one, two)]
    else:
        pairs = [(name, a[name], b[name]) for name in a if name in b]
    return [
        _pair(connection, shown, (first[0].repository, one), (second[0].repository, two))
        for shown, one, two in pairs
    ]


def _images(connection: Connection, side: _Sided) -> dict[str, int]:
    """Return the images of one side by platform: of two for the same platform, the one listed first."""
    _, manifest_id, found = side
    if found.kind == "image":
        return {found.images[0].platform or "": manifest_id}
    images: dict[str, int] = {}
    for entry in found.images:
        if entry.kind == "image" and entry.digest is not None and entry.platform in found.platforms:
            of: dict[str, Any] = {"parent": manifest_id, "digest": entry.digest}
            images.setdefault(_key(entry), connection.execute(_CHILD, of).scalar_one())
    return images


def _key(entry: Entry) -> str:
    version = f" {entry.os_version}" if entry.os_version else ""
    return f"{entry.platform}{version}"


def _pair(
    connection: Connection, shown: str | None, first: tuple[str, int], second: tuple[str, int]
) -> PairDiff:
    a = layers_in(connection, first[1], first[0], shown)
    b = layers_in(connection, second[1], second[0], shown)
    in_a, in_b = ({layer.digest for layer in side.layers} for side in (a, b))
    labels = [dict(connection.execute(_LABELS, {"of": side[1]}).all()) for side in (first, second)]
    return PairDiff(
        shown,
        a.digest,
        b.digest,
        _common_base(a, b),
        tuple(layer for layer in a.layers if layer.digest in in_b),
        tuple(layer for layer in a.layers if layer.digest not in in_b),
        tuple(layer for layer in b.layers if layer.digest not in in_a),
        changes(*labels),
    )


def _common_base(a: ImageLayers, b: ImageLayers) -> int:
    def is_same(pair: tuple[Any, Any]) -> bool:
        one, two = pair
        if one.chain_digest is None or two.chain_digest is None:
            return bool(one.digest == two.digest)
        return bool(one.chain_digest == two.chain_digest)

    return len(list(takewhile(is_same, zip(a.layers, b.layers, strict=False))))
