"""Times of what was taken over: those of the old registry's files, and marked as such."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from regmeta.ingest.plan import ADOPTED
from regmeta.oci.digest import Digest
from tests.contract.adopt.conftest import Adopting, OldDocker
from tests.support.old_registries.layouts import blob_path, zot_folder
from tests.support.registry import ACTOR

THEN = datetime(2022, 5, 6, 7, 8, 9, tzinfo=UTC)


def at(path: Path, when: datetime | float) -> None:
    seconds = when.timestamp() if isinstance(when, datetime) else when
    os.utime(path, (seconds, seconds))


def time_of(value: Any) -> datetime:
    """Return a time as a row has it: microseconds, of the database's own type."""
    if isinstance(value, int):
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=value)
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def pushed(adoption: Adopting, repository: str = "app") -> dict[Digest, tuple[datetime, str]]:
    return {digest: (time_of(when), by) for digest, when, by in adoption.manifest_rows(repository)}


def history(adoption: Adopting, tag: str) -> list[tuple[Digest, datetime, datetime | None, str]]:
    found = adoption.rows(
        "SELECT manifest_digest, started_at, ended_at, started_by FROM tags WHERE name = :name"
        " ORDER BY started_at, id",
        name=tag,
    )
    return [
        (Digest.from_bytes(bytes(digest)), time_of(begun), None if end is None else time_of(end), by)
        for digest, begun, end, by in found
    ]


def is_now(when: datetime) -> bool:
    return abs(datetime.now(UTC) - when) < timedelta(minutes=10)


def test_manifests_and_tags_have_the_times_of_their_files(old: OldDocker, adoption: Adopting) -> None:
    image = old.push("app", "v1")
    untagged = old.push("app")
    at(old.revision_link("app", str(image)), THEN)
    at(old.tag_link("app", "v1"), THEN + timedelta(days=1))
    at(old.revision_link("app", str(untagged)), THEN + timedelta(days=2))
    adoption.run()
    assert pushed(adoption) == {
        image: (THEN, f"{ADOPTED}{ACTOR}"),
        untagged: (THEN + timedelta(days=2), f"{ADOPTED}{ACTOR}"),
    }
    assert history(adoption, "v1") == [(image, THEN + timedelta(days=1), None, f"{ADOPTED}{ACTOR}")]


def test_layout_has_the_times_of_its_manifests(adopt: Callable[[Path], Adopting], tmp_path: Path) -> None:
    served = zot_folder(tmp_path / "zot", 6)
    for repository, digests in served.manifests.items():
        for digest in digests:
            path = blob_path(served.root / repository, str(digest))
            at(path, THEN)
    adoption = adopt(served.root)
    adoption.run()
    for repository, digests in served.manifests.items():
        found = pushed(adoption, repository)
        assert {found[digest] for digest in digests} == {(THEN, f"{ADOPTED}{ACTOR}")}


def test_tag_that_was_moved_twice_has_its_history_in_order(old: OldDocker, adoption: Adopting) -> None:
    images = []
    for number in range(3):
        images.append(old.push("app", "v1"))
        at(old.tag_link("app", "v1"), THEN + timedelta(days=number))
        adoption.run()
    found = history(adoption, "v1")
    assert [digest for digest, *_ in found] == images
    begun = [when for _, when, *_ in found]
    assert begun == sorted(begun)
    assert begun[0] == THEN
    for (_, _, end, _), (_, next_begun, _, _) in pairwise(found):
        assert end == next_begun
    assert found[-1][2] is None


def test_tag_whose_file_became_older_has_its_history_in_order(old: OldDocker, adoption: Adopting) -> None:
    """A restore from a backup brings a link back with the time that it had."""
    first = old.push("app", "v1")
    at(old.tag_link("app", "v1"), THEN)
    adoption.run()
    second = old.push("app", "v1")
    at(old.tag_link("app", "v1"), THEN - timedelta(days=100))
    adoption.run()
    (one, begun, end, _), (two, next_begun, last_end, _) = history(adoption, "v1")
    assert (one, two, last_end) == (first, second, None)
    assert begun == THEN
    assert end == next_begun
    assert next_begun > begun


@pytest.mark.parametrize(
    "when", [0.0, 86_400.0, -1.0, datetime(2999, 1, 1, tzinfo=UTC), 253_402_300_800.0, 2.0**40]
)
def test_time_that_nobody_set_is_that_of_the_adoption(
    old: OldDocker, adoption: Adopting, when: datetime | float
) -> None:
    image = old.push("app", "v1")
    try:
        at(old.revision_link("app", str(image)), when)
        at(old.tag_link("app", "v1"), when)
    except (OSError, OverflowError):
        pytest.skip("the file system has no such times")
    report = adoption.run()
    assert (report.brought, report.left_out) == (1, 0)
    assert is_now(pushed(adoption)[image][0])
    [(_, begun, _, _)] = history(adoption, "v1")
    assert is_now(begun)
