"""Which children of an index are wanted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Index, parse
from regmeta.sync.platforms import wants, wants_image


def entry(name: str, platform: str | None = None, about: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "mediaType": media_types.OCI_MANIFEST,
        "digest": str(Digest.of(name.encode())),
        "size": 10,
    }
    if platform is not None:
        names = ("os", "architecture", "variant")
        made["platform"] = dict(zip(names, platform.split("/"), strict=False))
    if about is not None:
        made["annotations"] = {"vnd.docker.reference.digest": str(Digest.of(about.encode()))}
    return made


def index(*entries: dict[str, Any]) -> Index:
    content = json.dumps(
        {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": list(entries)}
    ).encode()
    found = parse(content, Digest.of(content))
    assert isinstance(found, Index)
    return found


@pytest.mark.parametrize(
    ("wanted", "platform", "expected"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/arm64", False),
        ("linux/amd64", "windows/amd64", False),
        ("linux/arm", "linux/arm/v6", True),
        ("linux/arm", "linux/arm/v7", True),
        ("linux/arm", "linux/arm64", False),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/arm/v7", "linux/arm/v7", True),
        ("linux/arm64", "linux/arm64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64/v8", "linux/arm64/v9", False),
        ("linux/amd64", None, True),
    ],
)
def test_platform_matches_as_documented(wanted: str, platform: str | None, expected: bool) -> None:
    made = index(entry("image", platform))

    assert wants([wanted], made, made.manifests[0]) is expected
    if platform is not None:
        assert wants_image([wanted], *platform.split("/")) is expected


def test_attestation_goes_with_the_image_that_it_is_about() -> None:
    made = index(
        entry("amd64", "linux/amd64"),
        entry("arm64", "linux/arm64"),
        entry("amd64 attestation", "unknown/unknown", "amd64"),
        entry("arm64 attestation", "unknown/unknown", "arm64"),
        entry("stray attestation", "unknown/unknown", "somewhere else"),
    )

    assert [wants(["linux/amd64"], made, child) for child in made.manifests] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_attestations_about_each_other_end() -> None:
    made = index(entry("one", "unknown/unknown", "two"), entry("two", "unknown/unknown", "one"))

    assert [wants(["linux/amd64"], made, child) for child in made.manifests] == [True, True]


def test_everything_is_wanted_where_no_platform_is_said() -> None:
    made = index(entry("plan9", "plan9/386"))

    assert wants([], made, made.manifests[0])
    assert wants_image([], "plan9", "386")


def test_image_that_says_no_platform_is_wanted() -> None:
    assert wants_image(["linux/amd64"], None, None)
    assert wants_image(["linux/amd64"], "unknown", "unknown", None)
