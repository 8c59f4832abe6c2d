"""The newest snapshot of each repository into another store, as it is: keys stay, so it stays true."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from regmeta.ingest.snapshots import version_of
from regmeta.maintain.rebuild.listing import SNAPSHOTS, list_snapshots
from regmeta.store import BlobStore, Staging
from regmeta.threads import Threads

_ATTEMPTS: Final = 5

Versions = Mapping[str, tuple[int, int]]
"""By repository: epoch and revision."""


def copy_snapshots(
    source: BlobStore, target: BlobStore, staging: Staging, jobs: int, advanced: Callable[[int], None]
) -> Versions:
    """Let *target* have the newest snapshots of *source* and no others; return their versions.

    One that is replaced by a newer one meanwhile may be missing afterwards.

    Raises:
        StoreUnavailable: one of the stores did not do it.
    """
    versions: Versions = {}
    for _ in range(_ATTEMPTS):
        listed = list_snapshots(source)
        newest = {name: found[0] for name, found in listed.versions.items()}
        wanted = {record for item in newest.items() for record in listed.records[item]}
        there = {name for name in target.walk_records(SNAPSHOTS) if version_of(name) is not None}
        with Threads(jobs, thread_name_prefix="copy") as pool:
            copied = list(pool.map(partial(_copy, source, staging, advanced), sorted(wanted - there)))
            for _ in pool.map(target.delete_record, sorted(there - wanted)):
                continue
        versions = newest
        if all(copied):
            break
    have = list_snapshots(target).versions
    return {name: version for name, version in versions.items() if version in have.get(name, ())}


def _copy(source: BlobStore, staging: Staging, advanced: Callable[[int], None], name: str) -> bool:
    content = source.read_record(name)
    if content is None:
        return False  # there is a newer one
    staging.write_record(name, content)
    advanced(1)
    return True
