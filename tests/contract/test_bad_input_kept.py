"""The catalogue of bad input (docs/internals/hostile-input.md): what is odd, and kept as it came."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from regmeta.ingest.read_image import MAX_INDEX_DEPTH
from regmeta.oci import media_types
from tests.builders import AMD64, OCI_LAYER, Json, LayoutBuilder, dumps
from tests.contract.test_bad_input_manifests import chain, missing_child
from tests.support.bad_input import (
    ELSEWHERE,
    LAYER,
    Accepted,
    Kept,
    Twins,
    image,
    import_all,
    index,
)

FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"


def documents(**fields: Any) -> Any:
    """Make an image manifest with other fields; its type is what the layout says."""
    return lambda builder: builder.blob(dumps(image(builder, **fields)), media_types.OCI_MANIFEST)


def untyped_index(builder: LayoutBuilder) -> Json:
    made = builder.image()
    return builder.blob(dumps(index([made], mediaType=...)), media_types.OCI_INDEX)


def long_algorithm(builder: LayoutBuilder) -> Json:
    return LayoutBuilder.image(_sha512(builder), [b"a", b"b"])


def _sha512(builder: LayoutBuilder) -> LayoutBuilder:
    builder._algorithm = "sha512"
    return builder


def docker_list(builder: LayoutBuilder) -> Json:
    builder._docker = True
    return builder.index([builder.image(platform=AMD64)])


def sparse_index(builder: LayoutBuilder) -> Json:
    return missing_child(builder)[0]


def with_missing_subject(builder: LayoutBuilder) -> Json:
    subject = {"mediaType": media_types.OCI_MANIFEST, "digest": ELSEWHERE, "size": 9}
    return builder.artifact(b"signature", "application/vnd.example.signature", subject)


def with_config(value: bytes, media_type: str = media_types.OCI_CONFIG, **fields: Any) -> Any:
    def make(builder: LayoutBuilder) -> Json:
        return builder.image([b"x"], builder.blob(value, media_type), **fields)

    return make


def same_platform_twice(builder: LayoutBuilder) -> Json:
    first, second = builder.image(platform=AMD64), builder.image(platform=AMD64)
    assert first["digest"] != second["digest"]
    return builder.index([first, second, first])


def without_platform(builder: LayoutBuilder) -> Json:
    return builder.index([builder.image(), {**builder.image(), "platform": {}}])


def opaque_children(builder: LayoutBuilder) -> Json:
    made = builder.blob(b"\0not json", "application/vnd.example.model.v1")
    return builder.index([made, {**builder.image([builder.blob(b"?", "application/x-thing")])}])


def foreign_layers(builder: LayoutBuilder) -> Json:
    foreign = {"mediaType": FOREIGN, "digest": ELSEWHERE, "size": 2**40, "urls": ["http://169.254.169.254/"]}
    return builder.image([builder.blob(b"zstd", ZSTD), foreign])


def urls_on_a_layer(builder: LayoutBuilder) -> Json:
    urls = ["file:///etc/hostname", "http://169.254.169.254/", "javascript:alert(1)", "\x1b[2J"]
    return builder.image([builder.blob(LAYER, OCI_LAYER, urls=urls)])


def zero_bytes(builder: LayoutBuilder) -> Json:
    nothing = builder.blob(b"", OCI_LAYER)
    return builder.image([nothing, nothing], {**nothing, "mediaType": media_types.OCI_CONFIG})


def manifest_as_a_layer(builder: LayoutBuilder) -> Json:
    """What is a manifest by its bytes and was brought as a layer is a layer."""
    inner = builder.image([b"inner"])
    return builder.image([{**inner, "mediaType": OCI_LAYER}])


def gzip_bomb(builder: LayoutBuilder) -> Json:
    bomb = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff" + b"\xec" * 1000
    return builder.image([builder.blob(bomb, "application/vnd.oci.image.layer.v1.tar+gzip")])


STEERING = {
    "ansi": "\x1b[2J\x1b]0;title\x07",
    "c1": "\x9b31m",
    "rtl": "\u202egnp.exe",
    "html": "<script>alert(1)</script>",
    "url": "javascript:alert(1)",
    "nul": "a\0b",
    "csv": "=cmd|' /C calc'!A0",
    "\x1b[31mname": "line\nfeed\rreturn",
}


def steering(builder: LayoutBuilder) -> Json:
    layers = [builder.layer(b"x")]
    config = builder.config(layers, Labels=STEERING)
    return builder.index([builder.image(layers, config, STEERING)], STEERING)


def steering_platform(builder: LayoutBuilder) -> Json:
    made = builder.image(platform={"os": "\x1b[2J\u202e", "architecture": "x" * 20_000, "variant": "a\0b"})
    return builder.index([made])


def has_type(media_type: str) -> Any:
    def check(kept: Kept) -> None:
        assert kept.image["media_type"] == media_type

    return check


def keeps_order(kept: Kept) -> None:
    found = [member["child_digest"] for member in kept.members]
    assert [member["position"] for member in kept.members] == [0, 1, 2]
    assert found[0] == found[2] != found[1]
    assert {(member["os"], member["architecture"]) for member in kept.members} == {("linux", "amd64")}


def has_no_layers(kept: Kept) -> None:
    assert (kept.image["layer_count"], [blob["role"] for blob in kept.blobs]) == (0, ["config"])


def is_sha512(kept: Kept) -> None:
    assert all(blob["blob"].startswith("sha512:") for blob in kept.blobs)


def knows_what_is_absent(kept: Kept) -> None:
    assert [member["absence"] for member in kept.members] == [None, "sparse"]
    assert [member["child"] is None for member in kept.members] == [False, True]


def names_its_subject(kept: Kept) -> None:
    assert kept.image["subject_digest"] == ELSEWHERE
    assert kept.image["artifact_type"] == "application/vnd.example.signature"


def knows_nothing_of_the_config(kept: Kept) -> None:
    names = ("os", "architecture", "variant", "image_created_at")
    assert [kept.image[name] for name in names] == [None] * 4
    assert not kept.labels


def holds_opaque_content(kept: Kept) -> None:
    opaque, image_ = kept.members
    assert (opaque["child"], opaque["blob"]) == (None, opaque["child_digest"])
    assert opaque["media_type"] == "application/vnd.example.model.v1"
    assert image_["child"] == image_["child_digest"]


def lacks_the_foreign_layer(kept: Kept) -> None:
    assert [blob["absent_digest"] for blob in kept.blobs] == [None, None, ELSEWHERE]


def holds_zero_bytes(kept: Kept) -> None:
    assert [(blob["role"], blob["size_bytes"]) for blob in kept.blobs] == [
        ("config", 0),
        ("layer", 0),
        ("layer", 0),
    ]
    knows_nothing_of_the_config(kept)


def is_one_manifest(kept: Kept) -> None:
    assert list(kept.manifests) == [kept.root]


def keeps_what_was_said(kept: Kept) -> None:
    # PostgreSQL cannot hold a NUL; the manifest's own bytes hold it.
    said = sorted((name, value.replace("\0", "\ufffd")) for name, value in STEERING.items())
    for origin, times in (("annotation", 2), ("config", 1)):
        found = sorted((name, value) for kind, name, value in kept.labels if kind == origin)
        assert found == sorted(said * times)


def keeps_a_long_text_cut(kept: Kept) -> None:
    values = {name: value for _, name, value in kept.labels}
    assert set(values) == {"long", "wide", ""}
    assert values["long"] == "x" * 4096
    assert len(values["wide"]) == 4096
    assert values[""] == "empty"


def escapes_the_platform(kept: Kept) -> None:
    [member] = kept.members
    assert member["os"] == "\x1b[2J\u202e"
    assert len(member["architecture"]) == 20_000
    assert member["variant"] == "a\ufffdb"


WIDE = "".join(chr(0x1F300 + number * 7 % 700) for number in range(9 * 1024))
LONG_TEXTS = {"long": "x" * 9 * 1024, "wide": WIDE, "": "empty", "n" * 600: "its name is too long"}
UNREADABLE = {
    "no JSON": b"\x7fELF\0\0",
    "list": b"[]",
    "invalid UTF-8": b'{"os":"\xff"}',
    "deep": b"[" * 100_000,
    "a name twice": b'{"os":"linux","os":"windows"}',
}
ACCEPTED = [
    Accepted(
        9,
        "greatest size",
        lambda b: b.image([{"mediaType": FOREIGN, "digest": ELSEWHERE, "size": 2**63 - 1_000}]),
    ),
    Accepted(22, "no mediaType", documents(mediaType=...), has_type(media_types.OCI_MANIFEST)),
    Accepted(22, "index without mediaType", untyped_index, has_type(media_types.OCI_INDEX)),
    Accepted(29, "no layers", lambda b: b.image([]), has_no_layers),
    Accepted(29, "no children", lambda b: b.index([])),
    Accepted(35, "sha512", long_algorithm, is_sha512),
    Accepted(41, "data", lambda b: b.image([b.blob(b"hi", OCI_LAYER, data="aGk=")])),
    Accepted(42, "sparse", sparse_index, knows_what_is_absent, sparse=True),
    Accepted(43, "missing subject", with_missing_subject, names_its_subject),
    Accepted(46, "deepest", lambda b: chain(MAX_INDEX_DEPTH)(b)[0]),
    Accepted(51, "annotations null", documents(annotations=None)),
    Accepted(
        52, "long annotations", lambda b: b.image([b"x"], annotations=LONG_TEXTS), keeps_a_long_text_cut
    ),
    Accepted(53, "steering texts", steering, keeps_what_was_said),
    Accepted(53, "steering platform", steering_platform, escapes_the_platform),
    *(
        Accepted(54, f"config {what}", with_config(value), knows_nothing_of_the_config)
        for what, value in UNREADABLE.items()
    ),
    Accepted(
        54,
        "config of odd fields",
        with_config(
            b'{"os":5,"architecture":null,"created":"9999-12-31T23:59:'
            b'59-23:59","config":{"Labels":["x"]},"rootfs":{"diff_ids":["sha256:../x"]}}'
        ),
        knows_nothing_of_the_config,
    ),
    Accepted(
        55,
        "config of an unknown type",
        with_config(b'{"os":"linux"}', "application/vnd.example.config"),
        knows_nothing_of_the_config,
    ),
    Accepted(56, "empty config", with_config(b"{}", media_types.OCI_EMPTY), knows_nothing_of_the_config),
    Accepted(57, "zero bytes", zero_bytes, holds_zero_bytes),
    Accepted(59, "no platform", without_platform),
    Accepted(60, "same platform twice", same_platform_twice, keeps_order),
    Accepted(61, "unknown types", opaque_children, holds_opaque_content),
    Accepted(62, "Docker list", docker_list, has_type(media_types.DOCKER_LIST)),
    Accepted(64, "foreign layer", foreign_layers, lacks_the_foreign_layer),
    Accepted(65, "urls", urls_on_a_layer),
    Accepted(73, "gzip bomb", gzip_bomb),
    Accepted(74, "manifest as a layer", manifest_as_a_layer, is_one_manifest),
]


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_odd_image_is_kept_as_it_came(case: Accepted, twins: Twins, tmp_path: Path) -> None:
    twins.accept(case, tmp_path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (with_config(b"not json"), r"the configuration sha256:\w+ of sha256:\w+ cannot be read"),
        (with_config(b"{}", media_types.OCI_EMPTY), "empty configuration and no artifactType"),
    ],
)
def test_what_is_odd_and_taken_in_is_warned_of(
    make: Any, said: str, twins: Twins, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    builder = LayoutBuilder()
    children = [make(builder), {**make(builder), "platform": AMD64}]
    builder.tag(builder.index([*children, builder.image()]), "v1")
    builder.write(tmp_path)
    for settings in twins.settings.values():
        caplog.clear()
        with caplog.at_level(logging.WARNING, "regmeta"):
            import_all(settings, tmp_path, twins.new_repository())
        [record] = caplog.records
        assert record.getMessage().startswith("case/")
        assert re.search(said, record.getMessage())
