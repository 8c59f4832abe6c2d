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
    snapshots = SnapshotWriter(database, store, staging, show_layouts=settings.layouts == "all")
    return Writer(
        database,
        staging,
        snapshots,
        store.host,
        settings.actor,
        lifetimes if lifetimes is not None else lifetimes_of(settings),
        immutable_of(settings),
    )


def lifetimes_of(settings: Settings) -> Lifetimes:
    """Return how long things are left alone, as the settings say."""
    return Lifetimes(**{key: duration(text) for key, text in asdict(settings.collection).items()})


def immutable_of(settings: Settings) -> tuple[ImmutableTags, ...]:
    """Return the rules of the settings that make tags immutable."""
    return tuple(ImmutableTags(rule.repositories, rule.tags) for rule in settings.immutable)


def require_alone(store: BlobStore, mine: UUID | None = None) -> None:
    """Refuse to go on while another process of this host holds a staging folder; *mine* is this one's.

    Who makes a folder of its own first is seen by whoever else asks at the same time.

    Raises:
        Locked: names one.
    """
    with store.abandoned_stagings() as ended:
        owners = {name.split("/")[1] for name in store.walk_records("staging") if name.count("/") > 1}
        known = {owner.hex for owner in (*ended, mine) if owner is not None}
        living = owners - known
        if living:
            raise Locked(
                f"{store.location}: another process works on it (staging/{min(living)}): end it first"
            )
