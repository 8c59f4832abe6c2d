"""``regmeta init`` and ``regmeta status``: the registry as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings

if TYPE_CHECKING:
    from regmeta.app.replicas import ReplicaStatus


def init(ctx: typer.Context) -> None:
    """Make a registry: a database with its schema, and a store that belongs to it.

    Run again, it changes nothing; after an interruption it does the rest.

    \b
    Examples:
      regmeta init
      regmeta --home /srv/registry init
      REGMETA_DATABASE=postgresql://user@host/name regmeta --home /srv/registry init
    """
    from regmeta import app

    chosen = settings(ctx)
    made = app.initialise(chosen)
    render.say(f"{'made' if made else 'found'} the registry in {chosen.home}")


def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show what is stored, what is under way, and what is not flushed yet. Changes nothing.

    \b
    Examples:
      regmeta status
      regmeta status --json
    """
    from regmeta import app
    from regmeta.app import replicas
    from regmeta.query.status import status as ask

    chosen = settings(ctx)
    with app.open_for_reading(chosen) as registry:
        found = ask(registry.database, registry.store.location)
    replica = replicas.replica_status(chosen)
    if as_json:
        render.json(found if replica is None else {**render.plain(found), "replica": replica})
        return
    ingests = [
        f"{render.count(item.keys, 'key')} of {item.owner} on {item.host} since {render.moment(item.since)}"
        + (" (expired)" if item.is_expired else "")
        for item in found.open_ingests
    ]
    render.fields(
        [
            ("database", found.database),
            ("store", found.store),
            ("schema", found.schema),
            ("identity", f"store {found.store_id}, database {found.database_id}, epoch {found.epoch}"),
            ("repositories", found.repositories),
            ("tags", found.tags),
            ("manifests", found.manifests),
            ("absent children", found.absent_children),
            ("blobs", f"{found.blobs} ({render.size(found.blob_bytes)})"),
            ("damaged blobs", found.damaged_blobs),
            ("open ingests", ingests or "none"),
            ("snapshots behind", found.snapshots_behind or "none"),
            ("dead objects", found.tombstones),
            ("to be collected", found.gc_tasks),
            (
                "collection",
                "allowed" if found.collection_hold is None else f"on hold: {found.collection_hold}",
            ),
            ("events", found.events),
            ("last commit", found.last_commit_at),
            *([] if replica is None else [("replica", _behind(replica))]),
        ]
    )


def _behind(replica: ReplicaStatus) -> str:
    lag = replica.lag
    if lag is None:
        return f"unknown: {replica.error}"
    if not lag.missing_bytes:
        return f"{replica.location} shows all"
    since = "" if lag.behind_s is None else f" and {lag.behind_s:.0f} s"
    paused = " (paused)" if lag.is_paused else ""
    return f"{replica.location} is {render.size(lag.missing_bytes)}{since} behind{paused}"
