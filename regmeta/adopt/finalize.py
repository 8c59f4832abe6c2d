"""The end of an adoption: the last look, then its leases end, then it is noted.

========  =====================================  =============================  ===============
step      durable effect                         a crash right after leaves     repaired by
========  =====================================  =============================  ===============
look      --                                     --                             --
end       leases of some rows end in a usual     the same                       the next run of
          time, 1,000 a transaction                                             ``finalize``
finish    ``finalized_at``                       --                             --
========  =====================================  =============================  ===============
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from regmeta.adopt.records import adoptions, leases, repositories
from regmeta.adopt.records.adoptions import KnownAdoption
from regmeta.adopt.terms import fingerprint_of, is_read
from regmeta.db import Database
from regmeta.errors import InvalidSource, Refused
from regmeta.sources.storage import RegistryStorage


def changed_since(storage: RegistryStorage, database: Database, adoption: KnownAdoption) -> list[str]:
    """Return the repositories of a storage that were not brought as they are now, or cannot be read.

    Raises:
        InvalidSource, RemoteUnavailable: it could not be found out, or there are none any more.
    """
    changed, seen = [], False
    for name in storage.repositories():
        seen = True
        known = repositories.known(database, adoption.id, name)
        now = fingerprint_of(storage, name)
        if known is None or known.state != "done" or known.fingerprint != now or not is_read(now):
            changed.append(name)
    if not seen:
        require_some(storage, database, adoption)
    return changed


def require_some(storage: RegistryStorage, database: Database, adoption: KnownAdoption) -> None:
    """Refuse a storage that lists nothing, and from which something was brought: a disk may be missing.

    Raises:
        InvalidSource: it is such a one.
    """
    known = next((each for each in repositories.every(database, adoption.id) if each.tags), None)
    if known is not None:
        raise InvalidSource(f"{storage.location}: has no repository, and had {known.source}: is it mounted?")


def finalize(
    database: Database,
    adoption: KnownAdoption,
    storage: RegistryStorage | None,
    lease: timedelta,
    advanced: Callable[[int], None],
) -> None:
    """End an adoption: what it brought is kept by tags, indexes and policies from then on.

    *storage* is looked at first; None is not looked at. *lease* is the usual one: for so long everything is
    still kept. May be run again, and while everybody else works.

    Raises:
        Refused: something there was not brought, or has changed since, or no run got to its end.
        Unavailable, Locked: stopped in between; run again it goes on.
    """
    if adoption.completed_at is None:
        raise Refused(f"{adoption.location}: no run has brought all of it yet")
    changed = [] if storage is None else changed_since(storage, database, adoption)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise Refused(
            f"{adoption.location}: {changed[0]}{more} changed since, or cannot be read: run 'regmeta adopt'"
            " again first"
        )
    leases.end(database, adoption.id, lease, advanced)
    adoptions.finish(database, adoption.id)
