"""A copy takes the database's place: what came after it is back or reported, whatever interrupts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import traceback
from contextlib import closing
from pathlib import Path

import pytest

from regmeta import errors, failpoints
from regmeta.app import Writing, backups, open_for_reading, open_for_writing
from regmeta.ingest.tags import set_tag
from regmeta.maintain import restore as restoring
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.store import new_key
from tests.builders import LayoutBuilder, digest_of
from tests.support.copies import (
    dump_of,
    fill,
    findings_of,
    finish_restore_alone,
    go_on,
    identity_of,
    is_file,
    load_dump,
    restore,
    use_client_programs,
)
from tests.support.registry import (
    change,
    commit_one,
    keys_in,
    open_parts,
    scalar,
    tags,
)


class Stop(BaseException):
    """The process ends here."""


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    use_client_programs(monkeypatch)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy"


def names_of(settings: Settings, repository: str = "app") -> set[str]:
    database, store = open_parts(settings)
    with closing(store), closing(database):
        return set(tags(database, repository))


def test_what_was_pushed_after_the_copy_is_back(
    settings: Settings, builder: LayoutBuilder, layout: Path, copy: Path
) -> None:
    with open_for_writing(settings) as writing:
        fill(writing, builder, layout)
        backups.backup(settings, str(copy))
        go_on(writing, builder, layout)
    before = dump_of(settings)
    done = restore(settings, copy)
    assert (done.reconciled.problems, done.reconciled.tags, done.reconciled.manifests) == ([], 2, 3)
    after = dump_of(settings)
    for table in before.keys() - {"repositories"}:
        assert after[table] == before[table]
    assert findings_of(settings) == []
    epoch, hold, record = identity_of(settings)
    assert (epoch, hold) == (2, restoring.HOLD)
    assert json.loads(record)["epoch"] == 2
    with open_for_writing(settings) as writing:  # and it works
        commit_one(writing, builder, builder.image([b"after"]), layout, tag="v3")


def test_tag_that_moved_after_the_copy_is_reported_and_its_snapshot_kept(
    settings: Settings, builder: LayoutBuilder, layout: Path, copy: Path
) -> None:
    old, new = builder.image([b"old"]), builder.image([b"new"])
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, old, layout, tag="v1")
        backups.backup(settings, str(copy))
        commit_one(writing, builder, new, layout, tag="v1")
    done = restore(settings, copy)
    [problem] = done.reconciled.problems
    assert problem.subject == "app:v1"
    assert str(digest_of(new)) in problem.detail
    assert done.reconciled.manifests == 1  # reachable by digest
    [kept] = Path(settings.store, "layouts", "app").glob("_kept-1-2.json")
    assert str(digest_of(new)) in kept.read_text()
    assert findings_of(settings) == []


def test_copy_from_before_another_restore_gets_what_came_after_both(
    settings: Settings, builder: LayoutBuilder, layout: Path, tmp_path: Path
) -> None:
    """Its revisions are greater than those of the snapshots, its epoch is smaller: they are newer."""
    early, late = tmp_path / "early", tmp_path / "late"
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, builder.image([b"one"]), layout, tag="v1")
        backups.backup(settings, str(early))
        for number in range(6):
            set_tag(writing.writer, "app", f"t{number}", digest_of(builder.image([b"one"])))
        backups.backup(settings, str(late))
    # A loss of all snapshots but the first state, so that the first restore begins a smaller revision.
    restore(settings, early)
    with open_for_writing(settings) as writing:
        change(writing.database, "UPDATE repositories SET revision = 2")
        for path in Path(settings.store, "layouts", "app").iterdir():
            path.unlink()
        commit_one(writing, builder, builder.image([b"two"]), layout, tag="between")
        assert scalar(writing.database, "SELECT revision FROM repositories") == 3
    done = restore(settings, late)
    assert done.identity.epoch == 3
    assert names_of(settings) >= {"v1", "between", "t5"}
    assert findings_of(settings) == []


@pytest.mark.soak_on_postgresql
@pytest.mark.slow
def test_restore_that_is_killed_anywhere_is_finished_by_the_next_run(
    settings: Settings, builder: LayoutBuilder, layout: Path, copy: Path, tmp_path: Path
) -> None:
    with open_for_writing(settings) as writing:
        fill(writing, builder, layout)
        backups.backup(settings, str(copy))
        go_on(writing, builder, layout)
    wanted = dump_of(settings)
    points: list[str] = []
    while True:
        if not is_file(settings):
            load_dump(settings, copy)
        point = killed_at(len(points) + 1, settings, copy, tmp_path / "point")
        if point is None:
            break
        points.append(point)
        assert_opens_or_is_refused(settings)
        done = finish_restore_alone(settings, copy)
        assert done.reconciled.problems == [], point
        found = dump_of(settings)
        for table in wanted.keys() - {"repositories"}:
            assert found[table] == wanted[table], point
        assert findings_of(settings) == [], point
        for aside in Path(settings.home).glob("regmeta.db.before-restore-*"):
            aside.unlink()
    wanted_points = {"restore.committed", "restore_complete.committed", "reconcile.committed"}
    if is_file(settings):
        wanted_points |= {"restore.copied", "restore.moved_aside", "restore.placed", "restore.place_flushed"}
    assert wanted_points <= set(points)


def killed_at(number: int, settings: Settings, copy: Path, told: Path) -> str | None:
    """Restore in a process that is killed at the *number*-th point; None if there are fewer."""
    child = os.fork()
    if child == 0:
        reached = 0

        def kill(name: str) -> None:
            nonlocal reached
            reached += 1
            if reached == number:
                told.write_text(name)
                signal.raise_signal(signal.SIGKILL)

        try:
            with failpoints.armed(kill):
                finish_restore_alone(settings, copy)
        except BaseException:  # noqa: BLE001 - the child must not go on as a test
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return told.read_text()
    assert status == 0
    return None


def assert_opens_or_is_refused(settings: Settings) -> None:
    """Half a restore is seen by nobody: there is the old database, the new one, or a refusal."""
    refusals = ""
    try:
        with open_for_reading(settings, check_store=True) as reading:
            hold = scalar(reading.database, "SELECT hold_reason FROM store_identity")
            assert "being restored" not in (hold or "")
    except (errors.SchemaMismatch, errors.IdentityMismatch) as error:
        refusals = str(error)
    assert refusals == "" or "no such database" in refusals or "belongs to the database" in refusals


def test_commits_in_the_log_of_the_old_database_move_aside_with_it(
    settings: Settings, builder: LayoutBuilder, layout: Path, copy: Path
) -> None:
    """Stopped between a file and its log: the log of the old database never meets the new one."""
    if not is_file(settings):
        pytest.skip("a server has its own log")
    path = Path(settings.database.removeprefix("sqlite:///"))
    with open_for_writing(settings) as writing:
        fill(writing, builder, layout)
        backups.backup(settings, str(copy))
        go_on(writing, builder, layout)
        with_log = shutil.copytree(path.parent, path.parent.with_name("with-log"))  # as a kill leaves it
    assert (with_log / "regmeta.db-wal").stat().st_size > 0
    for name in ("regmeta.db", "regmeta.db-wal"):
        shutil.copyfile(with_log / name, path.parent / name)
    shutil.rmtree(with_log)
    wanted = dump_of_closed(path)

    def stop(name: str) -> None:
        if name == "restore.moved_aside":
            raise Stop

    with failpoints.armed(stop), pytest.raises(Stop):
        restore(settings, copy)
    restore(settings, copy)
    [aside] = [
        p for p in path.parent.glob("regmeta.db.before-restore-*") if not p.name.endswith(("-wal", "-shm"))
    ]
    assert dump_of_closed(aside) == wanted
    assert findings_of(settings) == []


def dump_of_closed(path: Path) -> list[tuple[object, ...]]:
    """Return the tags of a database and its log, as they are on a copy of both."""
    folder = path.parent.with_name("looked-at")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for suffix in ("", "-wal"):
        if path.with_name(path.name + suffix).exists():
            shutil.copyfile(path.with_name(path.name + suffix), folder / f"db{suffix}")
    with closing(sqlite3.connect(folder / "db")) as connection:
        found = connection.execute("SELECT name, started_at FROM tags ORDER BY name").fetchall()
    assert found
    return found


def test_intents_of_the_copy_are_dropped_without_tombstones(
    settings: Settings, builder: LayoutBuilder, layout: Path, copy: Path
) -> None:
    """What an ingest had reserved when the copy was made was committed afterwards: it comes back."""
    later = builder.image([b"in flight"])
    with open_for_writing(settings) as writing:
        fill(writing, builder, layout)
        key = new_key(Digest.of(b"never written"))
        add_intent(writing, key)
        backups.backup(settings, str(copy))
        change(writing.database, "DELETE FROM intents WHERE key = :key", key=key)
        commit_one(writing, builder, later, layout, tag="later")
        keys = keys_in(writing.database, "blobs")
    mark_as_intents(settings, copy, keys)
    restore(settings, copy)
    database, store = open_parts(settings)
    with closing(store), closing(database):
        assert (keys_in(database, "intents"), keys_in(database, "tombstones")) == (set(), set())
        assert tags(database)["later"] == digest_of(later)
    assert findings_of(settings) == []


def add_intent(writing: Writing, key: str) -> None:
    change(
        writing.database,
        "INSERT INTO intents (key, digest, owner, host, created_at, expires_at)"
        " SELECT :key, :digest, store_id, 'h', 1, 9999999999999999 FROM store_identity",
        key=key,
        digest=Digest.of(key.encode()).to_bytes(),
    )


def mark_as_intents(settings: Settings, copy: Path, keys: set[str]) -> None:
    """Let the copy name keys as intents that were committed after it was made."""
    if not is_file(settings):
        return  # a dump cannot be changed; it has the one intent
    with closing(sqlite3.connect(copy)) as connection:
        named = {key for (key,) in connection.execute("SELECT key FROM blobs")}
        for key in keys - named:
            connection.execute(
                "INSERT INTO intents (key, digest, owner, host, created_at, expires_at)"
                " SELECT ?, ?, owner, host, created_at, expires_at FROM intents LIMIT 1",
                (key, Digest.of(key.encode()).to_bytes()),
            )
        connection.commit()
        connection.execute("PRAGMA journal_mode = DELETE")


def test_lost_database_is_restored_too(
    settings: Settings, builder: LayoutBuilder, layout: Path, copy: Path
) -> None:
    if not is_file(settings):
        pytest.skip("pg_restore makes the rows")
    with open_for_writing(settings) as writing:
        fill(writing, builder, layout)
        backups.backup(settings, str(copy))
        go_on(writing, builder, layout)
    wanted = dump_of(settings)
    for path in Path(settings.home).glob("regmeta.db*"):
        path.unlink()
    done = restore(settings, copy)
    assert done.moved_aside is None
    assert dump_of(settings)["tags"] == wanted["tags"]
