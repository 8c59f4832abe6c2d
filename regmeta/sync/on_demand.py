"""Bringing an image at the moment when somebody asks for it.

All who ask for one image while it is brought get the one answer, an error as well. Who leaves does not end
it: the copy goes on, and is here for the next.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Unfinished
from dataclasses import dataclass
from typing import Final, Literal

from regmeta import db
from regmeta.errors import (
    Error,
    NotFound,
    NothingWanted,
    NotSigned,
    RemoteRefused,
    RemoteUnavailable,
    without_frames,
)
from regmeta.ingest.known import known_tags
from regmeta.ingest.skip import skippable
from regmeta.oci import names
from regmeta.oci.digest import Digest
from regmeta.sync.items import Item
from regmeta.sync.leased import is_kept
from regmeta.sync.look import is_whole
from regmeta.sync.mapping import upstream_of
from regmeta.sync.pipeline import is_ours
from regmeta.sync.records import ItemOutcome, known_items
from regmeta.sync.run import Mirror, sync_image
from regmeta.sync.selection import select_tags
from regmeta.threads import Threads

AT_ONCE: Final = 8  # images that are brought at the same time for one policy


@dataclass(frozen=True, slots=True)
class OnDemandResult:
    """Where an image that was asked for stands now: *local* was not asked about upstream."""

    digest: Digest
    status: Literal["local", "unchanged", "copied"]
    policy: str | None = None


class OnDemand:
    """Brings images of several upstreams when they are asked for. Safe to use from any number of threads.

    The upstreams are asked in order: one that does not have the image, or has it unsigned where only signed
    ones are wanted, or does not let us in, passes the question on. So does one that fails, and its error is
    raised if none has the image: whether it has, nobody knows. An upstream that hangs keeps those waiting who
    ask it first, and nobody else.
    """

    def __init__(self, mirrors: Sequence[Mirror]) -> None:
        self._mirrors = [mirror for mirror in mirrors if mirror.policy.on_demand]
        self._pools = {
            mirror.policy.name: Threads(AT_ONCE, thread_name_prefix=f"demand-{mirror.policy.name}")
            for mirror in self._mirrors
        }
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, str], Future[OnDemandResult]] = {}

    def fetch(self, repository: str, reference: str, timeout_s: float | None = None) -> OnDemandResult:
        """Return the image of a tag or digest of a repository here, brought first if need be.

        A digest that is here is not asked about. A tag is, unless that was done within the policy's
        ``check_interval``. Waits at most *timeout_s* seconds; the copy goes on after that.

        Raises:
            InvalidName, InvalidDigest: *repository* or *reference* is none.
            NotFound: no upstream has it, or none is mirrored under this name.
            RemoteUnavailable: an upstream failed and none other has it, or the time is over.
            Error: what the copy raised; all who wait get the same.
        """
        names.repository_name(repository)
        if ":" in reference:
            Digest.parse(reference)
        else:
            names.tag_name(reference)
        places = list(self._places(repository, reference))
        if not places:
            raise NotFound(f"{repository}, {reference}: no upstream is mirrored under this name")
        key = (repository, reference)
        with self._lock:
            future = self._under_way.get(key)
            is_first = future is None
            if future is None:
                pool = self._pools[places[0][0].policy.name]
                future = self._under_way[key] = pool.submit(self._fetch, places)
        if is_first:
            future.add_done_callback(lambda _: self._forget(key, future))
        try:
            return future.result(timeout_s)
        except Unfinished:
            raise RemoteUnavailable(
                f"{repository}, {reference}: still being copied after {timeout_s} s"
            ) from None

    def close(self) -> None:
        """End: wait for what is being copied. What ends it soon is that the mirrors are stopped."""
        for pool in self._pools.values():
            pool.shutdown()

    def _forget(self, key: tuple[str, str], future: Future[OnDemandResult]) -> None:
        with self._lock:
            if self._under_way.get(key) is future:
                del self._under_way[key]

    def _places(self, repository: str, reference: str) -> Iterator[tuple[Mirror, Item]]:
        """Return where an image may come from, in the order in which it is asked for there."""
        is_digest = ":" in reference
        for mirror in self._mirrors:
            found = upstream_of(mirror.policy, repository)
            if found is not None and (is_digest or select_tags(found[0], [reference])):
                yield mirror, Item(found[1], reference, repository, None if is_digest else reference)

    def _fetch(self, places: Sequence[tuple[Mirror, Item]]) -> OnDemandResult:
        for mirror, item in places:
            local = self._local(mirror, item)
            if local is not None:
                return local
        errors: list[Error] = []
        for mirror, item in places:
            try:
                return self._copied(mirror, item)
            except Error as error:
                if is_ours(error):
                    raise
                errors.append(without_frames(error))
        # One that failed may have it; one that refused says more than one that does not have it.
        raise min(errors, key=_weight)

    def _local(self, mirror: Mirror, item: Item) -> OnDemandResult | None:
        """Return what is here if the upstream need not be asked."""
        database = mirror.writer.database
        if item.tag is None:
            digest = Digest.parse(item.reference)
            is_here = bool(skippable(database, item.repository, [(None, digest)])) or is_kept(
                mirror.registry, database, mirror.policy, item.repository, digest
            )
            return OnDemandResult(digest, "local") if is_here else None
        here = known_tags(database, [(item.repository, item.tag)]).get((item.repository, item.tag))
        before = known_items(database, mirror.policy.name, [item.key]).get(item.key)
        if (
            here is None
            or before is None
            or before.digest != here.digest
            or not is_whole(mirror.policy, here)
        ):
            return None
        if before.outcome not in ("copied", "unchanged") or before.terms != mirror.policy.terms:
            return None
        with database.read() as connection:
            age = db.clock(connection) - before.checked_at
        if age > mirror.policy.check_interval:
            return None
        return OnDemandResult(here.digest, "local", mirror.policy.name)

    def _copied(self, mirror: Mirror, item: Item) -> OnDemandResult:
        report = sync_image(mirror, item, "demand")
        for outcome in report.items:
            is_here = outcome.outcome in ("copied", "unchanged") or outcome.is_here
            if is_here and outcome.digest is not None:
                return OnDemandResult(outcome.digest, _status(outcome), mirror.policy.name)
            assert outcome.error is not None
            raise outcome.error
        raise RemoteUnavailable(f"{item}: the sync was stopped")


def _status(outcome: ItemOutcome) -> Literal["unchanged", "copied"]:
    return "unchanged" if outcome.outcome == "unchanged" else "copied"


def _weight(error: Error) -> int:
    """Return how little an error says of whether there is such an image for us."""
    if isinstance(error, NotFound | NothingWanted):
        return 2
    return 1 if isinstance(error, RemoteRefused | NotSigned) else 0
