"""The commit of an ingest is one transaction: wherever it fails, nothing of it is there (I3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from regmeta import errors
from regmeta.app import Writing
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of
from tests.support.registry import (
    commit_one,
    counts,
    dump,
    ingest_of,
    objects,
    request,
    source_of,
    tags,
)


class Stopped(errors.DatabaseUnavailable):
    """The database went away; this is not tried again."""


@contextmanager
def stopped_at(writing: Writing, number: int) -> Iterator[list[str]]:
    """Let one statement fail, counted from 1; collects those before it. 0 lets none fail."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            sent.append(statement)
            if len(sent) == number:
                raise Stopped(f"at statement {number}")

    event.listen(writing.database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(writing.database.engine, "before_cursor_execute", note)


@pytest.fixture
def images(writing: Writing, builder: LayoutBuilder, layout: Path) -> tuple[Json, Json]:
    """An image that is tagged, and an index that is to take its tag."""
    old = builder.image(annotations={"a": "b"})
    commit_one(writing, builder, old, layout)
    children = [builder.image(platform=AMD64, annotations={"a": "c"}), builder.image(platform=ARM64)]
    return old, builder.index(children)


def test_commit_that_fails_at_any_statement_leaves_everything_as_it_was(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: tuple[Json, Json]
) -> None:
    old, new = images
    with source_of(builder, layout) as source:
        ingest = ingest_of(writing, request(source, new))
        ingest.prepare()
        rows_before, objects_before = dump(writing.database), objects(writing.store)
        failed_at = 0
        while True:
            failed_at += 1
            try:
                with stopped_at(writing, failed_at) as sent:
                    ingest.commit()
                break
            except Stopped:
                assert dump(writing.database) == rows_before, sent[-1]
                assert tags(writing.database) == {"v1": digest_of(old)}
        assert failed_at == len(sent) + 1 > 15
        assert objects(writing.store) == objects_before
        assert tags(writing.database) == {"v1": digest_of(new)}
        ingest.unit.finish()


def test_import_that_fails_at_any_statement_takes_all_or_nothing(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: tuple[Json, Json]
) -> None:
    """From the first statement to the last: reserve, commit and what comes after it."""
    content = (
        "blobs",
        "manifests",
        "index_manifests",
        "manifest_blobs",
        "labels",
        "tags",
        "events",
        "ingests",
    )
    old, new = images
    failed_at = 0
    before = {table: rows for table, rows in dump(writing.database).items() if table in content}
    while tags(writing.database) == {"v1": digest_of(old)}:
        assert {t: rows for t, rows in dump(writing.database).items() if t in content} == before
        failed_at += 1
        assert failed_at < 60
        with stopped_at(writing, failed_at) as sent:
            try:
                commit_one(writing, builder, new, layout)
            except Stopped:
                continue
    assert any("INSERT INTO intents" in statement for statement in sent)
    assert tags(writing.database) == {"v1": digest_of(new)}
    assert counts(writing.database, "intents", "ingests", "tags") == {"intents": 0, "ingests": 2, "tags": 2}


def test_rows_of_an_ingest_become_visible_at_once(
    writing: Writing, builder: LayoutBuilder, layout: Path, images: tuple[Json, Json]
) -> None:
    """One COMMIT after the repository's lock, and a reader beside it sees the old image until then."""
    old, new = images
    seen: list[dict[str, Any]] = []
    commits: list[int] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "tags" in statement and statement.startswith(("INSERT", "UPDATE")) and not seen:
            seen.append(dict(tags(writing.database)))

    def count(_connection: Any) -> None:
        commits.append(1)

    with source_of(builder, layout) as source:
        ingest = ingest_of(writing, request(source, new))
        ingest.prepare()
        event.listen(writing.database.engine, "after_cursor_execute", look)
        event.listen(writing.database.engine, "commit", count)
        ingest.commit()
        event.remove(writing.database.engine, "commit", count)
        event.remove(writing.database.engine, "after_cursor_execute", look)
        ingest.unit.finish()
    assert seen == [{"v1": digest_of(old)}]
    assert len(commits) == 1
