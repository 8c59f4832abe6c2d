"""What a dry run says is what the run right after does: the same manifests, blobs and bytes, for any rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from sqlalchemy.engine import Connection

from regmeta.app import Writing, open_for_writing
from regmeta.errors import NotFound, RepositoryNotActive
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.collect.dry_run import DryRun, plan_collection
from regmeta.maintain.collect.hold import CollectionHeld
from regmeta.maintain.collect.run import CollectReport, collect
from regmeta.maintain.collect.terms import Terms
from regmeta.maintain.delete.repository import delete_repository
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of
from tests.support.registry import AT_ONCE, change, commit_one, dump, rows
from tests.support.statements import counted

HOUR: Final = timedelta(hours=1)
LIFETIMES: Final = Lifetimes(lease=HOUR, garbage=HOUR, tombstone=HOUR, history=timedelta(days=1))
REPOSITORIES: Final = ("app", "keeping", "lib")
TAGS: Final = ("one", "two")
BUILDER: Final = LayoutBuilder(seed=8)


def _images() -> list[Json]:
    base, one, two = (BUILDER.layer() for _ in range(3))
    plain = [BUILDER.image([base]), BUILDER.image([base, one])]
    children = [BUILDER.image([base, two], platform=AMD64), BUILDER.image([one, two], platform=ARM64)]
    index = BUILDER.index(children)
    nested = BUILDER.index([index, plain[0]])
    signature = BUILDER.artifact(b"signature", "application/vnd.example.sig", plain[1])
    report = BUILDER.artifact(b"report", "application/vnd.example.sbom", index)
    alone = [BUILDER.image() for _ in range(6)]  # they share nothing
    return [*plain, *children, index, nested, signature, report, *alone]


IMAGES: Final = _images()


def untagged(
    _: Connection, repository_id: int, name: str, manifest_ids: Collection[int], now: datetime
) -> Mapping[int, datetime]:
    """A policy that keeps some for ever and others for an hour, in one repository."""
    times = {0: datetime.max.replace(tzinfo=UTC), 1: now + HOUR}
    return {n: times[n % 5] for n in manifest_ids if name == "keeping" and n % 5 in times}


TERMS: Final = Terms(LIFETIMES, lambda name: name == "keeping", untagged)

State = tuple[set[tuple[str, Digest]], dict[Digest, int], int, int]


def state(writing: Writing) -> State:
    """Return what is here: manifests, blobs with their sizes, objects that are deleted, and their sizes."""
    manifests = rows(
        writing.database,
        "SELECT r.name, m.digest FROM manifests m JOIN repositories r ON r.id = m.repository_id",
    )
    blobs = rows(writing.database, "SELECT digest, size_bytes FROM blobs")
    [(deleted, size_bytes)] = rows(
        writing.database,
        "SELECT count(*), coalesce(sum(size_bytes), 0) FROM tombstones WHERE deleted_at IS NOT NULL",
    )
    return (
        {(name, Digest.from_bytes(bytes(digest))) for name, digest in manifests},
        {Digest.from_bytes(bytes(digest)): size for digest, size in blobs},
        deleted,
        int(size_bytes),
    )


def assert_same(writing: Writing, terms: Terms) -> tuple[DryRun, CollectReport]:
    """Do a dry run and then a run, and compare what they say and what has happened."""
    plan = plan_collection(writing.database, writing.store, terms)
    before = state(writing)
    report = collect(writing.writer, writing.store, terms)
    after = state(writing)
    assert {(item.repository, item.digest) for item in plan.manifests} == before[0] - after[0]
    assert len(plan.manifests) == report.manifests
    gone = before[1].keys() - after[1].keys()
    assert {blob.digest: blob.size_bytes for blob in plan.blobs} == {d: before[1][d] for d in gone}
    assert (len(plan.blobs), plan.size_bytes) == (report.blobs, sum(before[1][d] for d in gone))
    assert (plan.objects, plan.objects_size_bytes) == (after[2] - before[2], after[3] - before[3])
    assert (plan.objects, plan.objects_size_bytes) == (report.objects.deleted, report.objects.size_bytes)
    return plan, report


@pytest.fixture
def registry(settings: Settings) -> Iterator[Writing]:
    """A registry of which times are set back by hand."""
    with open_for_writing(settings, lifetimes=LIFETIMES) as found:
        yield found


def mount(writing: Writing, image: Json, repository: str) -> None:
    """Let a repository read the first blobs of an image without a manifest that names them."""
    change(
        writing.database,
        "INSERT INTO repository_blobs (repository_id, blob_id, linked_at)"
        " SELECT r.id, b.id, 1 FROM repositories r, blobs b"
        " WHERE r.name = :name AND b.digest = :digest AND NOT EXISTS (SELECT 1 FROM repository_blobs l"
        " WHERE l.repository_id = r.id AND l.blob_id = b.id)",
        name=repository,
        digest=digest_of(image).to_bytes(),
    )


def soft_delete(writing: Writing, image: Json, repository: str) -> None:
    """Delete a manifest by its digest, if no tag and no index needs it."""
    change(
        writing.database,
        "UPDATE manifests SET deleted_at = 1 WHERE digest = :digest"
        " AND repository_id = (SELECT id FROM repositories WHERE name = :name)"
        " AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.manifest_id = manifests.id AND t.ended_at IS NULL)"
        " AND NOT EXISTS (SELECT 1 FROM index_manifests i WHERE i.child_id = manifests.id)",
        name=repository,
        digest=digest_of(image).to_bytes(),
    )


AGED: Final = (
    "UPDATE manifests SET lease_until = 1",
    "UPDATE blobs SET lease_until = 1",
    "UPDATE repository_blobs SET linked_at = 1",
    "UPDATE tags SET started_at = 1, ended_at = 2",
    "UPDATE gc_tasks SET not_before = 1",
    "UPDATE tombstones SET not_before = 1",
    "UPDATE repositories SET deleted_at = 1",
)


def age(writing: Writing, which: int, rest: int) -> None:
    """Let the times of some rows be over: all of a table, or one of three."""
    statement = AGED[which]
    key = "blob_id" if "repository_blobs" in statement else "id"
    some = "" if rest == 3 else f" AND {key} % 3 = {rest}"
    alive = ""
    if "UPDATE tags" in statement:
        alive = " AND ended_at IS NOT NULL"
    elif "UPDATE repositories" in statement:
        alive = " AND deleted_at IS NOT NULL"
    change(writing.database, f"{statement} WHERE 1 = 1{some}{alive}")


images, repositories = st.sampled_from(IMAGES), st.sampled_from(REPOSITORIES)
operations = st.one_of(
    *(
        st.tuples(st.just("push"), images, repositories, st.sampled_from(("one", "two", None)))
        for _ in range(3)
    ),
    *(st.tuples(st.just("untag"), repositories, st.sampled_from(TAGS)) for _ in range(2)),
    st.tuples(st.just("mount"), images, repositories),
    st.tuples(st.just("delete"), images, repositories),
    st.tuples(st.just("remove"), repositories),
    st.tuples(st.just("age"), st.integers(0, len(AGED) - 1), st.integers(0, 3)),
)


def operate(writing: Writing, layout: Path, operation: tuple[Any, ...]) -> None:
    match operation:
        case ("push", image, repository, tag):
            with suppress(RepositoryNotActive):  # something in it is leased still
                commit_one(writing, BUILDER, image, layout, repository, tag)
        case ("untag", repository, tag):
            with suppress(NotFound, RepositoryNotActive):
                remove_tag(writing.writer, repository, tag)
        case ("remove", repository):
            with suppress(NotFound, RepositoryNotActive):
                delete_repository(writing.writer, repository)
        case ("mount", image, repository):
            mount(writing, image, repository)
        case ("delete", image, repository):
            soft_delete(writing, image, repository)
        case ("age", which, rest):
            age(writing, which, rest)


@pytest.mark.soak_on_postgresql
@pytest.mark.inconsistent  # a manifest that is deleted by hand has no new snapshot
@pytest.mark.slow
def test_dry_run_says_what_the_run_does_on_any_registry(registry: Writing, layout: Path) -> None:
    seen = {"manifests": 0, "blobs": 0, "left": 0}

    @examples(
        max_examples=25,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(operations, min_size=12, max_size=24), st.lists(st.integers(0, 9), max_size=2))
    def check(wanted: list[tuple[Any, ...]], young: list[int]) -> None:
        # One registry for all of them: what one leaves the next one finds.
        for operation in wanted:
            operate(registry, layout, operation)
        for which in {*range(len(AGED))}.difference(young):
            age(registry, which, 3)
        plan, _ = assert_same(registry, TERMS)
        seen["manifests"] += len(plan.manifests)
        seen["blobs"] += len(plan.blobs)
        seen["left"] += len(state(registry)[0])

    check()
    assert min(seen.values()) > 30, seen


def test_dry_run_follows_an_index_to_its_children_their_referrers_and_their_blobs(
    registry: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    child = builder.image()
    nested = builder.index([builder.index([child]), builder.image()])
    commit_one(registry, builder, nested, layout / "1")
    signature = builder.artifact(b"signature", "application/vnd.example.sig", child)
    commit_one(registry, builder, signature, layout / "2", tag=None)
    remove_tag(registry.writer, "app", "v1")
    for which in range(len(AGED)):
        age(registry, which, 3)
    plan, report = assert_same(registry, Terms(LIFETIMES))
    assert report.manifests == 5
    assert [item.why for item in plan.manifests if item.digest == digest_of(nested)] == [
        "its last tag was removed or moved"
    ]
    assert state(registry)[:2] == (set(), {})


def test_dry_run_takes_all_of_a_deleted_repository_but_what_is_leased(
    registry: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    leased, other, referrer = builder.image(), builder.image(), builder.image([b"shared"])
    commit_one(registry, builder, builder.index([leased, other]), layout / "1", "keeping")
    commit_one(registry, builder, referrer, layout / "2", "keeping", tag=None)
    delete_repository(registry.writer, "keeping")
    assert assert_same(registry, TERMS)[0].manifests == ()
    for which in range(len(AGED)):
        age(registry, which, 3)
    far = "UPDATE manifests SET lease_until = 4000000000000000 WHERE digest = :of"
    change(registry.database, far, of=digest_of(leased).to_bytes())
    plan, _ = assert_same(registry, TERMS)
    assert {item.why for item in plan.manifests} == {"its repository was deleted"}
    assert [digest for _, digest in state(registry)[0]] == [digest_of(leased)]
    for which in range(len(AGED)):
        age(registry, which, 3)
    plan, report = assert_same(registry, TERMS)
    assert (len(plan.manifests), report.repositories) == (1, 1)
    assert state(registry)[:2] == (set(), {})


def test_dry_run_counts_what_a_run_deletes_that_does_not_wait(
    registry: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(registry, builder, builder.image(), layout)
    remove_tag(registry.writer, "app", "v1")
    for which in range(len(AGED)):
        age(registry, which, 3)
    plan, _ = assert_same(registry, Terms(replace(LIFETIMES, tombstone=timedelta())))
    assert plan.objects == len(plan.blobs) == 4


def test_dry_run_only_reads(registry: Writing, builder: LayoutBuilder, layout: Path) -> None:
    commit_one(registry, builder, builder.index([builder.image()]), layout)
    remove_tag(registry.writer, "app", "v1")
    for which in range(len(AGED)):
        age(registry, which, 3)
    before = dump(registry.database)
    with counted(registry.database.engine) as found:
        assert len(plan_collection(registry.database, registry.store, TERMS).manifests) == 2
    assert found.writes == []
    assert "FOR UPDATE" not in str(found)
    assert dump(registry.database) == before


def test_dry_run_refuses_as_the_run_does_while_there_is_a_hold(registry: Writing) -> None:
    change(registry.database, "UPDATE store_identity SET hold_reason = 'restored'")
    with pytest.raises(CollectionHeld, match="restored"):
        plan_collection(registry.database, registry.store, Terms(AT_ONCE))
