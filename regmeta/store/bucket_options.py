"""How a store in a bucket is reached and written; see ``regmeta.settings.object_store``."""

from __future__ import annotations

from dataclasses import dataclass

from regmeta.object_storage.reach import MIB, Reach

__all__ = ["MIB", "BucketOptions"]


@dataclass(frozen=True, slots=True)
class BucketOptions(Reach):
    """The settings of one store's bucket."""

    part_bytes: int = 8 * MIB
    parts_at_once: int = 4  # of all uploads of a store that is open
    requests_at_once: int = 8
    conditional_put: bool = True
    checksums: bool = True
