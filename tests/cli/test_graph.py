"""``referrers``, ``bases``, ``derived`` and their like: what is printed, and with which code it ends."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.builders import AMD64, ARM64, Json, LayoutBuilder
from tests.cli.conftest import Command

SBOM, NOTATION = "application/spdx+json", "application/vnd.cncf.notary.signature"
NONE = "sha256:" + "0" * 64


@pytest.fixture
def made(regmeta: Command, layout: Path) -> dict[str, Json]:
    """base:1 and app:1 for two platforms, an artifact that refers to app:1 and one that refers to that."""
    builder = LayoutBuilder()
    base = builder.index([builder.image([on["architecture"].encode()], platform=on) for on in (AMD64, ARM64)])
    images = [builder.image([on["architecture"].encode(), b"app"], platform=on) for on in (AMD64, ARM64)]
    app = builder.index(images)
    config = builder.blob(b"{}", "application/vnd.oci.empty.v1+json")
    subject = {key: app[key] for key in ("mediaType", "digest", "size")}
    sbom = builder.image([b"s"], config, {"by": "\x1b[31m"}, artifactType=SBOM, subject=subject)
    signature = builder.artifact(b"n", NOTATION, sbom)
    for name, descriptor in {"base": base, "app": app, "sbom": sbom, "signature": signature}.items():
        alone = LayoutBuilder()
        alone.blobs = builder.blobs
        alone.tag(descriptor, "1")
        alone.write(layout / name)
        of = "base" if name == "base" else "app"
        tag = "1" if name in ("base", "app") else name
        assert regmeta("import", layout / name, f"{of}:{tag}").code == 0
    return {"base": base, "app": app, "sbom": sbom, "signature": signature, "arm": images[1]}


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_referrers_are_shown_as_a_list_and_as_a_tree(regmeta: Command, made: dict[str, Json]) -> None:
    sbom, signature = made["sbom"]["digest"], made["signature"]["digest"]
    listed = regmeta("referrers", "app:1")
    assert (listed.code, listed.err) == (0, "")
    lines = listed.out.splitlines()
    assert lines[0].split() == ["DIGEST", "TYPE", "SIGNATURE", "SIZE", "PUSHED"]
    assert lines[1].split()[:3] == [sbom, SBOM, "-"]
    assert len(lines) == 2

    tree = regmeta("referrers", "app:1", "--tree", "--wide")
    assert tree.code == 0
    assert "\x1b" not in tree.out
    shown = tree.out.splitlines()
    assert shown[0] == f"app@{made['app']['digest']}"
    assert shown[1] == f"└─ {sbom}  {SBOM}"
    assert shown[2].strip() == "by=\\x1b[31m"
    assert shown[3] == f"   └─ {signature}  {NOTATION}  notation signature"

    [found] = regmeta("referrers", f"app@{sbom}", "--json", "--type", NOTATION).json["items"]
    assert (found["digest"], found["signature"]) == (signature, "notation")
    assert regmeta("referrers", f"app@{NONE}", "--json").json["items"] == []
    assert regmeta("referrers", "app:none").code == 3
    assert regmeta("referrers", "none:1").code == 3
    assert regmeta("referrers", "app:1", "--tree", "--csv").code == 2
    assert regmeta("referrers", "app:1", "--after", "x").code == 2


def test_bases_and_derived_show_tags_and_how_many_layers_are_shared(
    regmeta: Command, made: dict[str, Json]
) -> None:
    shown = regmeta("bases", "app:1")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0].split() == ["REPOSITORY", "TAGS", "DIGEST", "PLATFORM", "SHARED", "SIZE", "PUSHED"]
    assert [line.split()[:2] for line in lines[1:]] == [["base", "(1)"]] * 2
    assert all("1 of 1" in line for line in lines[1:])

    [one] = rows(regmeta("derived", "base:1", "--platform", "linux/arm64", "--csv").out)
    assert (one["digest"], one["shared"], one["layers"], one["tags"]) == (
        made["arm"]["digest"],
        "1",
        "2",
        "1",
    )
    page = regmeta("derived", "base:1", "--limit", 1)
    assert "more follow: --after " in page.err
    cursor = page.err.split("--after ")[1].strip()
    rest = regmeta("derived", "base:1", "--limit", 1, "--after", cursor, "--json").json
    assert (len(rest["items"]), rest["next"]) == (1, None)
    assert regmeta("derived", "base:1", "--same").out.splitlines()[1:] == []
    assert regmeta("bases", "app:1", "--platform", "linux").code == 2
    assert regmeta("bases", "none:1").code == 3


def test_children_and_parents_of_a_manifest(regmeta: Command, made: dict[str, Json]) -> None:
    children = regmeta("manifest", "children", "app:1", "--json", "--total").json
    assert (children["total"], children["items"][1]["digest"]) == (2, made["arm"]["digest"])
    assert regmeta("manifest", "children", "app:1").out.splitlines()[0].split()[:2] == ["POSITION", "DIGEST"]
    [parent] = rows(regmeta("manifest", "parents", f"app@{made['arm']['digest']}", "--csv").out)
    assert (parent["digest"], parent["tags"]) == (made["app"]["digest"], "1")
    assert regmeta("manifest", "parents", f"app@{NONE}", "--json").json["items"] == []


def test_blob_users_find_and_dedup(regmeta: Command, made: dict[str, Json], layout: Path) -> None:
    digest = made["arm"]["digest"]
    [user] = rows(regmeta("blob", "users", digest, "--csv").out)
    assert (user["repository"], user["digest"], user["use"]) == ("app", digest, "itself")
    assert regmeta("blob", "users", digest, "--repositories").out.split() == ["REPOSITORY", "app"]
    assert regmeta("blob", "users", NONE).code == 3

    [found] = regmeta("blob", "find", digest[7:20], "--json").json
    assert (found["digest"], found["kind"], found["repository"]) == (digest, "image", "app")
    assert regmeta("blob", "find", "zz").code == 2
    assert regmeta("blob", "find", "a").code == 2

    report = regmeta("blob", "dedup")
    assert report.code == 0
    assert report.out.splitlines()[0].startswith("blobs")
    assert "SAVED" in report.out
    numbers = regmeta("blob", "dedup", "--json").json
    assert numbers["saved_bytes"] == numbers["logical_bytes"] - numbers["unique_bytes"] > 0
    assert len(rows(regmeta("blob", "dedup", "--csv", "--limit", 1).out)) == 1
    assert regmeta("blob", "dedup", "--by", "size").code == 2
    assert regmeta("blob", "dedup", "--csv", "--json").code == 2
