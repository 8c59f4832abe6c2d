"""Whether the database is older than its store: a copy that was put back by hand names too little.

The store keeps a snapshot of each repository, named by its (epoch, revision), and it is written after the
rows were committed. So one of a later version than the row tells that the row is of an earlier time, and
that objects which the rows do not name, or call garbage, may be those of images that were acknowledged.
(``regmeta restore`` raises the epoch: then every row is later than every snapshot.)
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import StoreUnavailable
from regmeta.ingest.reserve import chunks
from regmeta.maintain.collect.hold import CollectionHeld
from regmeta.maintain.rebuild.listing import SNAPSHOTS, sort_records
from regmeta.models import LayoutOutbox, Repository, StoreIdentity
from regmeta.store import BlobStore

SOME_SNAPSHOTS: Final = 1000
"""So many each run of the collector looks at: its cost is to follow the garbage. The sweep looks at all."""

_EPOCH: Final = sa.select(StoreIdentity.epoch)
_REVISIONS: Final = sa.select(Repository.name, Repository.revision).where(
    Repository.name.in_(sa.bindparam("names", expanding=True))
)
_WRITTEN: Final = (
    sa.select(Repository.name)
    .where(
        Repository.revision > 0,
        ~sa.exists().where(LayoutOutbox.repository_id == Repository.id),
    )
    .limit(1)
)


class DatabaseIsOlder(CollectionHeld):
    """The store knows later revisions than the database: nothing is given up by what it says."""


def check_not_older(database: Database, store: BlobStore, *, at_most: int | None = None) -> None:
    """Refuse to go on if the store has a snapshot that is newer than its repository's row.

    Looks at all snapshots, or at the first *at_most* that the store lists. Safe beside writers: the snapshots
    are listed before the rows are read.

    Raises:
        DatabaseIsOlder: names the repository, and what puts back the rows.
        StoreUnavailable: the listing failed, or it is empty and cannot be.
    """
    listed = sort_records(islice(store.walk_records(SNAPSHOTS), at_most))
    newest = {name: versions[0] for name, versions in listed.versions.items()}
    if not newest:
        _check_none_written(database, store)
    with database.read() as connection:
        epoch = connection.execute(_EPOCH).scalar_one()
        for some in chunks(sorted(newest)):
            found: Any = connection.execute(_REVISIONS, {"names": some})
            revisions: dict[str, int] = dict(found.all())
            for name in some:
                if name not in revisions or newest[name] > (epoch, revisions[name]):
                    row = f"at {epoch}-{revisions[name]}" if name in revisions else "not there"
                    raise DatabaseIsOlder(
                        f"{database.location} is older than its store: {name} has the snapshot"
                        f" {'-'.join(map(str, newest[name]))}, its row is {row}."
                        " 'regmeta rebuild' puts back what the rows lack; nothing is collected before"
                    )


def _check_none_written(database: Database, store: BlobStore) -> None:
    """Believe an empty listing only if no repository's snapshot was written."""
    with database.read() as connection:
        name = connection.execute(_WRITTEN).scalar()
    # The first one of all may have been written since the listing: it is there before its row says so.
    if name is not None and next(iter(store.walk_records(SNAPSHOTS)), None) is None:
        raise StoreUnavailable(
            f"{store.location} lists no snapshot at all, not even of {name}: is all of it mounted?"
        )
