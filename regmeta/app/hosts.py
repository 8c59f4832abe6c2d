"""Wiring of ``regmeta recover --host-gone``: a machine has gone for good, and somebody says so."""

from __future__ import annotations

from contextlib import closing

from regmeta.app import open_for_writing
from regmeta.app.stores import open_store
from regmeta.errors import IdentityMismatch, SchemaMismatch
from regmeta.maintain.hosts import HostGone, end_host, remove_signs
from regmeta.settings import Settings


def host_gone(settings: Settings, name: str) -> HostGone:
    """End all that processes of the machine *name* left; see :func:`regmeta.maintain.hosts.end_host`.

    Before a lost database is rebuilt or restored there are no rows: then signs are removed, and nothing else.

    Raises:
        Locked: it is this process's own host.
        NotFound: nothing is known of it; names what there is.
        Unavailable: the store or the database did not do it; run it again.
    """
    try:
        with open_for_writing(settings) as registry:
            return end_host(registry.writer, registry.store, name)
    except (SchemaMismatch, IdentityMismatch):
        with closing(open_store(settings)) as store:
            return remove_signs(store, name)
