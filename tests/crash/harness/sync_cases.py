"""Images of a remote registry."""

from __future__ import annotations

from typing import Final

from tests.crash.harness.children import Acknowledge
from tests.crash.harness.images import REPOSITORY
from tests.crash.harness.places import Place
from tests.crash.harness.upstream import sync_from
from tests.crash.harness.use_case import UseCase


def _sync(place: Place, acknowledge: Acknowledge) -> None:
    """New images, one whose tag has moved, one with a referrer, and one whose bytes are wrong."""
    report = sync_from(place, acknowledge, "new", "bad")
    assert (report.outcome, report.counts.failed) == ("done", 1)


def _sync_away(place: Place, acknowledge: Acknowledge) -> None:
    """What a sync brought, and the upstream has no more, goes here as well; what has moved back is moved."""
    report = sync_from(place, acknowledge, "old", upstream_deletes="delete")
    assert (report.outcome, report.counts.failed) == ("done", 0)
    for item in report.items:
        if item.outcome == "removed":
            acknowledge("untagged", REPOSITORY, item.reference)


SYNC_CASES: Final = (
    UseCase("sync", "populated", _sync),
    UseCase("sync away", "synced", _sync_away),
)
