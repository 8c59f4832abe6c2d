"""The registries that use cases start from; each is made once for each database, when first asked for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final
from uuid import uuid4

import sqlalchemy as sa
from msgspec.structs import replace

from regmeta import app
from regmeta.app import backups, retention
from regmeta.ingest import snapshots
from regmeta.ingest.tags import remove_tag
from regmeta.maintain import schema
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.models import Base
from regmeta.oci.digest import Digest
from regmeta.settings import KeepRule, Retention, RetentionPolicy, Settings
from regmeta.sources.open import open_source
from regmeta.store import new_key
from tests.crash.harness import images
from tests.crash.harness.children import Acknowledge, die, run_child
from tests.crash.harness.images import REPOSITORY
from tests.crash.harness.old_registry import AFTER, BEFORE, adopt_from, write
from tests.crash.harness.places import Arena, Place
from tests.crash.harness.upstream import sync_from
from tests.support.derived import raw
from tests.support.registry import change, key_of, open_parts, requests

PLAN: Final = "plan.json"
OLD_FOLDER: Final = "old"


def base(arena: Arena, backend: str, name: str) -> Place:
    """Return a registry that is ready to be copied."""
    found = arena.bases.get((backend, name))
    if found is None:
        made_from, make = _BASES[name]
        found = arena.empty(backend) if made_from is None else arena.keep(base(arena, backend, made_from))
        make(found)
        arena.bases[backend, name] = found
    return found


def _nothing(place: Place) -> None:
    pass


def _populated(place: Place) -> None:
    def body(_: Acknowledge) -> None:
        app.initialise(place.settings)
        _import(place, "old")

    _must_end(place, body)


def _imported(place: Place) -> None:
    _must_end(place, lambda _: _import(place, "new"))


def elsewhere(place: Place) -> Settings:
    """Return the settings of a registry whose rows are not where those of the place are to be."""
    return replace(place.settings, database=f"sqlite:///{place.folder / 'home' / 'elsewhere.db'}")


def _elsewhere(place: Place) -> None:
    """The database that the place names is empty; the registry's is another one."""

    def body(_: Acknowledge) -> None:
        settings = elsewhere(place)
        app.initialise(settings)
        for source in ("old", "new"):
            _import(dataclasses.replace(place, settings=settings), source)

    _must_end(place, body)


def store_elsewhere(place: Place) -> Settings:
    """Return the settings of a registry whose objects are not where those of the place are to be."""
    return replace(place.settings, store=str(place.folder / "home" / "elsewhere"))


def _store_elsewhere(place: Place) -> None:
    """The store that the place names is empty; the registry's is another one."""

    def body(_: Acknowledge) -> None:
        settings = store_elsewhere(place)
        app.initialise(settings)
        for source in ("old", "new"):
            _import(dataclasses.replace(place, settings=settings), source)

    _must_end(place, body)


def _synced(place: Place) -> None:
    """Images of a remote registry were brought."""

    def body(acknowledge: Acknowledge) -> None:
        sync_from(place, acknowledge, "new", "bad")

    _must_end(place, body)


def old_registry_before(place: Place) -> Path:
    """Return another registry's storage, which all places read and nobody links to."""
    return write(place.sources / "old-before", BEFORE)


def old_registry_after(place: Place) -> Path:
    """Return the same storage as it is later."""
    return write(place.sources / "old-after", AFTER)


def _beside_old(place: Place) -> None:
    """Another registry's storage is on the same file system. Each copy has its own: links are not shared."""
    write(place.folder / OLD_FOLDER, BEFORE)


def _adopted(place: Place) -> None:
    """There is what was taken over from another registry's storage, and nothing else."""

    def body(acknowledge: Acknowledge) -> None:
        app.initialise(place.settings)
        adopt_from(place, acknowledge, old_registry_before(place), links=False)

    _must_end(place, body)


def _adopted_and_changed(place: Place) -> None:
    """It has changed since: where it lies, it is as it is later."""
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        change(database, "UPDATE adoptions SET location = :now", now=str(old_registry_after(place)))


def _damaged(place: Place) -> None:
    """A layer has rotted, and was found to have; its repair was begun once before."""
    digest = _rot(place)
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        change(database, "UPDATE blobs SET state = 'damaged' WHERE digest = :of", of=raw(digest))
    if place.is_in_bucket:
        return
    shown = place.store / "repositories" / REPOSITORY / "_layout" / "blobs" / digest.replace(":", "/")
    shown.with_name(f"{shown.name}.new").touch()


def _rot(place: Place) -> str:
    """Spoil the bytes of a layer that many images have; return its digest."""
    _, [_, digest] = images.parts(images.digest_in("old", "kept"))
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        key = key_of(database, Digest.parse(digest))
    place.spoil(f"blobs/{key}", lambda _: b"rotten")
    return digest


def _rotten(place: Place) -> None:
    """Nobody knows yet that a layer has rotted."""
    _rot(place)


def _held(place: Place) -> None:
    """Nothing is collected until the registry was verified."""
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        change(database, "UPDATE store_identity SET hold_reason = 'a test'")


def _broken(place: Place) -> None:
    """Bytes have rotted, and rows and a snapshot are not what regmeta wrote."""
    _garbage(place)
    _rot(place)
    kept, moving = images.digest_in("old", "kept"), images.digest_in("new", "moving")
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        change(database, "UPDATE manifests SET architecture = 'wrong' WHERE digest = :of", of=raw(kept))
        change(
            database,
            "UPDATE tags SET manifest_digest = :wrong WHERE manifest_digest = :of AND ended_at IS NULL",
            wrong=raw(kept),
            of=raw(moving),
        )
        change(database, "DELETE FROM gc_tasks")
    for name in place.names(f"layouts/{REPOSITORY}"):
        place.spoil(name, lambda content: content.replace(b'"kept"', b'"kelp"'))


def _crashed(place: Place) -> None:
    """One batch was committed and its snapshot could not be written; the next one was half published."""
    committed = False

    def handler(name: str) -> None:
        nonlocal committed
        committed |= name == "ingest.committed"
        if committed and name in ("publish.renamed", "bucket.published"):
            die()

    def body(_: Acknowledge) -> None:
        snapshots.SnapshotWriter.flush_quietly = lambda *_, **__: None  # type: ignore[method-assign]
        with (
            closing(open_source(str(place.sources / "new"))) as source,
            app.open_for_writing(place.settings) as registry,
        ):
            registry.registry.scratch_layout()
            list(registry.registry.import_images(requests(source, REPOSITORY)))

    outcome = run_child(body, handler=handler, seed=7)
    assert outcome.ended == "killed", outcome
    (place.stagings / uuid4().hex).mkdir()


def _garbage(place: Place) -> None:
    """Images have lost their tags, and their time is over."""

    def body(_: Acknowledge) -> None:
        with app.open_for_writing(place.settings) as registry:
            for tag in ("one", "multi"):
                remove_tag(registry.writer, REPOSITORY, tag)

    _must_end(place, body)
    age(place)


def _unknown(place: Place) -> None:
    """An object that no row knows, of long ago."""
    content = b"of nobody"
    if place.is_in_bucket:
        place.files.write(f"blobs/{new_key(Digest.of(content))}", content)
        place.files.begin_upload(f"blobs/{new_key(Digest.of(content))}", content)
        return
    path = place.store / "blobs" / new_key(Digest.of(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o444)
    os.utime(path, (0, 0))


def _forgetful(place: Place) -> None:
    """Rows have gone as nothing of ours makes them go: the snapshot still names what they said."""
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        for table in (
            *("tags", "labels", "manifest_blobs", "index_manifests", "manifests", "repository_blobs"),
            *("blobs", "gc_tasks"),
        ):
            change(database, f"DELETE FROM {table}")


def _lost(place: Place) -> None:
    """There is no database any more."""
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        if not database.is_sqlite:
            with database.transaction("test") as connection:
                Base.metadata.drop_all(connection)
                connection.execute(sa.text("DROP TABLE alembic_version"))
    for path in Path(place.settings.home).glob("regmeta.db*"):
        path.unlink()


def _copied(place: Place) -> None:
    """A copy was made of the database, and then more was imported. A restore was begun once before."""

    def body(_: Acknowledge) -> None:
        backups.backup(place.settings, str(place.folder / "copy"))
        _import(place, "new")

    def handler(name: str) -> None:
        if name == "staging.removed":
            die()

    # It dies before the database is closed: commits are in its log only.
    outcome = run_child(body, handler=handler, seed=8)
    assert outcome.ended == "killed", outcome
    Path(f"{place.settings.home}/regmeta.db.restoring-wal").touch()


def _unqueued(place: Place) -> None:
    """Garbage whose tasks have gone as nothing of ours makes them go."""
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        change(database, "DELETE FROM gc_tasks")


def _half_deleted(place: Place) -> None:
    """What tags name was deleted, and so was the repository, as nothing of ours does it."""
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        change(database, "UPDATE manifests SET deleted_at = pushed_at")
        change(database, "UPDATE repositories SET state = 'deleted'")


def with_policies(place: Place) -> Settings:
    """Return the settings of a registry in which two of four tags are to be kept."""
    policy = RetentionPolicy(repositories=(REPOSITORY,), keep=(KeepRule(tags=("kept", "moving")),))
    return replace(place.settings, retention=Retention(policies=(policy,)))


def _planned(place: Place) -> None:
    """A retention plan was made, to be applied."""

    def body(_: Acknowledge) -> None:
        retention.write_plan(retention.plan(with_policies(place)).drop_plan, str(place.folder / PLAN))

    _must_end(place, body)


def _hidden(place: Place) -> None:
    """An index was deleted with all that only it listed."""

    def body(_: Acknowledge) -> None:
        with app.open_for_writing(place.settings) as registry:
            digest = Digest.parse(images.digest_in("new", "multi"))
            delete_manifest(registry.writer, REPOSITORY, digest, cascade=True)

    _must_end(place, body)


def _deleted(place: Place) -> None:
    """The repository was deleted."""

    def body(_: Acknowledge) -> None:
        with app.open_for_writing(place.settings) as registry:
            delete_repository(registry.writer, REPOSITORY)

    _must_end(place, body)


def _mounted(place: Place) -> None:
    """The repository may read a layer of another, that none of its own images has."""

    def body(_: Acknowledge) -> None:
        _import(place, "slow", "other")

    _must_end(place, body)
    _, [_, layer] = images.parts(images.digest_in("slow", "slow"))
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        change(
            database,
            "INSERT INTO repository_blobs (repository_id, blob_id, linked_at) SELECT r.id, b.id, b.created_at"
            " FROM repositories r, blobs b WHERE r.name = :name AND b.digest = :of",
            name=REPOSITORY,
            of=raw(layer),
        )


def _older(place: Place) -> None:
    """The schema is that of an older release."""

    def body(_: Acknowledge) -> None:
        with app.open_database(place.settings) as database:
            schema.downgrade(database, app.migrations_folder(), "0001")

    _must_end(place, body)


def age(place: Place) -> None:
    """Let all leases and windows be over, as if much time had passed."""
    database, store = open_parts(place.settings)
    with closing(database), closing(store):
        for statement in (
            "UPDATE blobs SET lease_until = created_at",
            "UPDATE manifests SET lease_until = pushed_at",
            "UPDATE gc_tasks SET not_before = created_at",
            "UPDATE tombstones SET not_before = created_at",
            "UPDATE store_identity SET paused_until = NULL",
        ):
            change(database, statement)


def _import(place: Place, layout: str, repository: str = REPOSITORY) -> None:
    with (
        closing(open_source(str(place.sources / layout))) as source,
        app.open_for_writing(place.settings) as registry,
    ):
        for outcome in registry.registry.import_images(requests(source, repository)):
            assert outcome.status == "imported", outcome


def _must_end(place: Place, body: Callable[[Acknowledge], None]) -> None:
    # In a child: this process must have no connection open when it forks.
    outcome = run_child(body, seed=abs(hash(place.folder)))
    assert outcome.ended == "done", outcome.error


_BASES: Final[dict[str, tuple[str | None, Callable[[Place], None]]]] = {
    "nothing": (None, _nothing),
    "populated": (None, _populated),
    "imported": ("populated", _imported),
    "elsewhere": (None, _elsewhere),
    "store elsewhere": (None, _store_elsewhere),
    "synced": ("populated", _synced),
    "damaged": ("populated", _damaged),
    "crashed": ("populated", _crashed),
    "garbage": ("imported", _garbage),
    "unknown": ("imported", _unknown),
    "forgetful": ("imported", _forgetful),
    "lost": ("imported", _lost),
    "copied": ("populated", _copied),
    "older": ("imported", _older),
    "rotten": ("imported", _rotten),
    "held": ("imported", _held),
    "planned": ("imported", _planned),
    "broken": ("imported", _broken),
    "hidden": ("imported", _hidden),
    "unqueued": ("garbage", _unqueued),
    "half deleted": ("imported", _half_deleted),
    "deleted": ("imported", _deleted),
    "deleted long ago": ("deleted", age),
    "mounted": ("imported", _mounted),
    "beside old": ("populated", _beside_old),
    "adopted": (None, _adopted),
    "adopted and changed": ("adopted", _adopted_and_changed),
}
