"""``regmeta image``: what it shows of images, and of what goes wrong."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from regmeta.oci import media_types
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of, dumps
from tests.cli.conftest import Answer, Command


def image_of(builder: LayoutBuilder, layers: list[Json], platform: Json = AMD64, **config: object) -> Json:
    document = {
        "created": "2024-01-01T00:00:00Z",
        **platform,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        "history": [
            {"created": "2024-01-01T00:00:00Z", "created_by": "/bin/sh -c #(nop) ADD file:1 in / "},
            {"created_by": "ENV A=b", "empty_layer": True},
            {"created_by": f"/bin/sh -c {'make && ' * 20}true"},
        ],
    }
    blob = builder.blob(dumps(document), media_types.OCI_CONFIG)
    return builder.image(layers, blob, {"org.opencontainers.image.title": "Hello"}, platform)


@pytest.fixture
def hello(regmeta: Command, builder: LayoutBuilder, layout: Path) -> dict[str, Json]:
    """Two indexes of two platforms with a common base; one image alone."""
    base = builder.layer()
    images = {
        name: image_of(builder, [base, builder.layer()], platform, Env=[f"A={name}"], Labels={"name": name})
        for name, platform in (("amd", AMD64), ("arm", ARM64), ("new", ARM64))
    }
    indexes = {
        "v1": builder.index([images["amd"], images["arm"]]),
        "v2": builder.index([images["amd"], images["new"]]),
    }
    for tag, index in indexes.items():
        builder.tag(index, tag)
    builder.tag(images["amd"], "alone")
    builder.write(layout)
    assert regmeta("import", layout, "hello").code == 0
    return {**images, **indexes}


def refused(answer: Answer, code: int, *words: str) -> None:
    assert (answer.code, answer.out) == (code, "")
    for word in words:
        assert word in answer.err


def test_show_of_an_index_lists_its_images(regmeta: Command, hello: dict[str, Json]) -> None:
    shown = regmeta("image", "show", "hello:v1")
    assert (shown.code, shown.err) == (0, "")
    assert f"hello@{hello['v1']['digest']}" in shown.out
    assert "linux/amd64, linux/arm64/v8" in shown.out
    assert "title       Hello" in shown.out
    assert f"linux/arm64/v8  sha256:{digest_of(hello['arm']).hex[:12]}" in shown.out
    found = regmeta("image", "show", "hello:v1", "--json").json
    assert found["summary"]["digest"] == hello["v1"]["digest"]
    assert (found["config"], found["summary"]["last_pulled_at"]) == (None, None)


def test_show_of_an_image_has_how_it_runs(regmeta: Command, hello: dict[str, Json]) -> None:
    for arguments in (["hello:alone"], ["hello:v1", "--platform", "linux/amd64"]):
        shown = regmeta("image", "show", *arguments)
        assert (shown.code, shown.err) == (0, "")
        assert "configuration\n  Env  A=amd\n" in shown.out
        assert "labels\n  name  amd\n" in shown.out


def test_tree_marks_a_layer_that_was_seen_before(regmeta: Command, hello: dict[str, Json]) -> None:
    shown = regmeta("image", "tree", "hello:v1")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("hello  v1\n")
    assert (shown.out.count("├─"), shown.out.count("(shared)")) == (3, 1)
    assert regmeta("image", "tree", "hello:v1", "--json").json["digest"] == hello["v1"]["digest"]


def test_history_stands_beside_layers(regmeta: Command, hello: dict[str, Json]) -> None:
    shown = regmeta("image", "history", "hello:alone")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert [line.split()[-1] for line in lines[:3]] == ["BY", "/", "A=b"]
    assert "ADD file:1 in /" in lines[1]
    assert "#(nop)" not in shown.out
    assert lines[3].endswith("...")
    wide = regmeta("image", "history", "hello:alone", "--wide").out
    assert "#(nop)" in wide
    assert len(regmeta("image", "history", "hello:alone", "--json").json["aligned"]["steps"]) == 3


def test_layers_are_a_table_csv_or_json(regmeta: Command, hello: dict[str, Json]) -> None:
    shown = regmeta("image", "layers", "hello:alone")
    assert shown.code == 0
    assert shown.err.startswith("2 layers, ")
    assert shown.err.endswith(" for linux/amd64\n")
    rows = list(csv.DictReader(regmeta("image", "layers", "hello:alone", "--csv").out.splitlines()))
    found = regmeta("image", "layers", "hello:alone", "--json").json
    assert [row["digest"] for row in rows] == [layer["digest"] for layer in found["layers"]]
    assert rows[0]["size"] == str(found["layers"][0]["size_bytes"])
    refused(regmeta("image", "layers", "hello:alone", "--csv", "--json"), 2, "--csv")


def test_diff_of_indexes_goes_platform_by_platform(regmeta: Command, hello: dict[str, Json]) -> None:
    shown = regmeta("image", "diff", "hello:v1", "hello:v2")
    assert (shown.code, shown.err) == (0, "")
    assert "linux/amd64: the same image" in shown.out
    assert "linux/arm64/v8: a common base of 1 layer, 1 in both" in shown.out
    assert "  - Env A  arm\n  + Env A  new\n" in shown.out
    assert "  - name  arm\n  + name  new\n" in shown.out
    found = regmeta("image", "diff", "hello:v1", "hello:v2", "--json").json
    assert len(found["images"]["pairs"]) == len(found["configs"]) == 2
    same = regmeta("image", "diff", "hello:alone", "hello:v1", "--platform", "linux/amd64")
    assert "the same bytes" in same.out


@pytest.mark.parametrize("command", ["show", "history", "layers"])
def test_bad_platform_and_missing_image_are_refused(
    regmeta: Command, hello: dict[str, Json], command: str
) -> None:
    refused(regmeta("image", command, "hello:v1", "--platform", "arm"), 2, "--platform", "arm")
    refused(
        regmeta("image", command, "hello:v1", "--platform", "linux/riscv64"), 3, "hello:v1", "linux/amd64"
    )
    refused(regmeta("image", command, "hello:none"), 3, "hello:none: no such tag")
    refused(regmeta("image", command, "HELLO:none"), 3, "HELLO")


@pytest.mark.parametrize("command", ["history", "layers"])
def test_index_needs_a_platform(regmeta: Command, hello: dict[str, Json], command: str) -> None:
    refused(regmeta("image", command, "hello:v1"), 2, "--platform", "linux/amd64, linux/arm64/v8")


def test_what_strangers_wrote_steers_no_terminal(
    regmeta: Command, builder: LayoutBuilder, layout: Path
) -> None:
    layers = [builder.layer()]
    config = builder.config(layers, Labels={"x\x1b[2J": "\x1b[31m"}, User="\x1b[0m", Env=["A=\x1b[1m"])
    for tag, said in (("v1", "\x1b[7m"), ("v2", "\x1b[8m")):
        builder.tag(builder.image(layers, config, {"org.opencontainers.image.title": said}), tag)
    builder.write(layout)
    assert regmeta("import", layout, "bad").code == 0
    for arguments in (
        ["show", "bad:v1"],
        ["tree", "bad:v1"],
        ["diff", "bad:v1", "bad:v2"],
        ["history", "bad:v1"],
    ):
        shown = regmeta("image", *arguments)
        assert shown.code == 0
        assert "\x1b" not in shown.out + shown.err
