"""What another registry has stored is taken over."""

from __future__ import annotations

from typing import Final

from regmeta.app import adopting
from tests.crash.harness.bases import OLD_FOLDER, old_registry_after, old_registry_before
from tests.crash.harness.children import Acknowledge
from tests.crash.harness.images import REPOSITORY
from tests.crash.harness.old_registry import adopt_from
from tests.crash.harness.places import Place
from tests.crash.harness.use_case import UseCase

_FOUND: Final = {("damaged-blob", "left out"): 1}


def _adopt(place: Place, acknowledge: Acknowledge) -> None:
    """Images beside those that are here, one with a referrer, one without a tag, and one that is damaged."""
    report = adopt_from(place, acknowledge, place.folder / OLD_FOLDER, links=True)
    assert (report.failures, report.defects) == ({}, _FOUND)
    acknowledge("finished")


def _adopt_delta(place: Place, acknowledge: Acknowledge) -> None:
    """A tag has moved there, one is gone, one is new, and an image that had a tag has none."""
    report = adopt_from(place, acknowledge, old_registry_after(place), links=False)
    assert (report.failures, report.defects) == ({}, _FOUND)
    acknowledge("untagged", REPOSITORY, "one")


def _finalize(place: Place, acknowledge: Acknowledge) -> None:
    """Nothing is kept any more for having been adopted."""
    adopting.finalize(
        place.settings,
        str(old_registry_before(place)),
        unchecked=False,
        advanced=lambda number: None,
    )
    acknowledge("finished")


ADOPTING_CASES: Final = (
    UseCase("adopt", "beside old", _adopt),
    UseCase("adopt delta", "adopted and changed", _adopt_delta),
    UseCase("adopt finalize", "adopted", _finalize),
)
