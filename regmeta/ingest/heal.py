"""Giving damaged blobs new objects, from bytes that are found elsewhere.

The phases are those of any ingest (``ingest.unit_of_work``); the commit changes nothing but the key and the
state of the blob's row. The old object gets a tombstone: it is not touched before that is due.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from regmeta.errors import DamagedBlob, Error, LostReservation
from regmeta.ingest.unit_of_work import UnitOfWork, Writer
from regmeta.models import Blob, Repository, RepositoryBlob
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes that may be good: how many there are, where that is known, and how they are opened."""

    size_bytes: int | None
    open: Callable[[], AbstractContextManager[ByteStream]]


_HOLDERS: Final = (
    sa.select(RepositoryBlob.repository_id)
    .join(Blob, Blob.id == RepositoryBlob.blob_id)
    .join(Repository, Repository.id == RepositoryBlob.repository_id)
    .where(Blob.digest == sa.bindparam("of"), Blob.state == "live", Repository.state == "active")
    .order_by(RepositoryBlob.repository_id)
)


def heal(writer: Writer, digest: Digest, size_bytes: int, copies: Mapping[str, Copy]) -> str | None:
    """Heal the row of a damaged blob with the first of *copies* (by what messages call it) that is good.

    Returns which copy that was; None if the row needed none any more. Runs beside anything: who heals it
    first wins.

    Raises:
        DamagedBlob: no copy is good; nothing has changed.
        StoreUnavailable: the new object could not be written.
    """
    unit = UnitOfWork(writer, f"heal {digest}")
    try:
        unit.reserve({digest: size_bytes})
        if digest in unit.stored:
            unit.abort()
            return None
        healed_by = _stage(unit, digest, size_bytes, copies)
        unit.publish()
        unit.commit((), healing=frozenset({digest}))
    except LostReservation:
        unit.abort()
        return None
    except BaseException:
        unit.abort()
        raise
    unit.finish()
    _show(writer, digest)
    return healed_by


def _stage(unit: UnitOfWork, digest: Digest, size_bytes: int, copies: Mapping[str, Copy]) -> str:
    failures = []
    for name, copy in copies.items():
        try:
            # The digest decides; the size in the row may be what is wrong.
            with copy.open() as stream:
                unit.stage(digest, size_bytes if copy.size_bytes is None else copy.size_bytes, stream)
        except Error as error:
            failures.append(f"{name}: {error}")
        else:
            return name
    raise DamagedBlob(f"{digest}: no good copy" + "".join(f"; {failure}" for failure in failures))


def _show(writer: Writer, digest: Digest) -> None:
    """Let the repositories' layouts link to the new object."""
    with writer.database.read() as connection:
        holders = connection.execute(_HOLDERS, {"of": digest}).scalars().all()
    for repository_id in holders:
        writer.snapshots.flush_quietly(repository_id, {digest}, now=True)
