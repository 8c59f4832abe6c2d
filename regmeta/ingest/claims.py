"""One download per digest in one process: who of the batches that run at once brings which blob."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from regmeta.oci.digest import Digest


class Claim:
    """What one batch brings itself, and who brings the rest of what it needs. Dropped when it ends."""

    def __init__(self, claims: Claims, others: Mapping[Digest, threading.Event]) -> None:
        self._claims = claims
        self.others: Mapping[Digest, threading.Event] = MappingProxyType(dict(others))
        """Claimed before by another batch: set when that batch has ended, however it ended."""
        self.ended = threading.Event()

    def add(self, digests: Iterable[Digest]) -> None:
        """Claim what nobody brings any more, so that those who come later wait for this batch."""
        self._claims._add(self, digests)

    def drop(self) -> None:
        """Let those go on who wait for this batch. Safe to call twice."""
        self._claims._drop(self)
        self.ended.set()


class Claims:
    """The digests that the batches of one process are bringing. Thread-safe.

    A batch claims all that it may have to fetch in one step, before it reserves anything, and waits for what
    others claimed before it. It cannot wait in a circle: claims are taken one after another under a lock,
    and a batch waits only for batches whose claims were there when it took its own. It waits once: what is
    not here then (the other batch failed) it fetches itself, without asking who else may want it. What it
    claims for that (:meth:`Claim.add`) makes only later batches wait for it, and it waits for no claim any
    more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[Digest, Claim] = {}

    def take(self, digests: Collection[Digest]) -> Claim:
        """Claim *digests*, those left out that another batch brings: they stand in ``others``."""
        with self._lock:
            held = {d: self._holders[d].ended for d in digests if d in self._holders}
            claim = Claim(self, held)
            self._holders.update((digest, claim) for digest in digests if digest not in held)
        return claim

    def _add(self, claim: Claim, digests: Iterable[Digest]) -> None:
        with self._lock:
            for digest in digests:
                self._holders.setdefault(digest, claim)

    def _drop(self, claim: Claim) -> None:
        with self._lock:
            for digest in [digest for digest, holder in self._holders.items() if holder is claim]:
                del self._holders[digest]
