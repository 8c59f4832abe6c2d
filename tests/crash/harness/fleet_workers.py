"""The processes of a fleet: pushers, collectors and a verifier on several hosts, before servers that fail.

Like those of the soak (``workers``), but what they push are images of their own, each once or more often. A
host is a scratch folder: what happens on another one is known from rows and from signs in the bucket only.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

from regmeta.app import Writing, open_for_reading, open_for_writing
from regmeta.content.export import export
from regmeta.errors import DamagedBlob, Error, NotFound, Unavailable
from regmeta.failpoints import armed
from regmeta.ingest.plan import ImageRequest, Lifetimes
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.settings import Settings
from regmeta.settings.object_store import ObjectStore
from regmeta.sources.open import open_source
from regmeta.store.exports import open_export
from tests.crash.harness.children import _LENGTH, Mutate, Notes
from tests.crash.harness.fleet_images import Gallery, Picture
from tests.crash.harness.workers import (
    _LIVE_TAGS,
    Tag,
    Value,
    Work,
    _compare,
    _count_lost_reservations,
    _give_up,
    _points,
)
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


class Told(Notes):
    """Notes of which each is read once."""

    def __init__(self) -> None:
        super().__init__()
        self._position = _LENGTH.size

    def new(self) -> Iterator[tuple[str, Any]]:
        """Give what has been added since the last call."""
        import pickle

        end = _LENGTH.size + self._used()
        while self._position < end:
            start = self._position + _LENGTH.size
            (length,) = _LENGTH.unpack(self._map[self._position : start])
            self._position = start + length
            yield pickle.loads(self._map[start : start + length])


@dataclass(frozen=True)
class FleetWork(Work):
    """What a process of the fleet is given; *material* is its gallery."""

    pictures: Sequence[Picture] = field(default=())  # a pusher's own


def settings_on(folder: Path, host: int, database: str, store: str, actor: str) -> Settings:
    """Return the settings of one host's processes."""
    home = folder / f"host-{host}"
    reached = ObjectStore(scratch=str(home / "scratch"), retry_for="15s", read_timeout="5s", part_mib=5)
    return Settings(home=str(home), database=database, store=store, actor=actor, object_store=reached)


def be_worker(work: FleetWork, notes: Notes, mutate: Mutate) -> NoReturn:
    """Do the work of one process, which ends with it."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        logging.disable(logging.CRITICAL)
        _count_lost_reservations(notes)
        if mutate is not None:
            mutate()
        with armed(_points(work, notes)):
            _WORK[work.kind](work, notes, random.Random(work.seed))
        notes.add("end", "")
    except Unavailable as error:
        _give_up(notes, error)
        time.sleep(AWAY_S)
        notes.add("end", "")
    except Error as error:
        _give_up(notes, error)
        notes.add("end", "")
    except BaseException:  # noqa: BLE001
        notes.add("end", traceback.format_exc())
    os._exit(0)


# --- pusher -----------------------------------------------------------------------------------


def _push(work: FleetWork, notes: Notes, rng: random.Random) -> None:
    with open_for_writing(work.settings, lifetimes=LIFETIMES) as registry:
        pusher = _Pusher(work, notes, rng, registry)
        pusher.look_back()
        while work.goes_on():
            try:
                pusher.step()
            except Error as error:
                _give_up(notes, error)
                time.sleep(0.02)


class _Pusher:
    """Brings its own images, removes a tag now and then, and brings that image again."""

    def __init__(self, work: FleetWork, notes: Notes, rng: random.Random, registry: Writing) -> None:
        self._work = work
        self._notes = notes
        self._rng = rng
        self._registry = registry
        self._here: dict[Tag, Value] = {}  # what is known of its tags

    def look_back(self) -> None:
        """Nobody else changes these tags: what was acknowledged before the last death must be there."""
        live = {
            (repository, name): str(Digest.from_bytes(bytes(raw)))
            for _, repository, name, raw in looking.rows(self._registry.database, _LIVE_TAGS)
        }
        for tag, allowed in self._work.expected.items():
            value = live.get(tag)
            if value not in allowed:
                self._notes.add("lost", f"{tag} is {value}, and should be one of {sorted(map(str, allowed))}")
            self._here[tag] = value

    def step(self) -> None:
        """Do one operation."""
        missing = [
            each for each in self._work.pictures if self._here.get(each.tag) != str(each.descriptor.digest)
        ]
        if missing and self._rng.random() < 0.9:
            # Any of them: what was just removed is garbage for a while.
            folder = self._rng.choice(missing).folder
            self._import([each for each in missing if each.folder == folder])
        else:
            here = [each for each in self._work.pictures if self._here.get(each.tag) is not None]
            if here:
                self._remove(self._rng.choice(here))

    def _import(self, chosen: Sequence[Picture]) -> None:
        self._begin({each.tag: str(each.descriptor.digest) for each in chosen})
        with ExitStack() as stack:
            source = open_source(str(chosen[0].folder))
            stack.callback(source.close)
            requests = [ImageRequest(source, each.descriptor, *each.tag) for each in chosen]
            for outcome in self._registry.registry.import_images(requests):
                if outcome.error is not None:
                    _give_up(self._notes, outcome.error)
                    continue
                repository, _, name = outcome.image.rpartition(":")
                self._done((repository, name), str(outcome.digest))

    def _remove(self, picture: Picture) -> None:
        self._begin({picture.tag: None})
        with suppress(NotFound):  # it is not there, which is what was wanted
            remove_tag(self._registry.writer, *picture.tag)
        self._done(picture.tag, None)

    def _begin(self, wanted: Mapping[Tag, Value]) -> None:
        for tag in wanted:
            self._here.pop(tag, None)
        self._notes.add("begin", dict(wanted))

    def _done(self, tag: Tag, value: Value) -> None:
        self._notes.add("done", (tag, value))
        self._here[tag] = value


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
                _give_up(notes, error)
                time.sleep(0.1)
            time.sleep(rng.random() * 0.2)


# --- verifier ---------------------------------------------------------------------------------


def _verify(work: FleetWork, notes: Notes, rng: random.Random) -> None:
    with open_for_reading(work.settings, check_store=True) as registry:
        while work.goes_on():
            try:
                _verify_one(work, notes, rng, registry)
            except Unavailable as error:
                _give_up(notes, error)
            time.sleep(0.1)


def _verify_one(work: FleetWork, notes: Notes, rng: random.Random, registry: Any) -> None:
    live = looking.rows(registry.database, _LIVE_TAGS)
    if not live:
        return
    number, repository, name, raw = rng.choice(live)
    digest = str(Digest.from_bytes(bytes(raw)))
    target = work.folder / f"export-{os.getpid()}"
    try:
        reference = Reference.parse(f"{repository}@{digest}")
        export(registry.database, registry.store, reference, open_export(str(target)))
        wrong = _compare(work.material, target, digest)
    except (NotFound, DamagedBlob) as error:
        wrong = f"{type(error).__name__}: {error}"
        after = looking.rows(registry.database, "SELECT ended_at FROM tags WHERE id = :of", of=number)
        if after != [(None,)]:
            notes.add("moved", name)  # nothing kept the image while it was read
            return
    finally:
        shutil.rmtree(target, ignore_errors=True)
    notes.add("broken" if wrong else "verified", f"{repository}:{name}@{digest}: {wrong}")


_WORK: Final[Mapping[str, Callable[[FleetWork, Notes, random.Random], None]]] = {
    "pusher": _push,
    "collector": _collect,
    "verifier": _verify,
}

__all__ = ["HOSTS", "LEASE_S", "LIFETIMES", "FleetWork", "Gallery", "Told", "be_worker", "settings_on"]
