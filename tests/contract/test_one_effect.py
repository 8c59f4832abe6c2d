"""An ingest whose answer was unclear is committed once, and says the same when it is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from regmeta import errors
from regmeta.app import Writing
from regmeta.ingest import unit_of_work
from regmeta.ingest.commit import CommitPlan
from regmeta.ingest.commit import commit as committing
from regmeta.ingest.plan import CommitResult
from regmeta.ingest.tags import set_tag
from tests.builders import AMD64, LayoutBuilder, digest_of
from tests.support.registry import commit_one, counts, dump, ingest_of, request, scalar, source_of, tags

Commit = Callable[[sa.Connection, CommitPlan], CommitResult]


class Broken:
    """Breaks the transaction of a commit, as often as was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, writing: Writing) -> None:
        self.writing = writing
        self.commits = 0
        self.before: list[errors.Error] = []  # instead of COMMIT
        self.after: list[errors.Error] = []  # when COMMIT took effect
        self.in_commit = False
        self._commit: Commit = committing
        self._transaction = writing.database.transaction
        monkeypatch.setattr(unit_of_work, "commit", self.commit)
        monkeypatch.setattr(writing.database, "transaction", self.transaction)

    def commit(self, connection: sa.Connection, plan: CommitPlan) -> CommitResult:
        self.commits += 1
        self.in_commit = True
        return self._commit(connection, plan)

    @contextmanager
    def transaction(self, name: str, **how: Any) -> Iterator[sa.Connection]:
        self.in_commit = False
        with self._transaction(name, **how) as connection:
            yield connection
            if self.in_commit and self.before:
                raise self.before.pop()
        if self.in_commit and self.after:
            raise self.after.pop()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, writing: Writing) -> Broken:
    """Commits that can be broken."""
    return Broken(monkeypatch, writing)


def test_commit_that_is_run_twice_has_one_effect_and_one_answer(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    commit_one(writing, builder, builder.image(), layout)
    image = builder.index([builder.image(platform=AMD64)])
    with source_of(builder, layout) as source:
        ingest = ingest_of(writing, request(source, image))
        ingest.prepare()
        first = ingest.commit()
        before = dump(writing.database)
        ingest.unit.phase = unit_of_work.Phase.PUBLISHED  # as a process that did not hear the answer
        second = ingest.commit()
        assert dump(writing.database) == before
        ingest.unit.finish()
    assert second == first
    assert (first.new_manifests, first.new_blobs) == (2, 5)
    assert scalar(writing.database, "SELECT count(*) FROM tags WHERE name = 'v1'") == 2


@pytest.mark.parametrize("error", [errors.ConnectionLost("gone"), errors.Contention("deadlock")])
@pytest.mark.parametrize("when", ["before", "after"])
def test_commit_whose_answer_is_lost_is_repeated_alone(
    writing: Writing, builder: LayoutBuilder, layout: Path, broken: Broken, error: errors.Error, when: str
) -> None:
    getattr(broken, when).append(error)
    result = commit_one(writing, builder, builder.image(), layout)
    assert broken.commits == 2
    assert (result.new_manifests, result.new_blobs) == (1, 4)
    assert [(c.tag, c.previous) for c in result.tags_changed] == [("v1", None)]
    assert counts(writing.database, "ingests", "tags", "intents", "tombstones") == {
        "ingests": 1,
        "tags": 1,
        "intents": 0,
        "tombstones": 0,
    }
    assert scalar(writing.database, "SELECT revision FROM repositories") == 1


def test_commit_that_is_never_let_through_gives_up_and_leaves_nothing(
    writing: Writing,
    builder: LayoutBuilder,
    layout: Path,
    broken: Broken,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("regmeta.ingest.retry.ATTEMPTS", 3)
    broken.before.extend([errors.Contention("deadlock")] * 3)
    with pytest.raises(errors.Contention) as caught:
        commit_one(writing, builder, builder.image(), layout)
    assert caught.value.exit_code == 6
    assert counts(writing.database, "blobs", "intents", "ingests") == {"blobs": 0, "intents": 0, "ingests": 0}


def test_moved_tag_is_not_moved_back_by_a_late_answer(
    writing: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A, then somebody's B; a retry of A after an unclear answer must not undo B."""
    images = [builder.image() for _ in range(3)]
    for image, tag in zip(images, ["v1", "a", "b"], strict=True):
        commit_one(writing, builder, image, layout, tag=tag)
    transaction = writing.database.transaction
    lost: list[bool] = []

    @contextmanager
    def lossy(name: str, **how: Any) -> Iterator[Any]:
        with transaction(name, **how) as connection:
            yield connection
        if not lost:
            lost.append(True)
            set_tag(writing.writer, "app", "v1", digest_of(images[2]))
            raise errors.ConnectionLost("gone")

    monkeypatch.setattr(writing.database, "transaction", lossy)
    result = set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    assert [(c.digest, c.previous) for c in result.tags_changed] == [
        (digest_of(images[1]), digest_of(images[0]))
    ]
    assert tags(writing.database)["v1"] == digest_of(images[2])


@pytest.mark.parametrize("backend", ["postgresql"])
@pytest.mark.parametrize("when", ["before the commit", "at the commit"])
def test_server_process_that_dies_does_not_lose_or_double_the_ingest(
    writing: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    original: Commit = committing
    killed: list[bool] = []

    def commit(connection: sa.Connection, plan: CommitPlan) -> CommitResult:
        process = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        if len(killed) == 0 and when == "before the commit":
            killed.append(kill(writing, process))
        result = original(connection, plan)
        if len(killed) == 0:
            killed.append(kill(writing, process))
        return result

    monkeypatch.setattr(unit_of_work, "commit", commit)
    commit_one(writing, builder, builder.image(), layout)
    assert killed == [True]
    assert counts(writing.database, "ingests", "tags") == {"ingests": 1, "tags": 1}


def kill(writing: Writing, process: int) -> bool:
    with writing.database.engine.connect() as connection:
        return bool(
            connection.execute(
                sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": process}
            ).scalar_one()
        )
