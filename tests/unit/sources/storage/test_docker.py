"""Docker's registry: what it would serve, and a name for everything that it would not."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree

import pytest

from regmeta.errors import DigestMismatch, InvalidManifest, InvalidSource, MissingContent, SizeMismatch
from regmeta.oci import media_types
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import MAX_MANIFEST_BYTES
from regmeta.oci.streams import LinkableStream, read_up_to
from regmeta.sources.storage import StoredRepository
from regmeta.sources.storage.descriptors import Schema1, UnknownMediaType
from regmeta.sources.storage.docker import DockerStorage
from regmeta.sources.storage.trees import TreeEntry, nothing
from regmeta.sources.storage.trees.folder import FolderTree
from tests.builders import Json, LayoutBuilder, digest_of, dumps
from tests.support.old_registries.docker_tree import DockerTree
from tests.unit.sources.storage.deep import deep_folders

REPOSITORY = "team/app"
PUSHED = datetime(2021, 3, 4, 5, 6, 7, tzinfo=UTC)
NOWHERE = f"sha256:{'0' * 64}"


class Old:
    """A storage with one image in it, and the image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = DockerTree(root)
        self.builder = LayoutBuilder()
        self.image = self.builder.image()
        self.digest = digest_of(self.image)
        self.tree.image(REPOSITORY, self.builder, self.image, "v1")

    def spare(self, tag: str | None = None) -> Json:
        """Add another image."""
        image = self.builder.image()
        self.tree.image(REPOSITORY, self.builder, image, tag)
        return image

    @property
    def tag_link(self) -> Path:
        return self.tree.tag_link(REPOSITORY, "v1")

    @property
    def revision_link(self) -> Path:
        return self.tree.revision_link(REPOSITORY, str(self.digest))

    @property
    def data(self) -> Path:
        return self.tree.data(str(self.digest))


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path / "old")


@pytest.fixture
def storage(old: Old) -> Iterator[DockerStorage]:
    with closing(DockerStorage(FolderTree(str(old.root), links=True))) as found:
        yield found


def named(found: StoredRepository) -> set[tuple[str, str]]:
    return {(defect.kind, defect.subject) for defect in found.defects}


def tags(found: StoredRepository) -> dict[str, Digest]:
    return {tag.name: tag.digest for tag in found.tags}


# --- what it would serve ----------------------------------------------------------------------


def test_tags_and_manifests_are_those_that_have_links_and_bytes(storage: DockerStorage, old: Old) -> None:
    child = old.builder.image()
    index = old.builder.index([child])
    old.tree.image(REPOSITORY, old.builder, index, "multi")
    found = storage.repository(REPOSITORY)
    assert tags(found) == {"multi": digest_of(index), "v1": old.digest}
    assert found.manifests.keys() == {old.digest, digest_of(index), digest_of(child)}
    assert found.defects == ()
    assert storage.kind == "docker"
    assert storage.location == str(old.root)


def test_times_are_those_of_the_links(storage: DockerStorage, old: Old) -> None:
    os.utime(old.tag_link, (PUSHED.timestamp(), PUSHED.timestamp()))
    os.utime(old.revision_link, (0, 0))
    found = storage.repository(REPOSITORY)
    assert found.tags[0].tagged_at == PUSHED
    assert found.manifests == {old.digest: None}


def test_repositories_are_named_in_order_and_nest(storage: DockerStorage, old: Old) -> None:
    for name in ("team", "team-b", "team/app/cache", "a/b/c", "team.a/x", "zoo"):
        old.tree.image(name, old.builder, old.image, "v1")
    (old.tree.folder("uploading") / "_uploads").mkdir(parents=True)
    (old.tree.folder("layers") / "_layers").mkdir(parents=True)
    (old.tree.folder("empty/folder")).mkdir(parents=True)
    (old.tree.folder("team") / "_trash/x/_manifests").mkdir(parents=True)
    (old.tree.folder("note.txt")).write_text("a file is no repository")
    names = list(storage.repositories())
    assert names == sorted(names)
    assert set(names) == {
        "a/b/c", "layers", "team", "team-b", "team.a/x", "team/app", "team/app/cache", "uploading", "zoo",
    }  # fmt: skip


def test_storage_that_nothing_was_pushed_to_has_no_repositories(tmp_path: Path) -> None:
    with closing(DockerStorage(FolderTree(str(tmp_path), links=False))) as storage:
        assert list(storage.repositories()) == []


def test_repository_that_has_gone_has_nothing(storage: DockerStorage) -> None:
    assert storage.repository("team/gone") == StoredRepository("team/gone", (), {})


def test_link_may_end_with_one_line_end(storage: DockerStorage, old: Old) -> None:
    old.tag_link.write_text(f"{old.digest}\n")
    assert tags(storage.repository(REPOSITORY)) == {"v1": old.digest}


def test_sha512_is_served(storage: DockerStorage, old: Old) -> None:
    builder = LayoutBuilder(algorithm="sha512")
    image = builder.image()
    old.tree.image(REPOSITORY, builder, image, "long")
    assert tags(storage.repository(REPOSITORY))["long"] == digest_of(image)
    assert storage.descriptor(REPOSITORY, digest_of(image)).size_bytes == image["size"]


def test_manifest_that_is_linked_as_a_layer_is_served(storage: DockerStorage, old: Old) -> None:
    """As distribution 2.1.0 wrote it."""
    layer_link = old.tree.layer_link(REPOSITORY, str(old.digest))
    layer_link.parent.mkdir(parents=True)
    old.revision_link.rename(layer_link)
    found = storage.repository(REPOSITORY)
    assert tags(found) == {"v1": old.digest}
    assert found.manifests == {old.digest: None}
    assert found.defects == ()


def test_signatures_of_schema_1_beside_a_link_are_no_defect(storage: DockerStorage, old: Old) -> None:
    signature = old.revision_link.parent / "signatures" / NOWHERE.replace(":", "/") / "link"
    signature.parent.mkdir(parents=True)
    signature.write_text(NOWHERE)
    assert storage.repository(REPOSITORY).defects == ()


def test_content_is_read_through_the_source(storage: DockerStorage, old: Old) -> None:
    source = storage.source(REPOSITORY)
    [entry] = source.entries()
    assert entry.ref_name == "v1"
    assert entry.descriptor == storage.descriptor(REPOSITORY, old.digest)
    assert entry.descriptor is not None
    assert source.read(entry.descriptor, MAX_MANIFEST_BYTES) == old.builder.blobs[str(old.digest)]
    for digest, content in old.builder.blobs.items():
        with source.open(Digest.parse(digest)) as stream:
            assert isinstance(stream, LinkableStream)
            assert read_up_to(stream, 100_000) == content
    source.close()
    assert list(storage.repositories()) == [REPOSITORY]
    assert source.location == f"{old.root} ({REPOSITORY})"


def test_source_refuses_what_is_not_what_it_should_be(storage: DockerStorage, old: Old) -> None:
    source = storage.source(REPOSITORY)
    size = old.image["size"]
    with pytest.raises(MissingContent):
        source.read(Descriptor("a/b", Digest.parse(NOWHERE), 5), 100)
    with pytest.raises(MissingContent):
        source.open(Digest.parse(NOWHERE))
    for said in (size - 1, size + 1):
        with pytest.raises(SizeMismatch):
            source.read(Descriptor("a/b", old.digest, said), 10_000)
    with pytest.raises(InvalidManifest):
        source.read(Descriptor("a/b", old.digest, size), size - 1)
    old.data.write_bytes(bytes(size))
    with pytest.raises(DigestMismatch):
        source.read(Descriptor("a/b", old.digest, size), 10_000)
    [entry] = source.entries()
    assert isinstance(entry.error, DigestMismatch)


def test_blobs_have_sizes_whether_linked_or_not(storage: DockerStorage, old: Old) -> None:
    layer = next(Digest.parse(digest) for digest in old.builder.blobs if digest != str(old.digest))
    assert storage.blob_size(REPOSITORY, layer) == len(old.builder.blobs[str(layer)])
    assert storage.is_linked(REPOSITORY, layer)
    assert storage.is_linked(REPOSITORY, old.digest)
    assert not storage.is_placeholder(REPOSITORY, layer)
    link = old.tree.layer_link(REPOSITORY, str(layer))
    for content in (b"", NOWHERE.encode()):
        link.write_bytes(content)
        assert not storage.is_linked(REPOSITORY, layer)
    link.unlink()
    assert not storage.is_linked(REPOSITORY, layer)
    assert storage.blob_size(REPOSITORY, layer) == len(old.builder.blobs[str(layer)])
    assert not storage.is_linked("no/such", layer)
    assert not storage.is_linked("../..", layer)
    assert storage.blob_size(REPOSITORY, Digest.parse(NOWHERE)) is None


def test_blob_that_is_no_file_could_not_be_found_out(storage: DockerStorage, old: Old) -> None:
    old.data.unlink()
    old.data.mkdir()
    with pytest.raises(InvalidSource, match="not a regular file"):
        storage.blob_size(REPOSITORY, old.digest)
    assert named(storage.repository(REPOSITORY)) == {
        ("unreadable", str(old.digest)),
        ("unreadable", "v1"),
    }


# --- what it would not serve ------------------------------------------------------------------


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def as_link(path: Path) -> None:
    away = Path(str(path).partition("/docker/registry/")[0]) / "away"
    path.rename(away)
    path.symlink_to(away)


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    write(path / "x", b"")


def as_file(path: Path) -> None:
    rmtree(path)
    path.write_bytes(b"x")


TAG_LINKS: dict[str, tuple[Callable[[Old], object], str]] = {
    "empty": (lambda old: old.tag_link.write_bytes(b""), "empty-link"),
    "only a line's end": (lambda old: old.tag_link.write_bytes(b"\n"), "empty-link"),
    "two line ends": (lambda old: old.tag_link.write_text(f"{old.digest}\n\n"), "bad-link"),
    "a space": (lambda old: old.tag_link.write_text(f" {old.digest}"), "bad-link"),
    "cut": (lambda old: old.tag_link.write_text(str(old.digest)[:-1]), "bad-link"),
    "upper case": (lambda old: old.tag_link.write_text(f"sha256:{old.digest.hex.upper()}"), "bad-link"),
    "zeros": (lambda old: old.tag_link.write_bytes(bytes(71)), "bad-link"),
    "bytes": (lambda old: old.tag_link.write_bytes(b"\xff\xfe\n\x1b[31m"), "bad-link"),
    "another algorithm": (lambda old: old.tag_link.write_text(f"sha384:{'0' * 96}"), "bad-link"),
    "1 GiB": (lambda old: os.truncate(old.tag_link, 1 << 30), "bad-link"),
    "a symbolic link": (lambda old: as_link(old.tag_link), "bad-link"),
    "a FIFO": (lambda old: as_fifo(old.tag_link), "bad-link"),
    "a folder, current a link": (lambda old: as_link(old.tag_link.parent), "bad-link"),
    "current a file": (lambda old: as_file(old.tag_link.parent), "bad-link"),
    "the tag a link": (lambda old: as_link(old.tag_link.parent.parent), "bad-link"),
    "the tag a file": (lambda old: as_file(old.tag_link.parent.parent), "bad-link"),
    "no current": (lambda old: rmtree(old.tag_link.parent), "bad-link"),
    "not there": (lambda old: old.tag_link.write_text(NOWHERE), "missing-manifest"),
    "no bytes": (lambda old: old.data.unlink(), "missing-manifest"),
    "no revision": (lambda old: old.revision_link.unlink(), "unlinked-manifest"),
    "an empty revision": (lambda old: old.revision_link.write_bytes(b""), "unlinked-manifest"),
}


@pytest.mark.parametrize("case", TAG_LINKS)
def test_tag_that_would_not_be_served_is_a_defect(storage: DockerStorage, old: Old, case: str) -> None:
    spare = digest_of(old.spare("good"))
    spoil, kind = TAG_LINKS[case]
    spoil(old)
    found = storage.repository(REPOSITORY)
    assert (kind, "v1") in named(found)
    assert tags(found) == {"good": spare}
    assert spare in found.manifests
    assert all(defect.detail.isprintable() for defect in found.defects)


REVISIONS: dict[str, tuple[Callable[[Old], object], str]] = {
    "empty": (lambda old: old.revision_link.write_bytes(b""), "empty-link"),
    "another digest": (lambda old: old.revision_link.write_text(NOWHERE), "bad-link"),
    "no digest": (lambda old: old.revision_link.write_text("sha256:"), "bad-link"),
    "a symbolic link": (lambda old: as_link(old.revision_link), "bad-link"),
    "a FIFO": (lambda old: as_fifo(old.revision_link), "bad-link"),
    "its folder a link": (lambda old: as_link(old.revision_link.parent), "bad-link"),
    "its folder a file": (lambda old: as_file(old.revision_link.parent), "bad-link"),
    "no bytes": (lambda old: old.data.unlink(), "missing-manifest"),
    "no folder of bytes": (lambda old: rmtree(old.data.parent), "missing-manifest"),
    "bytes behind a link": (lambda old: as_link(old.data), "unreadable"),
}


@pytest.mark.parametrize("case", REVISIONS)
def test_manifest_that_would_not_be_served_is_a_defect(storage: DockerStorage, old: Old, case: str) -> None:
    old.tag_link.unlink()
    rmtree(old.tag_link.parent.parent)
    spare = digest_of(old.spare())
    spoil, kind = REVISIONS[case]
    spoil(old)
    found = storage.repository(REPOSITORY)
    assert (kind, str(old.digest)) in named(found)
    assert found.manifests.keys() == {spare}


@pytest.mark.parametrize("name", ["sha256/xyz", "md5/" + "0" * 32, f"sha256/{'A' * 64}", "sha256/\n"])
def test_revision_that_is_no_digest_is_a_defect(storage: DockerStorage, old: Old, name: str) -> None:
    revisions = old.revision_link.parents[2]
    write(revisions / name / "link", b"x")
    found = storage.repository(REPOSITORY)
    assert named(found) == {("bad-link", f"revisions/{name}/link")}
    assert tags(found) == {"v1": old.digest}


@pytest.mark.parametrize("spoil", [as_link, as_file])
@pytest.mark.parametrize("name", ["revisions", "revisions/sha256", "tags"])
def test_folder_of_links_that_is_none_is_unreadable(
    storage: DockerStorage, old: Old, name: str, spoil: Callable[[Path], None]
) -> None:
    spoil(old.revision_link.parents[3] / name)
    found = storage.repository(REPOSITORY)
    assert ("unreadable", f"_manifests/{name}") in named(found)
    assert found.tags == ()
    if name != "tags":
        assert ("unreadable", "v1") in named(found)


def test_tag_may_be_called_like_a_folder_of_the_registry(storage: DockerStorage, old: Old) -> None:
    for tag in ("index", "current", "link", "_manifests", "tags", "revisions"):
        old.tree.tag(REPOSITORY, tag, str(old.digest))
    found = storage.repository(REPOSITORY)
    assert tags(found).keys() == {"index", "current", "link", "_manifests", "tags", "revisions", "v1"}
    assert found.defects == ()


def test_tag_without_any_link_is_none(storage: DockerStorage, old: Old) -> None:
    """In a bucket there is no such thing, and on a disk it is what a deletion left."""
    (old.tree.tag_folder(REPOSITORY, "gone") / "current").mkdir(parents=True)
    (old.tree.tag_folder(REPOSITORY, "going")).mkdir(parents=True)
    found = storage.repository(REPOSITORY)
    assert found.defects == ()
    assert tags(found) == {"v1": old.digest}


@pytest.mark.parametrize("tag", [".hidden", "-x", "a" * 129, "two\nlines", "ü", "sha256:1", "\x1b[31m"])
def test_tag_outside_the_grammar_is_a_defect(storage: DockerStorage, old: Old, tag: str) -> None:
    old.tree.tag(REPOSITORY, tag, str(old.digest))
    found = storage.repository(REPOSITORY)
    assert named(found) == {("bad-tag-name", tag)}
    assert len(found.defects) == 1
    assert found.defects[0].detail.isprintable()
    assert tags(found) == {"v1": old.digest}


def test_tag_that_is_no_text_is_a_defect(storage: DockerStorage, old: Old) -> None:
    folder = os.fsencode(old.tag_link.parent.parent.parent) + b"/\xff"
    os.mkdir(folder)
    assert named(storage.repository(REPOSITORY)) == {("bad-tag-name", "\\xff")}


@pytest.mark.parametrize("name", ["Upper", "a b", "team/ü", "two\nlines", "team/-x", "x" * 250 + "/longer"])
def test_repository_outside_the_grammar_is_named_and_a_defect(
    storage: DockerStorage, old: Old, name: str
) -> None:
    (old.tree.folder(name) / "_manifests").mkdir(parents=True)
    assert set(storage.repositories()) == {name, REPOSITORY}
    assert named(storage.repository(name)) == {("bad-repository-name", name)}
    assert storage.repository(name).defects[0].detail.isprintable()
    assert storage.fingerprint(name) == ""


def test_repository_that_is_nested_too_deep_is_named_once(storage: DockerStorage, old: Old) -> None:
    with deep_folders(old.tree.folder("."), 1000):
        [name, _] = storage.repositories()
    assert name == "/".join(["deep"] * 52)
    assert named(storage.repository(name)) == {("bad-repository-name", name)}


@pytest.mark.parametrize("name", ["..", "../..", "/etc", "", "team/../team/app", "team/app/_manifests"])
def test_name_that_leads_out_is_not_opened(storage: DockerStorage, name: str) -> None:
    assert named(storage.repository(name)) == {("bad-repository-name", name)}
    assert storage.fingerprint(name) == ""
    assert not storage.is_linked(name, Digest.parse(NOWHERE))


@pytest.mark.parametrize("below", ["_layers", "_uploads"])
def test_repository_without_manifests_is_a_defect(storage: DockerStorage, old: Old, below: str) -> None:
    (old.tree.folder("begun") / below).mkdir(parents=True)
    assert named(storage.repository("begun")) == {("no-manifests-folder", "begun")}


@pytest.mark.parametrize("level", ["team", "team/app"])
def test_repository_behind_a_link_is_named_and_not_followed(
    storage: DockerStorage, old: Old, level: str
) -> None:
    old.tree.folder(level).rename(old.root / "moved")
    old.tree.folder(level).symlink_to(old.root / "moved")
    assert list(storage.repositories()) == [level]
    assert named(storage.repository(level)) == {("unreadable", level)}
    with pytest.raises(InvalidSource):
        storage.fingerprint(level)


@pytest.mark.parametrize("spoil", [as_link, as_file])
def test_manifests_folder_that_is_none_is_unreadable(
    storage: DockerStorage, old: Old, spoil: Callable[[Path], None]
) -> None:
    spoil(old.tree.folder(REPOSITORY) / "_manifests")
    assert named(storage.repository(REPOSITORY)) == {("unreadable", REPOSITORY)}


def test_one_repository_that_cannot_be_listed_leaves_the_others(storage: DockerStorage, old: Old) -> None:
    old.tree.image("other", old.builder, old.image, "v1")
    old.tree.folder("team").chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        assert list(storage.repositories()) == ["other", "team"]
        assert named(storage.repository("team")) == {("unreadable", "team")}
    finally:
        os.seteuid(user)
        old.tree.folder("team").chmod(0o755)


# --- while the registry is at work ------------------------------------------------------------


class Meddling(FolderTree):
    """Something happens after the listing of files."""

    meddle: Callable[[], object]

    def files(
        self, path: str, *, leave_out: Callable[[str], bool] = nothing
    ) -> Iterator[tuple[str, TreeEntry]]:
        found = list(super().files(path, leave_out=leave_out))
        self.meddle()
        return iter(found)


@pytest.fixture
def meddled(old: Old) -> Iterator[Meddling]:
    with closing(Meddling(str(old.root), links=False)) as tree:
        yield tree


def test_tag_that_is_moved_between_list_and_read_names_what_came(meddled: Meddling, old: Old) -> None:
    made: list[Json] = []
    meddled.meddle = lambda: made.append(old.spare("v1"))
    found = DockerStorage(meddled).repository(REPOSITORY)
    assert tags(found) == {"v1": digest_of(made[0])}
    assert found.manifests.keys() == {old.digest, digest_of(made[0])}
    assert found.manifests[digest_of(made[0])] is None
    assert found.defects == ()


def test_tag_that_is_deleted_between_list_and_read_is_gone(meddled: Meddling, old: Old) -> None:
    meddled.meddle = lambda: rmtree(old.tag_link.parent.parent)
    found = DockerStorage(meddled).repository(REPOSITORY)
    assert (tags(found), found.defects) == ({}, ())
    assert found.manifests.keys() == {old.digest}


def test_image_that_is_deleted_between_list_and_read_is_gone(meddled: Meddling, old: Old) -> None:
    def delete() -> None:
        rmtree(old.tag_link.parent.parent)
        old.revision_link.unlink()

    meddled.meddle = delete
    found = DockerStorage(meddled).repository(REPOSITORY)
    assert (tags(found), dict(found.manifests), found.defects) == ({}, {}, ())


def test_link_that_becomes_a_symbolic_one_between_list_and_read_is_not_followed(
    meddled: Meddling, old: Old
) -> None:
    meddled.meddle = lambda: as_link(old.tag_link)
    found = DockerStorage(meddled).repository(REPOSITORY)
    assert (tags(found), named(found)) == ({}, {("unreadable", "v1")})


# --- fingerprints -----------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Old], object]] = {
    "a new tag": lambda old: old.tree.tag(REPOSITORY, "v2", str(old.digest)),
    "a moved tag": lambda old: rewrite(old.tag_link, NOWHERE),
    "a deleted tag": lambda old: rmtree(old.tag_link.parent.parent),
    "a new manifest": lambda old: old.spare(),
    "a deleted manifest": lambda old: old.revision_link.unlink(),
    "an emptied link": lambda old: rewrite(old.revision_link, ""),
    "a push of the same": lambda old: os.utime(old.tag_link),
    "a link in place of a file": lambda old: as_link(old.tag_link),
}


def rewrite(path: Path, content: str) -> None:
    """Change what a file says, and leave its time as it was."""
    status = path.stat()
    path.write_text(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_changes_with_tags_and_manifests(storage: DockerStorage, old: Old, change: str) -> None:
    os.utime(old.tag_link, (PUSHED.timestamp(), PUSHED.timestamp()))
    before = storage.fingerprint(REPOSITORY)
    assert storage.fingerprint(REPOSITORY) == before
    CHANGES[change](old)
    assert storage.fingerprint(REPOSITORY) != before


def test_fingerprint_is_the_same_whatever_happens_elsewhere(storage: DockerStorage, old: Old) -> None:
    before = storage.fingerprint(REPOSITORY)
    old.tree.image("team/app/cache", old.builder, old.image, "v1")
    old.tree.blob(NOWHERE, b"x")
    write(old.tree.folder(REPOSITORY) / "_uploads/1/data", b"x")
    write(old.tree.layer_link(REPOSITORY, NOWHERE), b"x")
    assert storage.fingerprint(REPOSITORY) == before
    assert storage.fingerprint("team/app/cache") != before


# --- descriptors ------------------------------------------------------------------------------


def kept(old: Old, content: bytes) -> Digest:
    digest = Digest.of(content)
    old.tree.manifest(REPOSITORY, str(digest), content)
    return digest


CONFIG: Json = {"mediaType": media_types.OCI_CONFIG, "digest": NOWHERE, "size": 3}
TYPES: dict[str, tuple[Json, str, bool]] = {
    "its own": (
        {"schemaVersion": 2, "mediaType": media_types.DOCKER_MANIFEST, "config": CONFIG, "layers": []},
        media_types.DOCKER_MANIFEST,
        True,
    ),
    "of an index": ({"schemaVersion": 2, "manifests": []}, media_types.OCI_INDEX, True),
    "of a manifest": ({"schemaVersion": 2, "config": CONFIG}, media_types.OCI_MANIFEST, True),
    "empty": ({"schemaVersion": 2, "mediaType": "", "layers": []}, media_types.OCI_MANIFEST, False),
    "unknown, of a known shape": (
        {"schemaVersion": 2, "mediaType": "application/x", "config": CONFIG, "layers": []},
        "application/x",
        True,
    ),
}


@pytest.mark.parametrize("case", TYPES)
def test_media_type_is_what_the_manifest_says_or_is(storage: DockerStorage, old: Old, case: str) -> None:
    document, media_type, says_type = TYPES[case]
    digest = kept(old, dumps(document))
    expected = Descriptor(media_type, digest, len(dumps(document)))
    assert storage.says_type(REPOSITORY, digest) is says_type
    assert storage.descriptor(REPOSITORY, digest) == expected
    assert storage.says_type(REPOSITORY, digest) is says_type


REFUSED: dict[str, tuple[bytes, type[Exception]]] = {
    "schema 1": (dumps({"schemaVersion": 1, "name": "a", "fsLayers": []}), Schema1),
    "schema 1 by its type": (
        dumps({"schemaVersion": 2, "mediaType": min(media_types.DOCKER_SCHEMA1), "layers": []}),
        Schema1,
    ),
    "an unknown type": (dumps({"mediaType": "application/x", "blobs": []}), UnknownMediaType),
    "no type": (dumps({"schemaVersion": 2}), UnknownMediaType),
    "a layer": (b"\x1f\x8b\x08rest", InvalidManifest),
    "nothing": (b"", InvalidManifest),
    "a list": (b"[]", InvalidManifest),
    "both kinds": (dumps({"schemaVersion": 2, "manifests": [], "layers": []}), InvalidManifest),
    "a type that is none": (dumps({"mediaType": "\x1b[31m", "layers": []}), InvalidManifest),
    "a number for a type": (dumps({"mediaType": 5, "layers": []}), InvalidManifest),
    "deep nesting": (b"[" * 10_000, InvalidManifest),
    "too large": (b" " * (MAX_MANIFEST_BYTES + 1), InvalidManifest),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_manifest_has_no_descriptor(storage: DockerStorage, old: Old, case: str) -> None:
    content, error = REFUSED[case]
    digest = kept(old, content)
    with pytest.raises(InvalidManifest) as raised:
        storage.descriptor(REPOSITORY, digest)
    assert type(raised.value) is error
    assert str(digest) in str(raised.value)
    assert str(raised.value).isprintable()


def test_manifest_that_is_missing_or_damaged_has_no_descriptor(storage: DockerStorage, old: Old) -> None:
    with pytest.raises(MissingContent, match=NOWHERE):
        storage.descriptor(REPOSITORY, Digest.parse(NOWHERE))
    for content in (b"", b"{}"):
        old.data.write_bytes(content)
        with pytest.raises(DigestMismatch, match=str(old.digest)):
            storage.descriptor(REPOSITORY, old.digest)
    as_link(old.data)
    with pytest.raises(InvalidSource):
        storage.descriptor(REPOSITORY, old.digest)


# --- threads, and what is left ----------------------------------------------------------------


def test_many_threads_see_the_same(storage: DockerStorage, old: Old) -> None:
    expected = old.tree.add_tags(REPOSITORY, 300)
    before = threading.active_count()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: storage.repository(REPOSITORY), range(16)))
    assert all(tags(one) == {**expected, "v1": old.digest} for one in found)
    assert len({one.manifests == found[0].manifests for one in found}) == 1
    assert threading.active_count() == before


def test_many_files_at_once_give_the_same_as_one(old: Old) -> None:
    old.tree.add_tags(REPOSITORY, 300)
    old.tag_link.write_bytes(b"")
    with closing(FolderTree(str(old.root), links=False)) as tree:
        one = DockerStorage(tree).repository(REPOSITORY)
        assert DockerStorage(tree, at_once=16).repository(REPOSITORY) == one
        assert len(one.tags) == 300


def test_nothing_is_written(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> list[tuple[str, int, int, str]]:
        return [
            (str(path), path.stat().st_mtime_ns, path.stat().st_ctime_ns, digest_of_file(path))
            for path in sorted(old.root.rglob("*"))
        ]

    before = state()
    flags: list[int] = []
    real = os.open

    def noted(path: str, how: int, *rest: int, dir_fd: int | None = None) -> int:
        flags.append(how)
        return real(path, how, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", noted)
    with closing(DockerStorage(FolderTree(str(old.root), links=True))) as storage:
        for name in storage.repositories():
            storage.fingerprint(name)
            source = storage.source(name)
            for digest in storage.repository(name).manifests:
                source.read(storage.descriptor(name, digest), MAX_MANIFEST_BYTES)
                with source.open(digest) as stream:
                    read_up_to(stream, 10)
    monkeypatch.undo()
    assert flags
    assert not [how for how in flags if how & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)]
    assert state() == before


def digest_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
