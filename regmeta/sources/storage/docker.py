"""The storage of docker's registry (distribution 2.x): blobs for all, and links to them in each repository.

::

    blobs/<algorithm>/<2 digits>/<digits>/data
    repositories/<name>/_manifests/revisions/<algorithm>/<digits>/link
    repositories/<name>/_manifests/tags/<tag>/current/link
    repositories/<name>/_manifests/tags/<tag>/index/<algorithm>/<digits>/link
    repositories/<name>/_layers/<algorithm>/<digits>/link

A tag or a manifest is what the registry itself would serve: that has its links, and whose bytes are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal

from regmeta.errors import InvalidSource, MissingContent
from regmeta.oci import names
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import MAX_MANIFEST_BYTES
from regmeta.oci.streams import ByteStream
from regmeta.sources import Source
from regmeta.sources.registry.text import shown
from regmeta.sources.storage import Defect, Kind, StoredRepository, StoredTag
from regmeta.sources.storage.at_once import each
from regmeta.sources.storage.descriptors import FoundManifest, SaidTypes, found_manifest
from regmeta.sources.storage.docker_files import ListedFiles, is_of_no_use, is_tag_link, listed_files
from regmeta.sources.storage.links import LONGEST_LINK, Link, read_link
from regmeta.sources.storage.names_found import names_in_order
from regmeta.sources.storage.stored_source import StoredSource
from regmeta.sources.storage.trees import Tree, TreeEntry

DOCKER_FOLDER: Final = "docker/registry/v2"
_OWN_FOLDERS: Final = frozenset({"_manifests", "_layers", "_uploads"})
_NOTHING: Final = Link()


class DockerStorage:
    """The storage of docker's registry; see :class:`regmeta.sources.storage.RegistryStorage`."""

    def __init__(self, tree: Tree, base: str = DOCKER_FOLDER, *, at_once: int = 1) -> None:
        """Read the storage below *base* in *tree*, which it closes. *at_once* files are read at a time."""
        self._tree = tree
        self._blobs = f"{base}/blobs".lstrip("/")
        self._repositories = f"{base}/repositories".lstrip("/")
        self._at_once = at_once
        self._said = SaidTypes()

    @property
    def kind(self) -> Kind:
        """What wrote it."""
        return "docker"

    @property
    def location(self) -> str:
        """Where it is."""
        return self._tree.location

    def repositories(self) -> Iterator[str]:
        """Name all repositories: folders that have one of a repository's own."""
        return names_in_order(self._tree, self._repositories, _is_repository, _is_part_of_name)

    def fingerprint(self, name: str) -> str:
        """Return a text that is another one whenever a link of the repository says something else.

        It holds the times of the links as well: what is pushed again is there again, though its links say
        the same.
        """
        if not names.is_repository(name):
            return ""
        path = f"{self._repositories}/{name}/_manifests"
        total = 0
        for below, entry in self._tree.files(path, leave_out=is_of_no_use):
            if is_tag_link(below) or below.startswith("revisions/"):
                mark = entry.mark
                if not mark and entry.what == "file":
                    mark = self._mark_of(f"{path}/{below}", entry)
                # Files come in no order, so their digests are added up.
                line = repr((below, entry.what, mark, str(entry.modified_at))).encode()
                total += int.from_bytes(hashlib.sha256(line).digest())
        return f"{total % 2**256:064x}"

    def _mark_of(self, path: str, entry: TreeEntry) -> str:
        """Return what a link says, in short; one that cannot be read, or is too long, says just that."""
        if entry.size_bytes > LONGEST_LINK:
            return f"{entry.size_bytes} bytes"
        try:
            return self._tree.mark(path) or "gone"
        except InvalidSource:
            return "unreadable"

    def repository(self, name: str) -> StoredRepository:
        """Return what the registry would serve of a repository."""
        if not names.is_repository(name):
            detail = f"{shown(name)}: not of the grammar of repository names"
            return StoredRepository(name, (), {}, (Defect("bad-repository-name", name, detail),))
        try:
            top = self._tree.entries(f"{self._repositories}/{name}")
        except InvalidSource as error:
            return StoredRepository(name, (), {}, (Defect("unreadable", name, str(error)),))
        if top is None:
            return StoredRepository(name, (), {})
        if not any(entry.name == "_manifests" for entry in top):
            detail = f"{name} has no folder _manifests: nothing was ever pushed to its end"
            return StoredRepository(name, (), {}, (Defect("no-manifests-folder", name, detail),))
        try:
            listed = listed_files(self._tree.files(self._path(name, "_manifests"), leave_out=is_of_no_use))
        except InvalidSource as error:
            return StoredRepository(name, (), {}, (Defect("unreadable", name, str(error)),))
        return _Reading(self, name, listed, self._at_once).result()

    def descriptor(self, name: str, digest: Digest) -> Descriptor:
        """Return the descriptor of a manifest."""
        return self._manifest(name, digest).descriptor

    def says_type(self, name: str, digest: Digest) -> bool:
        """Tell whether a manifest says its media type."""
        said = self._said.get(name, digest)
        return self._manifest(name, digest).says_type if said is None else said

    def blob_size(self, name: str, digest: Digest) -> int | None:
        """Return how many bytes there are of a blob, linked or not; None if there are none."""
        path = self.data_path(digest)
        found = self._tree.look(path)
        if found is None:
            return None
        if found.what != "file":
            raise InvalidSource(f"{self.location}/{path}: not a regular file")
        return found.size_bytes

    def is_placeholder(self, name: str, digest: Digest) -> bool:
        """Tell that docker's registry keeps no placeholders."""
        return False

    def is_linked(self, name: str, digest: Digest) -> bool:
        """Tell whether the registry would serve this blob in this repository."""
        return any(
            self.link(name, place, digest).digest == digest for place in ("_layers", "_manifests/revisions")
        )

    def source(self, name: str) -> Source:
        """Return the content of a repository as a source of images."""
        return StoredSource(self, name)

    def read(self, name: str, digest: Digest, limit_bytes: int) -> bytes | None:
        """Return the bytes of a blob, at most one more than *limit_bytes*; None if there are none."""
        return self._tree.read(self.data_path(digest), limit_bytes)

    def open(self, name: str, digest: Digest) -> AbstractContextManager[ByteStream]:
        """Open a blob for reading, from its first byte."""
        return self._tree.open(self.data_path(digest))

    def close(self) -> None:
        """Let go of what is held open."""
        self._tree.close()

    def data_path(self, digest: Digest) -> str:
        """Return the path of a blob's bytes in the tree."""
        return f"{self._blobs}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"

    def link(self, name: str, place: str, digest: Digest) -> Link:
        """Read the link of a digest in one of a repository's folders of links."""
        if not names.is_repository(name):
            return _NOTHING
        path = self._path(name, f"{place}/{digest.algorithm}/{digest.hex}/link")
        return read_link(self._tree, path, str(digest))

    def tag_link(self, name: str, tag: str) -> Link:
        """Read what a tag names now."""
        return read_link(self._tree, self._path(name, f"_manifests/tags/{tag}/current/link"), tag)

    def _manifest(self, name: str, digest: Digest) -> FoundManifest:
        content = self._tree.read(self.data_path(digest), MAX_MANIFEST_BYTES)
        if content is None:
            raise MissingContent(f"{self.location}: {digest} of {shown(name)} is missing")
        return self._said.note(name, found_manifest(content, digest, self.location))

    def _path(self, name: str, below: str) -> str:
        return f"{self._repositories}/{name}/{below}"


class _Reading:
    """One repository, while it is read: from what is listed to what would be served."""

    def __init__(self, storage: DockerStorage, name: str, listed: ListedFiles, at_once: int) -> None:
        self._storage = storage
        self._name = name
        self._listed = listed
        self._at_once = at_once
        self._defects = listed.defects
        self._refused: set[Digest] = set()
        self._manifests: dict[Digest, datetime | None] = {}

    def result(self) -> StoredRepository:
        """Read the links of the manifests, then those of the tags."""
        revisions = self._listed.revisions
        for digest, served in each(self._at_once, self._is_served, sorted(revisions)):
            if isinstance(served, Defect):
                self._defects.append(served)
                self._refused.add(digest)
            elif served:
                self._manifests[digest] = revisions[digest].modified_at
        tags = []
        for tag, link in each(self._at_once, self._tag_link, sorted(self._listed.tags)):
            found = self._tag(tag, link)
            if isinstance(found, Defect):
                self._defects.append(found)
            elif found is not None:
                tags.append(found)
        return StoredRepository(self._name, tuple(tags), self._manifests, tuple(self._defects))

    def _tag_link(self, tag: str) -> Link:
        return self._storage.tag_link(self._name, tag)

    def _is_served(self, digest: Digest) -> bool | Defect:
        """Tell whether a listed manifest is served, or why not; it is not if its link has gone meanwhile."""
        link = self._storage.link(self._name, "_manifests/revisions", digest)
        if link.digest is None:
            return link.defect or False
        if link.digest != digest:
            return Defect("bad-link", str(digest), f"the link of the manifest {digest} names {link.digest}")
        return self._has_bytes(digest, str(digest)) or _missing(str(digest), digest)

    def _tag(self, tag: str, link: Link) -> StoredTag | Defect | None:
        digest = link.digest
        if digest is None:
            return link.defect
        if digest not in self._manifests:
            served = self._is_served_unlisted(tag, digest)
            if isinstance(served, Defect):
                return served
            self._manifests[digest] = None
        return StoredTag(tag, digest, self._listed.tags[tag].modified_at)

    def _is_served_unlisted(self, tag: str, digest: Digest) -> Literal[True] | Defect:
        """Tell whether a manifest that was not listed is served: it may have come since the listing.

        The registry looks into ``_layers`` too: its release 2.1.0 linked manifests there.
        """
        has_bytes = self._has_bytes(digest, tag)
        if isinstance(has_bytes, Defect):
            return has_bytes
        if not has_bytes:
            return _missing(tag, digest)
        for place in ("_manifests/revisions", "_layers") if digest not in self._refused else ():
            link = self._storage.link(self._name, place, digest)
            if link.digest == digest:
                return True
            if link.defect is not None and link.defect.kind == "unreadable":
                return replace(link.defect, subject=tag)
        detail = f"the manifest {digest} has no link in the repository that says it"
        return Defect("unlinked-manifest", tag, detail)

    def _has_bytes(self, digest: Digest, subject: str) -> bool | Defect:
        try:
            return self._storage.blob_size(self._name, digest) is not None
        except InvalidSource as error:
            return Defect("unreadable", subject, str(error))


def _missing(subject: str, digest: Digest) -> Defect:
    return Defect("missing-manifest", subject, f"the bytes of the manifest {digest} are not there")


def _is_repository(entries: list[TreeEntry]) -> bool:
    return any(entry.name in _OWN_FOLDERS for entry in entries)


def _is_part_of_name(entry: TreeEntry) -> bool:
    return not entry.name.startswith("_")
