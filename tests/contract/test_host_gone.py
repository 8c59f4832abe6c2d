"""A machine that has gone for good: what its processes left in rows and in the bucket is ended on request."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import pytest
from msgspec.structs import replace

from regmeta.app import Writing, hosts, initialise, open_for_writing, writers
from regmeta.app.stores import open_store
from regmeta.errors import Locked, LostReservation, NotFound
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.reserve import reserve
from regmeta.ingest.snapshots import SnapshotWriter
from regmeta.ingest.unit_of_work import Writer
from regmeta.maintain.hosts import end_host
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.settings.object_store import ObjectStore
from regmeta.store.owners import sign_of
from regmeta.sync.records import begin_run
from tests.builders import LayoutBuilder
from tests.support.registry import ingest_of, keys_in, request, rows, settings_of, source_of
from tests.support.seaweed import Buckets

LOST = "worker-3/0123abcd.fd01.2a"
OTHER = "worker-31/0123abcd.fd01.2a"


@pytest.fixture
def on_bucket(empty_database_url: str, buckets: Buckets, tmp_path: Path) -> Settings:
    """A new registry whose store is a bucket."""
    found = settings_of(tmp_path / "home", empty_database_url, store=buckets.url())
    initialise(found)
    return found


@pytest.fixture
def here(on_bucket: Settings) -> Iterator[Writing]:
    """The registry, open for writing on this host."""
    with open_for_writing(on_bucket) as found:
        yield found


@pytest.fixture
def on_host(on_bucket: Settings, tmp_path: Path, here: Writing) -> Iterator[Callable[[str], Writer]]:
    """Open it as a process of a host of any name would that never ends properly."""
    with ExitStack() as stack:

        def start(host: str) -> Writer:
            scratch = ObjectStore(scratch=str(tmp_path / sign_of(host)))
            store = open_store(replace(on_bucket, object_store=scratch))
            stack.callback(store.close)
            patched = stack.enter_context(pytest.MonkeyPatch.context())
            patched.setattr(type(store), "host", host)
            staging = store.open_staging()
            patched.undo()
            stack.callback(staging.close)
            database = here.database
            snapshots = SnapshotWriter(database, store, staging, show_layouts=False)
            return Writer(database, staging, snapshots, host, "tester")

        yield start


def leave_all(writing: Writing, writer: Writer) -> None:
    reserve(
        writing.database, [Digest.of(writer.host.encode())], writer.staging.owner, writer.host, Lifetimes()
    )
    begin_run(writing.database, "hub", "schedule", actor="x", host=writer.host, owner=writer.staging.owner)


def signs(writing: Writing) -> set[str]:
    return {name.split("/")[2] for name in writing.store.walk_records("staging")}


@pytest.mark.parametrize("name", [LOST, "worker-3", sign_of(LOST)])
def test_all_that_a_lost_host_left_is_ended_and_nothing_of_others(
    here: Writing, on_host: Callable[[str], Writer], name: str
) -> None:
    for host in (LOST, OTHER):
        leave_all(here, on_host(host))
    done = end_host(here.writer, here.store, name)
    assert (done.intents_taken_back, done.runs_ended, done.signs_removed) == (1, 1, 1)
    assert signs(here) == {sign_of(OTHER), sign_of(here.writer.host)}
    assert rows(here.database, "SELECT host FROM intents") == [(OTHER,)]
    assert len(keys_in(here.database, "tombstones")) == 1
    assert rows(here.database, "SELECT host, outcome FROM sync_runs ORDER BY id") == [
        (LOST, "interrupted"),
        (OTHER, None),
    ]
    with pytest.raises(NotFound, match="there are worker-31"):
        end_host(here.writer, here.store, name)


def test_process_that_lived_after_all_loses_its_keys_and_starts_again(
    here: Writing, on_host: Callable[[str], Writer], builder: LayoutBuilder, layout: Path
) -> None:
    lived = on_host(LOST)
    image = builder.image()
    with source_of(builder, layout) as source:
        planned = ingest_of(here, request(source, image)).image
        ingest = ingest_of(here, request(source, image))
        ingest.unit._writer = lived
        ingest.prepare()
        assert end_host(here.writer, here.store, "worker-3").intents_taken_back == 4
        with pytest.raises(LostReservation) as lost:
            ingest.unit.commit([planned])
        ingest.again(lost.value.digests)
        ingest.commit()
        ingest.unit.finish()
    assert len(keys_in(here.database, "blobs")) == 4


def test_sign_that_a_removed_scratch_folder_left_goes_under_the_same_name(
    on_bucket: Settings, here: Writing
) -> None:
    """A new scratch folder may have the number of the one before, and so the host the name."""
    left = here.store.open_staging()
    with pytest.raises(Locked, match="where this process runs"):
        end_host(here.writer, here.store, here.store.host)
    shutil.rmtree(f"{here.store.scratch}/staging/{left.owner.hex}")  # type: ignore[attr-defined]
    assert end_host(here.writer, here.store, here.store.host).signs_removed == 1
    assert [name.split("/")[1] for name in here.store.walk_records("staging")] == [
        here.writer.staging.owner.hex
    ]
    left.close()


def test_own_host_is_refused(here: Writing) -> None:
    leave_all(here, here.writer)
    for name in (here.writer.host, here.writer.host.partition("/")[0]):
        with pytest.raises(Locked, match="is where this process runs"):
            end_host(here.writer, here.store, name)
    assert len(keys_in(here.database, "intents")) == 1


def test_earlier_start_of_this_machine_is_ended_and_not_this_one(
    here: Writing, on_host: Callable[[str], Writer]
) -> None:
    machine = here.writer.host.partition("/")[0]
    leave_all(here, on_host(f"{machine}/ffffffff.1.1"))
    leave_all(here, here.writer)
    assert end_host(here.writer, here.store, machine).hosts == (f"{machine}/ffffffff.1.1",)
    assert rows(here.database, "SELECT host FROM intents") == [(here.writer.host,)]


def test_restore_that_a_lost_host_stands_in_the_way_of_says_how_to_go_on(
    on_bucket: Settings, here: Writing, on_host: Callable[[str], Writer]
) -> None:
    on_host(LOST)
    with pytest.raises(Locked, match=f"recover --host-gone {sign_of(LOST)}"):
        writers.require_alone(here.store, here.writer.staging.owner)
    assert hosts.host_gone(on_bucket, sign_of(LOST)).signs_removed == 1
    writers.require_alone(here.store, here.writer.staging.owner)


def test_signs_go_also_where_the_database_was_lost(
    on_bucket: Settings, here: Writing, on_host: Callable[[str], Writer], tmp_path: Path
) -> None:
    on_host(LOST)
    lost = replace(on_bucket, database=f"sqlite:///{tmp_path / 'none.db'}")
    assert hosts.host_gone(lost, "worker-3").signs_removed == 1
    with pytest.raises(NotFound):
        hosts.host_gone(lost, "worker-3")
    with pytest.raises(Locked):
        hosts.host_gone(lost, here.writer.host)
    with closing(open_store(lost)) as store:
        assert {name.split("/")[2] for name in store.walk_records("staging")} == {sign_of(here.writer.host)}


def test_host_of_a_registry_in_a_folder_is_ended_by_its_name(writing: Writing) -> None:
    reserve(writing.database, [Digest.of(b"x")], uuid4(), "gone", Lifetimes())
    done = end_host(writing.writer, writing.store, "gone")
    assert (done.hosts, done.intents_taken_back, done.signs_removed) == (("gone",), 1, 0)
    with pytest.raises(NotFound, match="there is none but this one"):
        end_host(writing.writer, writing.store, "gone")
