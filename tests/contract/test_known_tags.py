"""What a sync knows of thousands of tags before it asks anybody, in a statement or two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from regmeta import errors
from regmeta.app import Writing
from regmeta.ingest import known
from regmeta.ingest.known import KnownTag, known_tags
from regmeta.ingest.plan import ImageGroup
from regmeta.ingest.tags import remove_tag
from regmeta.oci.descriptor import Platform
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of, make_layout
from tests.support.registry import change, commit_one, import_all, request, source_of
from tests.support.statements import counted

UNKNOWN: Json = {"architecture": "unknown", "os": "unknown"}


@pytest.fixture
def image(writing: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    """An image that is tagged v1."""
    made = builder.image()
    commit_one(writing, builder, made, layout)
    return made


def test_live_tags_are_known_in_each_repository(
    writing: Writing, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    other = builder.image()
    commit_one(writing, builder, other, layout, "other")
    commit_one(writing, builder, other, layout, "other", "v2")
    remove_tag(writing.writer, "other", "v2")
    asked = [("app", "v1"), ("other", "v1"), ("other", "v2"), ("app", "v2"), ("nowhere", "v1"), ("app", "v1")]
    assert known_tags(writing.database, asked) == {
        ("app", "v1"): KnownTag(digest_of(image), True),
        ("other", "v1"): KnownTag(digest_of(other), True),
    }
    assert known_tags(writing.database, []) == {}


@pytest.mark.parametrize("state", ["deleted", "purging"])
def test_tags_of_a_repository_that_is_not_active_are_not_known(
    writing: Writing, image: Json, state: str
) -> None:
    change(writing.database, "UPDATE repositories SET state = :state", state=state)
    assert known_tags(writing.database, [("app", "v1")]) == {}
    change(writing.database, "UPDATE repositories SET state = 'active'")


def test_nothing_is_safe_while_a_blob_is_damaged(
    writing: Writing, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    commit_one(writing, builder, builder.image([b"other"]), layout, "other")
    of = builder.blob(b"other")
    change(
        writing.database,
        "UPDATE blobs SET state = 'damaged' WHERE digest = :of",
        of=digest_of(of).to_bytes(),
    )
    assert known_tags(writing.database, [("app", "v1")]) == {("app", "v1"): KnownTag(digest_of(image), False)}
    change(writing.database, "UPDATE blobs SET state = 'live'")


def test_absent_children_are_known_by_their_platforms_at_any_depth(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    children = [builder.image(platform=each) for each in (AMD64, ARM64)]
    plain = builder.image()
    index = builder.index([builder.index(children), plain])
    whole = builder.index([children[0]])
    for gone in (children[1], plain):
        del builder.blobs[gone["digest"]]
    commit_one(writing, builder, index, layout, sparse=True)
    commit_one(writing, builder, whole, layout, tag="whole")
    found = known_tags(writing.database, [("app", "v1"), ("app", "whole")])
    absent = found["app", "v1"].absent
    assert len(absent) == 2
    assert set(absent) == {None, Platform("linux", "arm64", "v8")}
    assert found["app", "whole"].absent == ()


def test_attestation_that_a_policy_left_out_is_not_missing(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    """It is about an image that was left out as well."""
    wanted = builder.image(platform=AMD64)
    index = builder.index(
        [wanted, builder.image(platform=ARM64), builder.image([b"attested"], platform=UNKNOWN)]
    )
    with source_of(builder, layout) as source:
        planned = writing.registry.copy_manifest(
            request(source, index), wants=lambda _, child: child.digest == digest_of(wanted)
        )
        writing.registry.commit_groups([ImageGroup(planned)])
    found = known_tags(writing.database, [("app", "v1")])
    assert found["app", "v1"].absent == (Platform("linux", "arm64", "v8"),)


def test_database_that_does_not_answer_is_an_error_and_not_a_no(writing: Writing, image: Json) -> None:
    change(writing.database, "ALTER TABLE tags RENAME TO hidden")
    try:
        with pytest.raises(errors.DatabaseUnavailable):
            known_tags(writing.database, [("app", "v1")])
    finally:
        change(writing.database, "ALTER TABLE hidden RENAME TO tags")


@pytest.fixture
def many(writing: Writing, tmp_path: Path) -> dict[tuple[str, str], KnownTag]:
    """Tags of several repositories, images and indexes."""
    found: dict[tuple[str, str], KnownTag] = {}
    for number in range(4):
        path = tmp_path / str(number)
        made = make_layout(path, 5, platforms=[AMD64, ARM64] if number % 2 else [], seed=number)
        import_all(writing, path, f"app{number}")
        found |= {(f"app{number}", tag): KnownTag(digest, True) for tag, digest in made.items()}
    return found


def test_2000_tags_are_known_in_two_statements(
    writing: Writing, many: dict[tuple[str, str], KnownTag]
) -> None:
    others = [(f"app{number}", f"none{number}") for number in range(known.PAIRS_AT_ONCE - len(many))]
    with counted(writing.database.engine) as sent:
        assert known_tags(writing.database, [*many, *others]) == many
    assert len(sent) == 2, str(sent)
    assert sent.writes == []
    with counted(writing.database.engine) as sent:
        assert known_tags(writing.database, [*many, *others, ("more", "v1")]) == many
    assert len(sent) <= 4, str(sent)


@pytest.fixture
def explained(writing: Writing) -> Iterator[list[str]]:
    """What SQLite says of each statement that is sent."""
    plans: list[str] = []

    def explain(
        connection: sa.Connection, cursor: object, statement: str, values: object, *_: object
    ) -> None:
        if "WITH" in statement:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            found = driver.execute("EXPLAIN QUERY PLAN " + statement, values)
            plans.extend(str(row[3]) for row in found)

    event.listen(writing.database.engine, "before_cursor_execute", explain)
    yield plans
    event.remove(writing.database.engine, "before_cursor_execute", explain)


def test_no_table_is_read_whole(
    writing: Writing, many: dict[tuple[str, str], KnownTag], explained: list[str]
) -> None:
    if not writing.database.is_sqlite:
        pytest.skip("SQLite's planner can be asked on tables this small")
    known_tags(writing.database, list(many))
    [image] = [each.digest for key, each in many.items() if key == ("app0", "v0")]
    assert writing.registry.can_skip_image("app0", str(image), image)
    scans = {plan for plan in explained if plan.startswith("SCAN")}
    allowed = ("asked", "below", "above", "way", "blobs USING INDEX ix_blobs_damaged")
    own = [plan for plan in scans if not plan.startswith(tuple(f"SCAN {name}" for name in allowed))]
    assert [plan for plan in own if "CONSTANT ROW" not in plan] == []
    assert explained
