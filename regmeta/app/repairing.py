"""Repair: verify first, then say or do what is to be done."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack, closing

from regmeta.app import open_for_writing
from regmeta.app.verification import verify
from regmeta.maintain.progress import Progress
from regmeta.maintain.repair.plan import Action, plan
from regmeta.maintain.repair.run import Outcome
from regmeta.maintain.repair.run import repair as run
from regmeta.maintain.verify.findings import Kind
from regmeta.settings import Settings
from regmeta.sources.open import open_source


def plan_repair(
    settings: Settings,
    progress: Progress,
    *,
    read_data: str | None = None,
    jobs: int = 2,
    kinds: Collection[Kind] = (),
) -> list[Action]:
    """Verify, and return what would be done about what is found. Changes nothing.

    Raises:
        UsageError, IdentityMismatch, Unavailable: see ``verify``.
    """
    report = verify(settings, progress, read_data=read_data, jobs=jobs)
    return plan(report.findings, kinds)


def repair(settings: Settings, actions: list[Action], source: str | None = None) -> list[Outcome]:
    """Do it. *source* is a layout or an archive that may hold good bytes.

    Raises:
        InvalidSource: there is no such source.
        Unavailable, Locked: the store or the database did not do it; what was done is done.
    """
    with ExitStack() as stack:
        opened = None if source is None else stack.enter_context(closing(open_source(source)))
        registry = stack.enter_context(open_for_writing(settings))
        return run(registry.writer, registry.store, actions, opened)
