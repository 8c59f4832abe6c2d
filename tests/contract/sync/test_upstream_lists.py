"""Tags and catalogs: whole, or an error."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from regmeta.errors import InvalidSource, NotFound, RemoteRefused, RemoteUnavailable, UnsafeRemote
from regmeta.sources.registry import listing, paging
from regmeta.sources.registry.upstream import Upstream
from tests.builders import LayoutBuilder
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.clients import reader_of, upstream_of
from tests.support.registries.docker_registry import DockerRegistry
from tests.support.registries.rules import Cut, Endless, Headers, Status


@pytest.fixture
def upstream(bad_registry: BadRegistry) -> Iterator[Upstream]:
    with upstream_of(bad_registry.url) as found:
        yield found


def tagged(count: int) -> LayoutBuilder:
    builder = LayoutBuilder()
    image = builder.image()
    for number in range(count):
        builder.tag(image, f"v{number:03}")
    return builder


def answer_with(registry: BadRegistry, value: object, link: str | None = None) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    headers = {} if link is None else {"Link": link}
    registry.misbehave("/tags/list", Status(200, headers, body))


def test_all_tags_of_docker_registry_are_listed(docker_registry: DockerRegistry) -> None:
    repository = docker_registry.unique_name()
    docker_registry.push(tagged(12), repository)
    with upstream_of(docker_registry.url) as upstream:
        upstream.ping()
        assert sorted(upstream.tags(repository)) == [f"v{number:03}" for number in range(12)]
        assert repository in list(upstream.catalog())
        with pytest.raises(NotFound):
            upstream.tags(docker_registry.unique_name())


def test_catalog_of_docker_registry_is_whole_in_small_pages(
    docker_registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {docker_registry.unique_name(prefix) for prefix in ("a/one", "b/two", "c/three", "d/four")}
    for name in names:
        docker_registry.push(tagged(1), name)
    monkeypatch.setattr(listing, "PAGE_NAMES", 1)
    with upstream_of(docker_registry.url) as upstream:
        found = list(upstream.catalog())
        assert names <= set(found)
        assert upstream.requests >= len(found)


def test_pages_are_followed_to_the_end(bad_registry: BadRegistry, upstream: Upstream) -> None:
    bad_registry.page_size = 3
    bad_registry.push(tagged(10), "one", "two", "three", "four")

    assert upstream.tags("one") == [f"v{number:03}" for number in range(10)]
    assert sorted(upstream.catalog()) == ["four", "one", "three", "two"]
    assert bad_registry.count("GET", "/tags/list") == 4
    assert bad_registry.count("GET", "/_catalog") == 2


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_lists_are_read_with_credentials(auth: str) -> None:
    with BadRegistry(auth=auth) as registry:  # type: ignore[arg-type]
        registry.push(tagged(2), "one")
        with upstream_of(registry.url, credentials=reader_of(registry.host)) as upstream:
            assert upstream.tags("one") == ["v000", "v001"]
            assert list(upstream.catalog()) == ["one"]
        with upstream_of(registry.url) as upstream, pytest.raises(RemoteRefused):
            upstream.tags("one")


@pytest.mark.parametrize("form", ["relative", "absolute", "bare", "unquoted", "among others"])
def test_next_page_is_found_in_each_form_of_a_link(
    bad_registry: BadRegistry, upstream: Upstream, form: str
) -> None:
    bad_registry.push(tagged(3))
    target = "/v2/app/tags/list?last=v000"
    link = {
        "relative": f'<{target}>; rel="next"',
        "absolute": f'<{bad_registry.url}{target}>; rel="next"',
        "bare": '<list?last=v000>; rel="next"',
        "unquoted": f"<{target}>;rel=next",
        "among others": f'</v2/>; rel="first", <{target}>; title="x"; rel="last next"',
    }[form]
    bad_registry.misbehave(r"list\?n=", Status(200, {"Link": link}, b'{"tags": ["v000"]}'))

    assert upstream.tags("app") == ["v000", "v001", "v002"]


def test_no_names_are_an_empty_list(bad_registry: BadRegistry, upstream: Upstream) -> None:
    bad_registry.tags["app"] = {}
    assert upstream.tags("app") == []
    answer_with(bad_registry, {"name": "app", "tags": None})
    assert upstream.tags("app") == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"name": "app"}',
        b'{"tags": {"v1": 1}}',
        b'{"tags": "v1"}',
        b'{"tags": ["v1", null]}',
        b'{"tags": ["v1", 2]}',
        b'{"tags": ["v1"], "tags": []}',
        b'{"tags": ["v1", "../../etc"]}',
        b'{"tags": ["v1", "a\\u0000b"]}',
        b'{"tags": ["\\ud800"]}',
        b'{"tags": ["' + b"v" * 129 + b'"]}',
        b"[" * 100_000,
        b'{"tags": ["v1"]} {"tags": []}',
    ],
)
def test_hostile_list_is_refused_whole(bad_registry: BadRegistry, upstream: Upstream, body: bytes) -> None:
    answer_with(bad_registry, body)
    with pytest.raises(InvalidSource):
        upstream.tags("app")


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2/v2/app/tags/list?last=a",
        "//elsewhere.example/v2/app/tags/list",
        "https://{host}/v2/app/tags/list?last=a",
        "http://user@{host}/v2/app/tags/list?last=a",
        "http://{host}@elsewhere.example/v2/app/tags/list",
        "http://127.0.0.1:1/v2/app/tags/list",
        "/token?last=a",
        "/v2/../token?last=a",
        "/v2/%2e%2e/token",
        "http://{host}/v2/../token",
        "http://{host}/v2/app/..",
        "/\\elsewhere.example/v2/",
        "ftp://{host}/v2/",
        "",
    ],
)
def test_next_page_elsewhere_is_not_asked_for(
    bad_registry: BadRegistry, upstream: Upstream, target: str
) -> None:
    bad_registry.push(tagged(2))
    link = target.format(host=bad_registry.host)
    answer_with(bad_registry, {"tags": ["v000"]}, f'<{link}>; rel="next"')
    with pytest.raises((UnsafeRemote, InvalidSource)) as caught:
        upstream.tags("app")
    if target:
        assert isinstance(caught.value, UnsafeRemote)
    assert bad_registry.count() == 1


def test_pages_without_end_are_given_up(
    bad_registry: BadRegistry, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_page = '</v2/app/tags/list?last={}>; rel="next"'
    answer_with(bad_registry, {"tags": ["v1"]}, next_page.format("v1"))
    with pytest.raises(InvalidSource, match="nothing new"):  # the second says what the first said
        upstream.tags("app")
    bad_registry.behave()
    for number in range(5):
        headers = {"Link": next_page.format(number % 3)}
        body = json.dumps({"tags": [f"v{number}"]}).encode()
        bad_registry.misbehave("/tags/list", Status(200, headers, body, times=1))
    with pytest.raises(InvalidSource, match="comes twice"):
        upstream.tags("app")
    bad_registry.behave()
    bad_registry.push(tagged(10))
    bad_registry.page_size = 2
    monkeypatch.setattr(paging, "MAX_PAGES", 4)
    with pytest.raises(InvalidSource, match="more than 4 pages"):
        upstream.tags("app")
    monkeypatch.undo()
    monkeypatch.setattr(listing, "MAX_NAMES", 9)
    with pytest.raises(InvalidSource, match="more than 9 tags"):
        upstream.tags("app")


def test_empty_page_with_a_next_one_is_refused(bad_registry: BadRegistry, upstream: Upstream) -> None:
    answer_with(bad_registry, {"tags": []}, '</v2/app/tags/list?last=z>; rel="next"')
    with pytest.raises(InvalidSource, match="nothing new"):
        upstream.tags("app")


def test_page_without_end_is_cut(
    bad_registry: BadRegistry, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 100_000)
    bad_registry.push(tagged(1))
    bad_registry.misbehave("/tags/list", Endless(50_000_000))
    with pytest.raises(InvalidSource):
        upstream.tags("app")


def test_failure_on_a_later_page_gives_no_list(bad_registry: BadRegistry, upstream: Upstream) -> None:
    bad_registry.page_size = 3
    bad_registry.push(tagged(10))
    bad_registry.misbehave("last=v005", Status(500))
    with pytest.raises(RemoteUnavailable):
        upstream.tags("app")
    bad_registry.behave()
    bad_registry.misbehave("last=v005", Status(404))
    with pytest.raises(NotFound):
        upstream.tags("app")


def test_page_that_is_cut_is_asked_for_again(bad_registry: BadRegistry, upstream: Upstream) -> None:
    bad_registry.push(tagged(10))
    bad_registry.misbehave("/tags/list", Cut(after_bytes=20, times=2))
    assert len(upstream.tags("app")) == 10
    bad_registry.misbehave("/tags/list", Cut(after_bytes=20))
    with pytest.raises(RemoteUnavailable):
        upstream.tags("app")


def test_what_is_no_registry_is_not_taken_for_one(bad_registry: BadRegistry, upstream: Upstream) -> None:
    upstream.ping()
    bad_registry.misbehave("/v2/$", Status(404))
    with pytest.raises(InvalidSource, match="not a registry"):
        upstream.ping()
    bad_registry.behave()
    bad_registry.misbehave("/v2/$", Status(503))
    with pytest.raises(RemoteUnavailable):
        upstream.ping()


def test_link_of_another_relation_is_not_followed(bad_registry: BadRegistry, upstream: Upstream) -> None:
    bad_registry.push(tagged(2))
    bad_registry.misbehave("/tags/list", Headers({"Link": '<http://elsewhere.example/>; rel="help"'}))
    assert upstream.tags("app") == ["v000", "v001"]
