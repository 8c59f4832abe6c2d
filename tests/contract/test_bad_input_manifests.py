"""The catalogue of bad input (docs/internals/hostile-input.md): what manifests and descriptors may be."""

from __future__ import annotations

import base64
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from regmeta.errors import (
    DigestMismatch,
    InvalidDigest,
    InvalidManifest,
    MissingContent,
    SizeMismatch,
)
from regmeta.ingest.read_image import MAX_INDEX_DEPTH
from regmeta.oci import media_types
from tests.builders import AMD64, ARM64, OCI_LAYER, Json, LayoutBuilder, dumps
from tests.crash.processes import run
from tests.support.bad_input import (
    ELSEWHERE,
    LAYER,
    Accepted,
    Kept,
    Make,
    Refused,
    Spoiled,
    Twins,
    check_printed,
    child,
    content,
    entry,
    image,
    import_all,
    index,
    layer,
    named,
    replace,
    spoil,
    state,
)

SIZE = b'"size":%d}' % len(LAYER)
NOTE = b'"note":"text"'
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
EMPTY_DIGEST = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


# --- refused ------------------------------------------------------------------------------------------


def both_kinds(builder: LayoutBuilder) -> Spoiled:
    return named(builder.document(image(builder, manifests=[])))


def index_with_layers(builder: LayoutBuilder) -> Spoiled:
    return named(builder.document(index([], layers=[builder.layer(b"x")])))


def other_type_than_listed(builder: LayoutBuilder) -> Spoiled:
    made = builder.document(index([]))
    return named({**made, "mediaType": media_types.OCI_MANIFEST})


def schema_one(builder: LayoutBuilder) -> Spoiled:
    document = {"schemaVersion": 1, "mediaType": DOCKER_SCHEMA1, "name": "app", "fsLayers": []}
    return named(builder.document(document))


def schema_one_in_an_index(builder: LayoutBuilder) -> Spoiled:
    old = builder.document({"schemaVersion": 1, "mediaType": DOCKER_SCHEMA1, "fsLayers": []})
    return builder.index([old]), old["digest"]


def child_without_type(builder: LayoutBuilder) -> Spoiled:
    made, _ = child(mediaType=...)(builder)
    return made, "manifests[0]"


def other_bytes(builder: LayoutBuilder) -> Spoiled:
    spoiled = builder.layer(b"original")
    builder.blobs[spoiled["digest"]] = b"damaged!"
    return builder.image([spoiled]), spoiled["digest"]


def other_bytes_of_a_manifest(builder: LayoutBuilder) -> Spoiled:
    made = builder.image()
    builder.blobs[made["digest"]] = builder.blobs[made["digest"]].replace(b"{", b" ", 1)
    return named(made)


def other_bytes_of_a_config(builder: LayoutBuilder) -> Spoiled:
    layers = [builder.layer(b"x")]
    config = builder.config(layers)
    builder.blobs[config["digest"]] = bytes(config["size"])
    return builder.image(layers, config), config["digest"]


def other_size(difference: int) -> Make:
    def make(builder: LayoutBuilder) -> Spoiled:
        made = builder.layer(b"original")
        return builder.image([{**made, "size": made["size"] + difference}]), made["digest"]

    return make


def other_size_of_the_root(builder: LayoutBuilder) -> Spoiled:
    made = builder.image()
    return named({**made, "size": made["size"] + 1})


def two_sizes(builder: LayoutBuilder) -> Spoiled:
    made = builder.layer(b"original")
    return builder.image([made, {**made, "size": 9}]), made["digest"]


def embedded(data: Any) -> Make:
    def make(builder: LayoutBuilder) -> Spoiled:
        made = builder.layer(b"original")
        return builder.image([{**made, "data": data}]), made["digest"]

    return make


def empty_json(**fields: Any) -> Make:
    def make(builder: LayoutBuilder) -> Spoiled:
        config = {**builder.blob(b"{}", media_types.OCI_EMPTY), **fields}
        return builder.image([b"x"], config, artifactType="application/vnd.example"), EMPTY_DIGEST

    return make


def missing_child(builder: LayoutBuilder) -> Spoiled:
    children = [builder.image(platform=AMD64), builder.image(platform=ARM64)]
    del builder.blobs[children[1]["digest"]]
    return builder.index(children), children[1]["digest"]


def missing_layer(builder: LayoutBuilder) -> Spoiled:
    made = builder.image([b"here", b"gone"])
    gone = builder.layer(b"gone")
    del builder.blobs[gone["digest"]]
    return made, gone["digest"]


def missing_config(builder: LayoutBuilder) -> Spoiled:
    layers = [builder.layer(b"x")]
    config = builder.config(layers, Labels={"only": "here"})
    del builder.blobs[config["digest"]]
    return builder.image(layers, config), config["digest"]


def missing_root(builder: LayoutBuilder) -> Spoiled:
    made = builder.image()
    del builder.blobs[made["digest"]]
    return named(made)


def missing_opaque_child(builder: LayoutBuilder) -> Spoiled:
    opaque = builder.blob(b"?", "application/vnd.example.other")
    del builder.blobs[opaque["digest"]]
    return builder.index([opaque]), opaque["digest"]


def cycle(builder: LayoutBuilder) -> Spoiled:
    """A lists B and B lists A: one of them cannot have the digest that it is stored under."""
    first = builder.document(index([], annotations={"padding": "x" * 195}))
    second = builder.document(index([first]))
    lying = dumps(index([second]))
    builder.blobs[first["digest"]] = lying + b" " * (first["size"] - len(lying))
    assert len(builder.blobs[first["digest"]]) == first["size"]
    return second, first["digest"]


def lists_itself(builder: LayoutBuilder) -> Spoiled:
    made = builder.document(index([], annotations={"padding": "x" * 195}))
    lying = dumps(index([made]))
    builder.blobs[made["digest"]] = lying + b" " * (made["size"] - len(lying))
    return named(made)


def chain(length: int) -> Make:
    def make(builder: LayoutBuilder) -> Spoiled:
        made = builder.image()
        for _ in range(length):
            made = builder.index([made])
        return named(made)

    return make


def listed_under_two_types(builder: LayoutBuilder) -> Spoiled:
    made = builder.image()
    return builder.index([made, {**made, "mediaType": media_types.DOCKER_MANIFEST}]), made["digest"]


def urls_of_a_missing_layer(builder: LayoutBuilder) -> Spoiled:
    """Where a layer could be had does not count: it is never looked for there."""
    made = builder.layer(b"elsewhere")
    del builder.blobs[made["digest"]]
    made["urls"] = ["file:///etc/hostname", "http://169.254.169.254/", "http://127.0.0.1:1/"]
    return builder.image([made]), made["digest"]


def sizes_that_overflow(builder: LayoutBuilder) -> Spoiled:
    layers = [{"mediaType": FOREIGN, "digest": ELSEWHERE, "size": 2**62 + 1}] * 3
    return named(builder.image(layers))


DEEP = b"[" * 100_000 + b"]" * 100_000
REFUSED = [
    # 1-17: what is no strict JSON
    Refused(1, "100,000 brackets", content(b"[" * 100_000), InvalidManifest, "nested deeper"),
    Refused(1, "deep value", replace(b'"text"', DEEP), InvalidManifest, "nested deeper"),
    Refused(2, "depth 900", replace(b'"text"', DEEP[99_100:100_900]), InvalidManifest, "nested deeper"),
    Refused(3, "layers twice", replace(NOTE, NOTE + b'},"layers":[],"x":{'), InvalidManifest, "twice"),
    Refused(3, "twice by escape", replace(NOTE, NOTE + b',"n\\u006fte":"a"'), InvalidManifest, "twice"),
    *(
        Refused(
            row, f"size {value.decode()[:20]}", replace(SIZE, b'"size":%s}' % value), InvalidManifest, says
        )
        for row, value, says in [
            (5, b"NaN", "NaN is not JSON"),
            (5, b"Infinity", "Infinity is not JSON"),
            (5, b"-Infinity", "-Infinity is not JSON"),
            (6, b"1e400", "out of range"),
            (6, b"1e2", "size of sha256:.* is '100.0'"),
            (6, b"20.0", "size of sha256:.* is '20.0'"),
            (8, b"-1", "size of sha256:.* is '-1'"),
            (9, b"1" * 5_000, "a number of 5000 digits"),
            (9, b"1" * 4_300, "a number of 4300 digits"),
            (9, b"9223372036854775808", "does not fit 64 bits"),
            (11, b"true", "size of sha256:.* is 'True'"),
            (11, b'"20"', "size of sha256:.* is '20'"),
            (11, b"null", "size of sha256:.* is 'None'"),
            (11, b"[]", r"size of sha256:.* is '\[\]'"),
        ]
    ),
    Refused(8, "negative in an index", child(size=-1), InvalidManifest, "manifests.0.: size of sha256"),
    Refused(11, "size missing", layer(size=...), InvalidManifest, "size of sha256:.* is 'None'"),
    Refused(12, "invalid UTF-8", replace(b"text", b"te\xfft"), InvalidManifest, "not UTF-8 at byte"),
    Refused(12, "overlong UTF-8", replace(b"text", b"\xc0\xaf"), InvalidManifest, "not UTF-8 at byte"),
    Refused(14, "byte-order mark", replace(b"{", b"\xef\xbb\xbf{"), InvalidManifest, "byte-order mark"),
    Refused(16, "lone surrogate", replace(b"text", b"\\ud800"), InvalidManifest, "lone surrogate"),
    Refused(16, "raw surrogate", replace(b"text", b"\xed\xa0\x80"), InvalidManifest, "not UTF-8"),
    Refused(17, "two documents", content(b"{} {}"), InvalidManifest, "not JSON"),
    Refused(17, "empty", content(b""), InvalidManifest, "not JSON"),
    Refused(17, "list", content(b"[]"), InvalidManifest, "not a JSON object"),
    Refused(17, "null", content(b"null"), InvalidManifest, "not a JSON object"),
    Refused(17, "string", content(b'"str"'), InvalidManifest, "not a JSON object"),
    Refused(17, "trailing NUL", replace(b'"text"}}', b'"text"}}\0'), InvalidManifest, "not JSON"),
    # 18-29: what it is
    Refused(18, "layers and manifests", both_kinds, InvalidManifest, "both an image manifest and an index"),
    Refused(18, "index with layers", index_with_layers, InvalidManifest, "both an image manifest and"),
    Refused(20, "listed as another type", other_type_than_listed, InvalidManifest, "but is listed as"),
    Refused(23, "entry without type", entry(mediaType=...), InvalidManifest, "mediaType is 'None'"),
    Refused(23, "child without type", child_without_type, InvalidManifest, "mediaType is 'None'"),
    Refused(
        24,
        "parameters",
        entry(mediaType=f"{media_types.OCI_MANIFEST}; charset=utf-8"),
        InvalidManifest,
        "mediaType is",
    ),
    *(
        Refused(25, f"{where} of {what}", make(mediaType=value), InvalidManifest, "mediaType is '")
        for where, make in (("manifest", spoil), ("layer", layer), ("child", child), ("entry", entry))
        for what, value in (
            ("CR LF", "application/json\r\nX-Evil: 1"),
            ("300 characters", "a/" + "b" * 298),
            ("a trailing LF", f"{media_types.OCI_MANIFEST}\n"),
            ("two slashes", "a/b/c"),
            ("an escape", "a/\x1b[2J"),
            ("nothing", ""),
        )[: 6 if where == "layer" else 2]  # one parser reads all of them
    ),
    *(
        Refused(26, f"schemaVersion {what}", spoil(schemaVersion=value), InvalidManifest, f"is {what}, not 2")
        for what, value in (("'1'", 1), ("'3'", 3), ("'2.0'", 2.0), ("'None'", ...), ("'True'", True))
    ),
    Refused(26, "schemaVersion string", spoil(schemaVersion="2"), InvalidManifest, "schemaVersion is '2'"),
    Refused(
        26,
        "index schemaVersion",
        lambda b: named(b.document(index([], schemaVersion=1))),
        InvalidManifest,
        "schemaVersion is '1'",
    ),
    Refused(28, "no layers", spoil(layers=...), InvalidManifest, "layers is not a list"),
    Refused(28, "layers object", spoil(layers={}), InvalidManifest, "layers is not a list"),
    Refused(28, "layers null", spoil(layers=None), InvalidManifest, "layers is not a list"),
    Refused(28, "layer null", spoil(layers=[None]), InvalidManifest, r"layers\[0\]: not a descriptor"),
    Refused(28, "no config", spoil(config=...), InvalidManifest, "config is missing"),
    Refused(28, "config null", spoil(config=None), InvalidManifest, "config: not a descriptor"),
    Refused(
        28,
        "no manifests",
        lambda b: named(b.document(index(...))),  # type: ignore[arg-type]
        InvalidManifest,
        "without manifests",
    ),
    Refused(
        28,
        "manifests null",
        lambda b: named(b.document(index(None))),  # type: ignore[arg-type]
        InvalidManifest,
        "manifests is not a list",
    ),
    Refused(
        28,
        "child null",
        lambda b: named(b.document(index([None]))),
        InvalidManifest,
        r"manifests\[0\]: not a descriptor",
    ),
    # 30-41: digests and sizes
    *(
        Refused(row, f"{where} {value[:22]!r}", make(digest=value), InvalidDigest, says)
        for where, make in (("layer", layer), ("child", child), ("entry", entry))
        for row, value, says in [
            (30, "SHA256:" + "a" * 64, "not a digest"),
            (30, "sha256:" + "A" * 64, "not a sha256 digest"),
            (30, "sha256:" + "a" * 63, "not a sha256 digest"),
            (30, "sha256:" + "a" * 64 + "\n", "not a digest"),
            (32, "sha256:../../../../etc/passwd", "not a digest"),
            (32, "../../etc/passwd", "not a digest"),
            (32, "sha256:" + "a" * 60 + "/../", "not a digest"),
            (34, "md5:" + "a" * 32, "'md5' is not supported"),
            (34, "sha1:" + "a" * 40, "'sha1' is not supported"),
            (34, "foo+bar:Abc=", r"'foo\+bar' is not supported"),
            (35, "blake3:" + "a" * 64, "'blake3' is not supported"),
        ][:: 1 if where == "layer" else 4]  # one parser reads all of them
    ),
    Refused(30, "digest of a number", layer(digest=5), InvalidDigest, "not a digest"),
    Refused(30, "no digest", layer(digest=...), InvalidDigest, "not a digest"),
    Refused(37, "layer", other_bytes, DigestMismatch, "have the digest sha256:", 4),
    Refused(37, "manifest", other_bytes_of_a_manifest, DigestMismatch, "have another digest", 4),
    Refused(37, "config", other_bytes_of_a_config, DigestMismatch, "have another digest", 4),
    Refused(38, "more said", other_size(1), SizeMismatch, "9 bytes were announced, there are 8", 4),
    Refused(38, "less said", other_size(-1), SizeMismatch, "7 bytes were announced, there are more", 4),
    Refused(38, "root", other_size_of_the_root, SizeMismatch, "and its descriptor says", 4),
    Refused(38, "two sizes", two_sizes, SizeMismatch, "says 9 bytes, another manifest says 8", 4),
    Refused(38, "overflow", sizes_that_overflow, InvalidManifest, "do not fit 64 bits"),
    Refused(
        41, "other data", embedded(base64.b64encode(b"another!").decode()), InvalidManifest, "not its co"
    ),
    Refused(41, "no base64", embedded("b3JpZ2luYWw=\n"), InvalidManifest, "is not base64"),
    Refused(41, "base64url", embedded("-_-_"), InvalidManifest, "is not base64"),
    Refused(41, "no padding", embedded("b3JpZ2luYWw"), InvalidManifest, "is not base64"),
    Refused(41, "number", embedded(5), InvalidManifest, "is not base64"),
    Refused(41, "null", embedded(None), InvalidManifest, "is not base64"),
    # 42-46 and 72: trees
    Refused(42, "missing child", missing_child, MissingContent, r"which the index.*\(--sparse"),
    Refused(45, "cycle", cycle, DigestMismatch, "have another digest", 4),
    Refused(45, "lists itself", lists_itself, DigestMismatch, "have another digest", 4),
    Refused(46, "one too deep", chain(MAX_INDEX_DEPTH + 1), InvalidManifest, "nest deeper than 16"),
    Refused(61, "missing opaque child", missing_opaque_child, MissingContent, "is missing"),
    Refused(61, "two types", listed_under_two_types, InvalidManifest, "is listed as|under two media types"),
    Refused(72, "missing layer", missing_layer, MissingContent, "is missing"),
    Refused(72, "missing config", missing_config, MissingContent, "holds no configuration"),
    Refused(72, "missing root", missing_root, MissingContent, "is missing"),
    Refused(65, "missing, with urls", urls_of_a_missing_layer, MissingContent, "is missing"),
    # 51-65: what it says
    *(
        Refused(
            51,
            f"annotation {value!r}",
            spoil(annotations={"key": value}),
            InvalidManifest,
            "annotation 'key' is not a string",
        )
        for value in (1, {}, None, ["x"])
    ),
    Refused(
        51, "annotations list", spoil(annotations=["x"]), InvalidManifest, "annotations is not an object"
    ),
    Refused(51, "of a layer", layer(annotations={"\x1b[31m": 1}), InvalidManifest, r"'\\x1b\[31m' is not a"),
    Refused(58, "size 3", empty_json(size=3), InvalidManifest, "has 2 bytes, not 3"),
    Refused(58, "wrong data", empty_json(data="W10="), InvalidManifest, "is not its content"),
    Refused(59, "platform list", child(platform=[]), InvalidManifest, "platform is not an object"),
    Refused(59, "os number", child(platform={"os": 1}), InvalidManifest, "os is not a string"),
    Refused(63, "schema 1", schema_one, InvalidManifest, "schema 1 is not supported"),
    Refused(63, "in an index", schema_one_in_an_index, InvalidManifest, "schema 1 is not supported"),
    Refused(
        65, "urls of numbers", layer(urls=[1]), InvalidManifest, "urls of sha256:.* is not a list of str"
    ),
    Refused(65, "urls string", layer(urls="http://x/"), InvalidManifest, "urls of sha256:.* is not a list"),
]


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_bad_image_is_refused_by_name_and_leaves_nothing(case: Refused, twins: Twins, tmp_path: Path) -> None:
    twins.refuse(case, tmp_path)


@pytest.mark.parametrize("case", {case.error: case for case in REFUSED}.values(), ids=str)
def test_command_ends_with_the_code_of_each_class(case: Refused, twins: Twins, tmp_path: Path) -> None:
    builder = LayoutBuilder()
    bad, culprit = case.make(builder)
    builder.tag(bad, "bad")
    builder.write(tmp_path)
    for settings in twins.settings.values():
        before = state(settings)
        done = run(settings, "import", str(tmp_path), twins.new_repository(), expect=case.code)
        assert culprit in done.stderr
        check_printed(done.stdout + done.stderr)
        assert state(settings) == before


# --- accepted -----------------------------------------------------------------------------------------


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
