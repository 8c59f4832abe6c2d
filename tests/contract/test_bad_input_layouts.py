"""The catalogue of bad input (docs/internals/hostile-input.md): layouts, their files and their names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from regmeta.errors import Error, InvalidName, InvalidSource, SizeMismatch
from regmeta.oci.layout import blob_path
from tests.builders import Json, LayoutBuilder, digest_of, dumps, make_layout
from tests.support.bad_input import (
    Expected,
    Twins,
    ask,
    check_printed,
    import_all,
    sparse_file,
    state,
    tags_of,
)

TERABYTE = 2**40  # [bytes]


def blob_file(root: Path, descriptor: Json) -> Path:
    return root / blob_path(digest_of(descriptor))


# --- 69: the two documents ------------------------------------------------------------------------------

Spoil = Callable[[Path], None]


def written(content: bytes) -> Spoil:
    def spoil(path: Path) -> None:
        path.write_bytes(content)

    return spoil


def removed(path: Path) -> None:
    path.unlink()


def symlinked(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    """Zeros without end, for whoever may make it."""
    path.unlink()
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("making devices needs root")


def huge(path: Path) -> None:
    os.truncate(path, 2**30)


INDEX = b'{"schemaVersion":2,"manifests":['
DOCUMENTS = [
    ("oci-layout", "missing", removed, "no such file"),
    ("oci-layout", "empty", written(b""), "not JSON"),
    ("oci-layout", "version 2", written(b'{"imageLayoutVersion":"2.0.0"}'), "'2.0.0' is not supported"),
    ("oci-layout", "number", written(b'{"imageLayoutVersion":1}'), "imageLayoutVersion is missing"),
    ("oci-layout", "list", written(b"[]"), "not a JSON object"),
    ("oci-layout", "escapes", written(b'{"imageLayoutVersion":"\\u001b[2J"}'), r"'\\x1b\[2J' is not supp"),
    ("oci-layout", "gigabyte", huge, "1073741824 bytes are more than"),
    ("oci-layout", "symlink", symlinked, "is a symbolic link"),
    ("oci-layout", "directory", directory, "not a regular file"),
    ("oci-layout", "fifo", fifo, "not a regular file"),
    ("oci-layout", "device", device, "not a regular file"),
    ("index.json", "missing", removed, "no such file"),
    ("index.json", "empty", written(b""), "not JSON"),
    ("index.json", "two documents", written(b"{} {}"), "not JSON"),
    ("index.json", "nested", written(INDEX + b"[" * 100_000), "nested deeper"),
    ("index.json", "NaN", written(INDEX + b'{"size":NaN}]}'), "NaN is not JSON"),
    ("index.json", "twice", written(INDEX + b'],"manifests":[]}'), "stands twice"),
    ("index.json", "byte-order mark", written(b"\xef\xbb\xbf" + INDEX + b"]}"), "byte-order mark"),
    ("index.json", "invalid UTF-8", written(INDEX + b'"\xff"]}'), "not UTF-8"),
    ("index.json", "lone surrogate", written(INDEX + b'"\\ud800"]}'), "lone surrogate"),
    ("index.json", "5,000 digits", written(INDEX + b"1" * 5000 + b"]}"), "a number of 5000 digits"),
    ("index.json", "schemaVersion 1", written(b'{"schemaVersion":1,"manifests":[]}'), "is not 2"),
    ("index.json", "no manifests", written(b'{"schemaVersion":2}'), "manifests is not a list"),
    ("index.json", "layers", written(INDEX + b'],"layers":[]}'), "both an image manifest and an index"),
    ("index.json", "gigabyte", huge, "1073741824 bytes are more than"),
    ("index.json", "symlink", symlinked, "is a symbolic link"),
    ("index.json", "directory", directory, "not a regular file"),
    ("index.json", "fifo", fifo, "not a regular file"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [(name, spoil, says) for name, _, spoil, says in DOCUMENTS],
    ids=[f"69-{name}-{what}".replace(" ", "-") for name, what, _, _ in DOCUMENTS],
)
def test_layout_with_a_bad_document_is_refused_as_a_whole(
    name: str, spoil: Spoil, says: str, twins: Twins, tmp_path: Path
) -> None:
    make_layout(tmp_path / "layout", 1)
    spoil(tmp_path / "layout" / name)
    twins.refuse_source(
        Expected(InvalidSource, 3, str(tmp_path / "layout" / name), says), tmp_path / "layout"
    )


def test_layout_whose_documents_say_more_is_taken_in(twins: Twins, tmp_path: Path) -> None:
    found = make_layout(tmp_path, 1)
    (tmp_path / "oci-layout").write_bytes(b' {"imageLayoutVersion":"1.1.0","extra":[1.5,{"a":null}]}\n')
    index = json.loads((tmp_path / "index.json").read_bytes())
    (tmp_path / "index.json").write_bytes(dumps({**index, "extra": {"a": 1.5}}))
    repository = twins.new_repository()
    for settings in twins.settings.values():
        assert [outcome.status for outcome in import_all(settings, tmp_path, repository)] == ["imported"]
        assert tags_of(settings, repository) == {"v0": str(found["v0"])}


# --- 70: what lies where blobs should -----------------------------------------------------------------------


def terabyte(path: Path) -> None:
    path.unlink()
    sparse_file(path, TERABYTE)


def secret(path: Path) -> None:
    """A link to a file that is not of the layout, and that only its owner may read."""
    target = path.parents[3] / "secret"
    target.write_bytes(path.read_bytes())
    target.chmod(0o600)
    path.unlink()
    path.symlink_to(target)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("part", ["layer", "config", "manifest"])
@pytest.mark.parametrize(
    ("spoil", "error", "code", "says"),
    [
        (secret, InvalidSource, 3, "is a symbolic link, and none is followed"),
        (directory, InvalidSource, 3, "not a regular file"),
        (fifo, InvalidSource, 3, "not a regular file"),
        (device, InvalidSource, 3, "not a regular file"),
        (terabyte, SizeMismatch, 4, "1099511627776 bytes|there are more"),
    ],
)
def test_70_blob_that_is_no_regular_file_of_its_size_spoils_its_image_only(
    part: str, spoil: Spoil, error: type[Error], code: int, says: str, twins: Twins, tmp_path: Path
) -> None:
    builder = LayoutBuilder()
    layer = builder.layer(b"a layer of the bad image")
    config = builder.config([layer], Labels={"of": "the bad image"})
    bad, good = builder.image([layer], config), builder.image([b"a good layer"])
    builder.tag(bad, "bad")
    builder.tag(good, "good")
    root = builder.write(tmp_path / "layout")
    spoiled = {"layer": layer, "config": config, "manifest": bad}[part]
    spoil(blob_file(root, spoiled))
    twins.refuse_written(Expected(error, code, spoiled["digest"], says), root, good["digest"])


@pytest.mark.parametrize("folder", ["blobs", "blobs/sha256"])
@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_70_folder_of_blobs_that_is_no_directory_is_refused(
    folder: str, kind: str, twins: Twins, tmp_path: Path
) -> None:
    builder = LayoutBuilder()
    bad = builder.tag(builder.image(), "bad")
    root = builder.write(tmp_path / "layout")
    (root / folder).rename(tmp_path / "elsewhere")
    if kind == "symlink":
        (root / folder).symlink_to(tmp_path / "elsewhere")
    else:
        (root / folder).write_bytes(b"")
    twins.refuse_written(Expected(InvalidSource, 3, bad["digest"], "Not a directory"), root)


def test_70_hard_links_and_a_link_to_the_layout_are_read(twins: Twins, tmp_path: Path) -> None:
    builder = LayoutBuilder()
    image = builder.tag(builder.image([b"one"]), "v1")
    root = builder.write(tmp_path / "layout")
    for path in (root / "blobs" / "sha256").iterdir():
        os.link(path, tmp_path / path.name)
    (tmp_path / "link").symlink_to(root)
    repository = twins.new_repository()
    for settings in twins.settings.values():
        assert [outcome.status for outcome in import_all(settings, tmp_path / "link", repository)] == [
            "imported"
        ]
        assert tags_of(settings, repository) == {"v1": image["digest"]}


# --- 66 and 68: names ---------------------------------------------------------------------------------------

BAD_REPOSITORIES = [
    "UPPER",
    "a//b",
    "a/../b",
    "../b",
    "/etc/passwd",
    "a/",
    "-a",
    "a..b",
    "a___b",
    "a._b",
    "a\x1b[2Jb",
    "\u0430pp",  # Cyrillic
    "a\nb",
    "a" * 256,
    "a/" * 200 + "a",
]


@pytest.mark.parametrize("name", BAD_REPOSITORIES, ids=lambda name: repr(name[:20]))
def test_66_name_that_is_no_repository_is_refused(name: str, twins: Twins, tmp_path: Path) -> None:
    make_layout(tmp_path / "layout", 1)
    for settings in twins.settings.values():
        before = state(settings)
        done = ask(settings, "import", "--", str(tmp_path / "layout"), name)
        assert (done.code, done.out) == (InvalidName.exit_code, "")
        assert repr(name[:300]) in done.err.replace("\\\\", "\\")
        check_printed(done.err)
        assert state(settings) == before


@pytest.mark.parametrize("name", ["a__b", "a---b", "a.b_c/d", "0/1", "a" * 255])
def test_66_odd_name_of_the_grammar_is_taken(name: str, twins: Twins, tmp_path: Path) -> None:
    found = make_layout(tmp_path / "layout", 1)
    for settings in twins.settings.values():
        assert ask(settings, "import", str(tmp_path / "layout"), name).code == 0
        assert tags_of(settings, name) == {"v0": str(found["v0"])}


HEX = "0123456789abcdef" * 4
BAD_TAGS = [
    "t" * 129,
    "..",
    ".hidden",
    "-option",
    "",
    "a b",
    "../../other",
    "app:",
    f"sha256:{HEX}",
    f"busybox@sha256:{HEX}",
    f"sha512:{HEX}{HEX}",
    "\x1b[2J",
    "v1\n",
    "\u202egpj",
    "x" * 5_000,
]


@pytest.mark.parametrize("name", BAD_TAGS, ids=lambda name: repr(name[:20]))
def test_68_image_whose_name_is_no_tag_is_left_out(name: str, twins: Twins, tmp_path: Path) -> None:
    builder = LayoutBuilder()
    builder.tag(builder.image(), name)
    good = builder.tag(builder.image(), "good")
    builder.write(tmp_path / "layout")
    repository = twins.new_repository()
    for settings in twins.settings.values():
        before = state(settings)
        atomic = ask(settings, "import", str(tmp_path / "layout"), repository, "--atomic")
        assert (atomic.code, state(settings)) == (3, before)
        done = ask(settings, "import", str(tmp_path / "layout"), repository)
        assert done.code == InvalidName.exit_code
        assert "not a tag" in done.err
        assert len(done.err) < 2_000
        check_printed(done.out + done.err)
        assert tags_of(settings, repository) == {"good": good["digest"]}


GOOD_TAGS = {
    "t" * 128: "t" * 128,
    "_": "_",
    f"sha256-{HEX}": f"sha256-{HEX}",  # as clients name referrers where the registry does not list them
    "docker.io/library/busybox:1.36": "1.36",
    "../../../other/repository:evil": "evil",  # the place is the user's to say
}


@pytest.mark.parametrize("name", GOOD_TAGS, ids=lambda name: str(name)[:20])
def test_68_name_gives_a_tag_and_never_another_repository(name: str, twins: Twins, tmp_path: Path) -> None:
    builder = LayoutBuilder()
    image = builder.tag(builder.image(), name)
    builder.write(tmp_path / "layout")
    repository = twins.new_repository()
    for settings in twins.settings.values():
        before = set(state(settings).rows["repositories"])
        assert ask(settings, "import", str(tmp_path / "layout"), repository).code == 0
        assert tags_of(settings, repository) == {GOOD_TAGS[name]: image["digest"]}
        [new] = set(state(settings).rows["repositories"]) - before
        assert repository in new
