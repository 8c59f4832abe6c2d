"""A run of a policy: what is here is not fetched, what is missing is, and digests stay."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from regmeta.app import Writing
from regmeta.oci.digest import Digest
from regmeta.sync.pipeline import NoProgress
from regmeta.sync.policy import ContentRule
from regmeta.sync.run import run_policy
from tests.builders import AMD64, ARM64, LayoutBuilder, digest_of
from tests.support.mirroring import (
    blobs_fetched,
    bring,
    fetched,
    mirror_of,
    noted,
    outcome_of,
    sync,
    tags_of,
)
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.docker_registry import DockerRegistry
from tests.support.registries.rules import Cut, Status
from tests.support.registry import import_all, rows, tags

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def with_tags(count: int, seed: int = 0) -> LayoutBuilder:
    builder = LayoutBuilder(seed=seed)
    for number in range(count):
        builder.tag(builder.image([b"layer %d" % number]), f"v{number}")
    return builder


def test_all_tags_come_with_their_digests(writing: Writing, bad_registry: BadRegistry) -> None:
    builder = with_tags(5)
    bad_registry.push(builder, "app")
    report = sync(bad_registry, writing)
    assert report.outcome == "done"
    assert report.counts.copied == 5
    assert report.counts.requests == bad_registry.count()
    assert report.counts.copied_bytes == sum(map(len, builder.blobs.values()))
    assert tags(writing.database) == tags_of(builder)
    assert set(noted(writing).values()) == {("copied", None, 0)}


def test_unchanged_tag_costs_one_head_and_nothing_is_fetched(
    writing: Writing, bad_registry: BadRegistry
) -> None:
    bad_registry.push(with_tags(5), "app")
    sync(bad_registry, writing, referrers=False)
    bad_registry.requests.clear()
    report = sync(bad_registry, writing, referrers=False)
    assert report.counts.unchanged == 5
    assert bad_registry.count("HEAD", "/manifests/") == 5
    assert bad_registry.count() == 6  # and the list of tags


def test_moved_tag_moves_here_and_only_the_new_is_fetched(
    writing: Writing, bad_registry: BadRegistry
) -> None:
    builder = LayoutBuilder()
    builder.tag(builder.image([b"same", b"old"]), "v1")
    bad_registry.push(builder, "app")
    sync(bad_registry, writing)
    moved = builder.image([b"same", b"new"])
    builder.tag(moved, "v1")
    bad_registry.push(builder, "app")
    bad_registry.requests.clear()
    report = sync(bad_registry, writing)
    assert report.counts.copied == 1
    assert tags(writing.database) == {"v1": digest_of(moved)}
    assert len(blobs_fetched(bad_registry)) == 2  # its configuration and one layer


def test_blob_of_another_repository_is_not_fetched_again(writing: Writing, bad_registry: BadRegistry) -> None:
    builder = with_tags(3)
    bad_registry.push(builder, "one")
    sync(bad_registry, writing, "one")
    bad_registry.push(builder, "two")
    bad_registry.requests.clear()
    sync(bad_registry, writing, "two")
    assert tags(writing.database, "two") == tags_of(builder)
    assert blobs_fetched(bad_registry) == []


def test_content_that_was_imported_is_not_fetched_again(
    writing: Writing, bad_registry: BadRegistry, layout: Path
) -> None:
    builder = with_tags(3)
    import_all(writing, builder.write(layout), "elsewhere")
    bad_registry.push(builder, "app")
    sync(bad_registry, writing)
    assert blobs_fetched(bad_registry) == []
    assert tags(writing.database) == tags_of(builder)


def test_shared_layer_is_fetched_once_though_many_batches_want_it(
    writing: Writing, bad_registry: BadRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmeta.sync.pipeline.BATCH_IMAGES", 4)
    builder = LayoutBuilder()
    for number in range(40):
        builder.tag(builder.image([b"base" * 1000, b"own %d" % number]), f"v{number}")
    bad_registry.push(builder, "app")
    report = sync(bad_registry, writing, images_at_once=8)
    assert report.counts.copied == 40
    assert max(Counter(blobs_fetched(bad_registry)).values()) == 1


def test_failed_sync_fetches_only_what_is_missing_when_it_is_repeated(
    writing: Writing, bad_registry: BadRegistry
) -> None:
    builder = with_tags(6)
    bad_registry.push(builder, "app")
    bad = next(digest for digest, content in builder.blobs.items() if content == b"layer 3")
    bad_registry.misbehave(bad, Status(500))
    assert sync(bad_registry, writing).counts.failed == 1
    bad_registry.behave()
    bad_registry.requests.clear()
    assert sync(bad_registry, writing).counts.copied == 1
    # The batch was taken in without that image, so of it nothing is here.
    assert set(blobs_fetched(bad_registry)) <= {bad, *_config_of(builder, "v3")}
    assert tags(writing.database) == tags_of(builder)


def _config_of(builder: LayoutBuilder, tag: str) -> list[str]:
    manifest = json.loads(builder.blobs[str(tags_of(builder)[tag])])
    return [manifest["config"]["digest"]]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("docker", [False, True])
def test_nested_indexes_keep_every_digest(
    writing: Writing, bad_registry: BadRegistry, algorithm: str, docker: bool
) -> None:
    builder = LayoutBuilder(docker=docker, algorithm=algorithm)
    inner = builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)])
    builder.tag(builder.index([inner, builder.image(platform=AMD64)]), "v1")
    bad_registry.push(builder, "app")
    assert sync(bad_registry, writing).counts.copied == 1
    assert tags(writing.database) == tags_of(builder)
    found = {bytes(digest) for (digest,) in rows(writing.database, "SELECT digest FROM blobs")}
    assert found == {Digest.parse(digest).to_bytes() for digest in builder.blobs}


def test_foreign_layer_is_never_fetched(writing: Writing, bad_registry: BadRegistry) -> None:
    builder = LayoutBuilder()
    foreign = builder.blob(b"elsewhere", FOREIGN, urls=[f"{bad_registry.url}/v2/app/blobs/secret"])
    del builder.blobs[foreign["digest"]]
    builder.tag(builder.image([builder.layer(), foreign]), "v1")
    bad_registry.push(builder, "app")
    assert sync(bad_registry, writing).counts.copied == 1
    assert bad_registry.count(None, "secret") == 0
    assert foreign["digest"] not in blobs_fetched(bad_registry)


def test_artifact_with_the_empty_configuration_comes(writing: Writing, bad_registry: BadRegistry) -> None:
    builder = LayoutBuilder()
    builder.tag(builder.artifact(b"chart", "application/vnd.example.chart"), "v1")
    bad_registry.push(builder, "app")
    assert sync(bad_registry, writing).counts.copied == 1
    assert tags(writing.database) == tags_of(builder)


def test_docker_registry_is_mirrored_and_then_polled(
    writing: Writing, docker_registry: DockerRegistry
) -> None:
    builder = with_tags(4)
    builder.tag(builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)]), "multi")
    repository = docker_registry.unique_name()
    docker_registry.push(builder, repository)
    assert sync(docker_registry, writing, repository).counts.copied == 5
    assert tags(writing.database, repository) == tags_of(builder)
    again = sync(docker_registry, writing, repository)
    assert again.counts.unchanged == 5
    assert again.counts.requests == 6 + 2  # once it was asked whether it has the referrers API


def test_place_here_follows_the_rule(writing: Writing, bad_registry: BadRegistry) -> None:
    bad_registry.push(with_tags(2), "library/a", "library/b", "other")
    rules = (ContentRule("library/*", "mirror", strip_prefix=True),)
    report = sync(bad_registry, writing, content=rules)
    assert report.counts.copied == 4
    assert set(tags(writing.database, "mirror/a")) == set(tags(writing.database, "mirror/b")) == {"v0", "v1"}
    assert tags(writing.database, "other") == {}


def test_two_images_for_one_tag_are_not_taken_for_each_other(
    writing: Writing, bad_registry: BadRegistry
) -> None:
    bad_registry.push(with_tags(2), "a/app")
    bad_registry.push(with_tags(3, seed=1), "b/app")
    rules = (
        ContentRule("a/*", "here", strip_prefix=True),
        ContentRule("b/*", "here", strip_prefix=True),
    )
    report = sync(bad_registry, writing, content=rules)
    assert report.counts.copied == 3
    assert report.counts.failed == 2
    [first, second] = [item for item in report.items if item.outcome == "failed"]
    assert first.source == second.source == "b/app"
    assert first.error_class == "InvalidSource"
    again = sync(bad_registry, writing, content=rules)
    assert again.counts.unchanged == 3


def test_image_that_was_asked_for_by_digest_has_no_tag(writing: Writing, bad_registry: BadRegistry) -> None:
    builder = with_tags(2)
    bad_registry.push(builder, "app")
    digest = str(tags_of(builder)["v1"])
    assert bring(bad_registry, writing, digest).counts.copied == 1
    assert tags(writing.database) == {}
    report = bring(bad_registry, writing, "v1")
    assert outcome_of(report, "v1").outcome == "copied"
    bad_registry.requests.clear()
    assert bring(bad_registry, writing, digest).counts.unchanged == 1
    assert fetched(bad_registry) == 0


def test_two_processes_sync_one_policy_at_once(
    writing: Writing, other_writer: Callable[[], Writing], bad_registry: BadRegistry
) -> None:
    builder = with_tags(30)
    bad_registry.push(builder, "app")
    other = other_writer()
    reports = []
    with mirror_of(bad_registry, writing) as mine, mirror_of(bad_registry, other) as theirs:
        threads = [
            threading.Thread(target=lambda mirror=mirror: reports.append(run_policy(mirror)))
            for mirror in (mine, theirs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [report.outcome for report in reports] == ["done", "done"]
    assert [report.counts.failed for report in reports] == [0, 0]
    assert tags(writing.database) == tags_of(builder)
    assert noted(writing).keys() == tags_of(builder).keys()


def test_cut_blob_is_resumed_within_the_run(writing: Writing, bad_registry: BadRegistry) -> None:
    builder = LayoutBuilder()
    layer = builder.layer(b"0123456789" * 1000)["digest"]
    builder.tag(builder.image([b"0123456789" * 1000]), "v1")
    bad_registry.push(builder, "app")
    bad_registry.misbehave(f"/blobs/{layer}", Cut(after_bytes=100, times=1))
    assert sync(bad_registry, writing).counts.copied == 1
    [_, second] = bad_registry.seen("GET", f"/blobs/{layer}")
    assert second.headers["Range"] == "bytes=100-"


class Held(NoProgress):
    """Lets no byte pass until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def advanced(self, size_bytes: int) -> None:
        self.released.wait()


def test_images_that_wait_for_their_commit_are_not_read_ahead_without_bound(
    writing: Writing, bad_registry: BadRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmeta.sync.pipeline.BATCH_IMAGES", 2)
    monkeypatch.setattr("regmeta.sync.pipeline.COMMITTING", 2)
    bad_registry.push(with_tags(60), "app")
    progress = Held()
    with mirror_of(bad_registry, writing, progress=progress, images_at_once=2) as mirror:
        thread = threading.Thread(target=run_policy, args=(mirror,))
        thread.start()
        read = -1
        while read != (read := bad_registry.count("GET", "/manifests/")) or not blobs_fetched(bad_registry):
            thread.join(0.5)
        progress.released.set()
        thread.join()
    # Two batches that are held, one that waits, and what was being looked at each time: 4 at most.
    assert 0 < read <= 3 * (2 + 4)
    assert len(tags(writing.database)) == 60


def test_image_that_was_asked_for_by_name_and_is_not_there_leaves_no_row(
    writing: Writing, bad_registry: BadRegistry
) -> None:
    bad_registry.push(with_tags(1), "app")
    assert outcome_of(bring(bad_registry, writing, "typo"), "typo").error_class == "NotFound"
    assert rows(writing.database, "SELECT reference FROM sync_items") == []
    assert bring(bad_registry, writing, "v0").counts.copied == 1
    assert rows(writing.database, "SELECT reference FROM sync_items") == [("v0",)]
