"""PostgreSQL's own processes, killed around COMMIT."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from regmeta.db import Stamp
from regmeta.ingest import commit, statements, tags
from tests.crash.harness import postgres_kills
from tests.crash.harness.places import arena
from tests.crash.harness.report import Result


def assert_nothing_lost(result: Result) -> None:
    if result.skipped:
        pytest.skip(result.skipped)
    assert not result.failures, "\n".join(map(str, result.failures))


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_moves_of_tags_have_one_effect_whatever_process_of_postgresql_dies() -> None:
    with arena(None) as found:
        result = postgres_kills.run(found)
    assert_nothing_lost(result)
    killed = {"backend": 0, "postmaster": 0}
    for point in result.points:
        killed[point.partition(" ")[0]] += 1
    assert killed["postmaster"] >= 6
    if not any("no strace" in note for note in result.notes):
        assert killed["backend"] >= 24
        assert result.killed >= 30


def test_push_has_one_effect_when_its_backend_dies_around_commit() -> None:
    with arena(None) as found:
        result = postgres_kills.run(found, quick=True)
    assert_nothing_lost(result)
    assert result.killed == len(result.points)


def test_second_effect_is_found_where_a_retry_forgets_its_id() -> None:
    with arena(None) as found:
        result = postgres_kills.run(found, quick=True, mutate=_forget_ids)
    if result.skipped:
        pytest.skip(result.skipped)
    if any("no strace" in note for note in result.notes):
        pytest.skip("no strace: nobody dies between COMMIT and its answer")
    assert any("was asked to be" in failure.text for failure in result.failures)


def _forget_ids() -> None:
    """Give each try of a transaction another id."""

    def change(stamp: Stamp, actor: str, _: UUID) -> statements.Change:
        return statements.Change(stamp, actor, uuid4())

    for module in (commit, tags):
        module.Change = change  # type: ignore[attr-defined]
