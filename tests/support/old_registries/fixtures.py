"""Fixtures of old registries; a ``conftest.py`` that wants them imports them from here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.old_registries.docker import cached_docker_folder
from tests.support.old_registries.served import Served
from tests.support.registries import docker_registry as program

SMALL: tuple[int, int] = (6, 24)
"""How many images make all main kinds, and how many all kinds twice."""


@pytest.fixture(scope="session")
def old_docker(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Served]:
    """Return what makes a folder of a docker-registry: ``old_docker(folder, images, seed=0)``.

    It is filled once for all processes of a run, then copied.
    """
    if not program.is_installed():
        pytest.skip(f"{program.PROGRAM} is not installed")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base

    def make(folder: Path, images: int = SMALL[0], *, seed: int = 0, layer_bytes: int = 256) -> Served:
        return cached_docker_folder(
            shared / "old-registries", folder, images, seed=seed, layer_bytes=layer_bytes
        )

    return make
