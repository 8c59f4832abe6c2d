"""Two processes that push to one tag all the time: nobody is refused, and each push is in the history."""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from regmeta.settings import Settings
from tests.builders import make_layout
from tests.crash.processes import started
from tests.support.registry import open_parts, rows, scalar


@pytest.fixture
def backend() -> str:
    """PostgreSQL only."""
    return "postgresql"


@pytest.mark.parametrize(
    "pushes", [15, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
)
def test_two_processes_push_one_tag_and_each_push_is_in_its_history(
    settings: Settings, tmp_path: Path, pushes: int
) -> None:
    for number in (1, 2):
        make_layout(tmp_path / f"{number}", pushes, seed=number)
    module = "tests.crash.push_tag"
    with (
        started(settings, "app", "v1", str(tmp_path / "1"), module=module) as one,
        started(settings, "app", "v1", str(tmp_path / "2"), module=module) as two,
    ):
        for process in (one, two):
            told, said = process.communicate(timeout=1000)
            assert (process.returncode, said) == (0, "")
            assert told.split() == ["imported"] * pushes
    with closing(open_parts(settings)[0]) as database:
        found = rows(
            database,
            "SELECT started_at, ended_at, manifest_digest FROM tags WHERE name = 'v1' ORDER BY started_at",
        )
        ids = "SELECT count(*) FROM events WHERE kind IN ('tag.created', 'tag.moved')"
        assert scalar(database, ids) == 2 * pushes
    assert len(found) == len({bytes(digest) for _, _, digest in found}) == 2 * pushes
    assert [ended for _, ended, _ in found[:-1]] == [started_at for started_at, _, _ in found[1:]]
    assert found[-1][1] is None
    assert all(one[0] < other[0] for one, other in pairwise(found))
