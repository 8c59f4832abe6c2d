"""An image that somebody asks for: one copy for all who ask, the same answer, in the order of upstreams."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from regmeta.app import Writing
from regmeta.errors import (
    Error,
    InvalidDigest,
    InvalidName,
    NotFound,
    NotSigned,
    RemoteRefused,
    RemoteUnavailable,
)
from regmeta.sources.registry.terms import Terms
from regmeta.sync.on_demand import OnDemand, OnDemandResult
from tests.builders import AMD64, ARM64, LayoutBuilder, digest_of
from tests.support.mirroring import fetched, mirror_of, noted, policy_of, sync
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.clients import QUICK
from tests.support.registries.rules import Hang, Slow, Status
from tests.support.registry import change, counts, rows, tags


@contextmanager
def demanded(
    writing: Writing, *upstreams: tuple[BadRegistry, dict[str, Any]], terms: Mapping[int, Terms] = {}
) -> Iterator[OnDemand]:
    """Open what brings images, of upstreams in their order, each with what differs in its policy.

    *terms* are those of some of them, by position.
    """
    with ExitStack() as stack:
        mirrors = [
            stack.enter_context(
                mirror_of(
                    remote,
                    writing,
                    policy_of(**{"name": f"hub{number}", "on_demand": True, **options}),
                    terms=terms.get(number, QUICK),
                )
            )
            for number, (remote, options) in enumerate(upstreams)
        ]
        found = OnDemand(mirrors)
        stack.callback(found.close)
        yield found


@pytest.fixture
def remote(bad_registry: BadRegistry, builder: LayoutBuilder) -> BadRegistry:
    """A registry with v1 and v2."""
    for tag in ("v1", "v2"):
        builder.tag(builder.image([tag.encode() * 100]), tag)
    bad_registry.push(builder, "app")
    return bad_registry


@pytest.fixture
def second() -> Iterator[BadRegistry]:
    """Another registry, empty."""
    with BadRegistry() as registry:
        yield registry


def together(count: int, ask: Callable[[], OnDemandResult]) -> list[OnDemandResult | Error]:
    """Ask from many threads at once; return results and errors."""
    barrier = threading.Barrier(count)

    def one() -> OnDemandResult | Error:
        barrier.wait()
        try:
            return ask()
        except Error as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(one) for _ in range(count)]]


def test_many_who_ask_for_one_image_make_one_copy(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    remote.misbehave("/manifests/v1", Slow(0.3, times=1))
    with demanded(writing, (remote, {})) as demand:
        answers = together(20, lambda: demand.fetch("app", "v1"))
    assert answers == [OnDemandResult(digest_of(builder.entries[0]), "copied", "hub0")] * 20
    assert remote.count("GET", "/manifests/v1") == 1
    assert fetched(remote, "blobs") == 2
    assert counts(writing.database, "sync_runs") == {"sync_runs": 1}


def test_many_who_ask_in_vain_get_one_error(writing: Writing, remote: BadRegistry) -> None:
    remote.misbehave("/manifests/v1", Slow(0.3, times=1))
    remote.misbehave("/blobs/", Status(500))
    with demanded(writing, (remote, {})) as demand:
        answers = together(20, lambda: demand.fetch("app", "v1"))
    assert len({id(answer) for answer in answers}) == 1
    assert isinstance(answers[0], RemoteUnavailable)
    assert remote.count("GET", "/manifests/v1") == 1
    assert tags(writing.database) == {}


def test_next_one_who_asks_after_an_error_tries_again(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    remote.misbehave("/blobs/", Status(500))
    with demanded(writing, (remote, {})) as demand:
        with pytest.raises(RemoteUnavailable):
            demand.fetch("app", "v1")
        remote.behave()
        assert demand.fetch("app", "v1").status == "copied"


def test_who_leaves_does_not_end_the_copy(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    remote.misbehave("/blobs/", Slow(0.4))
    still = pytest.raises(RemoteUnavailable, match="still being copied")
    with demanded(writing, (remote, {})) as demand, still:
        demand.fetch("app", "v1", timeout_s=0.01)
    assert tags(writing.database) == {"v1": digest_of(builder.entries[0])}


def test_digest_that_is_here_is_not_asked_for(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    sync(remote, writing)
    remote.requests.clear()
    digest = digest_of(builder.entries[0])
    with demanded(writing, (remote, {})) as demand:
        assert demand.fetch("app", str(digest)) == OnDemandResult(digest, "local")
    assert remote.count() == 0
    assert counts(writing.database, "sync_runs") == {"sync_runs": 1}


def test_digest_that_is_not_here_is_brought(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    digest = digest_of(builder.entries[0])
    with demanded(writing, (remote, {})) as demand:
        assert demand.fetch("app", str(digest)).status == "copied"
        assert counts(writing.database, "manifests", "tags") == {"manifests": 1, "tags": 0}
        # Nothing but a lease keeps it: that is renewed, and nobody is asked.
        change(writing.database, "UPDATE manifests SET lease_until = 0")
        remote.requests.clear()
        assert demand.fetch("app", str(digest)) == OnDemandResult(digest, "local")
    assert remote.count() == 0
    assert rows(writing.database, "SELECT count(*) FROM manifests WHERE lease_until > 0") == [(1,)]


def test_digest_of_which_a_part_is_missing_is_completed(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    index = builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)])
    remote.push(builder, "app")
    with demanded(writing, (remote, {"platforms": ("linux/amd64",)})) as demand:
        assert demand.fetch("app", index["digest"]).status == "copied"
        assert demand.fetch("app", index["digest"]).status == "local"
    with demanded(writing, (remote, {})) as demand:
        assert demand.fetch("app", index["digest"]).status == "copied"
    assert counts(writing.database, "manifests") == {"manifests": 3}


def test_image_is_had_though_something_that_belongs_to_it_is_not(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    remote.misbehave("/referrers/", Status(500))
    with demanded(writing, (remote, {})) as demand:
        assert demand.fetch("app", "v1").status == "copied"
        assert noted(writing)["v1"] == ("failed", "RemoteUnavailable", 1)
        assert demand.fetch("app", "v1").digest == digest_of(builder.entries[0])


def test_tag_is_asked_about_each_time_or_once_in_a_while(
    writing: Writing, remote: BadRegistry, builder: LayoutBuilder
) -> None:
    digest = digest_of(builder.entries[0])
    with demanded(writing, (remote, {"referrers": False, "cosign_tags": False})) as demand:
        assert demand.fetch("app", "v1").status == "copied"
        remote.requests.clear()
        assert demand.fetch("app", "v1").status == "unchanged"
        assert [request.method for request in remote.requests] == ["HEAD"]
    remote.requests.clear()
    rare = {"referrers": False, "cosign_tags": False, "check_interval": timedelta(hours=1)}
    with demanded(writing, (remote, rare)) as demand:
        assert demand.fetch("app", "v1") == OnDemandResult(digest, "local", "hub0")
        assert remote.count() == 0
        change(writing.database, "UPDATE sync_items SET checked_at = checked_at - 3700000000")
        assert demand.fetch("app", "v1").status == "unchanged"
        assert remote.count() == 1


def test_check_interval_holds_for_an_image_of_the_second_upstream(
    writing: Writing, remote: BadRegistry, second: BadRegistry
) -> None:
    rare = {"check_interval": timedelta(hours=1)}
    with demanded(writing, (second, rare), (remote, rare)) as demand:
        assert demand.fetch("app", "v1").policy == "hub1"
        second.requests.clear()
        assert demand.fetch("app", "v1").status == "local"
    assert second.count() == 0


@pytest.mark.parametrize("status", [404, 401, 403, 500])
def test_next_upstream_is_asked_when_one_does_not_give_it(
    writing: Writing, remote: BadRegistry, second: BadRegistry, builder: LayoutBuilder, status: int
) -> None:
    second.misbehave("/v2/", Status(status))
    with demanded(writing, (second, {}), (remote, {})) as demand:
        result = demand.fetch("app", "v1")
    assert (result.status, result.policy) == ("copied", "hub1")
    assert second.count() > 0


def test_first_upstream_that_has_it_is_the_only_one_asked(
    writing: Writing, remote: BadRegistry, second: BadRegistry
) -> None:
    with demanded(writing, (remote, {}), (second, {})) as demand:
        assert demand.fetch("app", "v1").policy == "hub0"
    assert second.count() == 0


def test_unsigned_image_passes_the_question_on(
    writing: Writing, remote: BadRegistry, second: BadRegistry
) -> None:
    signed = {"only_signed": True}
    with demanded(writing, (remote, signed), (second, {})) as demand, pytest.raises(NotSigned):
        demand.fetch("app", "v1")
    with demanded(writing, (remote, {"only_signed": True}), (remote, {})) as demand:
        assert demand.fetch("app", "v1").policy == "hub1"


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("status", "error"), [(404, NotFound), (403, RemoteRefused), (500, RemoteUnavailable)]
)
def test_error_is_raised_that_leaves_most_open(
    writing: Writing, bad_registry: BadRegistry, second: BadRegistry, status: int, error: type, order: int
) -> None:
    second.misbehave("/v2/", Status(status))
    both: list[tuple[BadRegistry, dict[str, Any]]] = [(second, {}), (bad_registry, {})]
    with demanded(writing, *both[::-1] if order else both) as demand, pytest.raises(error):
        demand.fetch("app", "v1")
    assert bad_registry.count() > 0
    assert second.count() > 0


def test_unreachable_counts_more_than_unsigned(
    writing: Writing, remote: BadRegistry, second: BadRegistry
) -> None:
    second.misbehave("/v2/", Status(500))
    signed = {"only_signed": True}
    with demanded(writing, (second, {}), (remote, signed)) as demand, pytest.raises(RemoteUnavailable):
        demand.fetch("app", "v1")


def test_what_nobody_has_leaves_no_row_to_be_tried_again(writing: Writing, remote: BadRegistry) -> None:
    with demanded(writing, (remote, {})) as demand:
        for tag in ("nosuch", "nosuch2"):
            with pytest.raises(NotFound):
                demand.fetch("app", tag)
    assert noted(writing) == {}


def test_failure_is_noted_to_be_tried_again(writing: Writing, remote: BadRegistry) -> None:
    remote.misbehave("/blobs/", Status(500))
    with demanded(writing, (remote, {})) as demand, pytest.raises(RemoteUnavailable):
        demand.fetch("app", "v1")
    assert noted(writing)["v1"] == ("failed", "RemoteUnavailable", 1)


def test_name_that_nothing_is_mirrored_under_is_not_asked_for(writing: Writing, remote: BadRegistry) -> None:
    with demanded(writing, (remote, {})) as demand, pytest.raises(NotFound):
        demand.fetch("other", "v1")
    assert remote.count() == 0
    assert rows(writing.database, "SELECT * FROM sync_runs") == []


@pytest.mark.parametrize(
    ("repository", "reference", "error"),
    [("APP", "v1", InvalidName), ("app", "v 1", InvalidName), ("app", "sha256:1", InvalidDigest)],
)
def test_what_is_no_name_is_refused(
    writing: Writing, remote: BadRegistry, repository: str, reference: str, error: type[Error]
) -> None:
    with demanded(writing, (remote, {})) as demand, pytest.raises(error):
        demand.fetch(repository, reference)
    assert remote.count() == 0


def test_upstream_that_hangs_keeps_nobody_else_waiting(
    writing: Writing, remote: BadRegistry, second: BadRegistry, builder: LayoutBuilder
) -> None:
    second.push(builder, "slow")
    second.misbehave("/manifests/", Hang())
    slow = {"content": policy_of("slow").content}
    with demanded(writing, (second, slow), (remote, {})) as demand, ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(demand.fetch, "slow", f"v{number}") for number in range(20)]
        while second.count(None, "/manifests/") < 8:
            time.sleep(0.01)
        assert demand.fetch("app", "v1").status == "copied"
        assert not any(future.done() for future in waiting)
        second.close()
        for future in waiting:
            assert isinstance(future.exception(), RemoteUnavailable)


def test_layers_that_do_not_come_keep_no_other_upstream_waiting(
    writing: Writing, remote: BadRegistry, second: BadRegistry
) -> None:
    large = LayoutBuilder(seed=7)
    large.tag(large.image([bytes([number]) * 300_000 for number in range(9)]), "v1")
    second.push(large, "slow")
    slow = {"content": policy_of("slow").content}
    config = json.loads(large.blobs[large.entries[0]["digest"]])["config"]["digest"]
    second.misbehave(f"/blobs/(?!{config})", Hang())  # the configuration comes, the layers do not
    with (
        demanded(
            writing, (second, slow), (remote, {}), terms={0: replace(QUICK, read_timeout_s=120)}
        ) as demand,
        ThreadPoolExecutor(2) as pool,
    ):
        waiting = pool.submit(demand.fetch, "slow", "v1")
        while second.count(None, "/blobs/") < 6:
            time.sleep(0.01)
        healthy = pool.submit(demand.fetch, "app", "v1")
        try:
            assert healthy.result(60).status == "copied"
            assert not waiting.done()
        finally:
            second.close()
        assert isinstance(waiting.exception(), RemoteUnavailable)


@pytest.mark.inconsistent
def test_tag_whose_child_has_gone_here_is_asked_about_within_the_check_interval(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    builder.tag(builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)]), "v1")
    bad_registry.push(builder, "app")
    rare = {"check_interval": timedelta(hours=1)}
    with demanded(writing, (bad_registry, rare)) as demand:
        assert demand.fetch("app", "v1").status == "copied"
        assert demand.fetch("app", "v1").status == "local"
        change(
            writing.database,
            "UPDATE index_manifests SET child_id = NULL, absence = 'sparse' WHERE position = 1",
        )
        assert demand.fetch("app", "v1").status == "copied"
