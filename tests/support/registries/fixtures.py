"""Fixtures of remote registries; a ``conftest.py`` that wants them imports them from here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.registries import docker_registry as program
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.docker_registry import DockerRegistry


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """Debian's registry, one for all tests of a process; each test uses repositories of its own."""
    if not program.is_installed():
        pytest.skip(f"{program.PROGRAM} is not installed")
    with DockerRegistry(tmp_path_factory.mktemp("docker-registry")) as registry:
        yield registry


@pytest.fixture
def bad_registry() -> Iterator[BadRegistry]:
    """An empty registry in this process."""
    with BadRegistry() as registry:
        yield registry
