"""Real processes that are killed, frozen, cut off, or want the same thing at the same time."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from regmeta.app import open_for_writing
from regmeta.db import Database
from regmeta.ingest import unit_of_work
from regmeta.ingest.plan import CommitResult
from regmeta.settings import Settings
from tests.builders import ARM64, LayoutBuilder, digest_of, make_layout
from tests.crash.processes import ask, published, run, staged_files, started, wait_for
from tests.crash.proxy import cutting_proxy
from tests.support.consistency import findings
from tests.support.registry import (
    change,
    commit_one,
    counts,
    import_all,
    open_parts,
    rows,
    scalar,
    settings_of,
    tags,
)

IMAGES = 60
BATCH_BYTES = 64 * 1024 * 1024  # [bytes] what fills a batch, so that there is more than one
BIG_LAYER_BYTES = 192 * 1024 * 1024  # [bytes]
_random = random.Random(20)
# How far the import has come when it is killed: files staged, then objects published, then ingests.
ALL_KILLS: list[tuple[str, str, int]] = [
    *(("sqlite", "staged", _random.randint(1, 90)) for _ in range(3)),
    *(("sqlite", "published", _random.randint(1, 120)) for _ in range(2)),
    ("sqlite", "ingested", 1),
    ("postgresql", "staged", _random.randint(1, 90)),
    ("postgresql", "published", _random.randint(1, 120)),
    ("postgresql", "ingested", 1),
]
# One of each kind is fast enough for every change.
KILLS = [
    pytest.param(*kill, marks=[] if number in (0, 5, 7) else [pytest.mark.soak])
    for number, kill in enumerate(ALL_KILLS)
]


@pytest.fixture(scope="module")
def many_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout of 60 indexes, of which one fills a batch."""
    builder = LayoutBuilder()
    for number in range(IMAGES):
        layers = [bytes(BATCH_BYTES)] if number == IMAGES // 2 else None
        image = builder.image(layers)
        builder.tag(builder.index([image]) if number % 3 else image, f"v{number}")
    return builder.write(tmp_path_factory.mktemp("many") / "layout")


@pytest.fixture(scope="module")
def big_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout of one image whose layer takes a while to copy."""
    builder = LayoutBuilder()
    builder.tag(builder.image([bytes(BIG_LAYER_BYTES)]), "v1")
    return builder.write(tmp_path_factory.mktemp("big") / "layout")


# --- killed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "what", "number"), KILLS)
def test_import_that_is_killed_leaves_only_whole_images_and_the_next_run_completes_it(
    settings: Settings, many_images: Path, what: str, number: int
) -> None:
    database, store = open_parts(settings)
    progress: dict[str, Callable[[], int]] = {
        "staged": lambda: len(staged_files(settings)),
        "published": lambda: published(settings),
        "ingested": lambda: int(scalar(database, "SELECT count(*) FROM ingests")),
    }
    try:
        with started(settings, "import", str(many_images), "app") as process:
            wait_for(lambda: progress[what]() >= number, process)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        left = [line for line in findings(database, store) if not line.startswith("staging/")]
        assert left == []
        assert len(tags(database)) < IMAGES

        again = run(settings, "import", str(many_images), "app")
        assert "0 failed" in again.stderr
        assert len(tags(database)) == IMAGES
        status = ask(settings, "status")
        assert (status["tags"], status["open_ingests"], status["snapshots_behind"]) == (IMAGES, [], [])
        assert list(Path(settings.store, "staging").iterdir()) == []
        third = run(settings, "import", str(many_images), "app")
        assert f"{IMAGES} here already" in third.stderr
    finally:
        database.close()
        store.close()


# --- frozen -----------------------------------------------------------------------------------


@pytest.mark.soak_on_postgresql
@pytest.mark.parametrize("rounds", [3, pytest.param(10, marks=pytest.mark.long)])
def test_import_that_is_frozen_holds_nobody_up_and_commits_when_it_goes_on(
    settings: Settings, big_layer: Path, tmp_path: Path, rounds: int
) -> None:
    small = tmp_path / "small"
    made = make_layout(small, 2)
    run(settings, "import", str(small), "other")
    with started(settings, "import", str(big_layer), "big") as process:
        wait_for(lambda: max(staged_files(settings).values(), default=0) > 1024 * 1024, process)
        process.send_signal(signal.SIGSTOP)
        assert max(staged_files(settings).values()) < BIG_LAYER_BYTES
        for number in range(rounds):
            assert len(ask(settings, "status")["open_ingests"]) == 1
            listed = [item["name"] for item in ask(settings, "repo", "ls")["items"]]
            assert listed == [*(f"new/r{n}" for n in range(number)), "other"]
            run(settings, "tag", "set", "other:moved", str(made[f"v{number % 2}"]))
            make_layout(tmp_path / f"l{number}", 1, seed=number + 1)
            run(settings, "import", str(tmp_path / f"l{number}"), f"new/r{number}")
            assert len(ask(settings, "tag", "ls", "other")["items"]) == 3
            run(settings, "manifest", "show", "other:moved")
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "1 image imported" in said
    assert ask(settings, "tag", "show", "big:v1")["digest"] is not None
    assert ask(settings, "status")["open_ingests"] == []


# --- the same tag -----------------------------------------------------------------------------


def test_tag_that_two_processes_move_has_one_live_interval_and_a_complete_history(
    settings: Settings, layout: Path
) -> None:
    builder = LayoutBuilder()
    images = [builder.image() for _ in range(5)]
    builder.tag(images[0], "v1")
    for image in images[1:]:
        builder.tag(image)
    builder.write(layout)
    with open_for_writing(settings) as writing:
        import_all(writing, layout)
    of = [str(digest_of(image)) for image in images]
    moves = ("app", "v1", "100")
    module = "tests.crash.move_tag"
    with (
        started(settings, *moves, *of[1:3], module=module) as one,
        started(settings, *moves, *of[3:5], module=module) as two,
    ):
        for process in (one, two):
            changed, said = process.communicate(timeout=120)
            assert (process.returncode, said) == (0, "")
            assert changed.split().count("1") == 100
    database, store = open_parts(settings)
    try:
        found = rows(
            database,
            "SELECT started_at, ended_at, manifest_digest FROM tags WHERE name = 'v1' ORDER BY started_at",
        )
    finally:
        database.close()
        store.close()
    assert len(found) == 201
    assert [ended for _, ended, _ in found[:-1]] == [started_at for started_at, _, _ in found[1:]]
    assert found[-1][1] is None
    assert all(ended is None or started_at < ended for started_at, ended, _ in found)
    assert all(a[2] != b[2] for a, b in pairwise(found))


# --- a repository that goes ---------------------------------------------------------------------


def _import_while_locked(settings: Settings, path: Path, state: str) -> tuple[int, str]:
    """Import while a transaction that has locked the repository puts it in a state."""
    database, store = open_parts(settings)
    with ExitStack() as stack:
        stack.callback(store.close)
        stack.callback(database.close)
        with database.transaction("test") as connection:
            connection.execute(
                sa.text("UPDATE repositories SET state = :state, revision = revision + 1"), {"state": state}
            )
            connection.execute(
                sa.text(
                    "INSERT INTO layout_outbox (repository_id, revision, queued_at)"
                    " SELECT id, revision, updated_at FROM repositories"
                )
            )
            process = stack.enter_context(started(settings, "import", str(path), "app"))
            # On SQLite it waits at its first write; on PostgreSQL at its commit, everything published.
            time.sleep(1.5)
            assert process.poll() is None
        _, said = process.communicate(timeout=60)
        return process.returncode, said


@pytest.mark.inconsistent  # the state is set by hand, and the tags are left as they are
@pytest.mark.parametrize("state", ["purging", "deleted"])
def test_push_that_waited_for_a_removal_is_refused_or_whole(
    settings: Settings, layout: Path, tmp_path: Path, state: str
) -> None:
    make_layout(tmp_path / "first", 1)
    run(settings, "import", str(tmp_path / "first"), "app")
    made = make_layout(layout, {"v2": [b"new"]}, platforms=[ARM64])
    code, said = _import_while_locked(settings, layout, state)
    if state == "purging":
        assert (code, "app: the repository is being removed" in said) == (6, True)
        assert "Traceback" not in said
        assert set(_tags(settings)) == {"v0"}
        return
    assert (code, _tags(settings)["v2"]) == (0, made["v2"]), said
    assert ask(settings, "repo", "show", "app")["state"] == "active"


def _tags(settings: Settings) -> dict[str, Any]:
    database, store = open_parts(settings)
    try:
        return dict(tags(database))
    finally:
        database.close()
        store.close()


def test_push_that_has_the_lock_first_is_whole_before_the_removal_begins(
    settings: Settings, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[[sa.Connection, Any], CommitResult] = getattr(unit_of_work, "commit")  # noqa: B009
    seen: list[set[str]] = []

    def remove() -> None:
        database, store = open_parts(settings)
        with database.transaction("test") as connection:
            connection.execute(sa.text("UPDATE repositories SET state = 'purging'"))
            live = connection.execute(sa.text("SELECT name FROM tags WHERE ended_at IS NULL"))
            seen.append(set(live.scalars()))
        database.close()
        store.close()

    threads = []

    def commit(connection: sa.Connection, plan: Any) -> CommitResult:
        result = original(connection, plan)
        threads.append(threading.Thread(target=remove))
        threads[0].start()
        time.sleep(0.5)
        assert seen == []
        return result

    with open_for_writing(settings) as writing:
        commit_one(writing, builder, builder.image(), layout, tag="v1")
        monkeypatch.setattr(unit_of_work, "commit", commit)
        commit_one(writing, builder, builder.index([builder.image(platform=ARM64)]), layout, tag="v2")
        threads[0].join(30)
        assert seen == [{"v1", "v2"}]
        change(writing.database, "UPDATE repositories SET state = 'active'")
        monkeypatch.undo()
        # The push's own snapshot may already say that the repository is being removed.
        commit_one(writing, builder, builder.image(), layout, tag="v3")


# --- an answer that is lost -----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["postgresql"])
@pytest.mark.parametrize("cuts", [1, 3])
@pytest.mark.parametrize("when", ["before", "after"])
def test_connection_cut_at_commit_has_one_effect_and_one_answer(
    settings: Settings, builder: LayoutBuilder, layout: Path, when: str, cuts: int
) -> None:
    host = str(sa.make_url(settings.database).query["host"])
    image = builder.index([builder.image(platform=ARM64)])
    with cutting_proxy(host, when=when, cuts=cuts) as proxy:
        url = settings.database.replace(f"host={host}", f"host={proxy.folder}")
        with open_for_writing(settings_of(Path(settings.home), url)) as writing:
            result = commit_one(writing, builder, image, layout)
        # After a COMMIT that took effect there is no other one of this ingest.
        assert proxy.cuts_done >= 1
        assert proxy.cuts_left == 0 or when == "after"
    database = Database(settings.database)
    try:
        assert (result.new_manifests, result.new_blobs) == (2, 5)
        assert [(c.tag, c.digest, c.previous) for c in result.tags_changed] == [
            ("v1", digest_of(image), None)
        ]
        assert counts(database, "ingests", "tags", "intents", "tombstones") == {
            "ingests": 1,
            "tags": 1,
            "intents": 0,
            "tombstones": 0,
        }
        assert scalar(database, "SELECT result FROM ingests") == result.to_json()
        assert scalar(database, "SELECT revision FROM repositories") == 1
    finally:
        database.close()
