"""What cannot be read is never taken for absent (I8): a delete that a statement fails in does nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import event

from regmeta import errors
from regmeta.app import Writing, open_for_writing
from regmeta.db import Database
from regmeta.maintain.collect.purge import purge
from regmeta.maintain.delete.blob import delete_blob
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.delete.undelete import undelete_manifest, undelete_repository
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from tests.builders import LayoutBuilder, digest_of
from tests.support.registry import AT_ONCE, change, commit_one, dump

Verb = Callable[[Writing, Digest], object]

MANY: Final = 60  # more statements than any of them sends

VERBS: Final[dict[str, tuple[Verb | None, Verb]]] = {
    "manifest": (None, lambda w, of: delete_manifest(w.writer, "app", of, cascade=True)),
    "manifest back": (
        lambda w, of: delete_manifest(w.writer, "app", of, cascade=True),
        lambda w, of: undelete_manifest(w.writer, "app", of, tags=True),
    ),
    "repository": (None, lambda w, _: delete_repository(w.writer, "app")),
    "repository back": (
        lambda w, _: delete_repository(w.writer, "app"),
        lambda w, _: undelete_repository(w.writer, "app"),
    ),
    "blob": (None, lambda w, _: delete_blob(w.writer, "app", Digest.of(b"mounted"))),
    "purge": (lambda w, _: delete_repository(w.writer, "app"), lambda w, _: purge(w.writer, 1)),
}


@contextmanager
def broken(database: Database, at: int) -> Iterator[list[str]]:
    """Let the statement of this number ask for what cannot be read."""
    sent: list[str] = []

    def spoil(_: object, __: object, statement: str, parameters: object, *___: object) -> tuple[str, object]:
        if not statement.startswith("BEGIN"):
            sent.append(statement)
            if len(sent) == at:
                return "SELECT * FROM what_cannot_be_read", parameters
        return statement, parameters

    event.listen(database.engine, "before_cursor_execute", spoil, retval=True)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", spoil)


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_done_where_any_statement_fails(
    settings: Settings, builder: LayoutBuilder, layout: Path, verb: str
) -> None:
    index = builder.index([builder.image(), builder.image()])
    before, run = VERBS[verb]
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        commit_one(writing, builder, index, layout / "1")
        commit_one(writing, builder, builder.image([b"mounted"]), layout / "2", "other")
        change(
            writing.database,
            "INSERT INTO repository_blobs (repository_id, blob_id, linked_at)"
            " SELECT 1, id, 1 FROM blobs WHERE digest = :of",
            of=Digest.of(b"mounted").to_bytes(),
        )
        if before is not None:
            before(writing, digest_of(index))
        refused = 0
        for at in range(1, MANY):
            was = dump(writing.database)
            with broken(writing.database, at):
                try:
                    run(writing, digest_of(index))
                    break
                except errors.DatabaseUnavailable:
                    refused += 1
            # What a purge has done in pieces before is done.
            assert verb == "purge" or dump(writing.database) == was, at
        assert refused >= 8
        assert dump(writing.database) != was
        writing.writer.snapshots.flush_outbox()
