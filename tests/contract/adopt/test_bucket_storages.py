"""Old registries that keep their content in a bucket: read there, they say what they serve."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from regmeta.errors import MissingContent, UsageError
from regmeta.object_storage.reach import Reach
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.media_types import IMAGE_MANIFESTS, INDEXES
from regmeta.oci.streams import read_up_to
from regmeta.sources.storage import RegistryStorage
from regmeta.sources.storage.layouts import LayoutTreeStorage
from regmeta.sources.storage.open import open_storage
from regmeta.sources.storage.trees.bucket import BucketTree
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of
from tests.support.bucket_files import BucketFiles
from tests.support.registries import docker_registry
from tests.support.registries.docker_registry_s3 import DockerRegistryS3
from tests.support.s3_proxy import S3Proxy
from tests.support.seaweed import Buckets

MIB: Final = 1024 * 1024


def content_of(storage: RegistryStorage, name: str, digest: Digest) -> bytes:
    with storage.source(name).open(digest) as stream:
        return read_up_to(stream, 64 * MIB)


# --- docker's registry ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(buckets: Buckets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistryS3]:
    """Debian's registry with its ``s3`` driver."""
    if not docker_registry.is_installed():
        pytest.skip(f"{docker_registry.PROGRAM} is not installed")
    with DockerRegistryS3(tmp_path_factory.mktemp("docker-registry-s3"), buckets.url()) as found:
        found.push(filled()[0], "found")  # a bucket in which nothing lies is no registry
        yield found


@pytest.fixture
def storage(registry: DockerRegistryS3) -> Iterator[RegistryStorage]:
    with closing(open_storage(registry.bucket_url, links=False)) as found:
        yield found


def asked(registry: DockerRegistryS3, path: str, method: str = "GET") -> tuple[Any, bytes]:
    """Ask the registry itself."""
    accepted = {"Accept": ", ".join(IMAGE_MANIFESTS | INDEXES)}
    request = urllib.request.Request(f"{registry.url}/v2/{path}", method=method, headers=accepted)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers, answer.read()


def served_tags(registry: DockerRegistryS3, name: str) -> dict[str, str]:
    tags = json.loads(asked(registry, f"{name}/tags/list")[1])["tags"]
    return {
        tag: asked(registry, f"{name}/manifests/{tag}", "HEAD")[0]["Docker-Content-Digest"] for tag in tags
    }


def filled(*, docker: bool = False, seed: int = 0) -> tuple[LayoutBuilder, Json]:
    """Return a layout of an index of two images that share a layer, and the index."""
    builder = LayoutBuilder(docker=docker, seed=seed)
    base = builder.layer()
    images = [builder.image([base, builder.layer()], platform=platform) for platform in (AMD64, ARM64)]
    index = builder.index(images)
    builder.tag(index, "v1")
    builder.tag(images[0], "amd64")
    return builder, index


def test_registry_on_s3_is_read_as_it_serves(registry: DockerRegistryS3, storage: RegistryStorage) -> None:
    repositories = [registry.unique_name("team")]
    repositories += [f"{repositories[0]}/app", f"{repositories[0]}/docker"]
    builders = [filled(seed=1)[0], filled(seed=2)[0], filled(docker=True, seed=3)[0]]
    artifact = builders[1].artifact(b"signed", "application/vnd.example", filled(seed=2)[1])
    builders[1].tag(artifact)
    for name, builder in zip(repositories, builders, strict=True):
        registry.push(builder, name)

    assert storage.kind == "docker"
    assert [name for name in storage.repositories() if name.startswith(repositories[0])] == repositories
    for name, builder in zip(repositories, builders, strict=True):
        found = storage.repository(name)
        assert found.defects == ()
        assert {tag.name: str(tag.digest) for tag in found.tags} == served_tags(registry, name)
        assert len(found.tags) == 2
        assert_same_content(registry, storage, name, builder, set(found.manifests))
        for at in (*found.manifests.values(), *(tag.tagged_at for tag in found.tags)):
            assert at is not None
            assert abs(datetime.now(UTC) - at) < timedelta(minutes=10)


def assert_same_content(
    registry: DockerRegistryS3,
    storage: RegistryStorage,
    name: str,
    builder: LayoutBuilder,
    manifests: set[Digest],
) -> None:
    """Compare every manifest and every blob with what was pushed and with what the registry serves."""
    for text, content in builder.blobs.items():
        digest = Digest.parse(text)
        kind = "manifests" if digest in manifests else "blobs"
        headers, served = asked(registry, f"{name}/{kind}/{text}")
        assert content_of(storage, name, digest) == served == content
        assert storage.blob_size(name, digest) == len(content)
        assert storage.is_linked(name, digest)
        if kind == "manifests":
            expected = Descriptor(headers["Content-Type"], digest, len(content))
            assert storage.descriptor(name, digest) == expected
            assert storage.source(name).read(expected, MIB) == content


def test_what_skopeo_pushed_is_read(
    registry: DockerRegistryS3, storage: RegistryStorage, tmp_path: Path
) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    builder, index = filled(seed=5)
    builder.write(tmp_path / "layout")
    name = registry.unique_name()
    target = f"docker://{registry.host}/{name}:v1"
    arguments = [
        "--all",
        "--preserve-digests",
        "--insecure-policy",
        "--dest-tls-verify=false",
        f"oci:{tmp_path}/layout:v1",
        target,
    ]
    subprocess.run(["skopeo", "copy", *arguments], check=True, timeout=120, stdout=subprocess.DEVNULL)

    found = storage.repository(name)
    assert [(tag.name, tag.digest) for tag in found.tags] == [("v1", digest_of(index))]
    assert_same_content(registry, storage, name, builder, set(found.manifests))


def test_deleted_manifest_and_its_tags_are_not_read(
    registry: DockerRegistryS3, storage: RegistryStorage
) -> None:
    builder, index = filled(seed=6)
    name = registry.unique_name()
    registry.push(builder, name)
    asked(registry, f"{name}/manifests/{digest_of(index)}", "DELETE")

    found = storage.repository(name)
    assert [tag.name for tag in found.tags] == ["amd64"]
    assert len(found.manifests) == 2
    assert digest_of(index) not in found.manifests


def test_blob_of_another_repository_is_there_and_not_linked(
    registry: DockerRegistryS3, storage: RegistryStorage
) -> None:
    names = [registry.unique_name() for _ in range(2)]
    builders = [filled(seed=seed)[0] for seed in (7, 8)]
    for name, builder in zip(names, builders, strict=True):
        registry.push(builder, name)
    others = [Digest.parse(text) for text in builders[1].blobs.keys() - builders[0].blobs.keys()]

    assert others
    assert not any(storage.is_linked(names[0], digest) for digest in others)
    assert all(storage.blob_size(names[0], digest) for digest in others)
    nobody = Digest.parse("sha256:" + "0" * 64)
    assert storage.blob_size(names[0], nobody) is None
    with pytest.raises(MissingContent):
        content_of(storage, names[0], nobody)


def test_fingerprint_tells_what_has_changed_from_a_listing_alone(
    registry: DockerRegistryS3, buckets: Buckets
) -> None:
    name, other = registry.unique_name(), registry.unique_name()
    builder, index = filled(seed=9)
    registry.push(builder, name)
    registry.push(builder, other)
    with (
        S3Proxy(buckets.endpoint) as proxy,
        closing(
            open_storage(registry.bucket_url, links=False, bucket=Reach(endpoint=proxy.endpoint))
        ) as storage,
    ):
        before = len(proxy.seen)
        first = [storage.fingerprint(each) for each in (name, other)]
        assert len(proxy.seen) == before + 2
        builder.tag(index, "v2")
        registry.push(builder, name)
        second = storage.fingerprint(name)
        assert second not in first
        asked(registry, f"{name}/manifests/{digest_of(index)}", "DELETE")
        assert storage.fingerprint(name) not in (second, *first)
        assert storage.fingerprint(other) == first[1]


@pytest.mark.parametrize("below", ["", "/", "/docker", "/docker/registry/v2", "/docker/registry/v2/"])
def test_storage_is_found_by_each_of_its_folders(registry: DockerRegistryS3, below: str) -> None:
    with closing(open_storage(registry.bucket_url + below, links=False)) as storage:
        assert "found" in list(storage.repositories())
        assert storage.location == registry.bucket_url


def test_bucket_without_what_reaches_buckets_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "regmeta.sources.storage.trees.bucket")
    monkeypatch.delitem(sys.modules, "regmeta.object_storage.objects")
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UsageError, match=r"pip install 'regmeta\[s3\]'"):
        open_storage("s3://bucket/old", links=False)


# --- zot --------------------------------------------------------------------------------------


def test_layouts_with_placeholders_are_read(buckets: Buckets) -> None:
    url = buckets.url()
    files = BucketFiles(url)
    first, index = filled(seed=11)
    second, _ = filled(seed=11)
    own = second.image([second.layer(b"of the second")])
    second.tag(own, "own")
    lost = second.blob(b"nobody has it")
    for name, content in first.files().items():
        files.write(f"team/first/{name}", content)
    for name, content in second.files().items():
        is_elsewhere = name in first.files() and name.startswith("blobs/")
        is_lost = name.endswith(lost["digest"].partition(":")[2])
        files.write(f"team/second/{name}", b"" if is_elsewhere or is_lost else content)

    with closing(LayoutTreeStorage(BucketTree(url), at_once=4)) as storage:
        assert list(storage.repositories()) == ["team/first", "team/second"]
        found = storage.repository("team/second")
        assert {tag.name: tag.digest for tag in found.tags} == {
            "v1": digest_of(index),
            "amd64": next(tag.digest for tag in storage.repository("team/first").tags if tag.name == "amd64"),
            "own": digest_of(own),
        }
        assert found.defects == ()
        for text, content in second.blobs.items():
            digest = Digest.parse(text)
            assert storage.is_linked("team/second", digest)
            if text == lost["digest"]:
                assert storage.is_placeholder("team/second", digest)
                assert storage.blob_size("team/second", digest) is None
                with pytest.raises(MissingContent):
                    content_of(storage, "team/second", digest)
            else:
                assert not storage.is_placeholder("team/second", digest)
                assert content_of(storage, "team/second", digest) == content
                assert storage.blob_size("team/second", digest) == len(content)


def test_fingerprint_of_a_layout_tells_what_has_changed(buckets: Buckets) -> None:
    url = buckets.url()
    files = BucketFiles(url)
    builder, index = filled(seed=12)
    for name, content in builder.files().items():
        files.write(f"app/{name}", content)

    with closing(open_storage(url, links=False)) as storage:
        assert storage.kind == "layouts"
        first = storage.fingerprint("app")
        assert storage.fingerprint("app") == first
        builder.tag(index, "v2")
        files.write("app/index.json", builder.files()["index.json"])
        assert storage.fingerprint("app") != first
        assert [tag.name for tag in storage.repository("app").tags] == ["amd64", "v1", "v2"]
