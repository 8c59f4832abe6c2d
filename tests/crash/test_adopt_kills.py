"""An adoption that is killed or interrupted again and again ends as one that nobody disturbed.

The old registry gets more images while the adoption is killed: each run has something to do. A kill falls at
a moment that is counted in what the adoption has done (objects, commits, notes), and a little later by
chance. What is compared is the whole registry: rows, times and actors, and how far each repository is.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Final

import pytest

from regmeta.adopt import pieces
from regmeta.adopt.terms import Options
from regmeta.app import adopting, initialise
from regmeta.db import Database
from regmeta.ingest import local_registry
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.sources.storage import RegistryStorage, StoredRepository
from regmeta.sync import pipeline
from regmeta.sync.pipeline import NoProgress
from regmeta.sync.records import ItemOutcome
from tests.builders import LayoutBuilder, digest_of
from tests.crash.harness.judge import ALLOWED_AFTER_CRASH
from tests.crash.processes import TIMEOUT_S, published, run, started
from tests.support.adoptions import adopted_dump
from tests.support.consistency import findings
from tests.support.old_registries.growing import GrowingFolder, set_times
from tests.support.postgres import Postgres
from tests.support.registry import dump, open_parts, rows, scalar, settings_of

PHASES: Final = ("begun", "objects", "commit", "noted")
TAKES_AT_LEAST: Final = 5  # runs that end by themselves, at most, for each kill


# --- killed -----------------------------------------------------------------------------------


@pytest.fixture
def undisturbed(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """A second registry on the same kind of database, to hold the first one against."""
    home = tmp_path / "undisturbed"
    (home / "store").mkdir(parents=True)
    if backend == "sqlite":
        found = settings_of(home, f"sqlite:///{home / 'regmeta.db'}")
        initialise(found)
        yield found
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create(migrated=False)
    found = settings_of(home, postgres.url(name))
    initialise(found)
    yield found
    postgres.drop(name)


@pytest.mark.soak_on_postgresql
def test_adoption_that_is_killed_twice_ends_as_if_it_was_not(
    settings: Settings, undisturbed: Settings, tmp_path: Path
) -> None:
    old = GrowingFolder(tmp_path / "old", 14, seed=2)
    kills = kill_again_and_again(settings, old, 2, seed=2, at_first=6, phases=("objects", "noted"))
    assert kills == {"objects": 1, "noted": 1}
    assert_ends_alike(settings, undisturbed, old)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_adoption_of_30_images_that_is_killed_8_times_ends_as_if_it_was_not(
    settings: Settings, undisturbed: Settings, tmp_path: Path
) -> None:
    old = GrowingFolder(tmp_path / "old", 30, seed=3)
    kills = kill_again_and_again(settings, old, 8, seed=3, at_first=8)
    assert set(kills) == set(PHASES)
    assert_ends_alike(settings, undisturbed, old)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_adoption_of_300_images_that_is_killed_40_times_ends_as_if_it_was_not(
    settings: Settings, undisturbed: Settings, tmp_path: Path
) -> None:
    old = GrowingFolder(tmp_path / "old", 300, seed=4)
    kills = kill_again_and_again(settings, old, 40, seed=4, at_first=60)
    assert sum(kills.values()) == 40
    assert_ends_alike(settings, undisturbed, old)


def kill_again_and_again(
    settings: Settings,
    old: GrowingFolder,
    kills: int,
    *,
    seed: int,
    at_first: int,
    phases: tuple[str, ...] = PHASES,
) -> Counter[str]:
    """Kill adoptions in all phases, with a look at what is there after each; return the kills by phase."""
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    ended = 0
    step = max(1, at_first // 10)
    old.show(at_first)
    database, store = open_parts(settings)
    with closing(database), closing(store):
        while done.total() < kills:
            assert ended < TAKES_AT_LEAST * kills
            phase = phases[done.total() % len(phases)]
            if kill_once(settings, database, old, phase, chance):
                done[phase] += 1
            else:
                ended += 1
            found = findings(database, store)
            assert [line for line in found if not ALLOWED_AFTER_CRASH.fullmatch(line)] == []
            old.show(old.shown + step)
    return done


def kill_once(
    settings: Settings, database: Database, old: GrowingFolder, phase: str, chance: random.Random
) -> bool:
    """Run the adoption and kill it; tell whether it was alive until then."""
    is_time = moment(settings, database, phase)
    until_s = time.monotonic() + TIMEOUT_S
    with started(settings, "adopt", str(old.root)) as process:
        while not is_time() and process.poll() is None:
            assert time.monotonic() < until_s, "it never came to that"
            time.sleep(0.002)
        time.sleep(chance.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode in (0, -signal.SIGKILL), said
    assert "Traceback" not in said
    return process.returncode != 0


def moment(settings: Settings, database: Database, phase: str) -> Callable[[], bool]:
    """Return what tells that a run has come to a phase."""

    def so_far() -> Any:
        if phase == "begun":
            return scalar(database, "SELECT count(*) FROM adoptions"), staged(settings)
        if phase == "objects":
            return published(settings)
        if phase == "commit":
            return scalar(database, "SELECT count(*) FROM ingests")
        return scalar(database, "SELECT max(checked_at) FROM adoption_repositories")

    before = so_far()
    return lambda: bool(so_far() != before)


def staged(settings: Settings) -> int:
    """Return how many processes have a staging folder, dead ones included."""
    return sum(1 for _ in Path(settings.store, "staging").iterdir())


def assert_ends_alike(settings: Settings, undisturbed: Settings, old: GrowingFolder) -> None:
    """Bring the rest, and look whether all is as where nobody was killed."""
    old.show_all()
    run(settings, "adopt", str(old.root))
    run(undisturbed, "adopt", str(old.root))
    assert_alike(settings, undisturbed)
    before = all_rows(settings)
    run(settings, "adopt", str(old.root))
    assert all_rows(settings) == before
    run(settings, "adopt", "verify", str(old.root), "--deep")
    run(settings, "verify", "--read-data")
    assert staged(settings) == 0


def assert_alike(settings: Settings, undisturbed: Settings) -> None:
    found, wanted = adopted(settings), adopted(undisturbed)
    for table, rows_wanted in wanted.items():
        assert found[table] == rows_wanted, table


def adopted(settings: Settings) -> dict[str, Any]:
    database, store = open_parts(settings)
    with closing(database), closing(store):
        return dict(adopted_dump(database))


def all_rows(settings: Settings) -> dict[str, Any]:
    """Return all rows, but for when the adoption was complete."""
    database, store = open_parts(settings)
    with closing(database), closing(store):
        found: dict[str, Any] = dict(dump(database))
        found["adoptions"] = adopted_dump(database)["adoptions"]
        return found


# --- interrupted ------------------------------------------------------------------------------

MANY: Final = "many"
TAGS: Final = 14
UNTAGGED: Final = 26
PIECE: Final = 4


class Old(GrowingFolder):
    """One repository of many pieces, beside others that are small."""

    def __init__(self, root: Path, others: int = 6) -> None:
        super().__init__(root, others, seed=5)
        self.show_all()
        self.untagged: list[str] = []
        self.digests: dict[str, Digest] = {}
        for number in range(TAGS + UNTAGGED):
            self.push(f"t{number:02}" if number < TAGS else None, number)

    def push(self, tag: str | None, number: int) -> None:
        """Push one more image to the repository."""
        builder = LayoutBuilder(seed=number)
        image = builder.image([b"of image %d" % number])
        self.tree.image(MANY, builder, image, tag)
        set_times(self.tree, MANY)
        if tag is not None:
            self.digests[tag] = digest_of(image)
        else:
            self.untagged.append(str(digest_of(image)))

    def up_to(self, cursor: str) -> set[str]:
        """Return the images of the repository that are in pieces up to this one."""
        if ":" not in cursor:
            return {tag for tag in self.digests if tag <= cursor}
        return {*self.digests, *(digest for digest in self.untagged if digest <= cursor)}


@dataclass
class Watched:
    """What a run asks of an old registry, and what comes in between."""

    listed: Counter[str] = field(default_factory=Counter)
    looked_at: Counter[Digest] = field(default_factory=Counter)
    after_listing: Callable[[str], None] = lambda name: None
    before_look: Callable[[Digest], None] = lambda digest: None


class WatchedStorage:
    """A storage whose questions are noted."""

    def __init__(self, storage: RegistryStorage, watched: Watched) -> None:
        self._storage = storage
        self._watched = watched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def repository(self, name: str) -> StoredRepository:
        found = self._storage.repository(name)
        self._watched.listed[name] += 1
        self._watched.after_listing(name)
        return found

    def descriptor(self, name: str, digest: Digest) -> Descriptor:
        self._watched.looked_at[digest] += 1
        self._watched.before_look(digest)
        return self._storage.descriptor(name, digest)


class Interrupted(NoProgress):
    """Is interrupted, as by Ctrl-C, when so many images are done; 0 is never."""

    def __init__(self, after: int = 0) -> None:
        self._after = after
        self.ended = 0
        self.images = 0

    def found(self, images: int) -> None:
        """More images are to be looked at."""
        self.images += images

    def done(self, outcomes: Iterable[ItemOutcome]) -> None:
        """Images are done."""
        self.ended += sum(1 for _ in outcomes)
        if 0 < self._after <= self.ended:
            raise KeyboardInterrupt


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Watch all adoptions of this test. Pieces and batches are small, so there are many."""
    found = Watched()
    opened = adopting.opened

    @contextmanager
    def watching(settings: Settings, source: str, **options: Any) -> Iterator[WatchedStorage]:
        with opened(settings, source, **options) as storage:
            yield WatchedStorage(storage, found)

    monkeypatch.setattr(adopting, "opened", watching)
    monkeypatch.setattr(pieces, "PIECE", PIECE)
    for batching in (local_registry, pipeline):
        monkeypatch.setattr(batching, "BATCH_IMAGES", 1)
    return found


@pytest.fixture
def old(tmp_path: Path) -> Old:
    """An old registry's storage."""
    return Old(tmp_path / "old")


def adopt(settings: Settings, old: Old, progress: Interrupted | None = None, at_once: int = 1) -> bool:
    """Run an adoption in this process; tell whether it came to its end."""
    options = Options(images_at_once=at_once)
    try:
        report = adopting.run(settings, str(old.root), options=options, progress=progress)
    except KeyboardInterrupt:
        return False
    assert report.failures == {}
    return True


def record_of(settings: Settings, repository: str) -> tuple[Any, ...] | None:
    """Return how far a repository is: state, cursor and passes."""
    database, store = open_parts(settings)
    with closing(database), closing(store):
        statement = "SELECT state, cursor, passes FROM adoption_repositories WHERE source = :of"
        return next(iter(rows(database, statement, of=repository)), None)


@pytest.mark.parametrize("after", [2, 7])
def test_adoption_that_is_interrupted_again_and_again_ends_as_if_it_was_not(
    settings: Settings, undisturbed: Settings, old: Old, watched: Watched, after: int
) -> None:
    interrupts = 0
    while not adopt(settings, old, Interrupted(after)):
        interrupts += 1
        assert interrupts < 40
    assert interrupts >= 3
    watched.looked_at.clear()
    adopt(undisturbed, old)
    assert_alike(settings, undisturbed)
    before = all_rows(settings)
    watched.listed.clear()
    adopt(settings, old)
    assert all_rows(settings) == before
    assert watched.listed == {}


def test_adoption_goes_on_after_the_last_piece_that_was_done(
    settings: Settings, undisturbed: Settings, tmp_path: Path, watched: Watched
) -> None:
    """Wherever it is stopped, nothing is asked for again that is in a piece before."""
    old = Old(tmp_path / "old", others=0)
    cursors: set[str] = set()
    for _ in range(TAGS + UNTAGGED):
        before = record_of(settings, MANY)
        watched.looked_at.clear()
        progress = Interrupted(3)
        is_done = adopt(settings, old, progress)
        if before is not None:
            state, cursor, passes = before
            assert (state, passes) == ("partial", 1)
        if before is not None and cursor is not None:  # without: it was begun, and no piece was done
            assert progress.images <= TAGS + UNTAGGED - len(old.up_to(cursor))
            assert not {old.digests.get(each) for each in old.up_to(cursor)} & watched.looked_at.keys()
            cursors.add(cursor)
        if is_done:
            break
    assert record_of(settings, MANY) == ("done", None, 1)
    assert any(":" in cursor for cursor in cursors)
    assert len(cursors) >= 3
    adopt(undisturbed, old)
    assert_alike(settings, undisturbed)


def test_image_that_takes_long_is_not_passed_over_when_those_behind_it_are_done(
    settings: Settings, undisturbed: Settings, old: Old, watched: Watched
) -> None:
    later_ones_are_done = Event()

    def wait(digest: Digest) -> None:
        if digest == old.digests["t00"]:
            later_ones_are_done.wait(TIMEOUT_S)

    class Telling(Interrupted):
        def done(self, outcomes: Iterable[ItemOutcome]) -> None:
            told = list(outcomes)
            seen.update(item.reference for item in told if item.destination == MANY)
            if len(seen) >= 2 * PIECE + pipeline.COMMITTING:  # so the second piece is taken in
                later_ones_are_done.set()
                raise KeyboardInterrupt
            super().done(told)

    seen: set[str] = set()
    watched.before_look = wait
    assert not adopt(settings, old, Telling(), at_once=4)
    assert "t00" not in seen
    assert record_of(settings, MANY) == ("partial", None, 1)
    watched.before_look = lambda digest: None
    assert adopt(settings, old)
    adopt(undisturbed, old)
    assert_alike(settings, undisturbed)


def test_what_is_pushed_while_a_repository_is_listed_comes_with_the_next_run(
    settings: Settings, undisturbed: Settings, old: Old, watched: Watched
) -> None:
    def push(name: str) -> None:
        if name == MANY and watched.listed[MANY] == 1:
            old.push("while-listed", 1000)

    watched.after_listing = push
    assert adopt(settings, old)
    assert adopt(settings, old)
    assert watched.listed[MANY] == 2
    adopt(undisturbed, old)
    assert_alike(settings, undisturbed)
