"""Filters that lists of tags and of manifests share, and what both say of an image."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from regmeta.errors import UsageError
from regmeta.models import IndexMember, Label, Manifest, PullStatistic
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest
from regmeta.oci.folding import text_key, text_of
from regmeta.query.graph.signatures import is_signed
from regmeta.query.lists.filters import shape_of
from regmeta.query.lists.paging import Shape
from regmeta.query.statistics.days import BEFORE_DAYS

MAX_LABEL_VALUE: Final = 4096  # [characters] of a label's value that a row keeps
MAX_LABELS: Final = 20  # in one filter


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFilter:
    """What an image must be; what is None does not matter. All that is set must hold.

    *os*, *architecture* and *variant* must hold together, of the image itself or, for an index, of one of
    its children that are here, by its descriptor or, where that says nothing, by its configuration.
    *labels* are names, each with a value or None for any; annotations count as well as the configuration's
    labels. *pulled* asks whether it ever was. Times are from *_from* on and before *_until*; an image that
    has no such time, or no size (an index has none), is in no range of them.
    """

    media_type: str | None = None
    artifact_type: str | None = None
    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    labels: tuple[tuple[str, str | None], ...] = ()
    signed: bool | None = None
    digest: Digest | None = None
    min_bytes: int | None = None
    max_bytes: int | None = None
    created_from: datetime | None = None
    created_until: datetime | None = None
    pushed_from: datetime | None = None
    pushed_until: datetime | None = None
    pulled: bool | None = None
    pulled_from: datetime | None = None
    pulled_until: datetime | None = None


_SAME: Final[dict[str, Any]] = {
    "media_type": Manifest.media_type,
    "artifact_type": Manifest.artifact_type,
    "digest": Manifest.digest,
}
_LEAST: Final[dict[str, Any]] = {
    "min_bytes": Manifest.total_size_bytes,
    "created_from": Manifest.image_created_at,
    "pushed_from": Manifest.pushed_at,
}
_BELOW: Final[dict[str, Any]] = {
    "created_until": Manifest.image_created_at,
    "pushed_until": Manifest.pushed_at,
}
_PLATFORM: Final = ("os", "architecture", "variant")


def shape_of_images(where: ImageFilter) -> tuple[Shape, dict[str, Any]]:
    """Return the shape and the values of a filter of images.

    Raises:
        UsageError: a text cannot stand in any row, or there are too many labels.
    """
    if len(where.labels) > MAX_LABELS:
        raise UsageError(f"labels: more than {MAX_LABELS} in one question")
    shape, values = shape_of(where)
    for number, (_, value) in enumerate(where.labels):
        if value is not None:
            kept = value[:MAX_LABEL_VALUE]
            values[f"label_{number}_value"] = kept
            values[f"label_{number}_key"] = text_key(text_of(kept))
    return shape, values


def pulled_at(*tag: Any) -> Any:
    """Return when an image was pulled last, by a tag or by any name, as microseconds; NULL if never."""
    return (
        sa.select(sa.func.max(sa.type_coerce(PullStatistic.last_pulled_at, sa.BigInteger())))
        .where(
            PullStatistic.repository_id == Manifest.repository_id,
            PullStatistic.digest == Manifest.digest,
            *(sa.or_(PullStatistic.tag == name, PullStatistic.day <= BEFORE_DAYS) for name in tag),
        )
        .correlate_except(PullStatistic)
        .scalar_subquery()
    )


def conditions(shape: Shape, pulled: Any, *, is_everywhere: bool) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of a filter of images; what this does not know is left to the list itself.

    *pulled* is when the last pull was. Where all repositories are looked through, images with a label are
    looked up by it; in one repository its images are looked at one by one.
    """
    found: list[sa.ColumnElement[bool]] = []
    platform = [name for name, _ in shape if name in _PLATFORM]
    if platform:
        found.append(_runs_on(platform))
    for name, form in shape:
        if name in _SAME:
            found.append(_SAME[name] == sa.bindparam(name))
        elif name in _LEAST:
            found.append(_LEAST[name] >= sa.bindparam(name))
        elif name in _BELOW:
            found.append(_BELOW[name] < sa.bindparam(name))
        elif name in _MORE:
            found.extend(_MORE[name](form, pulled, is_everywhere))
    return found


def _runs_on(names: list[str]) -> sa.ColumnElement[bool]:
    child = aliased(Manifest)
    itself = sa.and_(*(getattr(Manifest, name) == sa.bindparam(name) for name in names))
    listed = [
        sa.func.coalesce(getattr(IndexMember, name), getattr(child, name))
        == sa.bindparam(name, type_=sa.Text())
        for name in names
    ]
    of_a_child = (
        sa.exists().where(IndexMember.index_id == Manifest.id, child.id == IndexMember.child_id, *listed)
    ).correlate(Manifest)
    return sa.or_(itself, sa.and_(Manifest.kind == "index", of_a_child))


def _labelled(form: Any, _pulled: Any, is_everywhere: bool) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    for number, has_value in enumerate(form):
        says: list[Any] = [Label.name == sa.bindparam(f"label_{number}_name")]
        if has_value:
            says += [
                Label.text_key == sa.bindparam(f"label_{number}_key"),
                Label.value == sa.bindparam(f"label_{number}_value"),
            ]
        if is_everywhere:
            found.append(Manifest.id.in_(sa.select(Label.manifest_id).where(*says)))
        else:
            found.append(sa.exists().where(Label.manifest_id == Manifest.id, *says).correlate(Manifest))
    return found


def _signed(form: Any, _pulled: Any, _is_everywhere: bool) -> list[sa.ColumnElement[bool]]:
    return [is_signed(Manifest) if form else ~is_signed(Manifest)]


def _pulled(form: Any, pulled: Any, _is_everywhere: bool) -> list[sa.ColumnElement[bool]]:
    return [pulled.is_not(None) if form else pulled.is_(None)]


def _at_most(_form: Any, _pulled: Any, _is_everywhere: bool) -> list[sa.ColumnElement[bool]]:
    return [Manifest.total_size_bytes <= sa.bindparam("max_bytes")]


def _pulled_from(_form: Any, pulled: Any, _is_everywhere: bool) -> list[sa.ColumnElement[bool]]:
    return [pulled >= sa.bindparam("pulled_from", type_=UtcTime())]


def _pulled_until(_form: Any, pulled: Any, _is_everywhere: bool) -> list[sa.ColumnElement[bool]]:
    return [pulled < sa.bindparam("pulled_until", type_=UtcTime())]


_MORE: Final[dict[str, Callable[[Hashable, Any, bool], list[sa.ColumnElement[bool]]]]] = {
    "labels": _labelled,
    "signed": _signed,
    "max_bytes": _at_most,
    "pulled": _pulled,
    "pulled_from": _pulled_from,
    "pulled_until": _pulled_until,
}
