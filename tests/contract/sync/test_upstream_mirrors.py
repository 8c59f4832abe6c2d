"""A registry and its mirrors: the next one is asked, and an error is never "absent"."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from regmeta.errors import NotFound, RemoteRefused, RemoteUnavailable, UnsafeRemote
from regmeta.sources.registry.mirrors import AVOIDED_S
from regmeta.sources.registry.upstream import Upstream
from tests.builders import Json, LayoutBuilder, digest_of, parsed
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.clients import upstream_of
from tests.support.registries.rules import Redirect, Status


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def mirror() -> Iterator[BadRegistry]:
    with BadRegistry() as found:
        yield found


@pytest.fixture
def image(bad_registry: BadRegistry, mirror: BadRegistry) -> Json:
    builder = LayoutBuilder()
    found = builder.image()
    builder.tag(found, "v1")
    bad_registry.push(builder, "app")
    mirror.push(builder, "app")
    return found


@pytest.fixture
def both(bad_registry: BadRegistry, mirror: BadRegistry) -> Iterator[Upstream]:
    with upstream_of(bad_registry.url, mirror.url) as found:
        yield found


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_mirror_is_left_alone_while_the_first_answers(
    both: Upstream, mirror: BadRegistry, image: Json
) -> None:
    assert both.resolve("app", "v1") == parsed(image)
    assert both.tags("app") == ["v1"]
    assert mirror.count() == 0


@pytest.mark.parametrize("status", [404, 401, 403, 429, 500, 503])
def test_mirror_is_asked_when_the_first_does_not_give_it(
    both: Upstream, bad_registry: BadRegistry, image: Json, status: int
) -> None:
    bad_registry.misbehave("/v2/", Status(status))
    both.ping()
    assert both.resolve("app", "v1") == parsed(image)
    assert both.image("app", "v1").descriptor == parsed(image)
    assert both.tags("app") == ["v1"]
    assert list(both.catalog()) == ["app"]


@pytest.mark.parametrize("failing", ["first", "second"])
@pytest.mark.parametrize(("status", "error"), [(503, RemoteUnavailable), (403, RemoteRefused)])
def test_error_of_one_and_absence_of_the_other_is_an_error(
    both: Upstream,
    bad_registry: BadRegistry,
    mirror: BadRegistry,
    failing: str,
    status: int,
    error: type[Exception],
) -> None:
    (bad_registry if failing == "first" else mirror).misbehave("/v2/", Status(status))
    for ask in (both.resolve, both.image):
        with pytest.raises(error):
            ask("app", "v1")
    with pytest.raises(error):
        both.tags("app")


def test_absent_everywhere_is_absent(both: Upstream, image: Json) -> None:
    with pytest.raises(NotFound):
        both.resolve("app", "v2")


def test_unsafe_place_ends_the_search(
    both: Upstream, bad_registry: BadRegistry, mirror: BadRegistry, image: Json
) -> None:
    """That is an attack, or a fault that somebody must see."""
    fetched = both.image("app", "v1")
    bad_registry.misbehave("/blobs/", Redirect("http://169.254.169.254/latest"))
    layer = next(digest for digest in bad_registry.blobs if digest not in bad_registry.types)
    with pytest.raises(UnsafeRemote):
        fetched.open(digest_of({"digest": layer}))
    assert mirror.count() == 0


def test_endpoint_that_cannot_be_connected_is_left_out_for_a_while(
    nobody: str, bad_registry: BadRegistry, image: Json
) -> None:
    clock = Clock()
    with upstream_of(nobody, bad_registry.url, clock_s=clock) as upstream:
        assert upstream.resolve("app", "v1") == parsed(image)
        tried = upstream.requests
        assert upstream.resolve("app", "v1") == parsed(image)
        assert upstream.requests == tried + 1
        clock.now_s += AVOIDED_S + 1
        assert upstream.resolve("app", "v1") == parsed(image)
        assert upstream.requests > tried + 2


def test_what_an_endpoint_left_out_might_have_is_not_absent(nobody: str, bad_registry: BadRegistry) -> None:
    with upstream_of(nobody, bad_registry.url, clock_s=Clock()) as upstream:
        for _ in range(2):  # the second time it is left out
            with pytest.raises(RemoteUnavailable):
                upstream.resolve("app", "v1")


def test_only_endpoint_is_never_left_out(nobody: str) -> None:
    with upstream_of(nobody, clock_s=Clock()) as upstream:
        for _ in range(2):
            before = upstream.requests
            with pytest.raises(RemoteUnavailable):
                upstream.resolve("app", "v1")
            assert upstream.requests > before


def test_registry_that_fails_for_one_image_is_not_left_out(
    both: Upstream, bad_registry: BadRegistry, image: Json
) -> None:
    bad_registry.misbehave("/manifests/v1", Status(500))
    assert both.resolve("app", "v1") == parsed(image)
    before = bad_registry.count()
    assert both.tags("app") == ["v1"]
    assert bad_registry.count() == before + 1
