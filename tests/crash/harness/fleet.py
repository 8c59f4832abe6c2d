"""Many processes of several hosts on PostgreSQL and S3, while they and both servers are killed and frozen.

Eight pushers bring thousands of images, two collectors take what lost its tag, a verifier reads back. The
conductor kills and freezes processes, ends connections of PostgreSQL, kills its processes, and kills and
freezes the S3 server. Each tag has one owner, so what it must be, and was, is known exactly.

It forks, so nothing may have been asked of the object store in its own process before the end: it is run as a
program of its own (``python -m tests.crash.harness.fleet``), which prints what it found as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from regmeta import app
from tests.crash.harness import conducting, fleet_end, fleet_workers
from tests.crash.harness.children import Mutate, Notes, run_child
from tests.crash.harness.conducting import Conductor, Worker
from tests.crash.harness.fleet_images import Gallery, make_gallery
from tests.crash.harness.fleet_servers import Servers
from tests.crash.harness.fleet_workers import AWAY_S, HOSTS, LEASE_S, FleetWork, settings_on
from tests.crash.harness.places import MEMORY, _import_everything
from tests.crash.harness.workers import Fault, Tag, Value, be_worker, is_commit
from tests.support.seaweed_server import BUCKET

PUSHERS: Final = 8
KINDS: Final = {"pusher": PUSHERS, "collector": 2, "verifier": 1}
DRAIN_S: Final = 90.0
SAY_EVERY_S: Final = 20.0
STOPS_AT: Final = ("reserve.committed", "bucket.published", "bucket.record_put", "ingest.committing")
AHEAD: Final = 1.1  # harm is so much ahead of the work
ROOT: Final = Path(__file__).parents[3]


@dataclass(frozen=True)
class Size:
    """How long it goes on: until all minimums are reached, but within these bounds."""

    images: int
    least_s: float
    most_s: float
    kills: int = 0
    kills_in_commit: int = 0
    freezes: int = 0
    backends: int = 0  # connections that were ended, by word or by a kill
    servers: int = 0  # times that a server was killed, or recovered from the kill of a backend
    collected_blobs: int = 0
    servers_every: float = 1.0  # of the usual times between two harms to a server


FULL: Final = Size(2_000, 60, 1_500, 200, 50, 40, 24, 6, 300)
SMALL: Final = Size(16, 2, 60, kills=2, freezes=1, backends=1, servers=1, servers_every=0.05)


@dataclass
class Figures(conducting.Figures):
    """What happened."""

    images: int = 0  # that were acknowledged
    backends: int = 0
    servers: int = 0
    deleted_objects: int = 0
    seconds: float = 0.0
    told: Counter[str] = field(default_factory=Counter)  # what was given up, by the class of the error
    to_servers: Counter[str] = field(default_factory=Counter)

    def short_of(self, size: Size) -> Iterator[str]:
        """Give the figures that are below their minimum."""
        wanted = asdict(size)
        for name in (
            "images",
            "kills",
            "kills_in_commit",
            "freezes",
            "backends",
            "servers",
            "collected_blobs",
        ):
            if getattr(self, name) < wanted[name]:
                yield f"{getattr(self, name)} {name}, and {wanted[name]} were wanted"


@dataclass
class Report:
    """What a run found."""

    figures: dict[str, Any]
    failures: list[tuple[str, str]]  # kind, text

    def count(self, kind: str) -> int:
        """Return how many failures of a kind there are."""
        return sum(found == kind for found, _ in self.failures)


def run_apart(size: Size, *, seed: int = 7, timeout_s: float = 900) -> Report:
    """Run a fleet in a process of its own."""
    command = [sys.executable, "-m", "tests.crash.harness.fleet", json.dumps(asdict(size)), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the fleet ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Report(found["figures"], [tuple(each) for each in found["failures"]])


def fleet(size: Size, *, seed: int = 7, mutate: Mutate = None) -> tuple[Figures, list[tuple[str, str]]]:
    """Run it in this process, which must not have used an object store."""
    _import_everything()
    rng = random.Random(seed)
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="regmeta-fleet-", dir=memory))
    servers = Servers(rng)
    try:
        servers.start()
        gallery = make_gallery(folder / "layouts", size.images, seed)
        conductor = _Conductor(servers, folder, gallery, rng, mutate)
        made = run_child(lambda _: conductor.initialise())
        assert made.ended == "done", made.error
        conductor.run(size)
        failures = list(conductor.failures)
        failures += [("error", told) for told in conductor.figures.short_of(size)]
        hosts = [conductor.settings("judge", host) for host in range(HOSTS)]
        failures += fleet_end.settle(hosts, folder, gallery, conductor.expected, conductor.logs)
        return conductor.figures, failures
    finally:
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)


# --- conductor --------------------------------------------------------------------------------


class _Conductor(Conductor):
    def __init__(
        self, servers: Servers, folder: Path, gallery: Gallery, rng: random.Random, mutate: Mutate
    ) -> None:
        self.figures = Figures()
        super().__init__(self.figures, rng, mutate, lease_s=LEASE_S, drain_s=DRAIN_S)
        self.failures: list[tuple[str, str]] = []
        self.expected: dict[Tag, frozenset[Value]] = {
            each.tag: frozenset([None]) for each in gallery.pictures
        }
        self.logs: dict[Tag, list[tuple[Value, bool]]] = {each.tag: [] for each in gallery.pictures}
        self._pushed: set[Tag] = set()
        self._servers = servers
        self._folder = folder
        self._gallery = gallery
        self._store = f"s3://{BUCKET}/fleet-{uuid4().hex}"
        self._size = SMALL

    def settings(self, actor: str, host: int) -> Any:
        """Return the settings of a process of one host."""
        return settings_on(self._folder, host, self._servers.postgres.url, self._store, actor)

    def initialise(self) -> None:
        """Make the registry. In a process of its own."""
        app.initialise(self.settings("maker", 0))

    def run(self, size: Size) -> None:
        """Let them work while all that can fail does; then let them come to their end."""
        began_s = time.monotonic()
        self._size = size
        counts, figures = self._servers.counts, self.figures
        often = size.servers_every
        # As often as the images get on, so that a slow machine comes to the end of them as well.
        harms = [
            _Harm(self._kill, 0.5, lambda: figures.kills, size.kills),
            _Harm(self._freeze_one, 1.0, lambda: figures.freezes, 2 * size.freezes),
            _Harm(self._servers.cut_off, 3.0 * often, self._count_backends, size.backends),
            _Harm(
                self._servers.kill_backend, 9.0 * often, lambda: counts["backends killed"], size.servers // 2
            ),
            _Harm(
                self._servers.kill_postmaster,
                20.0 * often,
                lambda: counts["PostgreSQL killed"],
                size.servers // 3,
            ),
            _Harm(self._kill_bucket, 9.0 * often, lambda: counts["S3 killed"], size.servers // 2),
            _Harm(self._freeze_bucket, 6.0 * often, lambda: counts["S3 frozen"], 2 * size.servers),
        ]
        try:
            for kind, count in KINDS.items():
                for number in range(count):
                    self.start(kind, number)
            while (now_s := time.monotonic()) < began_s + size.most_s:
                self._count()
                self._say(now_s - began_s)
                if now_s >= began_s + size.least_s and not list(self.figures.short_of(size)):
                    break
                for harm in harms:
                    harm.tend(now_s, self._rng, self._progress())
                self._servers.tend()
                self.tend(restart=True)
                time.sleep(0.01)
            self.figures.seconds = time.monotonic() - began_s
            self._servers.mend()
            self.drain()
            self._count()
        finally:
            self.kill_all()

    def _say(self, elapsed_s: float) -> None:
        """Say how far it has come, now and then."""
        if elapsed_s >= self.figures.seconds + SAY_EVERY_S:
            self.figures.seconds = elapsed_s
            print(f"{elapsed_s:.0f} s: {self.figures}", file=sys.stderr, flush=True)

    def _progress(self) -> float:
        """Return how much of all images was pushed; from 0 to 1."""
        return min(1.0, len(self._pushed) / self._size.images)

    def _count_backends(self) -> int:
        counts = self._servers.counts
        return counts["backends terminated"] + counts["backends killed"]

    def _count_servers(self) -> int:
        counts = self._servers.counts
        return counts["backends killed"] + counts["PostgreSQL killed"] + counts["S3 killed"]

    def _count(self) -> None:
        self.figures.backends = self._count_backends()
        self.figures.servers = self._count_servers()
        self.figures.to_servers = self._servers.counts
        self.figures.images = len(self._pushed)

    # --- harm -------------------------------------------------------------------------------------

    def _kill(self) -> None:
        # One that is frozen is killed as well: it never wakes.
        os.kill(self._rng.choice(self._workers).pid, signal.SIGKILL)

    def _freeze_one(self) -> None:
        self.freeze(self._rng.choice(self._workers))

    def _kill_bucket(self) -> None:
        self._servers.kill_bucket(self._rng.uniform(0.0, 1.5))

    def _freeze_bucket(self) -> None:
        self._servers.freeze_bucket(self._rng.uniform(0.2, 1.5 * LEASE_S))

    def _fault(self, kind: str) -> Fault | None:
        draw = self._rng.random()
        if kind == "verifier" or draw < 0.2:
            return None
        in_time = self.figures.kills_in_commit <= 1.5 * self._size.kills_in_commit * self._progress()
        if draw < 0.45 or not in_time:  # its reservation is lost when it goes on
            prefix = self._rng.choice(STOPS_AT)
            return Fault("stop", lambda name: name == prefix, self._rng.randint(1, 8))
        delay_s = self._rng.choice((None, None, self._rng.uniform(0, 0.003)))
        return Fault("kill", is_commit, self._rng.randint(1, 6), delay_s)

    # --- processes --------------------------------------------------------------------------------

    def start(self, kind: str, number: int) -> None:
        """Start a process on its host."""
        self._seed += 1
        mine = self._gallery.pictures[:0]
        if kind == "pusher":
            mine = [each for each in self._gallery.pictures if each.number // 4 % PUSHERS == number]
        work = FleetWork(
            kind,
            number,
            self.settings(f"{kind}-{number}", number % HOSTS),
            self._gallery,  # type: ignore[arg-type]
            self._folder,
            self._is_over,
            self._seed,
            self._fault(kind),
            {each.tag: self.expected[each.tag] for each in mine},
            mine,
        )
        notes = Notes()
        pid = os.fork()
        if pid == 0:
            be_worker(work, notes, self._mutate, fleet_workers.WORK, away_s=AWAY_S)
        self._workers.append(Worker(work, pid, notes))

    def on_begin(self, worker: Worker, wanted: dict[Tag, Value]) -> None:
        """What it may be is one more, and its log has an entry without an answer."""
        worker.under_way = {}
        for tag, value in wanted.items():
            self.expected[tag] |= {value}
            worker.under_way[tag] = len(self.logs[tag])
            self.logs[tag].append((value, False))

    def on_done(self, worker: Worker, fact: tuple[Tag, Value]) -> None:
        """What it must be is known, and the entry has its answer."""
        tag, value = fact
        at = worker.under_way.pop(tag)
        self.logs[tag][at] = (value, True)
        self.expected[tag] = frozenset([value])
        self.figures.acknowledged += 1
        if value is not None:
            self._pushed.add(tag)

    def on_deleted(self, _: Worker, objects: int) -> None:
        """Objects were deleted."""
        self.figures.deleted_objects += objects

    def on_gave_up(self, _: Worker, told: str) -> None:
        """Counted by the class of the error."""
        self.figures.told[told.partition(":")[0]] += 1

    def fail(self, kind: str, who: str, told: str) -> None:
        """Note a failure once."""
        failure = (kind, f"{who}: {told}")
        if failure not in self.failures:
            self.failures.append(failure)


class _Harm:
    """Something that is done again and again, at random times, in step with the work that it disturbs."""

    def __init__(self, act: Callable[[], None], every_s: float, done: Callable[[], int], wanted: int) -> None:
        self._act = act
        self._every_s = every_s
        self._done = done
        self._wanted = wanted
        self._at_s: float | None = None

    def tend(self, now_s: float, rng: random.Random, progress: float) -> None:
        """Do it, if its time has come."""
        if self._at_s is not None and now_s < self._at_s:
            return
        if self._at_s is not None and self._done() <= AHEAD * self._wanted * progress:
            self._act()
        self._at_s = now_s + rng.uniform(0.5, 1.5) * self._every_s


def main(size: Size, seed: int) -> None:
    """Run it and print what was found."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end as well
    figures, failures = fleet(size, seed=seed)
    print(json.dumps({"figures": vars(figures), "failures": failures}))


if __name__ == "__main__":
    main(Size(**json.loads(sys.argv[1])), int(sys.argv[2]))
