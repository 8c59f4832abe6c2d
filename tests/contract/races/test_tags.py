"""Tags and repositories: who comes first, who comes second, and that nobody is held up for good."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.errors import NotFound
from regmeta.ingest.tag_locks import lock_tags
from regmeta.ingest.tag_restore import Wanted, restore_tag
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.ingest.unit_of_work import UnitOfWork
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.retention.apply import apply_plan
from regmeta.maintain.retention.plan import make_plan
from regmeta.maintain.retention.policy import Policy, Rule, Untagged
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.aside import WAIT_S, Opened, Waits, assert_only_live_objects, run_collect
from tests.support.registry import (
    change,
    commit_one,
    counts,
    rows,
    scalar,
    tags,
)

Race = Callable[..., tuple[Any, Any]]


@pytest.fixture
def image(one: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    """An image that is tagged v1."""
    made = builder.image()
    commit_one(one, builder, made, layout)
    return made


def intervals(writing: Writing, tag: str) -> list[tuple[Any, ...]]:
    return rows(
        writing.database,
        "SELECT manifest_digest, ended_at IS NULL FROM tags WHERE name = :of ORDER BY started_at",
        of=tag,
    )


def all_at_once(*jobs: Callable[[], object]) -> list[BaseException]:
    """Start all *jobs* together; returns what they raised."""
    barrier, raised = threading.Barrier(len(jobs)), list[BaseException]()

    def run(job: Callable[[], object]) -> None:
        barrier.wait(WAIT_S)
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - told
            raised.append(error)

    threads = [threading.Thread(target=run, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    return raised


# --- pushes -----------------------------------------------------------------------------------


def test_tag_of_two_pushes_names_the_later_one_and_the_earlier_one_is_queued(
    one: Writing, other: Writing, race: Race, builder: LayoutBuilder, layout: Path
) -> None:
    """T24."""
    images = [builder.image(), builder.image()]
    race(
        lambda: commit_one(one, builder, images[0], layout / "1"),
        "ingest.committing",
        lambda: commit_one(other, builder, images[1], layout / "2"),
    )
    assert tags(one.database) == {"v1": digest_of(images[1])}
    history = intervals(one, "v1")
    assert [(bytes(digest), bool(live)) for digest, live in history] == [
        (digest_of(images[0]).to_bytes(), False),
        (digest_of(images[1]).to_bytes(), True),
    ]
    of_task = "SELECT m.digest FROM gc_tasks t JOIN manifests m ON m.id = t.target_id"
    [(queued,)] = rows(one.database, of_task)
    assert bytes(queued) == digest_of(images[0]).to_bytes()
    assert_only_live_objects(one)
    assert counts(one.database, "manifests", "blobs") == {"manifests": 1, "blobs": 4}


@pytest.mark.parametrize(
    ("names", "waits"),
    [(("a/b/c", "a/b/d"), "on SQLite"), (("a/b/d", "a/b/c"), "on SQLite"), (("a/b/c", "a/b/c"), "always")],
)
def test_first_pushes_into_new_repositories_make_each_of_them_once(
    one: Writing,
    other: Writing,
    race: Race,
    builder: LayoutBuilder,
    layout: Path,
    names: tuple[str, str],
    waits: Waits,
) -> None:
    """T25."""
    images = [builder.image(), builder.image()]
    race(
        lambda: commit_one(one, builder, images[0], layout / "1", names[0], "one"),
        "ingest.committing",
        lambda: commit_one(other, builder, images[1], layout / "2", names[1], "two"),
        waits=waits,
    )
    assert scalar(one.database, "SELECT count(*) FROM repositories") == len(set(names))
    assert tags(one.database, names[0])["one"] == digest_of(images[0])
    assert tags(one.database, names[1])["two"] == digest_of(images[1])
    assert_only_live_objects(one)


SLOW_INSERTS = (
    "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END $$",
    "CREATE TRIGGER slowly BEFORE INSERT ON blobs FOR EACH ROW EXECUTE FUNCTION slowly()",
)


def test_pushes_that_share_blobs_in_opposite_order_do_not_wait_for_each_other_in_a_circle(
    one: Writing,
    other: Writing,
    builder: LayoutBuilder,
    layout: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """T26: new blobs are written in the order of their digests, old ones are locked in that of their ids."""
    once, given_up = UnitOfWork._commit_once, list[errors.Error]()

    def watched(self: Any, plan: Any) -> Any:
        try:
            return once(self, plan)
        except errors.Contention as error:
            given_up.append(error)
            raise

    monkeypatch.setattr(UnitOfWork, "_commit_once", watched)
    if not one.database.is_sqlite:  # both are in the middle of their rows at the same time
        for statement in SLOW_INSERTS:
            change(one.database, statement)
    for number in range(3):
        layers = [builder.layer() for _ in range(16)]
        images = [builder.image(layers), builder.image(layers[::-1])]
        for name, tag in (("one", "new"), ("two", "again")):  # the blobs are new, and are here already
            at = layout / f"{number}{name}"
            raised = all_at_once(
                partial(commit_one, one, builder, images[0], at / "1", name, tag),
                partial(commit_one, other, builder, images[1], at / "2", f"{name}2", tag),
            )
            assert raised == []
    assert given_up == []
    assert_only_live_objects(one)


def test_eight_writers_and_a_reader_at_once_are_never_told_that_the_database_is_locked(
    opened: Opened, one: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    """T42: they wait for each other, in turn, and for no longer than they may."""
    images = [builder.image() for _ in range(8)]
    writers = [opened() for _ in images]
    rounds = 5

    def write(number: int) -> None:
        for turn in range(rounds):
            commit_one(writers[number], builder, images[number], layout / str(number), tag=f"t{number}")
            set_tag(writers[number].writer, "app", f"t{number}-{turn}", digest_of(images[number]))

    def read() -> None:
        for _ in range(rounds * 4):
            assert tags(one.database).keys() <= expected

    expected = {f"t{n}" for n in range(8)} | {f"t{n}-{turn}" for n in range(8) for turn in range(rounds)}
    raised = all_at_once(read, *(partial(write, n) for n in range(8)))
    assert raised == []
    assert tags(one.database).keys() == expected
    assert_only_live_objects(one)


# --- history ----------------------------------------------------------------------------------


def test_image_whose_tag_is_just_restored_is_not_collected(
    one: Writing, other: Writing, race: Race, image: Json
) -> None:
    remove_tag(one.writer, "app", "v1")
    _, report = race(
        lambda: restore_tag(other.writer, "app", "v1", Wanted()),
        "tags.committing",
        lambda: run_collect(one),
        waits="on SQLite",
    )
    assert report.manifests == 0
    assert tags(one.database) == {"v1": digest_of(image)}
    assert_only_live_objects(one)


def test_tag_whose_image_is_being_collected_is_not_restored_and_the_digest_is_named(
    one: Writing, other: Writing, race: Race, image: Json
) -> None:
    remove_tag(one.writer, "app", "v1")
    report, refused = race(
        lambda: run_collect(one),
        "collect.committing",
        lambda: restore_tag(other.writer, "app", "v1", Wanted()),
    )
    assert report.manifests == 1
    assert isinstance(refused, NotFound)
    assert image["digest"] in str(refused)
    assert tags(one.database) == {}
    assert_only_live_objects(one)


@pytest.mark.parametrize("order", ["deleted first", "restored first"])
def test_tag_that_is_restored_while_its_image_is_deleted_ends_as_the_later_one_says(
    one: Writing, other: Writing, race: Race, image: Json, order: str
) -> None:
    set_tag(one.writer, "app", "v2", digest_of(image))
    remove_tag(one.writer, "app", "v2")
    delete = lambda: delete_manifest(one.writer, "app", digest_of(image))  # noqa: E731
    restore = lambda: restore_tag(other.writer, "app", "v2", Wanted())  # noqa: E731
    if order == "deleted first":
        race(delete, "manifest_deleted.committing", restore)
        assert tags(one.database) == {"v2": digest_of(image)}
    else:
        race(restore, "tags.committing", delete)
        assert tags(one.database) == {}


# --- retention --------------------------------------------------------------------------------

POLICIES = (Policy("all go but old", ("**",), (Rule("old", tags=("old",)),), Untagged(), False),)


@pytest.mark.parametrize("order", ["locked first", "applied first"])
def test_plan_ends_no_tag_that_was_locked_before_it(
    one: Writing, other: Writing, race: Race, image: Json, order: str
) -> None:
    """T38: a plan that says otherwise is refused, and one that came first is done."""
    plan = make_plan(one.database, POLICIES, ()).drop_plan
    apply = lambda: apply_plan(one.writer, plan, POLICIES)  # noqa: E731
    lock = lambda: lock_tags(other.writer, "app", "v1")  # noqa: E731
    if order == "locked first":
        _, [outcome] = race(lock, "tags.committing", apply)
        assert outcome.status == "refused"
        assert tags(one.database) == {"v1": digest_of(image)}
    else:
        [outcome], _ = race(apply, "retention.committing", lock)
        assert outcome.status == "applied"
        assert tags(one.database) == {}


@pytest.mark.parametrize("order", ["pushed first", "applied first"])
def test_plan_ends_no_tag_that_was_moved_before_it(
    one: Writing,
    other: Writing,
    race: Race,
    builder: LayoutBuilder,
    layout: Path,
    image: Json,
    order: str,
) -> None:
    new = builder.image()
    plan = make_plan(one.database, POLICIES, ()).drop_plan
    apply = lambda: apply_plan(one.writer, plan, POLICIES)  # noqa: E731
    push = lambda: commit_one(other, builder, new, layout / "new")  # noqa: E731
    if order == "pushed first":
        _, [outcome] = race(push, "ingest.committing", apply)
        assert outcome.status == "refused"
    else:
        [outcome], _ = race(apply, "retention.committing", push)
        assert outcome.status == "applied"
    assert tags(one.database) == {"v1": digest_of(new)}
    assert_only_live_objects(one)


@pytest.mark.parametrize("order", ["removed first", "applied first"])
def test_tag_that_a_plan_and_a_person_end_at_once_has_ended_once(
    one: Writing, other: Writing, race: Race, image: Json, order: str
) -> None:
    plan = make_plan(one.database, POLICIES, ()).drop_plan
    apply = lambda: apply_plan(one.writer, plan, POLICIES)  # noqa: E731
    remove = lambda: remove_tag(other.writer, "app", "v1")  # noqa: E731
    if order == "removed first":
        _, [outcome] = race(remove, "tags.committing", apply)
        assert outcome.status == "refused"
    else:
        [outcome], refused = race(apply, "retention.committing", remove)
        assert outcome.status == "applied"
        assert isinstance(refused, NotFound)
    ended = "SELECT count(*) FROM events WHERE kind = 'tag.removed'"
    assert scalar(one.database, ended) == 1
    assert len(intervals(one, "v1")) == 1
