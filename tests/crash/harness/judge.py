"""What must hold of a registry after a crash, looked at from outside, with everything opened again.

1. Rows and objects agree already now, but for what a dead process leaves: its staging folder, its intents.
2. What was acknowledged holds, byte for byte; what was not has happened wholly or not at all.
3. ``recover`` leaves nothing of the dead, and finds nothing to do when it is run again.
4. The same command succeeds, and ends where an undisturbed run ends; it copies no image a second time.
5. Once the garbage is collected, the objects are those that rows name, and no others. In a bucket, no upload
   is left after a sweep.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from regmeta.app import open_for_writing
from regmeta.db import Database
from regmeta.errors import Error
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.recover import RecoverReport, recover
from tests.crash.harness import images
from tests.crash.harness.bases import age
from tests.crash.harness.children import Acknowledge, Fact, run_child
from tests.crash.harness.places import Place
from tests.crash.harness.recordings import Recording, has_registry, state, tags
from tests.crash.harness.report import Failure
from tests.support import consistency, registry
from tests.support.derived import text
from tests.support.registry import AT_ONCE

Found = Iterator[tuple[str, str]]  # kind, text

ALLOWED_AFTER_CRASH: Final = re.compile(r"staging/[0-9a-f]+: left by a process that has ended")
_KINDS: Final = (
    ("dangling", r"its object .* is not there|bytes stored|have another digest|not those of its object"),
    ("orphans", r"^object .*: no row knows it|^staging/"),
    ("partial", r"is not there \(|is nothing|manifest_blobs are|index_manifests are|labels are"),
)


def judge(place: Place, recording: Recording, facts: Iterable[Fact], where: str) -> list[Failure]:
    """Return all that must not be. The registry is used up: it is recovered, and the command run again."""

    def body(tell: Acknowledge) -> None:
        for kind, told in _judge(place, recording, list(facts)):
            tell(kind, told)

    # In a process of its own: nothing stays open here, and it may hang.
    outcome = run_child(body, seed=3)
    failures = [Failure(kind, where, told) for kind, told in outcome.facts]
    if outcome.ended != "done":
        failures.append(Failure("error", where, f"judging ended: {outcome.error}"))
    return failures


def _judge(place: Place, recording: Recording, facts: list[Fact]) -> Found:
    case = recording.case
    try:
        was_there = has_registry(place) and (not case.offline or ("finished",) in facts)
        if was_there:
            yield from _unless(case.tolerated, _apart(place, lambda: _as_it_is(place, recording, facts)))
            yield from _unless(case.tolerated, _apart(place, lambda: _recovered(place)))
        elif ("initialised",) in facts or (case.base != "nothing" and not case.offline):
            yield "lost", "there is no registry any more"
        yield from _again(place, recording, facts)
        if not was_there:
            # What makes a registry does not clear up in it.
            yield from _apart(place, lambda: _recovered(place))
        yield from _apart(place, lambda: _collected(place, recording))
    except Error as error:
        yield "error", f"{type(error).__name__}: {error}"


def _apart(place: Place, look: Callable[[], Found]) -> Found:
    """Do a step of its own, so that what it has opened is not in the way of the next one's children."""
    if not place.is_in_bucket:
        yield from look()
        return
    outcome = run_child(lambda tell: _tell_all(tell, look()), seed=5)
    for fact in outcome.facts:
        yield fact[0], fact[1]
    if outcome.ended != "done":
        yield "error", f"judging ended: {outcome.error}"


def _tell_all(tell: Acknowledge, found: Found) -> None:
    for kind, told in found:
        tell(kind, told)


def _as_it_is(place: Place, recording: Recording, facts: list[Fact]) -> Found:
    database, store = registry.open_parts(place.settings)
    with closing(database), closing(store):
        for line in consistency.findings(database, store):
            if not ALLOWED_AFTER_CRASH.fullmatch(line):
                yield _kind(line), f"before recover: {line}"
        yield from _facts(place, database, recording, facts)


def _recovered(place: Place) -> Found:
    with open_for_writing(place.settings) as writing:
        again = recover(writing.writer, writing.store)
        if again != RecoverReport(0, 0, 0):
            yield "error", f"recover had something to do a second time: {again}"
    database, store = registry.open_parts(place.settings)
    with closing(database), closing(store):
        for line in consistency.findings(database, store):
            yield _kind(line), f"after recover: {line}"
        for table in ("intents", "layout_outbox"):
            if registry.scalar(database, f"SELECT count(*) FROM {table}"):
                yield "orphans", f"after recover: rows in {table}"
    for folder in place.stagings.iterdir():
        yield "orphans", f"after recover: staging/{folder.name}"
    for name in place.names("staging"):
        yield "orphans", f"after recover: {name}"


def _again(place: Place, recording: Recording, facts: list[Fact]) -> Found:
    case = recording.case
    outcome = run_child(lambda acknowledge: case.run(place, acknowledge), seed=2)
    if outcome.ended != "done":
        yield "error", f"run again: {outcome.error}"
        return
    imported = {fact[1] for fact in facts if fact[0] == "status" and fact[2] == "imported"}
    for fact in outcome.facts:
        named = fact[0] == "status" and "@" not in fact[1]  # what has no tag is leased again, not skipped
        if named and fact[1] in imported and fact[2] != "skipped":
            yield "lost", f"run again: {fact[1]} was imported before, and is {fact[2]}"
    now = state(place)
    for table, rows in recording.after.rows.items():
        if now.rows.get(table) != rows:
            yield "lost", f"run again: {table} is not that of an undisturbed run"
    database, store = registry.open_parts(place.settings)
    with closing(database), closing(store):
        for line in consistency.findings(database, store):
            if not ALLOWED_AFTER_CRASH.fullmatch(line):
                yield _kind(line), f"run again: {line}"
        yield from _whole(place, database, recording, recording.facts)


def _collected(place: Place, recording: Recording) -> Found:
    """Collect all garbage, as if much time had passed, without the sweep."""
    age(place)
    database, store = registry.open_parts(place.settings)
    with closing(database), closing(store):
        # Where there is a hold it is not what is looked at here.
        registry.change(database, "UPDATE store_identity SET hold_reason = NULL")
        with open_for_writing(place.settings, lifetimes=AT_ONCE) as writing:
            collect(writing.writer, writing.store)
            collect(writing.writer, writing.store)
            if place.is_in_bucket:
                sweep(writing.database, writing.store, AT_ONCE)
        if place.is_in_bucket:
            for name, _ in place.files.uploads():
                yield "orphans", f"swept: an upload of {name} stays"
        for line in consistency.findings(database, store):
            yield _kind(line), f"collected: {line}"
        named, found = registry.keys_in(database, "blobs"), set(registry.objects(store))
        for key in sorted(found - named):
            yield "orphans", f"collected: object {key} stays"
        for key in sorted(named - found):
            yield "dangling", f"collected: object {key} is gone"
        for table in ("tombstones", "gc_tasks", "intents"):
            if registry.scalar(database, f"SELECT count(*) FROM {table}"):
                yield "orphans", f"collected: rows stay in {table}"
        if tags(database) != recording.after.tags:
            yield "lost", "collected: tags have gone"


# --- facts ------------------------------------------------------------------------------------


def _facts(place: Place, database: Database, recording: Recording, facts: list[Fact]) -> Found:
    now = tags(database)
    for of, allowed in _allowed_tags(recording, facts).items():
        if now.get(of) not in allowed:
            yield "lost", f"{of[0]}:{of[1]} is {now.get(of)}, and should be {' or '.join(map(str, allowed))}"
    for unknown in now.keys() - recording.before.tags.keys() - recording.after.tags.keys():
        yield "error", f"{unknown[0]}:{unknown[1]} is there, and nobody made it"
    yield from _whole(place, database, recording, facts)


def _whole(place: Place, database: Database, recording: Recording, facts: Iterable[Fact]) -> Found:
    """Every tag, and all that was acknowledged, is there with all its bytes."""
    now = tags(database)
    stored = _Stored(place, database)
    for (repository, tag), digest in now.items():
        for told in stored.missing_of(repository, digest):
            yield "partial", f"{repository}:{tag}: {told}"
    for fact in facts:
        if fact[0] == "manifest":
            for told in stored.missing_of(fact[1], fact[2]):
                yield "lost", f"{fact[1]}@{fact[2]}: {told}"
        elif fact[0] == "exported":
            yield from _exported(place.folder / fact[1], now.values())
    yield from stored.halves(recording)


def _allowed_tags(recording: Recording, facts: list[Fact]) -> dict[tuple[str, str], list[str | None]]:
    """Return what each tag may be: what was acknowledged last, or what was to come next."""
    steps: dict[tuple[str, str], list[str | None]] = defaultdict(list)
    done: dict[tuple[str, str], int] = defaultdict(int)
    for of in {*recording.before.tags, *recording.after.tags}:
        steps[of].append(recording.before.tags.get(of))
    for fact in recording.facts:
        if fact[0] in ("tag", "untagged"):
            steps[fact[1], fact[2]].append(fact[3] if fact[0] == "tag" else None)
    for of, values in steps.items():
        if values[-1] != recording.after.tags.get(of):  # moved without a word of its own
            values.append(recording.after.tags.get(of))
    for fact in facts:
        if fact[0] in ("tag", "untagged"):
            done[fact[1], fact[2]] += 1
    return {of: values[done[of] : done[of] + 2] for of, values in steps.items()}


class _Stored:
    """What is stored, compared with what was given."""

    def __init__(self, place: Place, database: Database) -> None:
        self._place = place
        with database.read() as connection:
            self._keys = {
                text(bytes(digest)): key
                for digest, key in connection.execute(
                    sa.text("SELECT digest, key FROM blobs WHERE state = 'live'")
                )
            }
            self._manifests = {
                (repository, text(bytes(digest)))
                for repository, digest in connection.execute(
                    sa.text(
                        "SELECT r.name, m.digest FROM manifests m"
                        " JOIN repositories r ON r.id = m.repository_id"
                    )
                )
            }
            self._damaged = {
                text(bytes(digest))
                for (digest,) in connection.execute(
                    sa.text("SELECT digest FROM blobs WHERE state = 'damaged'")
                )
            }

    def missing_of(self, repository: str, root: str) -> Iterator[str]:
        """Give what is missing of an image, in words."""
        for digest in images.manifests(root):
            if (repository, digest) not in self._manifests:
                yield f"no manifest {digest}"
            for blob in (digest, *images.parts(digest)[1]):
                if blob in self._damaged:
                    continue  # known to be, and never served
                key = self._keys.get(blob)
                if key is None:
                    yield f"no blob {blob}"
                elif self._place.read_object(key) != images.contents()[blob]:
                    yield f"the bytes of {blob} are not those that were given"

    def halves(self, recording: Recording) -> Found:
        """Give the images of which some manifests are here and some are not."""
        roots = {fact[-1]: fact[1] for fact in recording.facts if fact[0] in ("tag", "manifest")}
        trees: Mapping[str, set[str]] = {root: set(images.manifests(root)) for root in roots}
        for root, repository in roots.items():
            others = {digest for other in roots if other != root for digest in trees[other]}
            own = {(repository, digest) for digest in trees[root] - others}
            if own & self._manifests and not own <= self._manifests:
                yield "partial", f"{repository}@{root}: {len(own & self._manifests)} of {len(own)} manifests"


def _exported(path: Path, roots: Iterable[str]) -> Found:
    for digest in {digest for root in roots for digest in images.manifests(root)}:
        for blob in (digest, *images.parts(digest)[1]):
            file = path / "blobs" / blob.replace(":", "/")
            if not file.is_file() or file.read_bytes() != images.contents()[blob]:
                yield "lost", f"{file}: was exported, and is not there or has other bytes"


def _unless(tolerated: str, found: Found) -> Found:
    """Leave out what was so before the crash."""
    for kind, told in found:
        if not tolerated or not re.search(tolerated, told):
            yield kind, told


def _kind(line: str) -> str:
    return next((kind for kind, pattern in _KINDS if re.search(pattern, line)), "error")
