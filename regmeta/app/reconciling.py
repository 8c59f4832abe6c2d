"""Wiring of what looks at the collector's work without doing it: the dry run, and the queue derived again."""

from __future__ import annotations

from regmeta.app import open_for_reading, open_for_writing
from regmeta.app.collecting import terms_of
from regmeta.maintain.collect.dry_run import DryRun
from regmeta.maintain.collect.dry_run import plan_collection as plan
from regmeta.maintain.collect.reconcile import Reconciled, reconcile_queue
from regmeta.maintain.progress import Progress
from regmeta.settings import Settings


def plan_collection(settings: Settings) -> DryRun:
    """Return what a run of the collector would take now. Writes nothing, and clears nothing up.

    Raises:
        IdentityMismatch, SchemaMismatch, Unavailable: the registry cannot be opened, or not be read.
        CollectionHeld, CollectionPaused, DatabaseIsOlder: a run would do nothing.
    """
    with open_for_reading(settings, check_store=True) as registry:
        return plan(registry.database, registry.store, terms_of(settings))


def reconcile(
    settings: Settings, progress: Progress, *, force: bool = False, dry_run: bool = False
) -> Reconciled:
    """Queue garbage that no task will collect; see :mod:`regmeta.maintain.collect.reconcile`."""
    lifetimes = terms_of(settings).lifetimes
    if dry_run:
        with open_for_reading(settings, check_store=True) as registry:
            return reconcile_queue(
                registry.database,
                registry.store,
                settings.actor,
                lifetimes,
                progress,
                force=force,
                dry_run=True,
            )
    with open_for_writing(settings) as writing:
        return reconcile_queue(
            writing.database, writing.store, settings.actor, lifetimes, progress, force=force
        )
