"""What a registry does about its bucket: recovery, collection, verification, repair, rebuild, outages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
from msgspec.structs import replace

from regmeta import errors
from regmeta.app import (
    Writing,
    backups,
    health,
    open_for_reading,
    open_for_writing,
    rebuilding,
    repairing,
    verification,
)
from regmeta.content.export import export
from regmeta.content.urls import signed_url
from regmeta.db import Database
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.sweep import sweep
from regmeta.maintain.rebuild.report import NoProgress
from regmeta.maintain.verify.findings import Kind as FoundKind
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.settings import Settings
from regmeta.store import new_key
from regmeta.store.bucket import MARKER
from regmeta.store.exports import open_export
from tests.builders import LayoutBuilder
from tests.crash.processes import environment, run
from tests.support.bucket_files import BucketFiles
from tests.support.logical_dump import logical_dump
from tests.support.registry import (
    AT_ONCE,
    commit_one,
    counts,
    import_all,
    key_of,
    keys_in,
    objects,
    open_parts,
    scalar,
    tags,
)
from tests.support.s3_proxy import Kind, S3Proxy
from tests.support.seaweed import Buckets
from tests.support.seaweed_server import SECRET_KEY

QUICK = {"retry_for": "1s", "read_timeout": "2s"}


class Quiet:
    """Is told how a verification gets on, and tells nobody."""

    def began(self, what: str, total: int | None) -> None: ...

    def advanced(self, steps: int) -> None: ...


@pytest.fixture
def proxy(buckets: Buckets) -> Iterator[S3Proxy]:
    with S3Proxy(buckets.endpoint) as found:
        yield found


def through(settings: Settings, proxy: S3Proxy) -> Settings:
    """Return the settings of who reaches the server through a proxy, and has no patience."""
    return replace(settings, object_store=replace(settings.object_store, endpoint=proxy.endpoint, **QUICK))


def damaged(database: Database) -> int:
    return int(scalar(database, "SELECT count(*) FROM blobs WHERE state = 'damaged'"))


def rebuilt(settings: Settings) -> None:
    rebuilding.rebuild_lost_database(settings, lambda: nullcontext(NoProgress()))


# --- in and out -------------------------------------------------------------------------------


def test_image_is_exported_as_it_came(
    writing: Writing, builder: LayoutBuilder, layout: Path, tmp_path: Path
) -> None:
    builder.tag(builder.image([builder.layer(os.urandom(9_000_000))]), "v1")
    import_all(writing, builder.write(layout))
    target = tmp_path / "exported"
    with open_for_reading(writing.settings, check_store=True) as reading:
        export(reading.database, reading.store, Reference.parse("app"), open_export(str(target)))
    for digest, content in builder.blobs.items():
        assert (target / "blobs" / digest.replace(":", "/")).read_bytes() == content


def test_url_of_a_blob_is_for_who_may_read_it(writing: Writing, builder: LayoutBuilder, layout: Path) -> None:
    image = builder.image([builder.layer(b"of a layer")])
    commit_one(writing, builder, image, layout)
    digest = Digest.parse(json.loads(builder.blobs[image["digest"]])["layers"][0]["digest"])
    with urllib.request.urlopen(signed_url(writing.database, writing.store, "app", digest, 60)) as answer:
        assert answer.read() == builder.blobs[str(digest)]
    for repository in ("other", "none"):
        with pytest.raises(errors.NotFound, match=str(digest)):
            signed_url(writing.database, writing.store, repository, digest, 60)
    with pytest.raises(errors.UsageError, match="7 days"):
        signed_url(writing.database, writing.store, "app", digest, 8 * 24 * 3600)


def test_commands_show_a_url_and_say_what_a_sweep_gave_up(
    settings: Settings, files: BucketFiles, builder: LayoutBuilder, layout: Path
) -> None:
    with open_for_writing(settings) as writing:
        image = builder.image()
        commit_one(writing, builder, image, layout)
    shown = run(settings, "blob", "url", "app", image["digest"], "--for", "1m").stdout.strip()
    with urllib.request.urlopen(shown) as answer:
        assert answer.read() == builder.blobs[image["digest"]]
    files.begin_upload(f"blobs/{new_key(Digest.of(b'x'))}", b"x")
    assert json.loads(run(settings, "gc", "sweep", "--json").stdout)["aborted_uploads"] == 0
    assert len(files.uploads()) == 1  # it may be under way


# --- who has ended ----------------------------------------------------------------------------


def test_killed_process_is_cleared_up_by_the_next_writer(
    settings: Settings, files: BucketFiles, tmp_path: Path
) -> None:
    """What it had published gets tombstones, its sign and its folder go, its upload is left to the sweep."""
    builder = LayoutBuilder()
    builder.tag(builder.image([builder.layer(os.urandom(9_000_000))]), "v1")
    layout = builder.write(tmp_path / "killed")
    done = subprocess.run(
        [sys.executable, "-m", "regmeta", "import", str(layout), "app"],
        env={
            **environment(settings),
            "REGMETA_TESTING": "1",
            "REGMETA_FAILPOINT": "bucket.published=kill",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    [sign] = files.sizes("staging/")
    with open_for_writing(settings) as writing:
        assert counts(writing.database, "intents") == {"intents": 0}
        assert len(keys_in(writing.database, "tombstones")) == 3
        assert sign not in files.sizes("staging/")
        assert [path.name for path in Path(settings.home, "scratch", "staging").iterdir()] == [
            writing.writer.staging.owner.hex
        ]
        # The store's time has whole seconds.
        assert sweep(writing.database, writing.store, Lifetimes()).aborted_uploads == 0
        import_all(writing, layout)
        sweep(writing.database, writing.store, AT_ONCE)
        assert files.uploads() == []
    assert files.sizes("staging/") == {}


def test_sweep_gives_up_old_uploads_and_buries_unknown_objects(
    settings: Settings, files: BucketFiles, builder: LayoutBuilder, layout: Path
) -> None:
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        commit_one(writing, builder, builder.image(), layout)
        unknown = new_key(Digest.of(b"unknown"))
        files.write(f"blobs/{unknown}", b"unknown")
        files.begin_upload(f"blobs/{new_key(Digest.of(b'x'))}", b"x")
        young = sweep(writing.database, writing.store, Lifetimes())
        assert (young.unknown, young.too_young, young.aborted_uploads) == (1, 1, 0)
        assert len(files.uploads()) == 1
        found = sweep(writing.database, writing.store, AT_ONCE)
        assert (found.buried, found.aborted_uploads) == (1, 1)
        assert files.uploads() == []
        collect(writing.writer, writing.store)
        assert unknown not in objects(writing.store)
        assert len(objects(writing.store)) == 4


def test_object_that_appears_after_its_ingest_gave_up_is_deleted(
    settings: Settings, files: BucketFiles, proxy: S3Proxy, builder: LayoutBuilder, layout: Path
) -> None:
    """The server takes a PUT long after its client has lost patience: the key has a tombstone by then."""
    builder.tag(builder.image(), "v1")
    builder.write(layout)
    slow = proxy.spoil("PUT", "/blobs/sha256", Kind.LATE, times=10_000)
    with (
        open_for_writing(through(settings, proxy), lifetimes=AT_ONCE) as writing,
        pytest.raises(errors.StoreUnavailable, match="s3://"),
    ):
        import_all(writing, layout)
    assert slow.happened > 0
    assert tags_of(settings) == {}
    proxy.faults.clear()
    assert proxy.release() > 0
    assert len(files.sizes("blobs/sha256/")) >= 1
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        collect(writing.writer, writing.store)
        collect(writing.writer, writing.store)
        assert objects(writing.store) == {}
        import_all(writing, layout)


def tags_of(settings: Settings) -> dict[str, Digest]:
    database, store = open_parts(settings)
    with closing(database), closing(store):
        return tags(database)


# --- never "absent" ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.EMPTY_LIST, Kind.SHORT_LIST])
def test_listing_that_is_not_whole_gives_nothing_up(
    settings: Settings, proxy: S3Proxy, builder: LayoutBuilder, layout: Path, kind: Kind
) -> None:
    with open_for_writing(through(settings, proxy), lifetimes=AT_ONCE) as writing:
        for number in range(3):
            commit_one(writing, builder, builder.image(), layout / str(number), tag=f"v{number}")
        before = objects(writing.store)
        proxy.spoil("GET", r"list-type=2.*blobs|prefix=.*blobs.*list-type=2", kind, times=10)
        with pytest.raises(errors.StoreUnavailable, match=MARKER):
            sweep(writing.database, writing.store, AT_ONCE, force=True)
        assert counts(writing.database, "tombstones") == {"tombstones": 0}
        assert objects(writing.store) == before


@pytest.mark.parametrize("status", [403, 500, 503])
def test_object_that_the_server_does_not_give_is_not_damaged(
    settings: Settings, proxy: S3Proxy, builder: LayoutBuilder, layout: Path, status: int
) -> None:
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, builder.image(), layout)
    proxy.spoil("GET", "/blobs/sha256", Kind.STATUS, times=10_000, status=status)
    proxy.spoil("HEAD", "/blobs/sha256", Kind.STATUS, times=10_000, status=status)
    with pytest.raises(errors.StoreUnavailable):
        verification.verify(through(settings, proxy), Quiet(), read_data="all", jobs=1, mark=True)
    database, store = open_parts(settings)
    with closing(database), closing(store):
        assert damaged(database) == 0


def test_bucket_without_its_marker_deletes_nothing(
    settings: Settings, files: BucketFiles, builder: LayoutBuilder, layout: Path
) -> None:
    """An object that is not there says nothing where the store itself is not."""
    with open_for_writing(settings, lifetimes=AT_ONCE) as writing:
        commit_one(writing, builder, builder.image(), layout)
        remove_tag(writing.writer, "app", "v1")
        before, mark = objects(writing.store), files.read(MARKER)
        files.remove(MARKER)
        for work in (
            lambda: sweep(writing.database, writing.store, AT_ONCE, force=True),
            lambda: writing.store.stat(new_key(Digest.of(b"x"))),
        ):
            with pytest.raises(errors.StoreUnavailable, match=MARKER):
                work()
        assert objects(writing.store) == before
        files.write(MARKER, mark)
        collect(writing.writer, writing.store)
        assert objects(writing.store) == {}


# --- upkeep -----------------------------------------------------------------------------------


def test_rotten_and_lost_objects_are_found_and_healed(
    settings: Settings, files: BucketFiles, builder: LayoutBuilder, layout: Path
) -> None:
    layers = [builder.layer(b"one"), builder.layer(b"two")]
    builder.tag(builder.image(layers), "v1")
    builder.write(layout)
    with open_for_writing(settings) as writing:
        import_all(writing, layout)
        rotten, lost = (key_of(writing.database, Digest.parse(layer["digest"])) for layer in layers)
    files.write(f"blobs/{rotten}", b"rotten")
    files.remove(f"blobs/{lost}")
    found = repairing.plan_repair(settings, Quiet(), read_data="all", jobs=1)
    assert {action.finding.kind for action in found} >= {FoundKind.OBJECT_MISSING, FoundKind.OBJECT_SIZE}
    repairing.repair(settings, found, str(layout))
    assert repairing.plan_repair(settings, Quiet(), read_data="all", jobs=1) == []
    with open_for_writing(settings) as writing:
        assert key_of(writing.database, Digest.parse(layers[0]["digest"])) not in (rotten, lost)
        assert counts(writing.database, "blobs WHERE state = 'damaged'") == {
            "blobs WHERE state = 'damaged'": 0
        }


def test_lost_database_comes_back_from_the_bucket_alone(
    settings: Settings, builder: LayoutBuilder, layout: Path
) -> None:
    builder.tag(builder.index([builder.image(), builder.artifact(b"x", "application/vnd.example.x")]), "v1")
    builder.write(layout)
    with open_for_writing(settings) as writing:
        import_all(writing, layout)
    database, store = open_parts(settings)
    store.close()
    with closing(database):
        before = logical_dump(database)
        if not database.is_sqlite:
            pytest.skip("the same code: only how a database is lost differs")
    for path in Path(settings.home).glob("regmeta.db*"):
        path.unlink()
    rebuilt(settings)
    database, store = open_parts(settings)
    store.close()
    with closing(database):
        after = logical_dump(database)
        assert after["manifests"] == before["manifests"]
    assert tags_of(settings).keys() == {"v1"}


def test_other_hosts_process_keeps_a_lost_database_from_being_rebuilt(
    settings: Settings, files: BucketFiles, builder: LayoutBuilder, layout: Path
) -> None:
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, builder.image(), layout)
    files.write(f"staging/{'a' * 32}/elsewhere", b"")
    with pytest.raises(errors.Locked, match="another process"):
        rebuilt(settings)
    files.remove(f"staging/{'a' * 32}/elsewhere")


def test_copy_is_restored_and_later_images_come_back(
    settings: Settings, builder: LayoutBuilder, layout: Path, tmp_path: Path
) -> None:
    if not settings.database.startswith("sqlite"):
        pytest.skip("copies of files are SQLite's")
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, builder.image(), layout / "1")
    backups.backup(settings, str(tmp_path / "copy"))
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, builder.image(), layout / "2", tag="v2")
    backups.restore_file(settings, str(tmp_path / "copy"), lambda: nullcontext(NoProgress()))
    assert tags_of(settings).keys() == {"v1", "v2"}


def test_doctor_looks_at_the_bucket(settings: Settings, files: BucketFiles, proxy: S3Proxy) -> None:
    with open_for_writing(settings):
        pass
    found = {check.name: check for check in health.examine(settings)}
    assert found["store"].level == "ok"
    assert settings.store in found["store"].found
    assert found["scratch permissions"].level == "ok"
    proxy.spoil("HEAD", "", Kind.STATUS, times=10_000, status=403)
    [broken] = [check for check in health.examine(through(settings, proxy)) if check.name == "store"]
    assert (broken.level, "403" in broken.found) == ("problem", True)


# --- the server is away -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["import", "LAYOUT", "app"], ["gc", "sweep"], ["gc", "run"], ["verify"]], ids=" ".join
)
def test_outage_ends_a_command_in_time_and_says_where(
    settings: Settings, builder: LayoutBuilder, layout: Path, command: list[str]
) -> None:
    builder.tag(builder.image(), "v1")
    builder.write(layout)
    Path(settings.home, "regmeta.toml").write_text(
        '[object_store]\nendpoint = "http://127.0.0.1:9"\nretry_for = "1s"\nread_timeout = "2s"\n'
    )
    began_s = time.monotonic()
    arguments = [str(layout) if word == "LAYOUT" else word for word in command]
    done = run(settings, *arguments, expect=5)
    assert time.monotonic() - began_s < 60
    assert settings.store in done.stderr
    assert SECRET_KEY not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    Path(settings.home, "regmeta.toml").unlink()
    run(settings, *arguments, expect=0)
