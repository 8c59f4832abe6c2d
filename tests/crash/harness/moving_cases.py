"""All objects go to another store."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Final, NoReturn
from unittest.mock import patch

from regmeta import app
from regmeta.app import store_copy
from regmeta.errors import IdentityMismatch, StoreUnavailable
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.store_copy import fence
from regmeta.settings import Settings
from tests.crash.harness.bases import store_elsewhere
from tests.crash.harness.children import Acknowledge
from tests.crash.harness.places import Place
from tests.crash.harness.use_case import UseCase


def _opens(settings: Settings) -> bool:
    try:
        with app.open_for_writing(settings):
            return True
    except (IdentityMismatch, StoreUnavailable):
        return False


def _move(place: Place, acknowledge: Acknowledge) -> None:
    """Whatever an earlier run left, one of the two stores opens, and the other one does not."""
    assert _opens(store_elsewhere(place)) != _opens(place.settings)
    store_copy.copy(store_elsewhere(place), place.settings.store, lambda: nullcontext(NoProgress()))
    acknowledge("finished")


def _move_and_give_up(place: Place, acknowledge: Acknowledge) -> None:
    """All objects were copied, and writers were stopped; then something fails."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise StoreUnavailable("not today")

    with patch.object(fence, "switch", fail), suppress(StoreUnavailable):
        store_copy.copy(
            place.settings, str(place.folder / "given-up"), lambda: nullcontext(NoProgress()), mark=True
        )
    acknowledge("finished")


MOVING_CASES: Final = (
    UseCase("store copy", "store elsewhere", _move, offline=True),
    UseCase("store copy given up", "imported", _move_and_give_up),
)
