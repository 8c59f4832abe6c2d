"""A remote registry for one run of a sync; it lives and dies with the process that runs it."""

from __future__ import annotations

from collections.abc import Iterable

from regmeta.sync.pipeline import NoProgress
from regmeta.sync.records import ItemOutcome
from regmeta.sync.run import SyncReport
from tests.crash.harness import images
from tests.crash.harness.children import Acknowledge
from tests.crash.harness.images import REPOSITORY
from tests.crash.harness.places import Place
from tests.support.registries.bad_registry import BadRegistry
from tests.support.syncs import mirroring, run_once

_STATUS = {"copied": "imported", "unchanged": "skipped", "failed": "failed"}


def sync_from(place: Place, acknowledge: Acknowledge, *layouts: str, **options: str) -> SyncReport:
    """Sync from a registry that has the images of some layouts; each outcome is told when it is final."""
    with BadRegistry() as upstream:
        for layout in layouts:
            upstream.push(images.layouts()[layout], REPOSITORY)
        settings = mirroring(place.settings, upstream.url, images_at_once=1, **options)
        return run_once(settings, progress=_Telling(acknowledge))


class _Telling(NoProgress):
    def __init__(self, acknowledge: Acknowledge) -> None:
        self._acknowledge = acknowledge

    def done(self, outcomes: Iterable[ItemOutcome]) -> None:
        """Images are done."""
        for item in outcomes:
            self._acknowledge("status", f"{REPOSITORY}:{item.reference}", _STATUS[item.outcome])
            if item.outcome != "failed":
                self._acknowledge("tag", REPOSITORY, item.reference, str(item.digest))
