"""The database is gone: the store alone brings its rows back, however often that is interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from regmeta import errors, failpoints
from regmeta.app import Writing, open_for_writing, rebuilding
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.rebuild import identity, lost
from regmeta.maintain.rebuild.report import NoProgress, Report
from regmeta.models import Base
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.store.filesystem import FilesystemStore
from tests.builders import AMD64, ARM64, S390X, LayoutBuilder, digest_of, make_layout
from tests.support.consistency import findings
from tests.support.logical_dump import logical_dump
from tests.support.registry import (
    change,
    commit_one,
    counts,
    import_all,
    import_layout,
    key_of,
    objects,
    open_parts,
    rows,
    scalar,
    tags,
)

Dump = dict[str, list[tuple[Any, ...]]]


class Stop(BaseException):
    """The process ends here."""


def rebuilt(settings: Settings) -> Report:
    return rebuilding.rebuild_lost_database(settings, lambda: nullcontext(NoProgress()))


def lose_database(settings: Settings) -> None:
    """Remove the database, or empty it where it lies on a server."""
    database, store = open_parts(settings)
    store.close()
    if database.is_sqlite:
        database.close()
        for path in Path(settings.home).glob("regmeta.db*"):
            path.unlink()
        return
    with database.transaction("test") as connection:
        Base.metadata.drop_all(connection)
        connection.execute(sa.text("DROP TABLE alembic_version"))
    database.close()


def dump_of(settings: Settings) -> Dump:
    database, store = open_parts(settings)
    try:
        return logical_dump(database)
    finally:
        store.close()
        database.close()


def fill(settings: Settings, folder: Path) -> None:
    """Make a registry with something of everything."""
    builder = LayoutBuilder()
    foreign = builder.blob(b"foreign", sorted(media_types.NON_DISTRIBUTABLE)[0])
    del builder.blobs[foreign["digest"]]
    layers = [builder.layer(b"base"), builder.layer(b"app"), foreign]
    labelled = builder.image(layers, builder.config(layers, Labels={"team": "a"}), {"note": "b"}, AMD64)
    other = builder.image([b"base", b"arm"], platform=ARM64)
    index = builder.index([labelled, other, builder.blob(b"?", "application/vnd.example.other")])
    nested = builder.index([index, builder.image([b"base"], platform=S390X)], {"deep": "yes"})
    signature = builder.artifact(b"signed", "application/vnd.example.signature", index)
    plain = builder.image([b"base", b"plain"])
    docker = LayoutBuilder(docker=True)
    docker_list = docker.index([docker.image(platform=AMD64), docker.image(platform=ARM64)])
    long = LayoutBuilder(algorithm="sha512")
    long_image = long.image([b"base", b"long"])
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, nested, folder / "a", "team/app", "v1")
        commit_one(writing, builder, signature, folder / "a", "team/app", None)
        commit_one(writing, builder, plain, folder / "a", "team/app", "v2")
        set_tag(writing.writer, "team/app", "v1", digest_of(index))
        commit_one(writing, builder, index, folder / "a", "team/app/more", "a")  # shares, as a mount does
        commit_one(writing, builder, plain, folder / "a", "team/app/more", "gone")
        remove_tag(writing.writer, "team/app/more", "gone")
        commit_one(writing, docker, docker_list, folder / "docker", "docker", "l")
        commit_one(writing, long, long_image, folder / "long", "long", "l")
        commit_one(writing, builder, plain, folder / "a", "empty", "x")
        remove_content_of(writing, "empty")
        commit_one(writing, builder, plain, folder / "a", "removed", "x")
        change(writing.database, "UPDATE repositories SET state = 'deleted' WHERE name = 'removed'")
        remove_content_of(writing, "removed")
        del builder.blobs[other["digest"]]
        commit_one(writing, builder, index, folder / "thin", "sparse", "s", sparse=True)
        heal_one(writing, builder, plain, folder / "a")
        writing.writer.snapshots.flush_outbox()


def remove_content_of(writing: Writing, repository: str) -> None:
    of = "(SELECT id FROM repositories WHERE name = :name)"
    for table in ("tags", "labels", "manifest_blobs", "manifests", "repository_blobs"):
        where = (
            f"repository_id = {of}"
            if table in ("tags", "manifests", "repository_blobs")
            else f"manifest_id IN (SELECT id FROM manifests WHERE repository_id = {of})"
        )
        change(writing.database, f"DELETE FROM {table} WHERE {where}", name=repository)
    queue_snapshot(writing, repository)


def queue_snapshot(writing: Writing, repository: str) -> None:
    change(
        writing.database, "UPDATE repositories SET revision = revision + 1 WHERE name = :of", of=repository
    )
    change(
        writing.database,
        "INSERT INTO layout_outbox (repository_id, revision, queued_at)"
        " SELECT id, revision, updated_at FROM repositories WHERE name = :of",
        of=repository,
    )


def heal_one(writing: Writing, builder: LayoutBuilder, image: dict[str, Any], folder: Path) -> None:
    """Let a layer rot and heal it by an import: the rotten copy stays, under a tombstone."""
    layer = Digest.of(b"plain")
    spoil(Path(writing.store.location) / "blobs" / key_of(writing.database, layer), b"rotte")
    change(writing.database, "UPDATE blobs SET state = 'damaged' WHERE digest = :of", of=layer.to_bytes())
    commit_one(writing, builder, image, folder, "team/app", "v3")
    assert len([key for key in objects(writing.store) if layer.hex in key]) == 2


def spoil(path: Path, content: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(0o444)


@pytest.fixture
def rich(settings: Settings, tmp_path: Path) -> Dump:
    """A full registry; its rows."""
    fill(settings, tmp_path)
    found = dump_of(settings)
    assert all(found.values())
    lose_database(settings)
    return found


def orphans(settings: Settings) -> list[str]:
    """Return what the check from outside says, but for objects that nothing names."""
    database, store = open_parts(settings)
    try:
        return [line for line in findings(database, store) if "no row knows it" not in line]
    finally:
        store.close()
        database.close()


@pytest.mark.inconsistent  # the tombstones of dead objects are lost: a sweep finds them
def test_rows_come_back_as_they_were(settings: Settings, rich: Dump) -> None:
    report = rebuilt(settings)
    assert report.problems == []
    assert dump_of(settings) == rich
    assert orphans(settings) == []
    record = json.loads(Path(settings.store, "store.json").read_bytes())
    with open_for_writing(settings) as writing:
        assert record["epoch"] == scalar(writing.database, "SELECT epoch FROM store_identity") == 2
        assert scalar(writing.database, "SELECT hold_reason FROM store_identity") == identity.HOLD
        assert counts(writing.database, "layout_outbox", "intents") == {"layout_outbox": 0, "intents": 0}
        assert {path.name[:3] for path in Path(settings.store).rglob("layouts/**/_*")} == {"_2-"}
    change_hold(settings)
    with pytest.raises(errors.Refused, match="it is not lost"):
        rebuilt(settings)


def change_hold(settings: Settings) -> None:
    database, store = open_parts(settings)
    change(database, "UPDATE store_identity SET hold_reason = NULL")
    store.close()
    database.close()


@pytest.mark.inconsistent
def test_healed_layer_is_adopted_from_the_sound_copy(settings: Settings, rich: Dump) -> None:
    rebuilt(settings)
    with open_for_writing(settings) as writing:
        key = key_of(writing.database, Digest.of(b"plain"))
        assert (Path(settings.store) / "blobs" / key).read_bytes() == b"plain"


@pytest.mark.soak_on_postgresql
@pytest.mark.parametrize("piece", [50, pytest.param(lost.PIECE_MANIFESTS, marks=pytest.mark.long)])
def test_large_repository_comes_back_in_pieces_that_each_commit(
    settings: Settings, layout: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(lost, "PIECE_MANIFESTS", piece)
    count = 2 * piece + piece // 10
    builder = LayoutBuilder()
    base = builder.layer(b"base")
    images = [builder.image([base], builder.config([base], n=str(number))) for number in range(count)]
    for number in range(0, count, 2):
        builder.tag(images[number], f"v{number}")
    builder.tag(builder.index(images[:9]), "index")
    builder.tag(builder.index([builder.index(images[1:9])]), "nested")
    for image in images:
        builder.tag(image)
    builder.write(layout)
    with open_for_writing(settings) as writing:
        assert not any(outcome.error for outcome in import_layout(writing, layout, "large"))
    before = dump_of(settings)
    lose_database(settings)
    stopped_at: list[str] = []

    def stop_at_third(name: str) -> None:
        stopped_at.append(name)
        if stopped_at.count("rebuild.committed") == 2:
            raise Stop

    with failpoints.armed(stop_at_third), pytest.raises(Stop):
        rebuilt(settings)
    database, store = open_parts(settings)
    assert counts(database, "manifests", "tags") == {"manifests": 2 * piece, "tags": 0}
    store.close()
    database.close()
    report = rebuilt(settings)
    assert report.problems == []
    assert dump_of(settings) == before


def points_of_a_rebuild(settings: Settings) -> list[str]:
    """Return every point that a rebuild reaches, each as often as it does."""
    seen: list[str] = []
    with failpoints.armed(seen.append):
        rebuilt(settings)
    return seen


@pytest.mark.soak_on_postgresql
@pytest.mark.inconsistent
@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.slow
def test_rebuild_stopped_at_any_point_and_run_again_ends_as_if_it_was_not(
    settings: Settings, rich: Dump, tmp_path: Path, every: int
) -> None:
    Path(settings.store).rename(tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", settings.store)
    points = points_of_a_rebuild(settings)
    assert {"rebuild.committed", "rebuild_identity.committed", "rebuild_complete.committing"} <= set(points)
    tries = sorted({(name, min(points.count(name), number)) for name in points for number in (1, 2, 7)})
    assert len(tries) > 30
    for name, number in tries[::every]:
        lose_database(settings)
        shutil.rmtree(settings.store)
        shutil.copytree(tmp_path / "copy", settings.store)
        with failpoints.armed(stopping_at(name, number)), pytest.raises(Stop):
            rebuilt(settings)
        report = rebuilt(settings)
        assert report.problems == []
        assert dump_of(settings) == rich, name
        assert orphans(settings) == [], name


def stopping_at(wanted: str, number: int) -> Callable[[str], None]:
    left = number

    def handler(name: str) -> None:
        nonlocal left
        if name == wanted:
            left -= 1
            if left == 0:
                raise Stop

    return handler


@pytest.mark.inconsistent
def test_repository_that_is_done_is_not_done_again(settings: Settings, rich: Dump) -> None:
    with failpoints.armed(stopping_at("rebuild.committed", 3)), pytest.raises(Stop):
        rebuilt(settings)
    total = len(rich["repositories"])
    assert rebuilt(settings).changed == total - 3


@pytest.mark.usefixtures("small")
def test_objects_are_durable_before_rows_name_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote them may have been stopped before flushing."""
    seen: list[str] = []
    settle = FilesystemStore.settle

    def settled(self: FilesystemStore) -> None:
        settle(self)
        seen.append("settled")

    monkeypatch.setattr(FilesystemStore, "settle", settled)
    with failpoints.armed(seen.append):
        rebuilt(settings)
    assert seen.index("settled") < seen.index("rebuild.committing")


@pytest.mark.inconsistent
def test_nobody_opens_the_new_database_before_it_is_whole(settings: Settings, rich: Dump) -> None:
    with failpoints.armed(stopping_at("rebuild_complete.committed", 1)), pytest.raises(Stop):
        rebuilt(settings)
    with pytest.raises(errors.IdentityMismatch), open_for_writing(settings):
        pass
    with pytest.raises(errors.IdentityMismatch):
        rebuilding.reconcile_rows(settings, lambda: nullcontext(NoProgress()))
    rebuilt(settings)
    with open_for_writing(settings):
        pass


# --- what cannot come back ----------------------------------------------------------------------


@pytest.fixture
def small(settings: Settings, layout: Path) -> dict[str, Digest]:
    """A repository of two tags, whose database is lost."""
    made = make_layout(layout, {"v1": [b"one", b"base"], "v2": [b"two", b"base"]})
    with open_for_writing(settings) as writing:
        import_all(writing, layout)
    lose_database(settings)
    return made


def object_of(settings: Settings, digest: Digest) -> Path:
    [found] = Path(settings.store, "blobs").glob(f"*/*/{digest.hex}.*")
    return found


def test_layer_that_is_gone_or_cut_is_marked_as_damaged_and_an_import_heals_it(
    settings: Settings, small: dict[str, Digest], layout: Path
) -> None:
    object_of(settings, Digest.of(b"one")).unlink()
    spoil(object_of(settings, Digest.of(b"base")), b"bas")
    report = rebuilt(settings)
    assert {problem.subject for problem in report.problems} == {
        str(Digest.of(b"one")),
        str(Digest.of(b"base")),
    }
    with open_for_writing(settings) as writing:
        assert tags(writing.database) == small
        assert scalar(writing.database, "SELECT count(*) FROM blobs WHERE state = 'damaged'") == 2
        import_all(writing, layout)
        assert scalar(writing.database, "SELECT count(*) FROM blobs WHERE state = 'damaged'") == 0
        forget_unnamed(writing)


def forget_unnamed(writing: Writing) -> None:
    """Remove the objects that no row names, as a sweep does in the end."""
    named = {
        key
        for table in ("blobs", "tombstones")
        for (key,) in rows(writing.database, f"SELECT key FROM {table}")
    }
    writing.store.delete(set(objects(writing.store)) - named)


@pytest.mark.parametrize("how", ["gone", "rotten", "cut"])
def test_manifest_that_is_gone_is_named_with_its_tags_and_its_snapshot_is_kept(
    settings: Settings, small: dict[str, Digest], how: str
) -> None:
    path = object_of(settings, small["v1"])
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        spoil(path, content[:-1] + (b"x" if how == "rotten" else b""))
    report = rebuilt(settings)
    [problem] = report.problems
    assert problem.subject == str(small["v1"])
    assert "app:v1" in problem.detail
    [kept] = Path(settings.store, "layouts", "app").glob("_kept-*.json")
    assert str(small["v1"]) in kept.read_text()
    with open_for_writing(settings) as writing:
        assert tags(writing.database) == {"v2": small["v2"]}
        forget_unnamed(writing)


@pytest.mark.usefixtures("small")
def test_rotten_configuration_is_damaged_and_its_image_stays(settings: Settings) -> None:
    [config] = [
        path for path in Path(settings.store, "blobs").rglob("*.*") if b"rootfs" in path.read_bytes()
    ][:1]
    spoil(config, config.read_bytes().replace(b"linux", b"linus"))
    report = rebuilt(settings)
    [problem] = report.problems
    assert "another digest" in problem.detail
    with open_for_writing(settings) as writing:
        assert len(tags(writing.database)) == 2
        assert scalar(writing.database, "SELECT count(*) FROM blobs WHERE state = 'damaged'") == 1
        forget_unnamed(writing)


def newest_snapshot(settings: Settings) -> Path:
    [found] = Path(settings.store, "layouts", "app").glob("_*.json")
    return found


def test_torn_snapshot_is_named_and_the_older_one_taken(settings: Settings, small: dict[str, Digest]) -> None:
    newest = newest_snapshot(settings)
    torn = newest.with_name("_1-9.0123456789abcdef0123456789abcdef.json")
    torn.write_bytes(newest.read_bytes()[:-20])
    report = rebuilt(settings)
    [problem] = report.problems
    assert torn.name in problem.subject
    with open_for_writing(settings) as writing:
        assert tags(writing.database) == small


def test_snapshot_of_another_repository_is_not_believed(settings: Settings, small: dict[str, Digest]) -> None:
    newest = newest_snapshot(settings)
    other = Path(settings.store, "layouts", "other", newest.name)
    other.parent.mkdir()
    shutil.copy(newest, other)
    report = rebuilt(settings)
    assert [problem.repository for problem in report.problems] == ["other", "other"]
    with open_for_writing(settings) as writing:
        assert rows(writing.database, "SELECT name FROM repositories") == [("app",)]
        assert tags(writing.database) == small


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"io.regmeta.state":"active"', b'"io.regmeta.state":"happy"'),
        (b'"io.regmeta.revision":"1-1"', b'"io.regmeta.revision":"1-2"'),
        (b'"schemaVersion":2', b'"schemaVersion":1'),
        (b'.ref.name":"v1"', b'.ref.name":"-/"'),
        (b'.ref.name":"v1"', b'.ref.name":"v2"'),
        (b'"sha256:', b'"sha1:'),
        (b'"size":', b'"size":-'),
        (b'"size":', b'"size":9999999'),
        (b'"io.regmeta.repository":"app"', b'"io.regmeta.repository":"../app"'),
        (b"{", b"["),
    ],
)
@pytest.mark.usefixtures("small")
def test_snapshot_that_was_changed_is_named_and_brings_nothing(
    settings: Settings, old: bytes, new: bytes
) -> None:
    path = newest_snapshot(settings)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    report = rebuilt(settings)
    assert [problem.repository for problem in report.problems] == ["app", "app"]
    assert path.name in report.problems[0].subject
    with open_for_writing(settings) as writing:
        assert counts(writing.database, "repositories", "blobs") == {"repositories": 0, "blobs": 0}
        forget_unnamed(writing)


@pytest.mark.parametrize("name", ["_99999999999999999999-1", "_1-99999999999999999999"])
def test_name_of_a_version_that_no_row_can_hold_is_not_followed(
    settings: Settings, small: dict[str, Digest], name: str
) -> None:
    path = newest_snapshot(settings)
    shutil.copy(path, path.with_name(f"{name}.{'0' * 32}.json"))
    report = rebuilt(settings)
    assert [name in problem.subject for problem in report.problems] == [True]
    with open_for_writing(settings) as writing:
        assert tags(writing.database) == small
    path.with_name(f"{name}.{'0' * 32}.json").unlink(missing_ok=True)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.inconsistent
def test_store_without_snapshots_is_refused_and_nothing_is_made(settings: Settings) -> None:
    shutil.rmtree(Path(settings.store, "layouts"))
    record = Path(settings.store, "store.json").read_bytes()
    with pytest.raises(errors.NotFound, match="no snapshot"):
        rebuilt(settings)
    assert Path(settings.store, "store.json").read_bytes() == record
    assert not Path(settings.home, "regmeta.db").exists()


@pytest.mark.usefixtures("small")
@pytest.mark.inconsistent
@pytest.mark.parametrize("listing", ["walk", "walk_records"])
def test_listing_that_fails_switches_nothing(
    settings: Settings, listing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = getattr(FilesystemStore, listing)

    def failing(self: FilesystemStore, *arguments: Any) -> Iterator[Any]:
        yield from islice(whole(self, *arguments), 1)
        if arguments != ("staging",):
            raise errors.StoreUnavailable("the disk went away")

    record = Path(settings.store, "store.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(FilesystemStore, listing, failing)
        with pytest.raises(errors.StoreUnavailable):
            rebuilt(settings)
    assert Path(settings.store, "store.json").read_bytes() == record
    rebuilt(settings)


def test_listing_that_was_cut_once_is_asked_again(
    settings: Settings, small: dict[str, Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = FilesystemStore.walk, []

    def cut(self: FilesystemStore) -> Iterator[Any]:
        calls.append(1)
        found = list(whole(self))
        return iter(found[: len(found) // 2] if len(calls) == 1 else found)

    with monkeypatch.context() as patch:
        patch.setattr(FilesystemStore, "walk", cut)
        assert rebuilt(settings).problems == []
    with open_for_writing(settings) as writing:
        assert tags(writing.database) == small


def test_living_process_is_a_refusal(settings: Settings, small: dict[str, Digest]) -> None:
    store = FilesystemStore(settings.store)
    staging = store.open_staging()
    with pytest.raises(errors.Locked, match=staging.owner.hex):
        rebuilt(settings)
    staging.close()
    store.close()
    rebuilt(settings)


def test_database_of_another_registry_is_refused(
    settings: Settings, small: dict[str, Digest], tmp_path: Path
) -> None:
    rebuilt(settings)
    other = Path(tmp_path, "other")
    shutil.copytree(settings.store, other)
    record = json.loads(Path(other, "store.json").read_bytes())
    record["store_id"] = record["database_id"]
    Path(other, "store.json").write_text(json.dumps(record))
    changed = Settings(home=settings.home, database=settings.database, store=str(other), actor="x")
    with pytest.raises(errors.IdentityMismatch, match="another store"):
        rebuilt(changed)


def test_two_rebuilds_at_once_end_well_or_are_refused(settings: Settings, small: dict[str, Digest]) -> None:
    other: list[Report | errors.Error] = []

    def run_other(name: str) -> None:
        if name == "rebuild.committing" and not other:
            other.append(errors.Locked("began"))
            try:
                other[0] = rebuilt(settings)
            except errors.Error as error:
                other[0] = error

    with failpoints.armed(run_other):
        rebuilt(settings)
    assert isinstance(other[0], errors.Locked)
    with open_for_writing(settings) as writing:
        assert tags(writing.database) == small


def test_rebuild_that_another_one_overtakes_writes_nothing_more(
    settings: Settings, small: dict[str, Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = lost._commit
    done: list[int] = []

    def overtaken(*arguments: Any) -> None:
        if not done:
            done.append(1)
            monkeypatch.setattr(rebuilding, "require_alone", lambda store: None)
            assert rebuilt(settings).manifests == 2
            with open_for_writing(settings) as writing:
                # Life goes on, and long afterwards the first rebuild wakes up.
                remove_tag(writing.writer, "app", "v1")
                change(writing.database, "DELETE FROM ingests")
        commit(*arguments)

    monkeypatch.setattr(lost, "_commit", overtaken)
    assert rebuilt(settings).manifests == 0
    with open_for_writing(settings) as writing:
        assert tags(writing.database) == {"v2": small["v2"]}


def test_index_never_lacks_a_child_that_is_still_to_come(
    settings: Settings, builder: LayoutBuilder, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = builder.index([builder.image(), builder.image()])
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, builder.index([builder.index([inner]), builder.image()]), layout)
    before = dump_of(settings)
    lose_database(settings)
    monkeypatch.setattr(lost, "PIECE_MANIFESTS", 1)
    for stops in range(1, 6):
        with failpoints.armed(stopping_at("rebuild.committed", 1)), pytest.raises(Stop):
            rebuilt(settings)
        database, store = open_parts(settings)
        assert counts(database, "manifests") == {"manifests": stops}
        assert rows(database, "SELECT 1 FROM index_manifests WHERE absence IS NOT NULL") == []
        store.close()
        database.close()
    rebuilt(settings)
    assert dump_of(settings) == before
