"""Waiting for large blobs that other processes are receiving, as long as they get on.

It saves a download and decides nothing: what is here after the wait is leased, what is not is fetched. A
process that has died, or stands still, is not waited for: its intent shows no progress for 30 s by our own
clock. That bound also ends a circle of processes that wait for each other, which the order of intents makes
rare: a batch waits only for intents that are older than its own, and only once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from regmeta.db import Database
from regmeta.ingest.reserve import chunks
from regmeta.models import Blob, Intent
from regmeta.models.base import DatabaseClock, UtcTime
from regmeta.oci.digest import Digest

STALLED_S: Final = 30.0  # [s] without progress; then its blob is fetched here as well
LOOK_EVERY_S: Final = 0.5  # [s]

_mine, _theirs = aliased(Intent), aliased(Intent)
_EARLIER: Final = (
    sa.select(_theirs.id, _theirs.digest, _theirs.received_bytes)
    .join(_mine, _mine.digest == _theirs.digest)
    .where(
        _mine.key.in_(sa.bindparam("keys", expanding=True)),
        _theirs.owner != _mine.owner,
        _theirs.expires_at > sa.type_coerce(DatabaseClock(), UtcTime()),
        sa.or_(
            _theirs.created_at < _mine.created_at,
            sa.and_(_theirs.created_at == _mine.created_at, _theirs.id < _mine.id),
        ),
        # Where an earlier one has come in, a later one is not waited for.
        ~sa.exists().where(Blob.digest == _mine.digest, Blob.state == "live"),
    )
)


@dataclass(slots=True)
class _Seen:
    received_bytes: int
    since_s: float


class Elsewhere:
    """Looks after the blobs of one batch that other processes may be receiving. For one thread."""

    def __init__(
        self, database: Database, *, clock_s: Callable[[], float], sleep: Callable[[float], object]
    ) -> None:
        self._database = database
        self._clock_s = clock_s
        self._sleep = sleep
        self._seen: dict[int, _Seen] = {}

    def look(self, keys: Mapping[Digest, str]) -> set[Digest]:
        """Return which digests of our intents' *keys* another process is receiving, and gets on with."""
        now_s = self._clock_s()
        found: set[Digest] = set()
        for row in self._earlier(keys.values()):
            seen = self._seen.get(row.id)
            if seen is None or seen.received_bytes != row.received_bytes:
                seen = self._seen[row.id] = _Seen(row.received_bytes, now_s)
            if now_s - seen.since_s < STALLED_S:
                found.add(row.digest)
        return found

    def wait(self, keys: Mapping[Digest, str], keep_alive: Callable[[], None]) -> None:
        """Wait until no other process gets on with any of them; *keep_alive* is called meanwhile."""
        pending = dict(keys)
        while pending:
            going_on = self.look(pending)
            pending = {digest: key for digest, key in pending.items() if digest in going_on}
            if pending:
                keep_alive()
                self._sleep(LOOK_EVERY_S)

    def _earlier(self, keys: Collection[str]) -> list[Any]:
        with self._database.read() as connection:
            return [
                row
                for some in chunks(sorted(keys))
                for row in connection.execute(_EARLIER, {"keys": some}).all()
            ]
