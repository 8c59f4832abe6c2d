"""The catalogue of bad input (docs/internals/hostile-input.md): what manifests and descriptors may be."""

from __future__ import annotations

import base64
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
from tests.builders import AMD64, ARM64, LayoutBuilder, dumps
from tests.crash.processes import run
from tests.support.bad_input import (
    ELSEWHERE,
    LAYER,
    Make,
    Refused,
    Spoiled,
    Twins,
    check_printed,
    child,
    content,
    entry,
    image,
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
    opaque = builder.blob(b"an opaque child that no other case has", "application/vnd.example.other")
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


NO_TEXTS: list[Any] = [1, {}, None, ["x"]]
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
        for value in NO_TEXTS
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
