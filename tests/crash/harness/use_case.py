"""What a use case is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.crash.harness.bases import base
from tests.crash.harness.children import Acknowledge
from tests.crash.harness.places import BACKENDS, IN_BUCKET, Arena, Place, database_of


@dataclass(frozen=True, slots=True)
class UseCase:
    """A command, and the registry that it is given to.

    *tolerated* is a pattern of what its registry has wrong from the start. One that is *offline* stops every
    other command until it is done: a crash of it is judged after it was run again, by which it must be done.
    """

    name: str
    base: str
    run: Callable[[Place, Acknowledge], None]
    tolerated: str = ""
    offline: bool = False
    backends: tuple[str, ...] = BACKENDS
    only_in_bucket: bool = False

    def runs_on(self, backend: str) -> bool:
        """Tell whether there is anything to see on a backend."""
        in_bucket = backend.endswith(IN_BUCKET)
        return database_of(backend) in self.backends and (in_bucket or not self.only_in_bucket)

    def prepared(self, arena: Arena, backend: str) -> Place:
        """Return the registry that it starts from; not to be changed."""
        return base(arena, backend, self.base)
