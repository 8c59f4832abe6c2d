"""Threads that stand still at a point; see ``tests.support.aside``."""

from __future__ import annotations

from tests.support.aside import aside, opened, points_of_deletion, race

__all__ = ["aside", "opened", "points_of_deletion", "race"]
