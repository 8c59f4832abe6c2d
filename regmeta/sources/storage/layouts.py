"""A tree of OCI layouts, one a repository: zot's storage, or what other tools wrote.

Every folder with ``oci-layout`` and ``index.json`` is a repository that is named by its path. Its
``index.json`` is all that says which tags and manifests it has.

zot keeps the bytes of a blob that several repositories have once: by hard links, which are files like any
other, or in a bucket by placeholders, which are files of 0 bytes. A placeholder's bytes are looked for in the
other repositories, where they lie under the same digest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from regmeta.errors import InvalidName, InvalidSource, MissingContent
from regmeta.oci import layout, names
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import MAX_MANIFEST_BYTES
from regmeta.oci.streams import ByteStream
from regmeta.sources import Source, SourceEntry
from regmeta.sources.layout import check_document_size, listed
from regmeta.sources.registry.text import shown
from regmeta.sources.storage import Defect, Kind, StoredRepository, StoredTag
from regmeta.sources.storage.at_once import each
from regmeta.sources.storage.descriptors import FoundManifest, SaidTypes, found_manifest
from regmeta.sources.storage.names_found import names_in_order
from regmeta.sources.storage.originals import Originals, is_placeholder
from regmeta.sources.storage.remembered import Remembered
from regmeta.sources.storage.stored_source import StoredSource
from regmeta.sources.storage.trees import Tree, TreeEntry

_REPOSITORIES_REMEMBERED: Final = 32
_AGAIN_S: Final = 0.1  # [s]
_OWN_NAMES: Final = frozenset({layout.BLOBS_FOLDER, layout.INDEX_FILE, layout.LAYOUT_FILE})


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of an ``index.json``: a digest and its media type, or what is wrong with the line."""

    position: int
    ref_name: str | None
    digest: Digest | None
    media_type: str
    error: str


class LayoutTreeStorage:
    """A tree of OCI layouts; see :class:`regmeta.sources.storage.RegistryStorage`."""

    def __init__(self, tree: Tree, *, at_once: int = 1) -> None:
        """Read the layouts in *tree*, which it closes. *at_once* files are looked at a time.

        Raises:
            InvalidSource, RemoteUnavailable: the tree cannot be read.
        """
        self._tree = tree
        self._at_once = at_once
        self._root_name: str | None = None
        if is_layout(tree.entries("") or []):
            self._root_name = tree.location.rstrip("/").rpartition("/")[2].lower()
        self._types: Remembered[str, Mapping[Digest, str]] = Remembered(_REPOSITORIES_REMEMBERED)
        self._originals = Originals(tree, self._folders)
        self._said = SaidTypes()

    @property
    def kind(self) -> Kind:
        """What wrote it."""
        return "layouts"

    @property
    def location(self) -> str:
        """Where it is."""
        return self._tree.location

    def repositories(self) -> Iterator[str]:
        """Name all repositories by their paths; the root, if it is a layout, by its own name.

        Raises:
            InvalidSource: a folder below has the name that the root has as a repository.
        """
        root = self._root_name
        for name in names_in_order(self._tree, "", is_layout, is_part_of_name):
            if root is not None and name >= root:
                if name == root:
                    raise InvalidSource(f"{self.location}: both it and {shown(name)} in it are layouts")
                yield root
                root = None
            yield name
        if root is not None:
            yield root

    def fingerprint(self, name: str) -> str:
        """Return a text that is another one whenever ``index.json`` says something else."""
        if not names.is_repository(name):
            return ""
        paths = (self._path(name, layout.INDEX_FILE), self._path(name, layout.LAYOUT_FILE))
        return " ".join(self._tree.mark(path) or "none" for path in paths)

    def repository(self, name: str) -> StoredRepository:
        """Return what ``index.json`` lists and has bytes.

        No file says when a tag was set. It has the time of its manifest's file, as has the manifest: zot
        writes that when it is first pushed to the repository.
        """
        if not names.is_repository(name):
            detail = f"{shown(name)}: not of the grammar of repository names"
            return StoredRepository(name, (), {}, (Defect("bad-repository-name", name, detail),))
        try:
            self._tree.entries(self._folder(name))
        except InvalidSource as error:
            return StoredRepository(name, (), {}, (Defect("unreadable", name, str(error)),))
        try:
            entries = self._listing(name)
        except InvalidSource as error:
            return StoredRepository(name, (), {}, (Defect("bad-index-file", layout.INDEX_FILE, str(error)),))
        if entries is None:
            return StoredRepository(name, (), {})
        self._types.put(name, _types(entries))
        return _Reading(self, name, self._at_once).result(entries)

    def descriptor(self, name: str, digest: Digest) -> Descriptor:
        """Return the descriptor of a manifest."""
        return self._manifest(name, digest).descriptor

    def says_type(self, name: str, digest: Digest) -> bool:
        """Tell whether a manifest or ``index.json`` says its media type."""
        said = self._said.get(name, digest)
        return self._manifest(name, digest).says_type if said is None else said

    def blob_size(self, name: str, digest: Digest) -> int | None:
        """Return how many bytes there are of a blob of a repository, or of what its placeholder is for."""
        found = self.content(name, digest)
        return None if found is None else found[1].size_bytes

    def is_placeholder(self, name: str, digest: Digest) -> bool:
        """Tell whether of a blob there is a placeholder only, and its bytes are in no other repository."""
        entry = self._look(name, digest)
        return entry is not None and is_placeholder(entry, digest) and self._originals.find(digest) is None

    def is_linked(self, name: str, digest: Digest) -> bool:
        """Tell whether the repository has this blob, or a placeholder of it: what zot itself would serve."""
        return self._look(name, digest) is not None

    def source(self, name: str) -> Source:
        """Return the content of a repository as a source of images."""
        return StoredSource(self, name)

    def read(self, name: str, digest: Digest, limit_bytes: int) -> bytes | None:
        """Return the bytes of a blob, at most one more than *limit_bytes*; None if there are none."""
        found = self.content(name, digest)
        return None if found is None else self._tree.read(found[0], limit_bytes)

    def open(self, name: str, digest: Digest) -> AbstractContextManager[ByteStream]:
        """Open a blob for reading, from its first byte."""
        found = self.content(name, digest)
        if found is None:
            raise MissingContent(f"{self.location}: {digest} of {shown(name)} is missing")
        return self._tree.open(found[0])

    def close(self) -> None:
        """Let go of what is held open."""
        self._tree.close()

    def content(self, name: str, digest: Digest) -> tuple[str, TreeEntry] | None:
        """Find the file that has a blob's bytes; None if the repository has none, or nobody has the bytes.

        Raises:
            InvalidSource, RemoteUnavailable: it could not be found out.
        """
        entry = self._look(name, digest)
        if entry is None:
            return None
        if is_placeholder(entry, digest):
            return self._originals.find(digest)
        return self._path(name, layout.blob_path(digest)), entry

    def _look(self, name: str, digest: Digest) -> TreeEntry | None:
        path = self._path(name, layout.blob_path(digest))
        entry = self._tree.look(path)
        if entry is not None and entry.what != "file":
            raise InvalidSource(f"{self.location}/{path}: not a regular file")
        return entry

    def _manifest(self, name: str, digest: Digest) -> FoundManifest:
        content = self.read(name, digest, MAX_MANIFEST_BYTES)
        if content is None:
            raise MissingContent(f"{self.location}: {digest} of {shown(name)} is missing")
        found = found_manifest(content, digest, self.location, self._listed_types(name).get(digest))
        return self._said.note(name, found)

    def _listed_types(self, name: str) -> Mapping[Digest, str]:
        known = self._types.get(name)
        if known is None:
            known = _types(self._listing(name) or [])
            self._types.put(name, known)
        return known

    def _listing(self, name: str) -> list[_Entry] | None:
        """Read what a repository lists; None if it has gone."""
        try:
            return self._listing_once(name)
        except InvalidSource:
            # zot writes the file in place when something is deleted: half of it may be there for a moment.
            time.sleep(_AGAIN_S)
            return self._listing_once(name)

    def _listing_once(self, name: str) -> list[_Entry] | None:
        index = self._document(name, layout.INDEX_FILE, layout.MAX_INDEX_FILE_BYTES)
        version = self._document(name, layout.LAYOUT_FILE, layout.MAX_LAYOUT_FILE_BYTES)
        if index is None and version is None:
            return None
        if index is None or version is None:
            missing = layout.INDEX_FILE if index is None else layout.LAYOUT_FILE
            raise InvalidSource(f"{self._where(name, missing)} is missing")
        layout.check_layout_file(version, self._where(name, layout.LAYOUT_FILE))
        return [_slim(entry) for entry in listed(index, self._where(name, layout.INDEX_FILE))]

    def _document(self, name: str, file: str, limit_bytes: int) -> bytes | None:
        content = self._tree.read(self._path(name, file), limit_bytes)
        if content is not None:
            check_document_size(len(content), limit_bytes, self._where(name, file))
        return content

    def _folders(self) -> Iterator[str]:
        """Name the folders that are layouts; a bad name is no reason not to look into one."""
        if self._root_name is not None:
            yield ""
        yield from names_in_order(self._tree, "", is_layout, is_part_of_name)

    def _path(self, name: str, below: str) -> str:
        return f"{self._folder(name)}/{below}".lstrip("/")

    def _folder(self, name: str) -> str:
        if not names.is_repository(name):
            raise InvalidSource(f"{self.location}: {shown(name)} is no repository")
        return "" if name == self._root_name else name

    def _where(self, name: str, file: str) -> str:
        return f"{self.location}/{self._path(name, file)}"


class _Reading:
    """One repository, while it is read: from what is listed to what would be served."""

    def __init__(self, storage: LayoutTreeStorage, name: str, at_once: int) -> None:
        self._storage = storage
        self._name = name
        self._at_once = at_once
        self._tags: dict[str, Digest] = {}
        self._manifests: dict[Digest, datetime | None] = {}
        self._lost: dict[Digest, Defect] = {}
        self._defects: list[Defect] = []

    def result(self, entries: list[_Entry]) -> StoredRepository:
        """Look at the manifests, then list the tags of those that are there."""
        digests = sorted({entry.digest for entry in entries if entry.digest is not None})
        for digest, found in each(self._at_once, self._look_at, digests):
            if isinstance(found, Defect):
                self._defects.append(found)
                self._lost[digest] = found
            else:
                self._manifests[digest] = found.modified_at
        for entry in entries:
            self._list(entry)
        tags = tuple(
            StoredTag(tag, digest, self._manifests[digest])
            for tag, digest in sorted(self._tags.items())
            if digest in self._manifests
        )
        return StoredRepository(self._name, tags, self._manifests, tuple(self._defects))

    def _look_at(self, digest: Digest) -> TreeEntry | Defect:
        try:
            found = self._storage.content(self._name, digest)
            if found is not None:
                return found[1]
            if self._storage.is_placeholder(self._name, digest):
                detail = f"the manifest {digest} has 0 bytes, and its original is nowhere"
                return Defect("unfilled-placeholder", str(digest), detail)
        except InvalidSource as error:
            return Defect("unreadable", str(digest), str(error))
        detail = f"the manifest {digest} is listed, and its bytes are not there"
        return Defect("missing-manifest", str(digest), detail)

    def _list(self, entry: _Entry) -> None:
        if entry.digest is None:
            subject = entry.ref_name or f"manifests[{entry.position}]"
            self._defects.append(Defect("bad-entry", subject, shown(entry.error)))
            return
        if entry.ref_name is None:
            return
        try:
            tag = names.ref_name_tag(entry.ref_name)
        except InvalidName as error:
            self._defects.append(Defect("bad-tag-name", entry.ref_name, shown(str(error))))
            return
        # zot serves the first entry that has the name, and never comes to the others.
        first = self._tags.setdefault(tag, entry.digest)
        if first != entry.digest:
            detail = f"{tag} is listed as {first} and as {entry.digest}; the first of them counts"
            self._defects.append(Defect("tag-listed-twice", tag, detail))
        elif entry.digest in self._lost:
            self._defects.append(replace(self._lost[entry.digest], subject=tag))


def is_layout(entries: list[TreeEntry]) -> bool:
    """Tell whether a folder is a layout by what it lists, be it one that lacks one of its two documents."""
    found = {entry.name for entry in entries}
    documents = found & {layout.INDEX_FILE, layout.LAYOUT_FILE}
    return len(documents) == 2 or (len(documents) == 1 and layout.BLOBS_FOLDER in found)


def is_part_of_name(entry: TreeEntry) -> bool:
    """Tell the folders of repositories from those of a layout, and from those that zot hides its work in."""
    return entry.name not in _OWN_NAMES and not entry.name.startswith(".")


def _slim(entry: SourceEntry) -> _Entry:
    """Keep of an entry what is asked for: there may be 200,000."""
    described = entry.descriptor
    if described is None:
        return _Entry(entry.position, entry.ref_name, None, "", str(entry.error))
    return _Entry(entry.position, entry.ref_name, described.digest, sys.intern(described.media_type), "")


def _types(entries: list[_Entry]) -> Mapping[Digest, str]:
    """Return the media types that the entries say; of two, the first, as zot does."""
    found: dict[Digest, str] = {}
    for entry in entries:
        if entry.digest is not None:
            found.setdefault(entry.digest, entry.media_type)
    return found
