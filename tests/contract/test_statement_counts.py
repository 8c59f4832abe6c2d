"""How many statements a use case sends: a number that does not grow with the images of a batch."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from regmeta.app import Writing
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.oci.digest import Digest
from regmeta.sources.open import open_source
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of, make_layout
from tests.support.registry import change, commit_one, requests, still_registry
from tests.support.statements import Statements, counted

PLATFORMS: dict[str, list[Json]] = {"images": [], "indexes": [AMD64, ARM64]}


def import_counted(writing: Writing, path: Path, status: str = "imported") -> Statements:
    with closing(open_source(str(path))) as source, closing(still_registry(writing)) as registry:
        wanted = requests(source)
        with counted(writing.database.engine) as found:
            outcomes = list(registry.import_images(wanted))
    assert {outcome.status for outcome in outcomes} == {status}
    return found


# Skip (1), reserve (3), commit (18, one more for what indexes list), snapshot (3), layout (1), outbox (1).
IMPORT = {"images": 27, "indexes": 28}
IN_A_NEW_REPOSITORY = 2  # so many more: the row, and the clock behind its lock
# Names of tags and what labels say, and on SQLite their trigrams and those of new repositories.
TEXTS = 5


@pytest.mark.parametrize("kind", ["images", "indexes"])
def test_import_of_a_batch_sends_as_many_statements_for_50_images_as_for_one(
    writing: Writing, tmp_path: Path, kind: str
) -> None:
    make_layout(tmp_path / "first", 1, platforms=PLATFORMS[kind], seed=3)
    first = import_counted(writing, tmp_path / "first")
    change(writing.database, "DELETE FROM gc_tasks")
    change(writing.database, "DELETE FROM tags")
    make_layout(tmp_path / "one", 1, platforms=PLATFORMS[kind], seed=1)
    one = import_counted(writing, tmp_path / "one")
    change(writing.database, "DELETE FROM gc_tasks")
    change(writing.database, "DELETE FROM tags")
    make_layout(tmp_path / "many", 50, platforms=PLATFORMS[kind], seed=2)
    many = import_counted(writing, tmp_path / "many")
    of_one, of_many = (besides_texts(found.texts) for found in (one, many))
    assert len(of_many) == len(of_one), f"{one}\n--\n{many}"
    assert len(of_one) <= IMPORT[kind], str(one)
    assert len(besides_texts(first.texts)) <= IMPORT[kind] + IN_A_NEW_REPOSITORY, str(first)
    for found, others in ((one, of_one), (many, of_many)):
        assert len(found) - len(others) <= TEXTS, str(found)


def besides_texts(statements: list[str]) -> list[str]:
    """Leave out what is sent for texts that are new to search."""
    tables = ("repositories_fts", "tag_names", "tag_names_fts", "label_texts", "label_texts_fts")
    return [s for s in statements if not s.startswith(tuple(f"INSERT INTO {table} " for table in tables))]


@pytest.mark.parametrize("images", [1, 100])
def test_import_again_sends_one_statement_for_100_images_and_writes_nothing(
    writing: Writing, layout: Path, images: int
) -> None:
    make_layout(layout, images)
    import_counted(writing, layout)
    again = import_counted(writing, layout, "skipped")
    assert len(again) == 1, str(again)
    assert again.writes == []


@pytest.fixture
def image(writing: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    """An index that is tagged v1."""
    made = builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)])
    commit_one(writing, builder, made, layout)
    return made


def test_question_whether_an_image_can_be_skipped_is_one_statement(writing: Writing, image: Json) -> None:
    with counted(writing.database.engine) as found:
        assert writing.registry.can_skip_image("app", "v1", digest_of(image))
    assert len(found) == 1, str(found)
    with counted(writing.database.engine) as found:
        assert writing.registry.can_skip_image("app", image["digest"], digest_of(image))
    assert len(found) <= 2, str(found)
    with counted(writing.database.engine) as found:
        assert not writing.registry.can_skip_image("app", "v1", Digest.of(b"other"))
    assert len(found) == 1, str(found)
    assert found.writes == []


def test_tag_is_moved_in_a_fixed_number_of_statements(
    writing: Writing, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    other = builder.image()
    commit_one(writing, builder, other, layout, tag="v2")
    # locked (2), outbox, clock, ingest, manifest, live, what makes it immutable, old ended, new started,
    # name for search, event, task, result; then the snapshot (3) and the outbox cleared
    with counted(writing.database.engine) as found:
        set_tag(writing.writer, "app", "v1", digest_of(other))
    assert len(found) <= 18, str(found)
    assert len(found.of("INSERT INTO tags")) == len(found.of("UPDATE tags")) == 1
    with counted(writing.database.engine) as found:
        set_tag(writing.writer, "app", "v1", digest_of(other))
    assert len(found) <= 13, str(found)
    with counted(writing.database.engine) as found:
        remove_tag(writing.writer, "app", "v1")
    assert len(found) <= 15, str(found)


def test_lock_comes_before_what_it_orders(
    writing: Writing, builder: LayoutBuilder, layout: Path, image: Json
) -> None:
    """Repository lock, then the clock, then everything that is decided from rows (design, section 3)."""
    other = builder.image()
    with counted(writing.database.engine) as found:
        commit_one(writing, builder, other, layout)
    texts = found.texts
    start = next(i for i, text in enumerate(texts) if text.startswith("UPDATE repositories"))
    positions = {
        "ingest": first(texts, "INSERT INTO ingests", start),
        "fence": first(texts, "DELETE FROM intents", start),
        "blobs": first(texts, "INSERT INTO blobs", start),
        "manifests": first(texts, "INSERT INTO manifests", start),
        "edges": first(texts, "INSERT INTO manifest_blobs", start),
        "tags": first(texts, "INSERT INTO tags", start),
        "result": first(texts, "UPDATE ingests", start),
    }
    assert list(positions.values()) == sorted(positions.values())
    reads = [i for i, text in enumerate(texts) if text.startswith("SELECT") and "FROM tags" in text]
    assert all(i > start for i in reads)
    clock = "clock_timestamp" if not writing.database.is_sqlite else "julianday"
    stamped = [i for i, t in enumerate(texts) if t.startswith("SELECT") and clock in t and i > start]
    assert stamped[0] < positions["ingest"]


def first(texts: list[str], words: str, start: int) -> int:
    return next(i for i, text in enumerate(texts) if i > start and text.startswith(words))
