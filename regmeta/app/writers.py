"""What every process that writes is made of, and whether it is the only one."""

from __future__ import annotations

from uuid import UUID

from msgspec.structs import asdict

from regmeta.db import Database
from regmeta.errors import Locked
from regmeta.ingest.immutable import ImmutableTags
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.snapshots import SnapshotWriter
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.setup import read_record
from regmeta.settings import Settings, duration
from regmeta.store import BlobStore, Staging


def writer_of(
    settings: Settings,
    database: Database,
    store: BlobStore,
    staging: Staging,
    lifetimes: Lifetimes | None = None,
) -> Writer:
    """Put together what all ingests of this process share."""
    record = read_record(store)
    store_id = None if record is None else record.store_id
    snapshots = SnapshotWriter(
        database, store, staging, show_layouts=settings.layouts == "all", store_id=store_id
    )
    return Writer(
        database,
        staging,
        snapshots,
        store.host,
        settings.actor,
        lifetimes if lifetimes is not None else lifetimes_of(settings),
        immutable_of(settings),
        store_id,
    )


def lifetimes_of(settings: Settings) -> Lifetimes:
    """Return how long things are left alone, as the settings say."""
    return Lifetimes(**{key: duration(text) for key, text in asdict(settings.collection).items()})


def immutable_of(settings: Settings) -> tuple[ImmutableTags, ...]:
    """Return the rules of the settings that make tags immutable."""
    return tuple(ImmutableTags(rule.repositories, rule.tags) for rule in settings.immutable)


def require_alone(store: BlobStore, mine: UUID | None = None) -> None:
    """Refuse to go on while another process holds a staging area; *mine* is this one's.

    Who makes one of its own first is seen by whoever else asks at the same time. In a bucket it is seen by
    the signs of all hosts, also of one that has gone for good: that somebody has to say.

    Raises:
        Locked: names one.
    """
    with store.abandoned_stagings() as ended:
        found = [name.split("/") for name in store.walk_records("staging") if name.count("/") > 1]
        known = {owner.hex for owner in (*ended, mine) if owner is not None}
        living = {owner: host for _, owner, host, *_ in found if owner not in known}
        if living:
            owner, host = min(living.items())
            message = f"{store.location}: another process works on it (staging/{owner}"
            if store.layouts is not None:  # in a folder: other files than signs
                raise Locked(f"{message}): end it first")
            raise Locked(
                f"{message}, of {host}): end it first; if that machine has gone for good:"
                f" regmeta recover --host-gone {host}"
            )


def may_live(store: BlobStore, host: str, owner: UUID) -> bool:
    """Tell whether a process may still be at work: its folder is here, or what it signed is in the bucket.

    One of a machine that has gone for good seems to live. Good enough for who saves work by it, not for who
    gives something up.

    Raises:
        StoreUnavailable: it could not be found out.
    """
    if host == store.host:
        return store.staging_exists(owner)
    return next(iter(store.walk_records(f"staging/{owner.hex}")), None) is not None
