"""Images that are committed with what belongs to them: one transaction, and nobody pays for others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.ingest.plan import GroupOutcome, ImageGroup, ImageRequest, PlannedImage
from regmeta.ingest.snapshots import SnapshotWriter
from regmeta.ingest.tag_locks import lock_tags
from regmeta.oci import layout as oci_layout
from regmeta.oci.digest import Digest
from regmeta.sources.open import open_source
from regmeta.store import layouts
from tests.builders import Json, LayoutBuilder, digest_of, make_layout
from tests.support.registry import change, counts, request, requests, rows, scalar, source_of, tags
from tests.support.sources import WatchedSource
from tests.support.statements import counted

SIGNATURE: Final = "application/vnd.example.signature"
REMOTE_ERRORS: Final = [errors.RemoteUnavailable, errors.RemoteRefused, errors.UnsafeRemote]


class Images:
    """One layout, whose blobs can be made to fail."""

    def __init__(self, writing: Writing, builder: LayoutBuilder, source: WatchedSource) -> None:
        self.builder = builder
        self.source = source
        self._writing = writing
        self.failing: dict[Digest, Exception] = {}
        source.before = self._fail

    def plan(self, image: Json, tag: str | None = "v1", repository: str = "app") -> PlannedImage:
        return self._writing.registry.copy_manifest(request(self.source, image, repository, tag))

    def commit(self, *groups: ImageGroup) -> list[GroupOutcome]:
        return self._writing.registry.commit_groups(groups)

    def _fail(self, digest: Digest) -> None:
        if digest in self.failing:
            raise self.failing[digest]


@pytest.fixture
def made(builder: LayoutBuilder) -> dict[str, Json]:
    """Two images of one layer each, and what refers to the first."""
    layers = {name: builder.layer(f"layer of {name}".encode()) for name in ("one", "two")}
    images: dict[str, Json] = {name: builder.image([layer]) for name, layer in layers.items()}
    signature = builder.artifact(b"signed", SIGNATURE, images["one"])
    sbom = builder.artifact(b"listed", "application/vnd.example.sbom", images["one"])
    found = {**images, "signature": signature, "sbom": sbom}
    found |= {f"layer {name}": layer for name, layer in layers.items()}
    found["payload"] = builder.blob(b"signed")
    return found


@pytest.fixture
def images(writing: Writing, builder: LayoutBuilder, layout: Path, made: dict[str, Json]) -> Iterator[Images]:
    with source_of(builder, layout) as source:
        yield Images(writing, builder, WatchedSource(source))


def statuses(outcome: GroupOutcome) -> tuple[str, ...]:
    return (outcome.image.status, *(each.status for each in outcome.companions))


def test_groups_are_one_transaction_and_answer_in_order(
    writing: Writing, images: Images, made: dict[str, Json]
) -> None:
    first = ImageGroup(images.plan(made["one"]), (images.plan(made["signature"], None),))
    second = ImageGroup(images.plan(made["two"], "v2", "other"))
    outcomes = images.commit(first, second)
    assert [statuses(each) for each in outcomes] == [("imported", "imported"), ("imported",)]
    assert [each.image.image for each in outcomes] == ["app:v1", "other:v2"]
    assert outcomes[0].image.copied_bytes > 0
    assert outcomes[0].image.digest == digest_of(made["one"])
    assert counts(writing.database, "ingests", "manifests") == {"ingests": 1, "manifests": 3}


def test_no_groups_are_no_ingest(writing: Writing, images: Images) -> None:
    assert images.commit() == []
    assert counts(writing.database, "ingests") == {"ingests": 0}


@pytest.mark.parametrize("error", REMOTE_ERRORS)
def test_source_that_fails_for_one_image_stops_no_other(
    writing: Writing, images: Images, made: dict[str, Json], error: type[errors.Error]
) -> None:
    groups = [ImageGroup(images.plan(made["one"])), ImageGroup(images.plan(made["two"], "v2"))]
    images.failing[digest_of(made["layer one"])] = error("502")
    outcomes = images.commit(*groups)
    assert [statuses(each) for each in outcomes] == [("failed",), ("imported",)]
    assert type(outcomes[0].image.error) is error
    assert tags(writing.database) == {"v2": digest_of(made["two"])}


def test_disk_that_fails_stops_the_whole_batch(
    writing: Writing, images: Images, made: dict[str, Json]
) -> None:
    groups = [ImageGroup(images.plan(made["one"])), ImageGroup(images.plan(made["two"], "v2"))]
    images.failing[digest_of(made["layer one"])] = errors.StoreUnavailable("full")
    with pytest.raises(errors.StoreUnavailable):
        images.commit(*groups)
    assert tags(writing.database) == {}
    assert counts(writing.database, "intents") == {"intents": 0}


@pytest.mark.parametrize("all_or_nothing", [False, True])
def test_companions_of_a_failed_image_are_left_out(
    writing: Writing, images: Images, made: dict[str, Json], all_or_nothing: bool
) -> None:
    companions = (images.plan(made["signature"], None), images.plan(made["sbom"], None))
    images.failing[digest_of(made["layer one"])] = errors.RemoteUnavailable("502 of the layer")
    other = ImageGroup(images.plan(made["two"], "v2"))
    found, good = images.commit(ImageGroup(images.plan(made["one"]), companions, all_or_nothing), other)
    assert statuses(found) == ("failed", "failed", "failed")
    assert statuses(good) == ("imported",)
    for companion in found.companions:
        assert isinstance(companion.error, errors.LeftOut)
        assert "app:v1" in str(companion.error)
        assert "502 of the layer" in str(companion.error)
        assert isinstance(companion.error.because, errors.RemoteUnavailable)
    assert counts(writing.database, "manifests") == {"manifests": 1}


def test_failed_companion_is_only_reported(writing: Writing, images: Images, made: dict[str, Json]) -> None:
    companions = (images.plan(made["signature"], None), images.plan(made["sbom"], None))
    images.failing[digest_of(made["payload"])] = errors.RemoteUnavailable("502")
    [found] = images.commit(ImageGroup(images.plan(made["one"]), companions))
    assert statuses(found) == ("imported", "failed", "imported")
    assert isinstance(found.companions[0].error, errors.RemoteUnavailable)
    assert tags(writing.database) == {"v1": digest_of(made["one"])}


def test_failed_companion_keeps_its_image_out_where_it_is_all_or_nothing(
    writing: Writing, images: Images, made: dict[str, Json]
) -> None:
    companions = (images.plan(made["signature"], None), images.plan(made["sbom"], None))
    images.failing[digest_of(made["payload"])] = errors.RemoteUnavailable("502 of the signature")
    [found] = images.commit(ImageGroup(images.plan(made["one"]), companions, all_or_nothing=True))
    assert statuses(found) == ("failed", "failed", "failed")
    for outcome in (found.image, found.companions[1]):
        assert isinstance(outcome.error, errors.LeftOut)
        assert "502 of the signature" in str(outcome.error)
        assert isinstance(outcome.error.because, errors.RemoteUnavailable)
    assert tags(writing.database) == {}
    assert counts(writing.database, "manifests", "intents") == {"manifests": 0, "intents": 0}


@pytest.mark.parametrize("all_or_nothing", [False, True])
def test_tag_that_may_not_be_moved_takes_its_group_with_it(
    writing: Writing, images: Images, made: dict[str, Json], all_or_nothing: bool
) -> None:
    images.commit(ImageGroup(images.plan(made["two"])))
    lock_tags(writing.writer, "app", "v1")
    signature = images.plan(made["signature"], None)
    found, good = images.commit(
        ImageGroup(images.plan(made["one"]), (signature,), all_or_nothing),
        ImageGroup(images.plan(made["two"], "v3")),
    )
    assert statuses(found) == ("failed", "failed")
    assert isinstance(found.image.error, errors.ImmutableTag)
    assert isinstance(found.companions[0].error, errors.LeftOut)
    assert statuses(good) == ("imported",)
    assert tags(writing.database) == dict.fromkeys(("v1", "v3"), digest_of(made["two"]))


def test_companion_whose_tag_may_not_be_moved_keeps_its_image_out_where_it_is_all_or_nothing(
    writing: Writing, images: Images, made: dict[str, Json]
) -> None:
    images.commit(ImageGroup(images.plan(made["two"], "signed")))
    lock_tags(writing.writer, "app", "signed")
    signature = images.plan(made["signature"], "signed")
    [found] = images.commit(ImageGroup(images.plan(made["one"]), (signature,)))
    assert statuses(found) == ("imported", "failed")
    [found] = images.commit(ImageGroup(images.plan(made["one"], "v2"), (signature,), True))
    assert statuses(found) == ("failed", "failed")
    assert tags(writing.database) == {"v1": digest_of(made["one"]), "signed": digest_of(made["two"])}


def test_repository_that_is_being_removed_costs_only_its_own_images(
    writing: Writing, images: Images, made: dict[str, Json]
) -> None:
    images.commit(ImageGroup(images.plan(made["two"], "v1", "going")))
    change(writing.database, "UPDATE repositories SET state = 'purging' WHERE name = 'going'")
    going, staying = ImageGroup(images.plan(made["one"], "v2", "going")), ImageGroup(images.plan(made["one"]))
    found, good = images.commit(going, staying)
    assert isinstance(found.image.error, errors.RepositoryNotActive)
    assert statuses(good) == ("imported",)
    with pytest.raises(errors.RepositoryNotActive):
        images.commit(going)
    change(writing.database, "UPDATE repositories SET state = 'active'")


def test_two_images_for_one_tag_are_not_both_taken_in(
    writing: Writing, images: Images, made: dict[str, Json]
) -> None:
    first, second = images.commit(ImageGroup(images.plan(made["one"])), ImageGroup(images.plan(made["two"])))
    assert statuses(first) == ("imported",)
    assert isinstance(second.image.error, errors.InvalidSource)
    assert tags(writing.database) == {"v1": digest_of(made["one"])}


def test_image_that_lies_about_the_size_of_a_layer_costs_no_other_group(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    layer = builder.layer(b"shared by both")
    good = builder.image([layer])
    liar = builder.image([{**layer, "size": layer["size"] + 1}])
    companion = builder.image([{**layer, "size": layer["size"] - 1}])
    with source_of(builder, layout) as source:
        images = Images(writing, builder, WatchedSource(source))
        lying, found = images.commit(
            ImageGroup(images.plan(liar, "liar")),
            ImageGroup(images.plan(good), (images.plan(companion, None),)),
        )
    assert isinstance(lying.image.error, errors.SizeMismatch)
    assert statuses(found) == ("imported", "failed")
    assert tags(writing.database) == {"v1": digest_of(good)}


def test_image_that_needs_nothing_new_is_taken_in_beside_bad_ones(
    writing: Writing, images: Images, made: dict[str, Json]
) -> None:
    images.commit(ImageGroup(images.plan(made["one"])))
    images.source.opened.clear()
    images.failing[digest_of(made["layer two"])] = errors.RemoteUnavailable("502")
    bad, again = images.commit(
        ImageGroup(images.plan(made["two"], "v2")), ImageGroup(images.plan(made["one"], "v1", "mounted"))
    )
    assert (statuses(bad), statuses(again)) == (("failed",), ("imported",))
    assert again.image.copied_bytes == 0
    assert digest_of(made["layer one"]) not in images.source.opened


def test_statements_do_not_grow_with_the_groups(writing: Writing, tmp_path: Path) -> None:
    sent = []
    for number, size in enumerate((1, 40)):
        make_layout(tmp_path / str(number), size, seed=number)
        with closing(open_source(str(tmp_path / str(number)))) as source:
            wanted = [writing.registry.copy_manifest(each) for each in requests(source)]
        change(writing.database, "DELETE FROM gc_tasks")
        change(writing.database, "DELETE FROM tags")
        with counted(writing.database.engine) as found:
            writing.registry.commit_groups([ImageGroup(image) for image in wanted])
        sent.append(found)
    assert len(sent[0]) == len(sent[1]) <= 27, f"{sent[0]}\n--\n{sent[1]}"


def test_snapshot_waits_for_a_thread_that_is_long_at_the_layout(
    writing: Writing, images: Images, made: dict[str, Json], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process is not waited for as long: the next writer does it then."""
    reached, let_go = threading.Event(), threading.Event()
    objects_of = SnapshotWriter._objects

    def slow(*given: Any) -> Any:
        first = not reached.is_set()
        reached.set()
        assert not first or let_go.wait(30)
        return objects_of(*given)

    monkeypatch.setattr(SnapshotWriter, "_objects", slow)
    groups = [ImageGroup(images.plan(made[name], name)) for name in ("one", "two")]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(images.commit, groups[0])
        assert reached.wait(30)
        second = pool.submit(images.commit, groups[1])
        while tags(writing.database).keys() != {"one", "two"}:
            time.sleep(0.01)
        time.sleep(2 * layouts.LOCK_TIMEOUT_S)
        let_go.set()
        assert [statuses(found) for each in (first, second) for found in each.result(30)] == [
            ("imported",)
        ] * 2
    assert counts(writing.database, "layout_outbox") == {"layout_outbox": 0}
    shown = Path(writing.settings.store) / "repositories" / "app" / "_layout"
    for name in ("layer one", "layer two"):
        assert (shown / oci_layout.blob_path(digest_of(made[name]))).exists()


def test_many_threads_commit_into_one_repository_and_its_layout_shows_all(
    writing: Writing, tmp_path: Path
) -> None:
    """Each batch's blobs come into the layout, and the snapshot is of the last revision."""
    threads, images_each = 6, 3

    def commit(number: int) -> list[GroupOutcome]:
        make_layout(tmp_path / str(number), images_each, seed=number)
        with closing(open_source(str(tmp_path / str(number)))) as source:
            found = []
            for each in requests(source):
                wanted = ImageRequest(source, each.descriptor, "app", f"{each.tag}-{number}")
                group = ImageGroup(writing.registry.copy_manifest(wanted))
                found += writing.registry.commit_groups([group])
            return found

    with ThreadPoolExecutor(threads) as pool:
        outcomes = [outcome for found in pool.map(commit, range(threads)) for outcome in found]
    assert {outcome.image.status for outcome in outcomes} == {"imported"}
    assert len(tags(writing.database)) == threads * images_each
    assert counts(writing.database, "layout_outbox", "intents") == {"layout_outbox": 0, "intents": 0}
    shown = Path(writing.settings.store) / "repositories" / "app" / "_layout"
    digests = [
        Digest.from_bytes(bytes(each)) for (each,) in rows(writing.database, "SELECT digest FROM blobs")
    ]
    assert digests
    assert all((shown / oci_layout.blob_path(digest)).exists() for digest in digests)
    assert scalar(writing.database, "SELECT revision FROM repositories") == threads * images_each
