"""Remote registries for the tests of sync."""

from __future__ import annotations

from tests.support.registries.fixtures import bad_registry, docker_registry

__all__ = ["bad_registry", "docker_registry"]
