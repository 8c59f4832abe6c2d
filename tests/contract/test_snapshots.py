"""The store's own copy of each repository: durable before the outbox forgets, newest wins."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from regmeta import errors
from regmeta.app import Writing, open_for_writing
from regmeta.ingest import snapshots
from regmeta.ingest.snapshots import SnapshotWriter
from regmeta.ingest.tags import set_tag
from regmeta.settings import Settings
from tests.builders import LayoutBuilder, digest_of, make_layout
from tests.support.registry import commit_one, counts, import_all, rows, scalar, settings_of


def snapshots_of(settings: Settings, repository: str = "app") -> list[tuple[int, int]]:
    """Return the versions of the snapshots that are there."""
    folder = Path(settings.store) / "layouts" / repository
    versions = [snapshots.version_of(path.name) for path in folder.glob("_*")]
    return sorted(version for version in versions if version is not None)


def content_of(settings: Settings, repository: str = "app") -> Any:
    """Return the newest snapshot."""
    folder = Path(settings.store) / "layouts" / repository
    newest = max(folder.glob("_*"), key=lambda path: snapshots.version_of(path.name) or (0, 0))
    return json.loads(newest.read_bytes())


def test_each_change_leaves_one_snapshot_and_an_empty_outbox(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    images = [builder.image(), builder.image()]
    for number, image in enumerate(images, 1):
        commit_one(writing, builder, image, layout, tag=f"v{number}")
        assert snapshots_of(writing.settings) == [(1, number)]
        assert counts(writing.database, "layout_outbox") == {"layout_outbox": 0}
    set_tag(writing.writer, "app", "v1", digest_of(images[1]))
    assert snapshots_of(writing.settings) == [(1, 3)]
    found = content_of(writing.settings)
    created, updated = (
        found["annotations"].pop(name)
        for name in (snapshots.CREATED_ANNOTATION, snapshots.UPDATED_ANNOTATION)
    )
    assert created < updated < datetime.now(UTC).isoformat()
    assert found["annotations"] == {
        snapshots.REPOSITORY_ANNOTATION: "app",
        snapshots.REVISION_ANNOTATION: "1-3",
        snapshots.STATE_ANNOTATION: "active",
    }
    assert [entry["digest"] for entry in found["manifests"]] == [
        images[1]["digest"],
        images[1]["digest"],
        images[0]["digest"],
    ]


def test_snapshot_that_cannot_be_written_does_not_fail_the_ingest(
    writing: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise errors.StoreUnavailable("no room")

    with monkeypatch.context() as patch:
        patch.setattr(writing.writer.staging, "write_record", fail)
        commit_one(writing, builder, builder.image(), layout)
    assert snapshots_of(writing.settings) == []
    assert rows(writing.database, "SELECT revision FROM layout_outbox") == [(1,)]
    assert writing.writer.snapshots.flush_outbox() == 1
    assert snapshots_of(writing.settings) == [(1, 1)]
    assert counts(writing.database, "layout_outbox") == {"layout_outbox": 0}


def test_next_writer_writes_what_is_behind(
    settings: Settings, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, open_for_writing(settings) as writing:
        patch.setattr(SnapshotWriter, "flush_quietly", lambda *_, **__: None)
        commit_one(writing, builder, builder.image(), layout)
    assert snapshots_of(settings) == []
    with open_for_writing(settings) as writing:
        assert snapshots_of(settings) == [(1, 1)]
        assert counts(writing.database, "layout_outbox") == {"layout_outbox": 0}


def test_late_writer_of_an_old_snapshot_harms_nothing(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    images = [builder.image(), builder.image()]
    commit_one(writing, builder, images[0], layout)
    with writing.database.read() as connection:
        old = snapshots.take_snapshot(connection, 1)
    commit_one(writing, builder, images[1], layout)
    newest = content_of(writing.settings)
    writing.writer.staging.write_record(f"layouts/app/_1-1.{'0' * 32}.json", old.content)
    assert snapshots_of(writing.settings) == [(1, 1), (1, 2)]
    assert content_of(writing.settings) == newest
    commit_one(writing, builder, images[0], layout)
    assert snapshots_of(writing.settings) == [(1, 3)]


def test_late_writer_does_not_clear_the_outbox_of_a_newer_change(
    writing: Writing, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot of revision 1 is written; before its row is cleared, revision 2 is committed."""
    images = [builder.image(), builder.image()]
    remembered = writing.writer.snapshots._write
    quiet = {"on": False}

    def write_then_commit(repository_id: int) -> snapshots.Snapshot:
        written = remembered(repository_id)
        if not quiet["on"]:
            quiet["on"] = True
            with monkeypatch.context() as patch:
                patch.setattr(writing.writer.snapshots, "flush_quietly", lambda *_, **__: None)
                commit_one(writing, builder, images[1], layout)
        return written

    monkeypatch.setattr(writing.writer.snapshots, "_write", write_then_commit)
    commit_one(writing, builder, images[0], layout)
    assert rows(writing.database, "SELECT revision FROM layout_outbox") == [(2,)]
    assert snapshots_of(writing.settings) == [(1, 1)]


def test_snapshots_of_a_nested_name_do_not_touch_those_above(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image()
    for repository in ("a", "a/b", "a/b/c", "a"):
        commit_one(writing, builder, image, layout, repository)
    assert snapshots_of(writing.settings, "a") == [(1, 2)]
    assert snapshots_of(writing.settings, "a/b") == snapshots_of(writing.settings, "a/b/c") == [(1, 1)]


def test_names_that_are_no_snapshots_are_left_alone(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    other = Path(writing.settings.store) / "layouts" / "app" / "notes.txt"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    commit_one(writing, builder, builder.image(), layout)
    commit_one(writing, builder, builder.image(), layout)
    assert other.read_text() == "mine"
    assert snapshots.version_of("layouts/a/1-2.json") is None
    assert snapshots.version_of(f"layouts/a/_7-12.{'a' * 32}.json") == (7, 12)


@pytest.fixture
def slow(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock for the snapshot writer, and repositories that count as large from three entries on."""
    clock = [100.0]
    monkeypatch.setattr(snapshots, "SMALL_REPOSITORY_ENTRIES", 2)
    monkeypatch.setattr(writing.writer.snapshots, "_clock_s", lambda: clock[0])
    return clock


def test_snapshots_of_a_large_repository_are_coalesced(
    writing: Writing, builder: LayoutBuilder, layout: Path, slow: list[float]
) -> None:
    make_layout(layout, 3)
    import_all(writing, layout)
    assert snapshots_of(writing.settings) == [(1, 1)]
    digest = digest_of(builder.image())
    commit_one(writing, builder, builder.image(), layout.parent / "more", tag="v4")
    for number in range(3):
        commit_one(writing, builder, builder.image(), layout.parent / "more", tag=f"w{number}")
    assert digest is not None
    assert snapshots_of(writing.settings) == [(1, 1)]
    assert rows(writing.database, "SELECT revision FROM layout_outbox") == [(5,)]
    slow[0] += snapshots.COALESCE_S + 1
    commit_one(writing, builder, builder.image(), layout.parent / "more", tag="x")
    assert snapshots_of(writing.settings) == [(1, 6)]
    assert counts(writing.database, "layout_outbox") == {"layout_outbox": 0}


def test_what_was_put_off_is_written_when_the_registry_is_closed(
    settings: Settings, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SMALL_REPOSITORY_ENTRIES", 0)
    with open_for_writing(settings) as writing:
        for number in range(3):
            commit_one(writing, builder, builder.image(), layout, tag=f"v{number}")
        assert snapshots_of(settings) == [(1, 1)]
    assert snapshots_of(settings) == [(1, 3)]


def test_closing_writes_no_snapshot_that_is_there_already(
    settings: Settings, builder: LayoutBuilder, layout: Path
) -> None:
    plain = settings_of(Path(settings.home), settings.database, layouts="none")
    with open_for_writing(plain) as writing:
        commit_one(writing, builder, builder.image(), layout)
        [before] = (Path(settings.store) / "layouts" / "app").iterdir()
    [after] = (Path(settings.store) / "layouts" / "app").iterdir()
    assert after == before


def test_repository_is_shown_as_a_layout_of_links(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    image = builder.image([b"one"])
    commit_one(writing, builder, image, layout, "team/app")
    shown = Path(writing.settings.store) / "repositories" / "team" / "app" / "_layout"
    assert json.loads((shown / "index.json").read_bytes())["manifests"][0]["digest"] == image["digest"]
    key = scalar(writing.database, "SELECT key FROM blobs WHERE digest = :of", of=digest_of(image).to_bytes())
    link = shown / "blobs" / "sha256" / digest_of(image).hex
    assert link.samefile(Path(writing.settings.store) / "blobs" / key)


def test_layout_that_cannot_be_written_does_not_fail_the_ingest(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    (Path(writing.settings.store) / "repositories").write_text("in the way")
    commit_one(writing, builder, builder.image(), layout)
    assert snapshots_of(writing.settings) == [(1, 1)]
