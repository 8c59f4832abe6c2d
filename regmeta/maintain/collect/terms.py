"""What the collector goes by: how long things are left alone, and what policies keep besides."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.engine import Connection

from regmeta.ingest.plan import Lifetimes

FOREVER: Final = datetime.max.replace(tzinfo=UTC)
"""For as long as the policy says so."""

KeepUntagged = Callable[[Connection, int, str, Collection[int], datetime], Mapping[int, datetime]]
"""Called with the id and the name of a repository, ids of manifests of it, and the time now.

It says until when a policy keeps those of them that it keeps, which may be :data:`FOREVER`. It reads by the
connection that it is given, and is called once for some hundred manifests.
"""


def _keeps_none(_: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things are left alone, and what policies keep that nothing else does.

    *keeps_referrers* says of a repository (by name) whether its untagged referrers stay when their subject
    has gone. *untagged* is asked about manifests that nothing else keeps.
    """

    lifetimes: Lifetimes
    keeps_referrers: Callable[[str], bool] = _keeps_none
    untagged: KeepUntagged | None = None
