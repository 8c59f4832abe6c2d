"""What keeps a registry in order: collection, rebuild, restore, upgrade."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn
from uuid import uuid4

from regmeta import app
from regmeta.app import backups, database_copy, rebuilding, reconciling, repairing, retention, verification
from regmeta.errors import ConstraintViolated, Refused, StoreUnavailable
from regmeta.ingest.adopted_statistics import take_statistics
from regmeta.ingest.favorites import set_favorite
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.pulls import Pull, record_pulls
from regmeta.ingest.reserve import reserve
from regmeta.maintain import schema
from regmeta.maintain.collect import dead_objects, manifests
from regmeta.maintain.collect.again import retry_now
from regmeta.maintain.collect.hold import CollectionPaused
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.database_copy import run as copy_run
from regmeta.maintain.feed import prune_events
from regmeta.maintain.hosts import end_host
from regmeta.maintain.rebuild.report import NoProgress
from regmeta.maintain.search import check_search, rebuild_search
from regmeta.maintain.usage import record_usage
from regmeta.oci.digest import Digest
from regmeta.oci.folding import text_key
from regmeta.sources.zot import ImageStatistics, RepositoryStatistics
from tests.crash.harness.bases import PLAN, elsewhere, with_policies
from tests.crash.harness.children import Acknowledge
from tests.crash.harness.images import REPOSITORY
from tests.crash.harness.places import Place
from tests.crash.harness.use_case import UseCase
from tests.support.registry import AT_ONCE, tags


def _collect(place: Place, acknowledge: Acknowledge) -> None:
    with app.open_for_writing(place.settings, lifetimes=AT_ONCE) as registry:
        collect(registry.writer, registry.store)
    acknowledge("finished")


def _sweep(place: Place, acknowledge: Acknowledge) -> None:
    with app.open_for_writing(place.settings) as registry:
        lifetimes = registry.writer.lifetimes
        if place.is_in_bucket:  # what is there was written a moment ago, and cannot be made older
            lifetimes = replace(lifetimes, max_upload=timedelta())
        sweep(registry.database, registry.store, lifetimes)
    acknowledge("finished")


def _reconcile_queue(place: Place, acknowledge: Acknowledge) -> None:
    reconciling.reconcile(place.settings, _Quiet(), force=True)
    acknowledge("finished")


def _reconcile(place: Place, acknowledge: Acknowledge) -> None:
    rebuilding.reconcile_rows(place.settings, _no_progress)
    acknowledge("finished")


def _rebuild(place: Place, acknowledge: Acknowledge) -> None:
    rebuilding.rebuild_lost_database(place.settings, _no_progress)
    acknowledge("finished")


def _restore(place: Place, acknowledge: Acknowledge) -> None:
    backups.restore_file(place.settings, str(place.folder / "copy"), _no_progress)
    acknowledge("finished")


def _copy_database(place: Place, acknowledge: Acknowledge) -> None:
    database_copy.copy(elsewhere(place), place.settings.database, lambda: nullcontext(_Quiet()))
    acknowledge("finished")


def _abandon_copy(place: Place, acknowledge: Acknowledge) -> None:
    """All rows were copied; then a person thinks better of it."""
    target = place.folder / "given-up.db"

    def fail(*_: object) -> NoReturn:
        raise StoreUnavailable("not today")

    with suppress(Refused):
        database_copy.abandon(place.settings)
    for suffix in ("", "-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    with _patched(copy_run, "_make_parts", fail), suppress(StoreUnavailable):
        database_copy.copy(place.settings, f"sqlite:///{target}", lambda: nullcontext(_Quiet()))
    database_copy.abandon(place.settings)
    acknowledge("finished")


def _upgrade(place: Place, acknowledge: Acknowledge) -> None:
    with app.open_database(place.settings) as database:
        schema.upgrade(database, app.migrations_folder())
    acknowledge("finished")


def _backup(place: Place, acknowledge: Acknowledge) -> None:
    target = place.folder / "backup"
    target.unlink(missing_ok=True)
    backups.backup(place.settings, str(target))
    acknowledge("finished")


def _host_gone(place: Place, acknowledge: Acknowledge) -> None:
    with app.open_for_writing(place.settings) as registry:
        # Expired from the start: a run that dies before the end leaves nothing that others wait for.
        reserve(registry.database, [Digest.of(b"x")], uuid4(), "gone", Lifetimes(intent=-timedelta(hours=1)))
        end_host(registry.writer, registry.store, "gone")
    acknowledge("finished")


def _verify(place: Place, acknowledge: Acknowledge) -> None:
    verification.verify(place.settings, _Quiet(), read_data="all", jobs=1, mark=True)
    acknowledge("finished")


def _repair(place: Place, acknowledge: Acknowledge) -> None:
    actions = repairing.plan_repair(place.settings, _Quiet(), read_data="all", jobs=1)
    repairing.repair(place.settings, actions, str(place.sources / "old"))
    acknowledge("finished")


def _collect_from_a_failing_disk(place: Place, acknowledge: Acknowledge) -> None:
    """No object can be deleted, so there is a pause; a person ends it, and a second run deletes them."""

    def fail(*_: object) -> None:
        raise StoreUnavailable("the disk fails")

    with app.open_for_writing(place.settings, lifetimes=AT_ONCE) as registry:
        with (
            _replaced(registry.store, "delete", fail),
            _patched(dead_objects, "MANY_FAILURES", 2),
            suppress(CollectionPaused),
        ):
            collect(registry.writer, registry.store)
        retry_now(registry.database)
        collect(registry.writer, registry.store)
    acknowledge("finished")


def _collect_what_is_refused(place: Place, acknowledge: Acknowledge) -> None:
    """The database refuses every row; then a person has it tried again."""

    def refuse(*_: object) -> NoReturn:
        raise ConstraintViolated("a row that nobody knows")

    with app.open_for_writing(place.settings, lifetimes=AT_ONCE) as registry:
        with _patched(manifests, "delete_manifests", refuse):
            collect(registry.writer, registry.store)
        retry_now(registry.database)
        collect(registry.writer, registry.store)
    acknowledge("finished")


def _apply_retention(place: Place, acknowledge: Acknowledge) -> None:
    """The same plan each time: it takes effect once."""
    for outcome in retention.apply(with_policies(place), str(place.folder / PLAN)):
        assert outcome.error is None, outcome.error
        for tag in outcome.tags:
            acknowledge("untagged", outcome.repository, tag)
    acknowledge("finished")


def _statistics(place: Place, acknowledge: Acknowledge) -> None:
    """Count a pull, star, measure, and delete old events. Run again it counts again; nothing else changes."""
    with app.open_for_writing(place.settings) as registry:
        database = registry.database
        digest = min(tags(database, REPOSITORY).values(), key=str)
        record_pulls(database, [Pull(REPOSITORY, digest, None, datetime.now(UTC))])
        set_favorite(database, "ann", "star", REPOSITORY)
        counted = ImageStatistics(digest, 5, datetime(2024, 5, 6, tzinfo=UTC), None)
        take_statistics(database, [RepositoryStatistics(REPOSITORY, (counted,), starred_by=("bob",))])
        record_usage(database, _Quiet())
        prune_events(database, timedelta())
    acknowledge("finished")


def _rebuild_search(place: Place, acknowledge: Acknowledge) -> None:
    """Another program has changed something of each kind."""
    with app.open_for_writing(place.settings) as registry:
        unused = text_key("nothing says this")
        with registry.database.engine.begin() as connection:
            for statement in (
                "UPDATE repositories SET leaf = 'x'",
                "DELETE FROM tag_names",
                "INSERT INTO tag_names (name, folded) VALUES ('Unused', 'x')",
                "DELETE FROM label_texts",
                f"INSERT INTO label_texts (id, folded) VALUES (5, 'wrong'), ({unused}, 'nothing says this')",
                "UPDATE labels SET text_key = 1",
            ):
                connection.exec_driver_sql(statement)
            if registry.database.is_sqlite:
                connection.exec_driver_sql(
                    "INSERT INTO repositories_fts (repositories_fts) VALUES ('delete-all')"
                )
        rebuild_search(registry.database, _Quiet())
        assert list(check_search(registry.database, _Quiet())) == []
    acknowledge("finished")


class _Quiet:
    """Is told how a verification gets on, and tells nobody."""

    def began(self, what: str, total: int | None) -> None: ...

    def advanced(self, steps: int) -> None: ...


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)


@contextmanager
def _patched(module: object, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _no_progress() -> AbstractContextManager[NoProgress]:
    return nullcontext(NoProgress())


_OBJECTS_WITHOUT_ROWS: Final = r"no row knows it"

_ROTTEN: Final = r"6 bytes stored|have another digest|are not those that were given"

MAINTENANCE_CASES: Final = (
    UseCase("collect", "garbage", _collect),
    UseCase("gc reconcile", "unqueued", _reconcile_queue, tolerated="no task is about it"),
    UseCase("sweep", "unknown", _sweep, tolerated=_OBJECTS_WITHOUT_ROWS),
    UseCase(
        "reconcile",
        "forgetful",
        _reconcile,
        tolerated=f"{_OBJECTS_WITHOUT_ROWS}|newest snapshot lists something else",
    ),
    UseCase("rebuild", "lost", _rebuild, offline=True),
    UseCase("restore", "copied", _restore, offline=True, backends=("sqlite",)),
    UseCase("db upgrade", "older", _upgrade, offline=True),
    UseCase("host gone", "imported", _host_gone),
    UseCase("db copy", "elsewhere", _copy_database, offline=True),
    UseCase("db copy abandoned", "imported", _abandon_copy, offline=True),
    UseCase("backup", "imported", _backup, backends=("sqlite",)),
    UseCase("verify", "rotten", _verify, tolerated=_ROTTEN),
    UseCase("verify held", "held", _verify),
    UseCase("repair", "broken", _repair, tolerated="."),
    UseCase("repair deleted", "half deleted", _repair, tolerated="."),
    UseCase("retention apply", "planned", _apply_retention),
    UseCase("collect failing", "garbage", _collect_from_a_failing_disk),
    UseCase("collect refused", "garbage", _collect_what_is_refused),
    UseCase("rebuild search", "imported", _rebuild_search),
    UseCase("statistics", "imported", _statistics),
)
