"""Which image of an index is meant: the one of a platform."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta import models
from regmeta.errors import NotFound, UsageError
from regmeta.oci.descriptor import Platform
from regmeta.query.stored import digest_or_none, raw_digest

_ROOT: Final = sa.select(
    models.Manifest.kind, models.Manifest.os, models.Manifest.architecture, models.Manifest.variant
).where(models.Manifest.id == sa.bindparam("of"))
_child: Final[Any] = models.Manifest
# The index decides what platform a child is for; where it says none, the child's configuration does.
_says: Final = sa.or_(models.IndexMember.os.is_not(None), models.IndexMember.architecture.is_not(None))


def _said(name: str) -> Any:
    own = getattr(_child, name)
    return sa.case((_says, getattr(models.IndexMember, name)), else_=own).label(name)


_CHILDREN: Final = (
    sa.select(
        models.IndexMember.child_id,
        raw_digest(models.IndexMember.child_digest).label("digest"),
        models.IndexMember.absence,
        _child.kind,
        _said("os"),
        _said("architecture"),
        _said("variant"),
    )
    .select_from(models.IndexMember)
    .outerjoin(_child, _child.id == models.IndexMember.child_id)
    .where(models.IndexMember.index_id == sa.bindparam("of"), models.IndexMember.blob_id.is_(None))
    .order_by(models.IndexMember.position)
)


def parse_platform(text: str) -> Platform:
    """Read ``os/architecture`` or ``os/architecture/variant``.

    Raises:
        UsageError: it is neither.
    """
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UsageError(f"--platform {text[:100]!r}: write os/architecture or os/architecture/variant")
    return Platform(*parts)


def image_of(
    connection: Connection, manifest_id: int, reference: object, wanted: Platform | None
) -> tuple[int, str | None]:
    """Return the id of the image that is meant, and its platform where an index says it.

    That is the manifest itself, if it is for the platform or says none. Below an index it is its one image,
    or the one of the platform that is wanted: one without a variant means whatever variant there is, if there
    is one only. What is of no platform (``unknown/unknown``, attestations) is meant by no platform.
    *reference* is what messages call it.

    Raises:
        UsageError: it must be said which; names the platforms that there are.
        NotFound: there is no image of this platform, or it is not here.
    """
    root: Any = connection.execute(_ROOT, {"of": manifest_id}).one()
    if root.kind != "index":
        if wanted is not None and root.os is not None and not _matches(root, wanted):
            raise NotFound(f"{reference}: is for {_platform(root)}, not for {wanted}")
        return manifest_id, None
    listed = [row for row in _images(connection, manifest_id, {manifest_id}) if not _is_unknown(row)]
    found = listed if wanted is None else [row for row in listed if _matches(row, wanted)]
    names = ", ".join(dict.fromkeys(str(_platform(row)) for row in listed)) or "none"
    if not found:
        what = "image" if wanted is None else f"image for {wanted}"
        raise NotFound(f"{reference}: the index has no {what}; it has: {names}")
    exact = [row for row in found if wanted is not None and row.variant == wanted.variant]
    chosen = exact if len(exact) == 1 else found
    if len({row.digest for row in chosen}) > 1:
        if wanted is None or len({str(_platform(row)) for row in chosen}) > 1:
            raise UsageError(f"{reference}: is an index; choose an image of it with --platform: {names}")
        digests = ", ".join(str(digest_or_none(row.digest)) for row in chosen)
        raise UsageError(f"{reference}: has several images for {wanted}; name one by its digest: {digests}")
    row = chosen[0]
    if row.child_id is None:
        raise NotFound(f"{reference}: its image {digest_or_none(row.digest)} is not here ({row.absence})")
    return row.child_id, str(_platform(row))


def _images(connection: Connection, index_id: int, met: set[int]) -> list[Any]:
    """Return what an index lists; in place of an index in it, what that lists."""
    found: list[Any] = []
    for row in connection.execute(_CHILDREN, {"of": index_id}).all():
        if row.kind != "index":
            found.append(row)
        elif row.child_id not in met:
            met.add(row.child_id)
            found += _images(connection, row.child_id, met)
    return found


def _platform(row: Any) -> Platform:
    return Platform(row.os or None, row.architecture or None, row.variant or None)


def _is_unknown(row: Any) -> bool:
    return (row.os, row.architecture) == ("unknown", "unknown")


def _matches(row: Any, wanted: Platform) -> bool:
    if row.os != wanted.os or row.architecture != wanted.architecture:
        return False
    return wanted.variant is None or bool(row.variant == wanted.variant)
