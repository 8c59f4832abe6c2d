"""A tree of OCI layouts, as zot keeps its registry: what it would serve, and a name for all else."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from regmeta.errors import DigestMismatch, InvalidSource, MissingContent
from regmeta.oci import layout, media_types
from regmeta.oci.descriptor import REF_NAME
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import MAX_MANIFEST_BYTES
from regmeta.oci.streams import LinkableStream, read_up_to
from regmeta.sources.storage import StoredRepository
from regmeta.sources.storage.layouts import LayoutTreeStorage
from regmeta.sources.storage.trees import TreeEntry
from regmeta.sources.storage.trees.folder import FolderTree
from tests.builders import Json, LayoutBuilder, digest_of, dumps

REPOSITORY = "team/app"
NOWHERE = f"sha256:{'0' * 64}"
PUSHED = datetime(2021, 3, 4, 5, 6, 7, tzinfo=UTC)


class Counted(FolderTree):
    """Counts what is looked at."""

    looks = 0

    def look(self, path: str) -> TreeEntry | None:
        self.looks += 1
        return super().look(path)


class Old:
    """A tree with one layout in it, of one tagged image and one without a tag."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.builder = LayoutBuilder()
        self.image = self.builder.image()
        self.builder.tag(self.image, "v1")
        self.untagged = self.builder.image()
        self.builder.tag(self.untagged)
        self.write()

    @property
    def digest(self) -> Digest:
        return digest_of(self.image)

    def write(self, name: str = REPOSITORY) -> Path:
        return self.builder.write(self.root / name)

    def blob(self, digest: object, name: str = REPOSITORY) -> Path:
        return self.root / name / layout.blob_path(Digest.parse(str(digest)))

    def index(self, content: bytes, name: str = REPOSITORY) -> None:
        (self.root / name / "index.json").write_bytes(content)

    def entries(self, *entries: object) -> None:
        self.index(dumps({"schemaVersion": 2, "manifests": list(entries)}))


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path / "Old Registry")


@pytest.fixture
def tree(old: Old) -> Counted:
    return Counted(str(old.root), links=True)


@pytest.fixture
def storage(tree: Counted) -> Iterator[LayoutTreeStorage]:
    with closing(LayoutTreeStorage(tree)) as found:
        yield found


def named(found: StoredRepository) -> set[tuple[str, str]]:
    return {(defect.kind, defect.subject) for defect in found.defects}


def tags(found: StoredRepository) -> dict[str, Digest]:
    return {tag.name: tag.digest for tag in found.tags}


def tagged(descriptor: Json, name: object) -> Json:
    return {**descriptor, "annotations": {REF_NAME: name}}


# --- what it would serve ----------------------------------------------------------------------


def test_tags_and_manifests_are_those_that_the_index_lists(storage: LayoutTreeStorage, old: Old) -> None:
    os.utime(old.blob(old.digest), (PUSHED.timestamp(), PUSHED.timestamp()))
    found = storage.repository(REPOSITORY)
    assert tags(found) == {"v1": old.digest}
    assert found.tags[0].tagged_at == PUSHED
    assert found.manifests.keys() == {old.digest, digest_of(old.untagged)}
    assert found.manifests[old.digest] == PUSHED
    assert found.defects == ()
    assert storage.kind == "layouts"
    assert storage.location == str(old.root)


def test_repositories_are_the_folders_that_are_layouts(storage: LayoutTreeStorage, old: Old) -> None:
    for name in ("team", "team-b", "team/app/cache", "zoo"):
        old.write(name)
    for name in ("team/.sync/x/zoo", ".trash/a", "zoo/blobs/inner", ".uploads"):
        old.write(name)
    (old.root / "empty/folder").mkdir(parents=True)
    (old.root / "website").mkdir()
    (old.root / "website/index.json").write_text("{}")
    names = list(storage.repositories())
    assert names == sorted(names)
    assert names == ["team", "team-b", "team/app", "team/app/cache", "zoo"]


def test_root_that_is_a_layout_is_a_repository_by_its_own_name(tmp_path: Path) -> None:
    old = Old(tmp_path / "MyImage")
    old.write("")
    with closing(LayoutTreeStorage(FolderTree(str(old.root), links=False))) as storage:
        assert list(storage.repositories()) == ["myimage", "team/app"]
        assert tags(storage.repository("myimage")) == {"v1": old.digest}
        assert storage.descriptor("myimage", old.digest).size_bytes == old.image["size"]
    old.write("myimage")
    with (
        closing(LayoutTreeStorage(FolderTree(str(old.root), links=False))) as storage,
        pytest.raises(InvalidSource, match="both"),
    ):
        list(storage.repositories())


def test_ref_names_are_read_as_an_import_reads_them(storage: LayoutTreeStorage, old: Old) -> None:
    old.entries(tagged(old.image, "docker.io/library/busybox:1.36"))
    assert tags(storage.repository(REPOSITORY)) == {"1.36": old.digest}


def test_content_is_read_through_the_source(storage: LayoutTreeStorage, old: Old) -> None:
    source = storage.source(REPOSITORY)
    [entry] = source.entries()
    assert entry.descriptor is not None
    assert source.read(entry.descriptor, MAX_MANIFEST_BYTES) == old.builder.blobs[str(old.digest)]
    with source.open(old.digest) as stream:
        assert isinstance(stream, LinkableStream)
        assert read_up_to(stream, 100_000) == old.builder.blobs[str(old.digest)]
    assert storage.is_linked(REPOSITORY, old.digest)
    assert storage.blob_size(REPOSITORY, old.digest) == old.image["size"]
    absent = Digest.parse(NOWHERE)
    assert storage.blob_size(REPOSITORY, absent) is None
    assert not storage.is_linked(REPOSITORY, absent)
    for call in (source.open, lambda digest: storage.descriptor(REPOSITORY, digest)):
        with pytest.raises(MissingContent, match=NOWHERE):
            call(absent)


def test_media_type_comes_from_the_index_where_it_is_listed(storage: LayoutTreeStorage, old: Old) -> None:
    typeless = dumps({"schemaVersion": 2, "mediaType": "", "config": old.image, "layers": []})
    child = old.builder.blob(typeless, media_types.DOCKER_MANIFEST)
    other = old.builder.blob(typeless + b" ")
    old.write()
    old.entries(child)
    listed, by_shape = digest_of(child), digest_of(other)
    assert storage.descriptor(REPOSITORY, listed).media_type == media_types.DOCKER_MANIFEST
    assert storage.says_type(REPOSITORY, listed)
    assert storage.descriptor(REPOSITORY, by_shape).media_type == media_types.OCI_MANIFEST
    assert not storage.says_type(REPOSITORY, by_shape)


def test_types_are_those_of_the_listing_that_was_read_last(storage: LayoutTreeStorage, old: Old) -> None:
    child = old.builder.blob(dumps({"schemaVersion": 2, "config": old.image, "layers": []}))
    old.write()
    digest = digest_of(child)
    for media_type in (media_types.DOCKER_MANIFEST, media_types.OCI_MANIFEST):
        old.entries({**child, "mediaType": media_type})
        storage.repository(REPOSITORY)
        assert storage.descriptor(REPOSITORY, digest).media_type == media_type


def test_damaged_manifest_has_no_descriptor(storage: LayoutTreeStorage, old: Old) -> None:
    old.blob(old.digest).write_bytes(b"{}")
    with pytest.raises(DigestMismatch):
        storage.descriptor(REPOSITORY, old.digest)


# --- placeholders -----------------------------------------------------------------------------


def emptied(old: Old, name: str) -> None:
    """Make placeholders of all blobs of a layout."""
    for path in (old.root / name / "blobs/sha256").iterdir():
        path.write_bytes(b"")


def test_placeholder_is_read_from_the_repository_that_has_the_bytes(
    storage: LayoutTreeStorage, old: Old
) -> None:
    old.write("zoo")
    before = storage.repository("zoo")
    emptied(old, REPOSITORY)
    os.utime(old.blob(old.digest, "zoo"), (PUSHED.timestamp(), PUSHED.timestamp()))
    found = storage.repository(REPOSITORY)
    assert tags(found) == tags(before)
    assert found.manifests[old.digest] == PUSHED
    assert found.defects == ()
    for digest, content in old.builder.blobs.items():
        assert storage.blob_size(REPOSITORY, Digest.parse(digest)) == len(content)
        assert storage.is_linked(REPOSITORY, Digest.parse(digest))
        assert not storage.is_placeholder(REPOSITORY, Digest.parse(digest))
        with storage.source(REPOSITORY).open(Digest.parse(digest)) as stream:
            assert read_up_to(stream, 100_000) == content
    assert storage.descriptor(REPOSITORY, old.digest).size_bytes == old.image["size"]


def test_placeholder_whose_bytes_are_nowhere_is_one(storage: LayoutTreeStorage, old: Old) -> None:
    old.write("zoo")
    emptied(old, REPOSITORY)
    emptied(old, "zoo")
    found = storage.repository(REPOSITORY)
    assert found.tags == ()
    assert named(found) == {
        ("unfilled-placeholder", str(old.digest)),
        ("unfilled-placeholder", str(digest_of(old.untagged))),
        ("unfilled-placeholder", "v1"),
    }
    assert storage.blob_size(REPOSITORY, old.digest) is None
    assert storage.is_placeholder(REPOSITORY, old.digest)
    assert not storage.is_placeholder(REPOSITORY, Digest.parse(NOWHERE))
    with pytest.raises(MissingContent):
        storage.source(REPOSITORY).open(old.digest)


def test_content_of_no_bytes_is_no_placeholder(storage: LayoutTreeStorage, old: Old) -> None:
    for algorithm in ("sha256", "sha512"):
        empty = Digest.of(b"", algorithm)
        old.blob(empty).parent.mkdir(exist_ok=True)
        old.blob(empty).write_bytes(b"")
        assert storage.blob_size(REPOSITORY, empty) == 0
        assert not storage.is_placeholder(REPOSITORY, empty)


def test_original_is_not_looked_for_behind_a_link(
    storage: LayoutTreeStorage, old: Old, tmp_path: Path
) -> None:
    old.write("zoo")
    emptied(old, REPOSITORY)
    (old.root / "zoo/blobs").rename(tmp_path / "outside")
    (old.root / "zoo/blobs").symlink_to(tmp_path / "outside")
    assert storage.blob_size(REPOSITORY, old.digest) is None


def test_original_is_looked_for_once_and_where_the_last_one_was(
    storage: LayoutTreeStorage, old: Old, tree: Counted
) -> None:
    for number in range(50):
        old.write(f"a{number:02}")
        emptied(old, f"a{number:02}")
    old.write("zoo")
    emptied(old, REPOSITORY)
    digests = [Digest.parse(digest) for digest in old.builder.blobs]
    tree.looks = 0
    storage.blob_size(REPOSITORY, digests[0])
    assert tree.looks > 50
    tree.looks = 0
    for _ in range(3):
        for digest in digests:
            storage.blob_size(REPOSITORY, digest)
    assert tree.looks == 3 * len(digests) + len(digests) - 1


# --- what it would not serve ------------------------------------------------------------------

BAD_FILES = {
    "nothing": b"",
    "cut": b'{"schemaVersion":2,"manifests":[',
    "no object": b"[]",
    "no list": dumps({"schemaVersion": 2, "manifests": {}}),
    "no version": dumps({"manifests": []}),
    "a manifest": dumps({"schemaVersion": 2, "config": {}, "layers": [], "manifests": []}),
    "zeros": bytes(100),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_index_that_is_none_is_a_defect(storage: LayoutTreeStorage, old: Old, case: str) -> None:
    old.index(BAD_FILES[case])
    found = storage.repository(REPOSITORY)
    assert named(found) == {("bad-index-file", "index.json")}
    assert (found.tags, dict(found.manifests)) == ((), {})
    assert found.defects[0].detail.isprintable()


@pytest.mark.parametrize("file", ["index.json", "oci-layout"])
@pytest.mark.parametrize("how", ["huge", "link", "fifo", "folder", "missing"])
def test_document_that_is_no_small_file_is_a_defect(
    storage: LayoutTreeStorage, old: Old, how: str, file: str
) -> None:
    path = old.root / REPOSITORY / file
    if how == "huge":
        os.truncate(path, 1 << 30)
    else:
        path.rename(old.root / "away")
    if how == "link":
        path.symlink_to(old.root / "away")
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    assert list(storage.repositories()) == [REPOSITORY]
    assert named(storage.repository(REPOSITORY)) == {("bad-index-file", "index.json")}


def test_layout_of_a_later_version_is_a_defect(storage: LayoutTreeStorage, old: Old) -> None:
    (old.root / REPOSITORY / "oci-layout").write_bytes(dumps({"imageLayoutVersion": "2.0.0"}))
    assert named(storage.repository(REPOSITORY)) == {("bad-index-file", "index.json")}


def test_index_that_is_written_at_this_moment_is_read_again(
    old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Torn(FolderTree):
        reads = 0

        def read(self, path: str, limit_bytes: int) -> bytes | None:
            content = super().read(path, limit_bytes)
            self.reads += 1
            return content[:10] if content is not None and self.reads == 1 else content

    with closing(LayoutTreeStorage(Torn(str(old.root), links=False))) as storage:
        assert tags(storage.repository(REPOSITORY)) == {"v1": old.digest}


BAD_ENTRIES: dict[str, object] = {
    "no object": "sha256:1",
    "nothing in it": {},
    "a bad digest": {"mediaType": media_types.OCI_MANIFEST, "digest": "sha256:../../x", "size": 1},
    "a bad size": {"mediaType": media_types.OCI_MANIFEST, "digest": NOWHERE, "size": -1},
    "no type": {"digest": NOWHERE, "size": 1},
    "annotations that are a list": {
        "mediaType": media_types.OCI_MANIFEST,
        "digest": NOWHERE,
        "size": 1,
        "annotations": [],
    },
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entry_leaves_the_others(storage: LayoutTreeStorage, old: Old, case: str) -> None:
    old.entries(BAD_ENTRIES[case], tagged(old.image, "v1"))
    found = storage.repository(REPOSITORY)
    assert named(found) == {("bad-entry", "manifests[0]")}
    assert tags(found) == {"v1": old.digest}


def test_bad_entry_that_has_a_name_is_called_by_it(storage: LayoutTreeStorage, old: Old) -> None:
    old.entries({"annotations": {REF_NAME: "v2"}})
    assert named(storage.repository(REPOSITORY)) == {("bad-entry", "v2")}


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 129, "two\nlines", NOWHERE, f"app@{NOWHERE}", "\0"])
def test_name_that_is_no_tag_is_a_defect_and_its_manifest_comes(
    storage: LayoutTreeStorage, old: Old, name: str
) -> None:
    old.index(json.dumps({"schemaVersion": 2, "manifests": [tagged(old.image, name)]}).encode())
    found = storage.repository(REPOSITORY)
    assert named(found) == {("bad-tag-name", name)}
    assert found.manifests.keys() == {old.digest}
    assert found.tags == ()
    assert found.defects[0].detail.isprintable()


def test_of_two_entries_of_one_tag_the_first_counts(storage: LayoutTreeStorage, old: Old) -> None:
    old.entries(tagged(old.untagged, "v1"), tagged(old.image, "v1"), tagged(old.untagged, "v1"))
    found = storage.repository(REPOSITORY)
    assert tags(found) == {"v1": digest_of(old.untagged)}
    assert named(found) == {("tag-listed-twice", "v1")}
    assert len(found.defects) == 1
    assert found.manifests.keys() == {old.digest, digest_of(old.untagged)}


def test_entry_without_bytes_is_a_defect(storage: LayoutTreeStorage, old: Old) -> None:
    old.blob(old.digest).unlink()
    found = storage.repository(REPOSITORY)
    assert named(found) == {("missing-manifest", "v1"), ("missing-manifest", str(old.digest))}
    assert found.manifests.keys() == {digest_of(old.untagged)}


def test_manifest_behind_a_link_is_not_read(storage: LayoutTreeStorage, old: Old) -> None:
    old.blob(old.digest).rename(old.root / "away")
    old.blob(old.digest).symlink_to(old.root / "away")
    found = storage.repository(REPOSITORY)
    assert named(found) == {("unreadable", "v1"), ("unreadable", str(old.digest))}
    with pytest.raises(InvalidSource):
        storage.blob_size(REPOSITORY, old.digest)


@pytest.mark.parametrize("name", ["Upper", "a b", "team/ü", "two\nlines"])
def test_repository_outside_the_grammar_is_named_and_a_defect(
    storage: LayoutTreeStorage, old: Old, name: str
) -> None:
    old.write(name)
    assert name in set(storage.repositories())
    assert named(storage.repository(name)) == {("bad-repository-name", name)}
    assert storage.fingerprint(name) == ""


@pytest.mark.parametrize("name", ["..", "../outside", "/etc", "", "team/../team/app"])
def test_name_that_leads_out_is_not_opened(storage: LayoutTreeStorage, name: str) -> None:
    assert named(storage.repository(name)) == {("bad-repository-name", name)}
    for call in (storage.blob_size, storage.is_linked, storage.descriptor):
        with pytest.raises(InvalidSource):
            call(name, Digest.parse(NOWHERE))


def test_repository_behind_a_link_is_named_and_not_followed(storage: LayoutTreeStorage, old: Old) -> None:
    (old.root / REPOSITORY).rename(old.root / ".away")
    (old.root / REPOSITORY).symlink_to(old.root / ".away")
    assert list(storage.repositories()) == [REPOSITORY]
    assert named(storage.repository(REPOSITORY)) == {("unreadable", REPOSITORY)}


def test_repository_that_has_gone_has_nothing(storage: LayoutTreeStorage) -> None:
    assert storage.repository("team/gone") == StoredRepository("team/gone", (), {})
    assert storage.fingerprint("team/gone") == "none none"


# --- fingerprints, threads, and what is left --------------------------------------------------


def test_fingerprint_changes_with_the_index_and_with_nothing_else(
    storage: LayoutTreeStorage, old: Old
) -> None:
    before = storage.fingerprint(REPOSITORY)
    os.utime(old.root / REPOSITORY / "index.json", (1, 1))
    (old.root / REPOSITORY / "blobs/sha256/x").write_bytes(b"x")
    assert storage.fingerprint(REPOSITORY) == before
    old.entries(tagged(old.image, "v2"))
    assert storage.fingerprint(REPOSITORY) != before


def test_many_threads_see_the_same(storage: LayoutTreeStorage, old: Old) -> None:
    for number in range(8):
        old.write(f"a{number}")
        emptied(old, f"a{number}")
    expected = storage.repository(REPOSITORY)
    before = threading.active_count()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: storage.repository(f"a{number % 8}"), range(32)))
    assert all(tags(one) == tags(expected) and one.defects == () for one in found)
    assert threading.active_count() == before


def test_many_looks_at_once_give_the_same_as_one(old: Old) -> None:
    for number in range(100):
        old.builder.tag(old.builder.image(), f"n{number}")
    old.write()
    old.blob(old.digest).unlink()
    with closing(FolderTree(str(old.root), links=False)) as tree:
        one = LayoutTreeStorage(tree).repository(REPOSITORY)
        assert LayoutTreeStorage(tree, at_once=16).repository(REPOSITORY) == one
        assert len(one.tags) == 100
