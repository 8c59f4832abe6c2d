"""What must hold when a soak is over: all garbage is collected, and then everything is counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

from regmeta import app
from regmeta.errors import Error
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from tests.crash.harness.places import Place
from tests.crash.harness.soak_images import Material
from tests.crash.harness.workers import Tag, Value
from tests.support import consistency
from tests.support import registry as looking
from tests.support.derived import text

ROUNDS: Final = 10  # of collecting until nothing is left: each frees what the one before kept
AT_ONCE: Final = replace(looking.AT_ONCE, intent=looking.NOW)


def settle(
    place: Place, material: Material, expected: Mapping[Tag, frozenset[Value]]
) -> Iterator[tuple[str, str]]:
    """Clear up, collect all garbage, and give all that must not be."""
    yield from _tags(place, material, expected)
    try:
        _collect_all(place)
    except Error as error:
        yield "error", f"clearing up: {type(error).__name__}: {error}"
    yield from _tags(place, material, expected)
    yield from _counted(place, material)


def _collect_all(place: Place) -> None:
    with app.open_for_writing(place.settings, lifetimes=AT_ONCE) as registry:
        for _ in range(ROUNDS):
            _let_time_pass(registry.database)
            sweep(registry.database, registry.store, AT_ONCE)
            collect(registry.writer, registry.store)
            if not any(looking.counts(registry.database, "gc_tasks", "tombstones").values()):
                break


def _counted(place: Place, material: Material) -> Iterator[tuple[str, str]]:
    """All that is left is what tags reach."""
    database, store = looking.open_parts(place.settings)
    with closing(database), closing(store):
        for line in consistency.findings(database, store):
            yield "orphans" if "no row knows it" in line else "dangling", line
        for table, count in looking.counts(
            database, "intents", "tombstones", "gc_tasks", "layout_outbox"
        ).items():
            if count:
                yield "orphans", f"{count} rows in {table}"
        for key in looking.objects(store).keys() ^ looking.keys_in(database, "blobs"):
            yield "orphans", f"object or row without the other: {key}"
        reached = {digest for root in _live(database).values() for digest in material.trees[root]}
        stored = {text(bytes(raw)) for (raw,) in looking.rows(database, "SELECT digest FROM blobs")}
        for digest in stored - reached:
            yield "orphans", f"{digest}: a blob that nothing reaches was not collected"
        for folder in (place.store / "staging").iterdir():
            yield "orphans", f"staging/{folder.name}"


def _let_time_pass(database: Any) -> None:
    for statement in (
        "UPDATE gc_tasks SET not_before = 0",
        "UPDATE tombstones SET not_before = 0",
        "UPDATE tombstones SET drop_after = 0 WHERE drop_after IS NOT NULL",
        "UPDATE manifests SET lease_until = 0",
        "UPDATE blobs SET lease_until = 0",
        "UPDATE repository_blobs SET linked_at = 0",
    ):
        looking.change(database, statement)


def _live(database: Any) -> dict[Tag, str]:
    return {
        (repository, name): text(bytes(raw))
        for repository, name, raw in looking.rows(
            database,
            "SELECT r.name, t.name, t.manifest_digest FROM tags t"
            " JOIN repositories r ON r.id = t.repository_id WHERE t.ended_at IS NULL",
        )
    }


def _tags(
    place: Place, material: Material, expected: Mapping[Tag, frozenset[Value]]
) -> Iterator[tuple[str, str]]:
    """Each tag is what was acknowledged last, or what was under way; and every byte of it is there."""
    database, store = looking.open_parts(place.settings)
    with closing(database), closing(store):
        live = _live(database)
        keys = {text(bytes(raw)): key for raw, key in looking.rows(database, "SELECT digest, key FROM blobs")}
    for tag, allowed in expected.items():
        if live.get(tag) not in allowed:
            yield "lost", f"{tag} is {live.get(tag)}, and should be one of {allowed}"
    for tag in live.keys() - expected.keys():
        yield "error", f"{tag} is there, and nobody made it"
    for tag, root in live.items():
        for digest in material.trees[root]:
            path = place.store / "blobs" / keys.get(digest, "none")
            if not path.is_file() or path.read_bytes() != material.contents[digest]:
                yield "partial", f"{tag}: {digest} is not there, or has other bytes"
