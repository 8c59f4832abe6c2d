"""Search is in step with the rows, whoever writes them; a rebuild puts right what another program changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from regmeta.app import Writing
from regmeta.db import Database
from regmeta.ingest import searchable
from regmeta.ingest.tag_restore import Wanted, restore_tag
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain import search as upkeep
from regmeta.maintain.progress import NoProgress
from regmeta.maintain.search import Rebuilt, check_search, rebuild_search
from regmeta.oci.folding import text_key
from regmeta.query.search import search
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.registry import change, commit_one, import_all, rows, scalar


def assert_in_step(database: Database) -> None:
    assert list(check_search(database, NoProgress())) == []
    if database.is_sqlite:
        with database.transaction("test") as connection:
            for table in ("repositories", "tag_names", "label_texts"):
                # Rank 1: compared with the texts, too (FTS5, "The 'integrity-check' Command").
                connection.exec_driver_sql(
                    f"INSERT INTO {table}_fts ({table}_fts, rank) VALUES ('integrity-check', 1)"
                )


@pytest.fixture
def image(writing: Writing, builder: LayoutBuilder, layout: Path) -> Json:
    """team/app:V1, with labels and annotations."""
    layers = [builder.layer(b"base")]
    config = builder.config(layers, Labels={"description": "A Web Server", "team": "blue"})
    created = {"org.opencontainers.image.created": "2026-01-01T00:00:00Z", "note": "ab"}
    made = builder.image(layers, config, created)
    commit_one(writing, builder, made, layout, "team/app", "V1")
    return made


def test_import_and_tags_leave_search_in_step(writing: Writing, image: Json) -> None:
    assert_in_step(writing.database)
    set_tag(writing.writer, "team/app", "Stable", digest_of(image))
    remove_tag(writing.writer, "team/app", "Stable")
    restore_tag(writing.writer, "team/app", "Stable", Wanted())
    assert_in_step(writing.database)
    [hit] = search(writing.database, "web serv").texts.items
    assert (hit.repository, hit.digest) == ("team/app", digest_of(image))
    assert [hit.tag for hit in search(writing.database, ":STAB").tags.items] == ["Stable"]
    assert search(writing.database, "2026-01-01").texts.items == (), "a time is no text"


def test_transaction_that_is_given_up_leaves_nothing(writing: Writing, image: Json) -> None:
    before = [
        rows(writing.database, f"SELECT * FROM {table} ORDER BY id") for table in ("tag_names", "label_texts")
    ]

    def give_up() -> None:
        with writing.database.transaction("test") as connection:
            searchable.add_tags(connection, ["another"])
            searchable.add_labels(connection, [{"name": "x", "value": "another text", "text_key": 5}])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        give_up()
    assert [
        rows(writing.database, f"SELECT * FROM {table} ORDER BY id") for table in ("tag_names", "label_texts")
    ] == before
    assert search(writing.database, "another").texts.items == ()
    assert_in_step(writing.database)


DAMAGE = {
    "UPDATE repositories SET leaf = 'x'": "repository",
    "DELETE FROM tag_names": "tag name",
    "UPDATE tag_names SET folded = 'x'": "tag name",
    "DELETE FROM label_texts": "label",
    "UPDATE label_texts SET folded = 'something else'": "text",
    "UPDATE labels SET text_key = 7": "label",
    "UPDATE labels SET text_key = NULL": "label",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_put_right(writing: Writing, image: Json, damage: str) -> None:
    change(writing.database, damage)
    assert DAMAGE[damage] in {finding.kind for finding in check_search(writing.database, NoProgress())}
    assert not rebuild_search(writing.database, NoProgress()).is_unchanged
    assert_in_step(writing.database)
    assert search(writing.database, "app").repositories.items[0].match == "exact"
    assert search(writing.database, ":v1").tags.items[0].tag == "V1"
    assert search(writing.database, "server").texts.items[0].repository == "team/app"
    assert rebuild_search(writing.database, NoProgress()).is_unchanged


@pytest.mark.parametrize("table", ["repositories", "tag_names", "label_texts"])
def test_trigrams_that_are_missing_are_found_and_made_anew(
    writing: Writing, builder: LayoutBuilder, image: Json, layout: Path, table: str
) -> None:
    if not writing.database.is_sqlite:
        pytest.skip("PostgreSQL looks after its indexes")
    set_tag(writing.writer, "team/app", "stable", digest_of(image))
    change(writing.database, f"INSERT INTO {table}_fts ({table}_fts) VALUES ('delete-all')")
    [finding] = check_search(writing.database, NoProgress())
    assert (finding.kind, finding.subject) == ("trigrams", table)
    assert rebuild_search(writing.database, NoProgress()) == Rebuilt(trigram_tables=1)
    assert_in_step(writing.database)


def test_what_nothing_says_any_more_is_dropped(
    writing: Writing, image: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "PAGE", 2)
    with writing.database.transaction("test") as connection:
        searchable.add_tags(connection, [f"unused{number}" for number in range(5)])
        texts = [f"unused {number}" for number in range(5)]
        labels = [{"name": "x", "value": text, "text_key": text_key(text)} for text in texts]
        searchable.add_labels(connection, labels)
    remove_tag(writing.writer, "team/app", "V1")
    assert rebuild_search(writing.database, NoProgress()) == Rebuilt(dropped=10)
    assert rows(writing.database, "SELECT name FROM tag_names") == [("V1",)], "its history has it"
    assert_in_step(writing.database)


def test_texts_that_are_pages_apart_are_put_right(
    writing: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "PAGE", 3)
    for number in range(8):
        builder.tag(builder.image(annotations={"note": f"number {number}", "other": "same"}), f"t{number}")
    import_all(writing, builder.write(layout))
    change(writing.database, "DELETE FROM label_texts")
    change(writing.database, "DELETE FROM tag_names")
    change(writing.database, "UPDATE labels SET text_key = 1")
    assert rebuild_search(writing.database, NoProgress()).labels >= 16
    assert_in_step(writing.database)
    assert len(search(writing.database, "number").texts.items) == 8


def test_writers_with_the_same_texts_neither_deadlock_nor_lose_any(
    writing: Writing, other_writer: Callable[[], Writing], tmp_path: Path
) -> None:
    """And a rebuild drops beside them what only they say, until they commit."""
    others = [other_writer() for _ in range(3)]
    failures: list[Exception] = []
    done = threading.Event()

    def bring(number: int, registry: Writing) -> None:
        try:
            for turn in range(4):
                builder = LayoutBuilder(seed=100 * number + turn)
                notes = {f"l{i}": f"text {(i * (number + 1)) % 7} of {turn}" for i in range(7)}
                builder.tag(builder.image(annotations=notes), f"turn-{turn}")
                import_all(registry, builder.write(tmp_path / f"l{number}-{turn}"), f"app{number}")
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    def rebuild() -> None:
        try:
            while not done.is_set():
                rebuild_search(writing.database, NoProgress())
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=bring, args=(n, registry)) for n, registry in enumerate(others)]
    upkeep_thread = threading.Thread(target=rebuild)
    for thread in (*threads, upkeep_thread):
        thread.start()
    for thread in threads:
        thread.join(120)
    done.set()
    upkeep_thread.join(60)
    assert failures == []
    assert_in_step(writing.database)


@pytest.mark.inconsistent  # its tag is in no snapshot
def test_text_that_a_running_writer_needs_is_not_dropped(writing: Writing, image: Json) -> None:
    """It met the text, and nobody sees its label yet: the rebuild waits for it (PostgreSQL)."""
    if writing.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    database = writing.database
    with database.transaction("test") as connection:
        searchable.add_tags(connection, ["wanted"])
    repository = scalar(database, "SELECT id FROM repositories")
    manifest = scalar(database, "SELECT max(id) FROM manifests")
    rebuild = threading.Thread(target=rebuild_search, args=(database, NoProgress()))
    with database.transaction("test") as connection:
        connection.execute(
            sa.text(
                "INSERT INTO tags (repository_id, name, manifest_digest, manifest_id, started_at, started_by)"
                " SELECT :repository, 'wanted', digest, id, 1, 'x' FROM manifests WHERE id = :manifest"
            ),
            {"repository": repository, "manifest": manifest},
        )
        searchable.add_tags(connection, ["wanted"])
        rebuild.start()
        rebuild.join(1)
        assert rebuild.is_alive(), "it should wait"
    rebuild.join(30)
    assert ("wanted",) in rows(database, "SELECT name FROM tag_names")
    assert_in_step(database)
