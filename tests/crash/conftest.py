"""Where harnesses put the registries that they break."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.harness.places import Arena, arena
from tests.support.aside import aside, opened, points_of_deletion
from tests.support.postgres import Postgres

__all__ = ["all_registries", "aside", "opened", "points_of_deletion", "registries"]


@pytest.fixture(scope="session")
def registries() -> Iterator[Arena]:
    """Registries on SQLite."""
    with arena(None) as found:
        yield found


@pytest.fixture(scope="session")
def all_registries(postgres: Postgres) -> Iterator[Arena]:
    """Registries on SQLite and PostgreSQL."""
    with arena(postgres) as found:
        yield found
