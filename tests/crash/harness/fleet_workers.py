"""The processes of a fleet: pushers, collectors and a verifier on several hosts, before servers that fail.

Like those of the soak (``workers``), but what they push are images of their own, each once or more often. A
host is a scratch folder: what happens on another one is known from rows and from signs in the bucket only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from regmeta.app import Writing, open_for_reading, open_for_writing
from regmeta.errors import Error, Unavailable
from regmeta.ingest.plan import Lifetimes
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.settings.object_store import ObjectStore
from tests.crash.harness.children import Notes
from tests.crash.harness.fleet_images import Picture
from tests.crash.harness.workers import LIVE_TAGS, Do, Pusher, Work, give_up, verify_one
from tests.support import registry as looking

HOSTS: Final = 4
LEASE_S: Final = 2.0
LIFETIMES: Final = Lifetimes(
    intent=timedelta(seconds=LEASE_S),
    max_upload=timedelta(seconds=3 * LEASE_S),
    lease=timedelta(seconds=LEASE_S),
    garbage=timedelta(),
    tombstone=timedelta(),
    history=timedelta(),
)
AWAY_S: Final = 0.2  # before it is tried again where nothing can be opened


@dataclass(frozen=True)
class FleetWork(Work):
    """What a process of the fleet is given; *material* is its gallery."""

    pictures: Sequence[Picture] = field(default=())  # a pusher's own


def settings_on(folder: Path, host: int, database: str, store: str, actor: str) -> Settings:
    """Return the settings of one host's processes."""
    home = folder / f"host-{host}"
    reached = ObjectStore(scratch=str(home / "scratch"), retry_for="15s", read_timeout="5s", part_mib=5)
    return Settings(home=str(home), database=database, store=store, actor=actor, object_store=reached)


# --- pusher -----------------------------------------------------------------------------------


def _push(work: FleetWork, notes: Notes, rng: random.Random) -> None:
    with open_for_writing(work.settings, lifetimes=LIFETIMES) as registry:
        pusher = _Pusher(work, notes, rng, registry)
        pusher.look_back()
        while work.goes_on():
            try:
                pusher.step()
            except Error as error:
                give_up(notes, error)
                time.sleep(0.02)


class _Pusher(Pusher):
    """Brings its own images, removes a tag now and then, and brings that image again."""

    def __init__(self, work: FleetWork, notes: Notes, rng: random.Random, registry: Writing) -> None:
        super().__init__(notes, registry, {})
        self._work = work
        self._rng = rng

    def look_back(self) -> None:
        """Nobody else changes these tags: what was acknowledged before the last death must be there."""
        live = {
            (repository, name): str(Digest.from_bytes(bytes(raw)))
            for _, repository, name, raw in looking.rows(self._registry.database, LIVE_TAGS)
        }
        for tag, allowed in self._work.expected.items():
            value = live.get(tag)
            if value not in allowed:
                self._notes.add("lost", f"{tag} is {value}, and should be one of {sorted(map(str, allowed))}")
            self._known[tag] = value

    def step(self) -> None:
        """Do one operation."""
        missing = [
            each for each in self._work.pictures if self._known.get(each.tag) != str(each.descriptor.digest)
        ]
        if missing and self._rng.random() < 0.9:
            # Any of them: what was just removed is garbage for a while.
            folder = self._rng.choice(missing).folder
            self.bring(folder, {each.tag: each.descriptor for each in missing if each.folder == folder})
        else:
            here = [each for each in self._work.pictures if self._known.get(each.tag) is not None]
            if here:
                self.remove(self._rng.choice(here).tag)


# --- collector --------------------------------------------------------------------------------


def _collect(work: FleetWork, notes: Notes, rng: random.Random) -> None:
    with open_for_writing(work.settings, lifetimes=LIFETIMES) as registry:
        while work.goes_on():
            try:
                report = collect(registry.writer, registry.store)
                notes.add("collected", report.blobs)
                notes.add("deleted", report.objects.deleted)
                if rng.random() < 0.05:
                    notes.add("swept", sweep(registry.database, registry.store, LIFETIMES).buried)
            except Error as error:
                give_up(notes, error)
                time.sleep(0.1)
            time.sleep(rng.random() * 0.2)


# --- verifier ---------------------------------------------------------------------------------


def _verify(work: FleetWork, notes: Notes, rng: random.Random) -> None:
    with open_for_reading(work.settings, check_store=True) as registry:
        while work.goes_on():
            try:
                verify_one(work, notes, rng, registry)
            except Unavailable as error:
                give_up(notes, error)
            time.sleep(0.1)


WORK: Final[Mapping[str, Do[FleetWork]]] = {"pusher": _push, "collector": _collect, "verifier": _verify}
