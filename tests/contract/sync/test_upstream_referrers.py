"""Referrers by the API and by the tag schema; an error is never "none"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from regmeta.errors import DigestMismatch, InvalidSource, RemoteRefused, RemoteUnavailable, UnsafeRemote
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import MAX_MANIFEST_BYTES
from regmeta.oci.names import referrers_tag
from regmeta.sources.registry import referrers
from regmeta.sources.registry.upstream import Upstream
from tests.builders import Json, LayoutBuilder, digest_of, dumps, parsed
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.clients import upstream_of
from tests.support.registries.docker_registry import DockerRegistry
from tests.support.registries.rules import Cut, Headers, Status, WrongBytes

API = "/referrers/"
SIGNATURE = "application/vnd.example.signature"
INDEX = {"Content-Type": media_types.OCI_INDEX}


@pytest.fixture
def upstream(bad_registry: BadRegistry) -> Iterator[Upstream]:
    with upstream_of(bad_registry.url) as found:
        yield found


def signed(count: int, algorithm: str = "sha256") -> tuple[LayoutBuilder, Json, list[Json]]:
    """Return an image with so many signatures, which no tag names."""
    builder = LayoutBuilder(algorithm=algorithm)
    image = builder.image()
    builder.tag(image, "v1")
    signatures = [builder.artifact(b"%d" % number, SIGNATURE, image) for number in range(count)]
    return builder, image, signatures


def with_tag_schema(builder: LayoutBuilder, image: Json, signatures: list[Json]) -> None:
    builder.tag(builder.index(signatures), referrers_tag(digest_of(image)))


def test_docker_registry_has_the_tag_schema_only(docker_registry: DockerRegistry) -> None:
    builder, image, signatures = signed(2)
    with_tag_schema(builder, image, signatures)
    unsigned = builder.image()
    builder.tag(unsigned, "v2")
    repository = docker_registry.unique_name()
    docker_registry.push(builder, repository)
    with upstream_of(docker_registry.url) as upstream:
        known = [upstream.has_referrers_api]
        found = upstream.referrers(repository, digest_of(image))
        assert list(found) == [parsed(signature) for signature in signatures]
        assert [item.artifact_type for item in found] == [SIGNATURE] * 2
        known.append(upstream.has_referrers_api)
        assert upstream.referrers(repository, digest_of(unsigned)) == []
        assert known == [None, False]


def test_api_is_read_page_by_page(bad_registry: BadRegistry, upstream: Upstream) -> None:
    builder, image, signatures = signed(7)
    bad_registry.push(builder, "app")
    bad_registry.page_size = 3
    found = upstream.referrers("app", digest_of(image))
    assert {item.digest for item in found} == {digest_of(signature) for signature in signatures}
    assert all(item.artifact_type == SIGNATURE for item in found)
    assert bad_registry.count("GET", API) == 3
    assert upstream.has_referrers_api is True
    assert upstream.referrers("app", found[0].digest) == []
    assert bad_registry.count("GET", "/manifests/") == 0


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_tag_schema_is_read_where_the_api_is_missing(
    bad_registry: BadRegistry, upstream: Upstream, algorithm: str
) -> None:
    builder, image, signatures = signed(2, algorithm)
    with_tag_schema(builder, image, signatures)
    bad_registry.push(builder, "app")
    bad_registry.referrers_api = False
    for _ in range(3):
        found = upstream.referrers("app", digest_of(image))
        assert list(found) == [parsed(signature) for signature in signatures]
    assert upstream.has_referrers_api is False
    assert bad_registry.count("GET", API) == 1  # not asked again
    tag = f"{algorithm}-{digest_of(image).hex[:64]}"
    assert bad_registry.count("GET", f"/manifests/{tag}$") == 3


@pytest.mark.parametrize("status", [404, 405, 400, 302, 303, 307])
def test_answers_of_registries_without_the_api_lead_to_the_tag_schema(
    bad_registry: BadRegistry, upstream: Upstream, status: int
) -> None:
    builder, image, signatures = signed(1)
    with_tag_schema(builder, image, signatures)
    bad_registry.push(builder, "app")
    location = {"Location": "http://elsewhere.example/"} if 300 <= status < 400 else {}
    bad_registry.misbehave(API, Status(status, location))
    assert len(upstream.referrers("app", digest_of(image))) == 1


def test_unknown_repository_does_not_say_that_there_is_no_api(
    bad_registry: BadRegistry, upstream: Upstream
) -> None:
    builder, image, signatures = signed(1)
    bad_registry.push(builder, "app")
    assert upstream.referrers("other", digest_of(image)) == []
    assert upstream.has_referrers_api is None
    assert len(upstream.referrers("app", digest_of(image))) == len(signatures)


@pytest.mark.parametrize(("status", "error"), [(500, RemoteUnavailable), (429, RemoteUnavailable)])
@pytest.mark.parametrize("api", [True, False])
def test_failing_registry_is_never_without_referrers(
    bad_registry: BadRegistry, upstream: Upstream, status: int, error: type[Exception], api: bool
) -> None:
    builder, image, _ = signed(1)
    bad_registry.push(builder, "app")
    bad_registry.referrers_api = api
    bad_registry.misbehave(API if api else "/manifests/", Status(status))
    with pytest.raises(error):
        upstream.referrers("app", digest_of(image))


def test_refusal_is_never_without_referrers(bad_registry: BadRegistry, upstream: Upstream) -> None:
    builder, image, _ = signed(1)
    bad_registry.push(builder, "app")
    bad_registry.misbehave(API, Status(403))
    with pytest.raises(RemoteRefused):
        upstream.referrers("app", digest_of(image))


def test_cut_list_is_asked_for_again(bad_registry: BadRegistry, upstream: Upstream) -> None:
    builder, image, _ = signed(3)
    bad_registry.push(builder, "app")
    bad_registry.misbehave(API, Cut(after_bytes=200, times=1))
    assert len(upstream.referrers("app", digest_of(image))) == 3


def index_of(*entries: Any) -> bytes:
    return dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": list(entries)})


GOOD = {"mediaType": media_types.OCI_MANIFEST, "digest": str(Digest.of(b"a")), "size": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"manifests": {}}',
        index_of(None),
        index_of(GOOD, {**GOOD, "digest": "sha256:../../etc/passwd"}),
        index_of(GOOD, {**GOOD, "size": -1}),
        index_of(GOOD, {**GOOD, "size": True}),
        index_of({**GOOD, "mediaType": "x"}),
        index_of({**GOOD, "annotations": {"a": 1}}),
        b'{"manifests": [], "manifests": []}',
        b'{"manifests": ' + b"[" * 50_000,
    ],
)
@pytest.mark.parametrize("api", [True, False])
def test_hostile_list_is_refused_whole(
    bad_registry: BadRegistry, upstream: Upstream, body: bytes, api: bool
) -> None:
    builder, image, _ = signed(1)
    bad_registry.push(builder, "app")
    bad_registry.referrers_api = api
    bad_registry.misbehave(API if api else "/manifests/", Status(200, INDEX, body))
    with pytest.raises(InvalidSource):
        upstream.referrers("app", digest_of(image))


def test_null_is_an_empty_list(bad_registry: BadRegistry, upstream: Upstream) -> None:
    bad_registry.misbehave(API, Status(200, INDEX, b'{"schemaVersion": 2, "manifests": null}'))
    assert upstream.referrers("app", Digest.of(b"x")) == []


def test_next_page_elsewhere_is_not_asked_for(bad_registry: BadRegistry, upstream: Upstream) -> None:
    headers = {**INDEX, "Link": '<http://127.0.0.2/v2/app/referrers/x>; rel="next"'}
    bad_registry.misbehave(API, Status(200, headers, index_of(GOOD)))
    with pytest.raises(UnsafeRemote):
        upstream.referrers("app", Digest.of(b"x"))


def test_list_without_end_is_given_up(
    bad_registry: BadRegistry, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {**INDEX, "Link": f'</v2/app/referrers/{Digest.of(b"x")}?p=2>; rel="next"'}
    bad_registry.misbehave(API, Status(200, headers, index_of(GOOD)))
    with pytest.raises(InvalidSource, match="nothing new"):
        upstream.referrers("app", Digest.of(b"x"))
    bad_registry.behave()
    builder, image, _ = signed(5)
    bad_registry.push(builder, "app")
    monkeypatch.setattr(referrers, "MAX_REFERRERS", 4)
    with pytest.raises(InvalidSource, match="more than 4 referrers"):
        upstream.referrers("app", digest_of(image))


def test_list_of_the_tag_schema_may_have_4_MiB_only(bad_registry: BadRegistry, upstream: Upstream) -> None:
    bad_registry.referrers_api = False
    body = index_of(GOOD) + b" " * MAX_MANIFEST_BYTES
    bad_registry.misbehave("/manifests/", Status(200, INDEX, body))
    with pytest.raises(InvalidSource, match="4194304"):
        upstream.referrers("app", Digest.of(b"x"))


def test_wrong_bytes_under_the_tag_are_refused(bad_registry: BadRegistry, upstream: Upstream) -> None:
    builder, image, signatures = signed(1)
    with_tag_schema(builder, image, signatures)
    bad_registry.push(builder, "app")
    bad_registry.referrers_api = False
    bad_registry.misbehave("/manifests/", WrongBytes())
    with pytest.raises(DigestMismatch):
        upstream.referrers("app", digest_of(image))


def test_tag_of_an_image_lists_no_referrers(bad_registry: BadRegistry, upstream: Upstream) -> None:
    """distribution-spec: what is not a valid index there lists none."""
    builder, image, _ = signed(1)
    builder.tag(builder.image(), referrers_tag(digest_of(image)))
    bad_registry.push(builder, "app")
    bad_registry.referrers_api = False
    assert upstream.referrers("app", digest_of(image)) == []


def test_each_referrer_is_listed_once(bad_registry: BadRegistry, upstream: Upstream) -> None:
    bad_registry.misbehave(API, Status(200, INDEX, index_of(GOOD, GOOD)))
    assert [str(item.digest) for item in upstream.referrers("app", Digest.of(b"x"))] == [GOOD["digest"]]


def test_mirror_that_lacks_the_repository_does_not_answer_for_the_next(bad_registry: BadRegistry) -> None:
    builder, image, _ = signed(2)
    bad_registry.push(builder, "app")
    with BadRegistry(referrers_api=False) as thin, upstream_of(thin.url, bad_registry.url) as upstream:
        assert len(upstream.referrers("app", digest_of(image))) == 2
        bad_registry.misbehave(API, Status(500))
        with pytest.raises(RemoteUnavailable):
            upstream.referrers("app", digest_of(image))


def test_header_says_nothing_of_what_is_in_the_body(bad_registry: BadRegistry, upstream: Upstream) -> None:
    builder, image, _ = signed(2)
    bad_registry.push(builder, "app")
    bad_registry.misbehave(API, Headers({"Content-Type": "application/json"}))
    assert len(upstream.referrers("app", digest_of(image))) == 2
