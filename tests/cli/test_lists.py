"""``repo ls``, ``tag ls``, ``manifest ls`` and ``blob ls``: filters, orders, pages and ways to write them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from regmeta.cli import filters
from regmeta.errors import UsageError
from tests.builders import AMD64, ARM64, LayoutBuilder
from tests.cli.conftest import Command


@pytest.fixture
def filled(regmeta: Command, builder: LayoutBuilder, layout: Path) -> Command:
    """Two repositories of the same three images: v1 for two platforms, v2 with a label, v3 is the biggest."""
    layers = [builder.layer()]
    labelled = builder.image(layers, builder.config(layers, Labels={"team": "a=b"}))
    builder.tag(builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)]), "v1")
    builder.tag(labelled, "v2")
    builder.tag(builder.image([b"x" * 90_000]), "v3")
    builder.tag(builder.artifact(b"sbom", "application/sbom", labelled))
    builder.write(layout)
    for name in ("hello", "team/app"):
        assert regmeta("import", layout, name, "--all").code == 0
    return regmeta


TAG_CASES: list[tuple[tuple[str, ...], list[str]]] = [
    ((), ["v1", "v2", "v3"]),
    (("--name", "v[12]"), ["v1", "v2"]),
    (("--contains", "V3"), ["v3"]),
    (("--begins", "v2"), ["v2"]),
    (("--arch", "arm64"), ["v1"]),
    (("--os", "linux", "--arch", "arm64", "--variant", "v8"), ["v1"]),
    (("--label", "team=a=b"), ["v2"]),
    (("--label", "team", "--unsigned"), ["v2"]),
    (("--signed",), []),
    (("--larger", "64KiB"), ["v3"]),
    (("--smaller", "64KiB"), ["v2"]),
    (("--pushed-after", "1h", "--tagged-after", "1h"), ["v1", "v2", "v3"]),
    (("--pushed-before", "1h"), []),
    (("--created-before", "2024-01-02T00:00:00Z"), ["v2", "v3"]),
    (("--never-pulled",), ["v1", "v2", "v3"]),
    (("--pulled",), []),
    (("--sort", "size", "--desc"), ["v3", "v2", "v1"]),
    (("--desc",), ["v3", "v2", "v1"]),
]


def test_tags_are_those_that_the_filters_let_through(filled: Command) -> None:
    for options, wanted in TAG_CASES:
        found = filled("tag", "ls", "hello", *options, "--total", "--json").json
        names = [tag["name"] for tag in found["items"]]
        assert (names, found["total"]) == (wanted, len(wanted)), options


def test_tags_of_all_repositories_are_listed_with_theirs(filled: Command, builder: LayoutBuilder) -> None:
    found = filled("tag", "ls", "--name", "v2")
    assert found.out.split()[:3] == ["REPOSITORY", "TAG", "DIGEST"]
    assert [line.split()[0] for line in found.out.splitlines()[1:]] == ["hello", "team/app"]
    digest = filled("tag", "ls", "hello", "--name", "v2", "--json").json["items"][0]["digest"]
    assert len(filled("tag", "ls", "--digest", digest, "--json").json["items"]) == 2
    assert "REPOSITORY" not in filled("tag", "ls", "hello").out
    assert "REPOSITORY" in filled("tag", "ls", "hello", "--wide").out


def test_pages_follow_each_other_by_their_cursor(filled: Command) -> None:
    names: list[str] = []
    options: list[str] = []
    while True:
        page = filled("tag", "ls", "--limit", "4", "--pushed-after", "2d", "--json", *options).json
        names += [f"{tag['repository']}:{tag['name']}" for tag in page["items"]]
        if page["next"] is None:
            break
        options = ["--after", page["next"]]
    assert sorted(names) == sorted(f"{r}:v{n}" for r in ("hello", "team/app") for n in (1, 2, 3))
    shown = filled("tag", "ls", "hello", "--limit", "2", "--total")
    assert "3 in all" in shown.err
    assert "more follow: --after " in shown.err
    refused = filled("tag", "ls", "hello", "--sort", "size", *options)
    assert (refused.code, "--after" in refused.err) == (2, True)


def test_manifests_are_filtered_by_what_points_at_them(filled: Command) -> None:
    def count(*options: str) -> int:
        return len(filled("manifest", "ls", "hello", *options, "--json").json["items"])

    assert count() == 6
    assert (count("--tagged"), count("--untagged")) == (3, 3)
    assert (count("--in-index"), count("--not-in-index")) == (2, 4)
    assert (count("--referrers"), count("--no-referrers")) == (1, 5)
    assert (count("--kind", "index"), count("--kind", "image")) == (1, 5)
    subject = filled("tag", "ls", "hello", "--name", "v2", "--json").json["items"][0]["digest"]
    assert count("--subject", subject) == count("--artifact-type", "application/sbom") == 1
    assert len(filled("manifest", "ls", "--json").json["items"]) == 12


def test_repositories_are_filtered_and_sorted(filled: Command) -> None:
    def names(*options: str) -> list[str]:
        return [item["name"] for item in filled("repo", "ls", *options, "--json").json["items"]]

    assert names("--desc") == names("--sort", "updated", "--desc") == ["team/app", "hello"]
    assert names("--under", "team") == names("--name", "team/*") == names("--contains", "app") == ["team/app"]
    assert names("--has-tag", "v1", "--updated-after", "1h") == ["hello", "team/app"]
    assert names("--starred-by", "ann") == []
    assert "PULLS" in filled("repo", "ls", "--sort", "pulls").out


def test_blobs_are_filtered_and_sorted(filled: Command) -> None:
    found = filled("blob", "ls", "--larger", "64KiB", "--sort", "size", "--desc", "--json").json["items"]
    assert [item["size_bytes"] for item in found] == [90_000]
    everywhere, one = (filled("blob", "ls", *of, "--total", "--json").json for of in ((), ("hello",)))
    assert everywhere["total"] == one["total"] == len(one["items"])
    assert filled("blob", "ls", "--unused", "--json").json["items"] == []
    assert "STATE" in filled("blob", "ls", "--state", "live").out


def test_csv_has_all_columns_and_plain_numbers(filled: Command) -> None:
    lines = list(csv.DictReader(io.StringIO(filled("tag", "ls", "hello", "--csv").out)))
    assert [line["tag"] for line in lines] == ["v1", "v2", "v3"]
    assert int(lines[2]["size"]) > 90_000
    assert lines[0]["repository"] == "hello"
    assert filled("tag", "ls", "hello", "--csv", "--json").code == 2


BAD: list[tuple[str, ...]] = [
    ("tag", "ls", "hello", "--sort", "colour"),
    ("tag", "ls", "hello", "--larger", "much"),
    ("tag", "ls", "hello", "--label", "=x"),
    ("tag", "ls", "hello", "--pushed-after", "soon"),
    ("tag", "ls", "hello", "--name", "["),
    ("tag", "ls", "--at", "1h"),
    ("tag", "ls", "hello", "--at", "1s", "--arch", "arm64"),
    ("manifest", "ls", "hello", "--kind", "layer"),
    ("manifest", "ls", "hello", "--deleted", "--arch", "arm64"),
    ("manifest", "ls", "--deleted"),
    ("manifest", "ls", "hello", "--deleted", "--after", "v1"),
    ("repo", "ls", "--deleted", "--sort", "name"),
    ("blob", "ls", "--state", "good"),
]


def test_bad_options_are_refused(filled: Command) -> None:
    for command in BAD:
        done = filled(*command)
        assert (done.code, done.out, bool(done.err)) == (2, "", True), command


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("4096", 4096),
        ("10MiB", 10 << 20),
        ("1.5GiB", 3 << 29),
        ("10MB", 10_000_000),
        ("2k", 2000),
        ("3 KiB", 3072),
        ("7B", 7),
        ("999999999999999P", 2**63 - 1),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, wanted: int) -> None:
    assert filters.size(text) == wanted


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1iB", "1e3", "1.MiB", "1MiBs", "\u0661"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="size"):
        filters.size(text)
