"""Threads that stand still at a point; see ``tests.support.aside``."""

from __future__ import annotations

import pytest

from regmeta.app import Writing
from tests.support.aside import Opened, aside, opened, points_of_deletion, race

__all__ = ["aside", "one", "opened", "other", "points_of_deletion", "race"]


@pytest.fixture
def one(opened: Opened) -> Writing:
    """The registry, as one process has it open."""
    return opened()


@pytest.fixture
def other(opened: Opened) -> Writing:
    """The same registry, as another has it."""
    return opened()
