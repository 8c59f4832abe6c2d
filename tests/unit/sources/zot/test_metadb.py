"""zot's database: statistics of each manifest, users' favourites, and what is damaged named."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from regmeta.errors import InvalidSource
from regmeta.oci.digest import Digest
from regmeta.sources.zot import ImageStatistics, RepositoryStatistics
from regmeta.sources.zot.metadb import read_metadb
from tests.unit.sources.zot import messages
from tests.unit.sources.zot.bolt_files import BoltWriter

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
LAST = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
PUSHED = datetime(2023, 1, 2, tzinfo=UTC)


def read(path: Path, repositories: dict[bytes, bytes], **users: bytes) -> list[RepositoryStatistics]:
    of_users = {name.encode(): value for name, value in users.items()}
    buckets = {b"RepoMeta": repositories, b"UserData": of_users, b"ImageMeta": {b"x": b"y"}}
    return list(read_metadb(str(BoltWriter().write(path / "meta.db", buckets))))


def test_statistics_of_each_manifest_are_read(tmp_path: Path) -> None:
    images = {
        str(ONE): messages.statistics(12, LAST, PUSHED, "ann", messages.block(77, "of a later version")),
        str(TWO): messages.statistics(0, None, PUSHED),
    }
    app = messages.repository("team/app", images, stars=3)
    found = read(
        tmp_path,
        {b"team/app": app, b"empty": messages.repository("empty", {})},
        ann=messages.user(["team/app", "gone"], []),
        bob=messages.user(["team/app"], ["team/app", "team/app"]),
    )
    assert found == [
        RepositoryStatistics("empty"),
        RepositoryStatistics(
            "team/app",
            (ImageStatistics(ONE, 12, LAST, PUSHED, "ann"), ImageStatistics(TWO, 0, None, PUSHED, "")),
            3,
            ("ann", "bob"),
            ("bob",),
        ),
    ]


@pytest.mark.parametrize(
    "time",
    [
        b"",
        messages.number(1, -62135596800),  # Go's zero
        messages.number(2, 5),
        messages.number(1, 2**62),
        messages.number(1, 253402300799),
        messages.number(1, LAST.year) + messages.number(2, 2**31),
    ],
)
def test_time_that_is_none_is_never(tmp_path: Path, time: bytes) -> None:
    statistics = messages.number(1, 3) + messages.block(2, time) + messages.block(3, time)
    (found,) = read(tmp_path, {b"app": messages.repository("app", {str(ONE): statistics})})
    assert found.images == (ImageStatistics(ONE, 3, None, None),)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("sha256:short", messages.statistics(1, LAST, PUSHED), "sha256:short"),
        (str(ONE), messages.statistics(-1, LAST, PUSHED), "-1 pulls"),
        (str(ONE), messages.statistics(2**31, LAST, PUSHED), "2147483648 pulls"),
        (str(ONE), messages.statistics(1, LAST, PUSHED, "a\nb"), r"a\\nb"),
        (str(ONE), messages.block(1, b"x"), "bytes stand for a number"),
        (str(ONE), messages.number(2, 1), "a number stands for a message"),
        (str(ONE), messages.number(4, 1), "a number stands for a text"),
        (str(ONE), messages.block(4, b"\xff"), "not UTF-8"),
        (str(ONE), b"\x0a\x7f", "beyond the end"),
        (str(ONE), b"\x0b", "wire type 3"),
        (str(ONE), b"\x00\x00", "number 0"),
        (str(ONE), b"\x08" + b"\xff" * 11, "no end"),
        (str(ONE), b"\x08" + b"\xff" * 9 + b"\x7f", "64 bits"),
    ],
)
def test_damaged_statistics_are_a_problem_and_the_others_are_read(
    tmp_path: Path, key: str, value: bytes, what: str
) -> None:
    images = {key: value, str(TWO): messages.statistics(1, LAST, PUSHED)}
    (found,) = read(tmp_path, {b"app": messages.repository("app", images)})
    assert [image.digest for image in found.images] == [TWO]
    assert len(found.problems) == 1
    assert what in found.problems[0]


def test_repository_that_is_damaged_stops_no_other(tmp_path: Path) -> None:
    whole = messages.repository("b", {str(ONE): messages.statistics(1, LAST, PUSHED)})
    found = read(tmp_path, {b"a": whole[:-4], b"b": whole, b"../c": whole, b"\xff": whole}, eve=b"{")
    assert [(one.repository, len(one.images), bool(one.problems)) for one in found] == [
        ("../c", 0, True),
        ("a", 1, True),
        ("b", 1, False),
        ("\ufffd", 0, True),
        ("", 0, True),
    ]
    assert "user 'eve'" in found[-1].problems[0]


def test_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = BoltWriter().write(tmp_path / "meta.db", {b"RepoMetadata": {b"app": b"{}"}})
    with pytest.raises(InvalidSource, match="not a database of zot 2"):
        read_metadb(str(path))
