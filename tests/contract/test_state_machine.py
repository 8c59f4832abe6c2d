"""Any sequence of operations and crashes leaves what a plain dict says: tags and whole images, and no more.

The one process may die at any durable step: from then on it changes nothing, and the kernel closes what it
had open. The next one recovers.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from regmeta import failpoints
from regmeta.content.export import export
from regmeta.errors import DamagedBlob, NotFound
from regmeta.ingest import local_registry
from regmeta.ingest.damage import mark_damaged
from regmeta.ingest.local_registry import LocalRegistry
from regmeta.ingest.plan import ImageRequest, Lifetimes
from regmeta.ingest.snapshots import SnapshotWriter
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.rebuild.reconcile import reconcile
from regmeta.maintain.rebuild.report import NoProgress
from regmeta.maintain.recover import recover
from regmeta.maintain.setup import make_identity
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.settings import Settings
from regmeta.sources.open import open_source
from regmeta.store import durable, filesystem
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of, parsed
from tests.crash.harness.children import InlineExecutor
from tests.crash.harness.schedule_images import MemoryExport
from tests.support.consistency import findings
from tests.support.registry import change, keys_in, objects, open_parts, rows, settings_of, tags

NOW: Final = timedelta()
LIFETIMES: Final = Lifetimes(lease=NOW, garbage=NOW, tombstone=NOW, history=NOW, max_upload=NOW)
SWEPT: Final = replace(LIFETIMES, max_upload=timedelta(hours=-1))  # files have the store's clock
REPOSITORIES: Final = ("app", "lib")
TAGS: Final = ("one", "two")
DURABLE: Final = (
    "flush",
    "rename",
    "link",
    "unlink",
    "make_folder",
    "remove_folder",
    "remove_tree",
    "create",
)

Key = tuple[str, str]  # repository and tag


class Crash(BaseException):
    """The process has died."""


# --- images -----------------------------------------------------------------------------------

BUILDER: Final = LayoutBuilder(seed=3)


def _images() -> list[Json]:
    base, one, two, three = (BUILDER.layer() for _ in range(4))
    plain = [BUILDER.image(layers) for layers in ([base], [base, one], [base, two], [three, one], [three])]
    children = [BUILDER.image([base, one], platform=AMD64), BUILDER.image([base, two], platform=ARM64)]
    index = BUILDER.index(children)
    nested = BUILDER.index([index, BUILDER.image([three], platform=AMD64)])
    referrers = [
        BUILDER.artifact(b"signature", "application/vnd.example.sig", subject)
        for subject in (plain[1], index)
    ]
    return [*plain, *children, index, nested, *referrers]


IMAGES: Final = _images()


def manifests_of(root: str) -> set[str]:
    """Return the digests of all manifests of a tree."""
    document = _document(root)
    return {root}.union(*(manifests_of(child["digest"]) for child in document.get("manifests", ())))


def blobs_of(root: str) -> set[str]:
    """Return the digests of all that an image consists of."""
    found = manifests_of(root)
    for digest in list(found):
        document = _document(digest)
        found |= {part["digest"] for part in (document.get("config"), *document.get("layers", ())) if part}
    return found


def _document(digest: str) -> Json:
    return dict(json.loads(BUILDER.blobs[digest]))


CONFIGS: Final = {
    _document(digest)["config"]["digest"]
    for image in IMAGES
    for digest in manifests_of(image["digest"])
    if "config" in _document(digest)
}


# --- one process ------------------------------------------------------------------------------


class Process:
    """A registry that one process has open, and that can die."""

    def __init__(self, of: Settings) -> None:
        self.database, self.store = open_parts(of)
        self.staging = None
        try:
            self.staging = self.store.open_staging()
            snapshots = SnapshotWriter(self.database, self.store, self.staging, show_layouts=True)
            self.writer = Writer(self.database, self.staging, snapshots, "host", "tester", LIFETIMES)
            self.registry = LocalRegistry(self.writer, self.store)
            recover(self.writer, self.store)
        except Crash:
            self.die()
            raise

    def die(self) -> None:
        """Close what the kernel closes, and nothing else."""
        staging: Any = self.staging
        if staging is not None:
            os.close(staging._claim.lock_fd)
            os.close(staging._claim.folder_fd)
        self._let_go()

    def end(self) -> None:
        """End as a process does that has done its work."""
        assert self.staging is not None
        self.staging.close()
        self._let_go()

    def _let_go(self) -> None:
        self.database.engine.dispose()
        lock: Any = self.database._serialise
        if lock._fd is not None:
            os.close(lock._fd)
        self.store.close()


class Fuse:
    """Kills at the point of a drawn number, and makes everything fail from then on."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.is_dead = False

    def reach(self, _: str = "") -> None:
        """Die, if it is time."""
        if self.left is not None:
            self.left -= 1
            self.is_dead = self.is_dead or self.left <= 0
        if self.is_dead:
            raise Crash

    def refuse_the_dead(self, really: Callable[..., Any]) -> Callable[..., Any]:
        """Return a durable step that a dead process does not take."""

        def step(*arguments: Any, **options: Any) -> Any:
            if self.is_dead:
                raise Crash
            return really(*arguments, **options)

        return step


# --- the machine ------------------------------------------------------------------------------

repositories = st.sampled_from(REPOSITORIES)
names = st.sampled_from(TAGS)
images = st.sampled_from(IMAGES)
numbers = st.integers(0, 4)  # 0: whatever was drawn; else one that is there


class Machine(RuleBasedStateMachine):
    """A registry, and a dict that says what is in it."""

    fuse: Fuse
    template: Path
    layout: Path
    deaths: list[str]  # what a process died in

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix="regmeta-machine-", dir=memory))
        (self._folder / "store").mkdir()
        shutil.copyfile(self.template, self._folder / "regmeta.db")
        self._settings = settings_of(self._folder, f"sqlite:///{self._folder / 'regmeta.db'}")
        self.fuse.left, self.fuse.is_dead = None, False
        database, store = open_parts(self._settings)
        make_identity(database, store)
        store.close()
        database.close()
        self._model: dict[Key, str] = {}
        self._damaged: set[str] = set()
        self._second: int | None = None
        self._process = Process(self._settings)

    def teardown(self) -> None:
        self.fuse.left = None
        self._process.end()
        shutil.rmtree(self._folder)

    # --- operations -------------------------------------------------------------------------

    @rule(image=images, repository=repositories, tag=st.none() | names)
    def push(self, image: Json, repository: str, tag: str | None) -> None:
        root = image["digest"]

        def body() -> None:
            with closing(open_source(str(self.layout))) as source:
                wanted = ImageRequest(source, parsed(image), repository, tag)
                [outcome] = self._process.registry.import_images([wanted])
            assert outcome.error is None, outcome

        if self._run("push", body, {} if tag is None else {(repository, tag): root}):
            self._damaged -= blobs_of(root)

    @rule(image=images, repository=repositories, tag=names, number=numbers)
    def retag(self, image: Json, repository: str, tag: str, number: int) -> None:
        if self._model and number:  # else most of them would find nothing to do
            key = self._live(number)
            repository, image = key[0], next(each for each in IMAGES if each["digest"] == self._model[key])
        root = image["digest"]
        held = {
            digest
            for (name, _), of in self._model.items()
            if name == repository
            for digest in manifests_of(of)
        }

        def body() -> bool:
            try:
                set_tag(self._process.writer, repository, tag, digest_of(image))
            except NotFound:
                # What no tag reaches may be gone or not.
                assert root not in held
                return False
            return True

        self._run("retag", body, {(repository, tag): root})

    @rule(repository=repositories, tag=names, number=numbers)
    def untag(self, repository: str, tag: str, number: int) -> None:
        if self._model and number:
            repository, tag = self._live(number)

        def body() -> bool:
            try:
                remove_tag(self._process.writer, repository, tag)
            except NotFound:
                assert (repository, tag) not in self._model
                return False
            assert (repository, tag) in self._model
            return True

        self._run("untag", body, {(repository, tag): None})

    @precondition(lambda self: self._model)
    @rule(number=numbers, after=st.integers(1, 6))
    def die_in_untag(self, number: int, after: int) -> None:
        """It is over in so few steps that a crash which is drawn for later seldom meets it."""
        self.fuse.left, self._second = after, None
        self.untag(*self._live(number), 0)

    def _live(self, number: int) -> Key:
        """Return one of the live tags."""
        return sorted(self._model)[number % len(self._model)]

    @rule()
    def collect(self) -> None:
        self._run("collect", lambda: collect(self._process.writer, self._process.store), {})

    @rule()
    def sweep(self) -> None:
        def body() -> None:
            assert sweep(self._process.database, self._process.store, SWEPT).buried == 0

        self._run("sweep", body, {})

    @rule()
    def collect_all(self) -> None:
        """Let all times be over: what is left is what the model needs."""

        def body() -> None:
            for _ in range(2):
                for statement in (
                    "UPDATE gc_tasks SET not_before = 0",
                    "UPDATE tombstones SET not_before = created_at, drop_after = deleted_at",
                ):
                    change(self._process.database, statement)
                collect(self._process.writer, self._process.store)

        if self._run("collect all", body, {}):
            assert set(objects(self._process.store)) == keys_in(self._process.database, "blobs")
            assert keys_in(self._process.database, "tombstones") == set()
            found: dict[str, set[str]] = {name: set() for name in REPOSITORIES}
            for name, digest in rows(
                self._process.database,
                "SELECT r.name, m.digest FROM manifests m JOIN repositories r ON r.id = m.repository_id",
            ):
                found[name].add(str(Digest.from_bytes(bytes(digest))))
            assert found == {name: self._kept(name, found[name]) for name in REPOSITORIES}
            self._damaged &= {
                digest for names in found.values() for root in names for digest in blobs_of(root)
            }
            self._check_whole()

    @rule()
    def reconcile(self) -> None:
        """The snapshots say what the rows say: nothing is to be put back."""

        def body() -> None:
            report = reconcile(self._process.writer, self._process.store, NoProgress())
            assert (report.changed, report.manifests, report.blobs, report.tags) == (0, 0, 0, 0)

        self._run("reconcile", body, {})

    @precondition(lambda self: self._model)
    @rule(which=st.integers(0, 999), part=st.integers(0, 999), heals=st.booleans())
    def rot(self, which: int, part: int, heals: bool) -> None:
        """A stored blob of a tagged image rots, and is found; the next push of it heals."""
        key = sorted(self._model)[which % len(self._model)]
        # What the rows say of a configuration is compared with its bytes, so those do not rot here.
        wanted = sorted(blobs_of(self._model[key]) - self._damaged - CONFIGS)
        if not wanted:
            return
        digest = wanted[part % len(wanted)]
        [(number, at)] = rows(
            self._process.database,
            "SELECT id, key FROM blobs WHERE digest = :of",
            of=Digest.parse(digest).to_bytes(),
        )
        path = Path(self._process.store.location) / "blobs" / at
        path.chmod(0o644)
        path.write_bytes(b"rotten" + path.read_bytes()[6:])
        path.chmod(0o444)
        with pytest.raises(DamagedBlob):
            self._exported(key)
        mark_damaged(self._process.database, [(number, at)])
        self._damaged.add(digest)
        if heals:
            image = next(image for image in IMAGES if image["digest"] == self._model[key])
            self.push(image, *key)

    @rule(after=st.integers(1, 8) | st.integers(1, 60), again=st.none() | st.integers(1, 15))
    def crash_later(self, after: int, again: int | None) -> None:
        """Let the process die so many steps later, and perhaps the one that recovers as well."""
        self.fuse.left, self._second = after, again

    @rule()
    def restart(self) -> None:
        self._process.end()
        self._process = Process(self._settings)

    # --- what must hold ---------------------------------------------------------------------

    @invariant()
    def database_and_store_agree(self) -> None:
        with failpoints.armed(lambda _: None):
            assert findings(self._process.database, self._process.store) == []

    @invariant()
    def tags_are_those_of_the_model(self) -> None:
        assert self._tags() == self._model
        damaged = {
            str(Digest.from_bytes(bytes(digest)))
            for (digest,) in rows(self._process.database, "SELECT digest FROM blobs WHERE state = 'damaged'")
        }
        assert damaged <= self._damaged
        # A damaged blob may have been collected with its image, or healed by an import that died after.
        self._damaged = damaged

    # --- helpers ----------------------------------------------------------------------------

    def _run(self, what: str, body: Callable[[], Any], changes: dict[Key, str | None]) -> bool:
        """Run an operation that is to change tags; tells whether it came to its end.

        A *body* that returns False has changed nothing.
        """
        try:
            with failpoints.armed(self.fuse.reach):
                done = body() is not False
        except Crash:
            self._recover(what, changes)
            return False
        if done:
            self._apply(changes)
        return True

    def _recover(self, what: str, changes: dict[Key, str | None]) -> None:
        type(self).deaths.append(what)
        self._process.die()
        self.fuse.left, self._second = self._second, None
        while True:
            self.fuse.is_dead = False
            try:
                with failpoints.armed(self.fuse.reach):
                    self._process = Process(self._settings)
                break
            except Crash:
                type(self).deaths.append("recover")
                self.fuse.left = None
        self.fuse.left = None
        assert keys_in(self._process.database, "intents") == set()
        if self._tags() != self._model:
            self._apply(changes)  # it was committed; anything else is found by the invariant
        self._check_whole()

    def _apply(self, changes: dict[Key, str | None]) -> None:
        for key, digest in changes.items():
            if digest is None:
                self._model.pop(key, None)
            else:
                self._model[key] = digest

    def _tags(self) -> dict[Key, str]:
        return {
            (name, tag): str(digest)
            for name in REPOSITORIES
            for tag, digest in tags(self._process.database, name).items()
        }

    def _kept(self, repository: str, found: set[str]) -> set[str]:
        """Return what tags keep, and of what is *found* that which refers to it."""
        kept = {
            digest
            for (name, _), root in self._model.items()
            if name == repository
            for digest in manifests_of(root)
        }
        while True:
            more = {d for d in found - kept if _document(d).get("subject", {}).get("digest") in kept}
            if not more:
                return kept
            kept |= more

    def _check_whole(self) -> None:
        for key, root in self._model.items():
            if not blobs_of(root) & self._damaged:
                assert self._exported(key) == {digest: BUILDER.blobs[digest] for digest in blobs_of(root)}

    def _exported(self, key: Key) -> dict[str, bytes]:
        target = MemoryExport()
        export(self._process.database, self._process.store, Reference(*key), target)
        return target.found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, sqlite_template: Path, tmp_path: Path) -> type[Machine]:
    """The machine, in whose process all work is done by one thread."""
    fuse = Fuse()
    for module in (local_registry, filesystem):
        monkeypatch.setattr(module, "Threads", InlineExecutor)
    for name in DURABLE:
        monkeypatch.setattr(durable, name, fuse.refuse_the_dead(getattr(durable, name)))
    return type(
        "Bound",
        (Machine,),
        {
            "fuse": fuse,
            "template": sqlite_template,
            "layout": BUILDER.write(tmp_path / "images"),
            "deaths": [],
        },
    )


def run(machine: type[Machine], examples: int, steps: int, **others: Any) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=(Phase.generate,),  # a failure is told at once; making it smaller takes minutes
            suppress_health_check=list(HealthCheck),
            **others,
        ),
    )


def test_what_is_there_is_what_a_dict_says(machine: type[Machine]) -> None:
    run(machine, 25, 25, derandomize=True)
    assert len(machine.deaths) >= 10


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_is_there_is_what_a_dict_says_in_many_sequences(machine: type[Machine]) -> None:
    run(machine, 200, 40)
    deaths = machine.deaths
    print({what: deaths.count(what) for what in sorted(set(deaths))})
    assert {"push", "retag", "untag", "collect", "recover"} <= set(deaths)
