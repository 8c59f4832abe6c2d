"""The processes of the soak: pushers, collectors and a verifier, each with a registry that it opens itself.

A worker says what it is about to do before it does it, and what it was told afterwards; both are in memory
that it shares with the conductor before its next step begins.
"""

from __future__ import annotations

import logging
import mmap
import os
import random
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from regmeta.app import Reading, Writing, open_for_reading, open_for_writing
from regmeta.content.export import export
from regmeta.errors import DamagedBlob, Error, Locked, LostReservation, NotFound, Unavailable
from regmeta.failpoints import armed
from regmeta.ingest.plan import ImageRequest, Lifetimes
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.settings import Settings
from regmeta.sources.open import open_source
from regmeta.store.exports import open_export
from tests.crash.harness.children import Mutate, Notes
from tests.crash.harness.soak_images import LAYOUTS, Material
from tests.support import registry as looking

Tag = tuple[str, str]  # repository, name
Value = str | None  # the digest of a tag, None where there is no such tag

PUSHERS: Final = 4
TAGS_OF_A_PUSHER: Final = 3
LEASE_S: Final = 1.0
LIFETIMES: Final = Lifetimes(
    intent=timedelta(seconds=LEASE_S),
    max_upload=timedelta(seconds=3),
    lease=timedelta(seconds=LEASE_S),
    garbage=timedelta(),
    tombstone=timedelta(),
    history=timedelta(),
)
COMMITS: Final = ("ingest", "tags", "collect", "collect_blobs")
"""The transactions that count as commits."""


# --- work -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What a worker does to itself at the n-th point whose name matches."""

    action: str  # "kill" or "stop"
    points: Callable[[str], bool]
    number: int
    delay_s: float | None = None  # dies so much later, in the middle of what comes next
    again: bool = False  # at every n-th point


@dataclass(frozen=True)
class Work:
    """What a worker is given."""

    kind: str
    number: int
    settings: Settings
    material: Material
    folder: Path  # for what it writes outside the registry
    is_over: mmap.mmap  # the first byte becomes 1
    seed: int
    fault: Fault | None
    expected: Mapping[Tag, frozenset[Value]]  # of a pusher's own tags, what each may be

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.kind}-{self.number}"

    def goes_on(self) -> bool:
        """Tell whether there is more to do."""
        return self.is_over[0] == 0


W = TypeVar("W", bound=Work)
Do = Callable[[W, Notes, random.Random], None]


def own_tags(pusher: int) -> list[Tag]:
    """Return the tags that nobody else changes; two pushers share a repository."""
    return [(f"shared/{pusher % 2}", f"p{pusher}-{number}") for number in range(TAGS_OF_A_PUSHER)]


def is_commit(point: str) -> bool:
    """Tell whether a point is right before a commit that counts."""
    operation, _, step = point.rpartition(".")
    return step == "committing" and operation in COMMITS


def be_worker(
    work: W, notes: Notes, mutate: Mutate, work_of: Mapping[str, Do[W]], *, away_s: float = 0.0
) -> NoReturn:
    """Do the work of one process, which ends with it: *away_s* later where nothing could be opened."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        logging.disable(logging.CRITICAL)
        _count_lost_reservations(notes)
        if mutate is not None:
            mutate()
        with armed(_points(work, notes)):
            work_of[work.kind](work, notes, random.Random(work.seed))
        notes.add("end", "")
    except Error as error:
        give_up(notes, error)
        if isinstance(error, Unavailable):
            time.sleep(away_s)
        notes.add("end", "")
    except BaseException:  # noqa: BLE001
        notes.add("end", traceback.format_exc())
    os._exit(0)


def _count_lost_reservations(notes: Notes) -> None:
    raised = LostReservation.__init__

    def counted(self: LostReservation, digests: frozenset[Any]) -> None:
        notes.add("went back", len(digests))
        raised(self, digests)

    LostReservation.__init__ = counted  # type: ignore[method-assign]


def _points(work: Work, notes: Notes) -> Callable[[str], None]:
    left = work.fault.number if work.fault else 0

    def handler(name: str) -> None:
        nonlocal left
        operation, _, step = name.rpartition(".")
        if step in ("committing", "committed") and operation in COMMITS:
            notes.add("point", name)
        if work.fault is not None and work.fault.points(name):
            left -= 1
            if left == 0:
                left = work.fault.number if work.fault.again else 0
                _act(work.fault)

    return handler


def _act(fault: Fault) -> None:
    what = signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP
    if fault.delay_s is None:
        os.kill(os.getpid(), what)
    else:
        threading.Timer(fault.delay_s, os.kill, (os.getpid(), what)).start()


def give_up(notes: Notes, error: Error) -> None:
    """Say that an operation ended with an error."""
    kind = "contention" if isinstance(error, Locked) else "gave up"
    notes.add(kind, f"{type(error).__name__}: {error}")


# --- pusher -----------------------------------------------------------------------------------


def _push(work: Work, notes: Notes, rng: random.Random) -> None:
    with open_for_writing(work.settings, lifetimes=LIFETIMES) as registry:
        _look_back(work, notes, registry)
        known = {tag: next(iter(values)) for tag, values in work.expected.items() if len(values) == 1}
        pusher = _Pusher(work, notes, rng, registry, known)
        while work.goes_on():
            try:
                pusher.step()
            except Error as error:
                give_up(notes, error)


def _look_back(work: Work, notes: Notes, registry: Writing) -> None:
    """Nobody else changes these tags: what was acknowledged before the last death must be there."""
    for repository, name in work.expected:
        found = looking.tags(registry.database, repository).get(name)
        value = None if found is None else str(found)
        allowed = work.expected[repository, name]
        if value not in allowed:
            notes.add("lost", f"{repository}:{name} is {value}, and should be {_either(allowed)}")


def _either(values: Collection[Value]) -> str:
    return " or ".join(map(str, values))


class Pusher:
    """One process that brings images and removes tags; what it does not know of is not *known* any more."""

    def __init__(self, notes: Notes, registry: Writing, known: dict[Tag, Value]) -> None:
        self._notes = notes
        self._registry = registry
        self._known = known

    def bring(self, layout: Path, wanted: Mapping[Tag, Descriptor]) -> None:
        """Import images of a layout under tags of this process."""
        self._begin({tag: str(of.digest) for tag, of in wanted.items()})
        with ExitStack() as stack:
            source = open_source(str(layout))
            stack.callback(source.close)
            requests = [ImageRequest(source, of, *tag) for tag, of in wanted.items()]
            for outcome in self._registry.registry.import_images(requests):
                if outcome.error is not None:
                    give_up(self._notes, outcome.error)
                    continue
                repository, _, name = outcome.image.rpartition(":")
                self._done((repository, name), str(outcome.digest))

    def remove(self, tag: Tag) -> None:
        """Remove a tag of this process."""
        self._begin({tag: None})
        with suppress(NotFound):  # it is not there, which is what was wanted
            remove_tag(self._registry.writer, *tag)
        self._done(tag, None)

    def move(self, tag: Tag, value: Value) -> None:
        """Point it at what another tag of this process names, which is therefore there."""
        if value is None:
            return
        self._begin({tag: value})
        set_tag(self._registry.writer, *tag, Digest.parse(value))
        self._done(tag, value)

    def _begin(self, wanted: Mapping[Tag, Value]) -> None:
        for tag in wanted:
            self._known.pop(tag, None)
        self._notes.add("begin", dict(wanted))

    def _done(self, tag: Tag, value: Value) -> None:
        self._notes.add("done", (tag, value))
        self._known[tag] = value


class _Pusher(Pusher):
    """Imports and moves its own tags."""

    def __init__(
        self, work: Work, notes: Notes, rng: random.Random, registry: Writing, known: dict[Tag, Value]
    ) -> None:
        super().__init__(notes, registry, known)
        self._work = work
        self._rng = rng

    def step(self) -> None:
        """Do one operation."""
        tags = self._rng.sample(own_tags(self._work.number), TAGS_OF_A_PUSHER)
        draw = self._rng.random()
        if draw < 0.65:
            self._import(tags[: self._rng.choice((1, 1, 2, 3))])
        elif draw < 0.8:
            self.remove(tags[0])
        else:
            self.move(tags[0], self._known.get(tags[1]))

    def _import(self, tags: list[Tag]) -> None:
        number = self._rng.randrange(LAYOUTS)
        chosen = self._work.material.layouts[number]
        wanted = dict(zip(tags, self._rng.sample(chosen, len(tags)), strict=True))
        self.bring(self._work.material.folder / str(number), wanted)


# --- collector --------------------------------------------------------------------------------


def _collect(work: Work, notes: Notes, rng: random.Random) -> None:
    with open_for_writing(work.settings, lifetimes=LIFETIMES) as registry:
        while work.goes_on():
            try:
                notes.add("collected", collect(registry.writer, registry.store).blobs)
                if rng.random() < 0.1:
                    notes.add("swept", sweep(registry.database, registry.store, LIFETIMES).buried)
            except Error as error:
                give_up(notes, error)
            time.sleep(rng.random() * 0.05)


# --- verifier ---------------------------------------------------------------------------------

LIVE_TAGS: Final = (
    "SELECT t.id, r.name, t.name, t.manifest_digest FROM tags t"
    " JOIN repositories r ON r.id = t.repository_id WHERE t.ended_at IS NULL ORDER BY t.id"
)


def _verify(work: Work, notes: Notes, rng: random.Random) -> None:
    with open_for_reading(work.settings, check_store=True) as registry:
        while work.goes_on():
            verify_one(work, notes, rng, registry)
            time.sleep(0.005)  # two processors are shared by all


def verify_one(work: Work, notes: Notes, rng: random.Random, registry: Reading) -> None:
    """Read an image back, if there is one, and compare all its bytes."""
    live = looking.rows(registry.database, LIVE_TAGS)
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


def _compare(material: Material, target: Path, root: str) -> str:
    found = {f"sha256:{file.name}": file.read_bytes() for file in target.glob("blobs/sha256/*")}
    wanted = {digest: material.contents[digest] for digest in material.trees[root]}
    if found == wanted:
        return ""
    different = [digest for digest in found.keys() & wanted.keys() if found[digest] != wanted[digest]]
    return (
        f"missing {wanted.keys() - found.keys()}, other bytes {different}, too many {found.keys() - wanted}"
    )


WORK: Final[Mapping[str, Do[Work]]] = {"pusher": _push, "collector": _collect, "verifier": _verify}
