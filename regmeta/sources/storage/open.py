"""Open the storage of another registry by its location."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from regmeta.errors import InvalidSource, UsageError
from regmeta.sources.storage import Kind, RegistryStorage
from regmeta.sources.storage.docker import DOCKER_FOLDER, DockerStorage
from regmeta.sources.storage.layouts import LayoutTreeStorage, is_layout, is_part_of_name
from regmeta.sources.storage.names_found import names_in_order
from regmeta.sources.storage.trees import Tree, TreeEntry
from regmeta.sources.storage.trees.folder import FolderTree

if TYPE_CHECKING:
    from regmeta.object_storage.reach import Reach

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_REQUESTS_AT_ONCE: Final = 32
_FOLDERS_LOOKED_AT: Final = 10_000
_EXPECTED: Final = (
    f"expected docker's registry (a folder {DOCKER_FOLDER} in it)"
    " or OCI layouts (folders in it with oci-layout and index.json)"
)


def open_storage(
    location: str, *, links: bool, kind: Kind | None = None, bucket: Reach | None = None
) -> RegistryStorage:
    """Open the storage at *location*: a folder, or the URL of a bucket's prefix, reached as *bucket* says.

    With *links*, a store on the same file system may keep other names of its files. What *kind* it is, is
    found by looking, if it is not given. Of docker's registry, the folder that its configuration names may be
    named, or one of those that it makes in there (``docker``, ``docker/registry``, ``docker/registry/v2``):
    the location is the first of them in any case.

    Raises:
        InvalidSource: there is nothing, or of no kind that is read here.
        RemoteUnavailable: the bucket did not answer.
        UsageError: it is a bucket, and what reaches buckets is not installed.
    """
    if location and _URL.match(location) is None:
        location = os.path.abspath(location)
    named = _tree(location, links, bucket)
    with _closed_on_error(named):
        found = _docker(named, kind) or _docker_above(location, links, kind, bucket)
        if found is not None:
            if found.location != named.location:
                named.close()
            return found
        found = _docker_copy(named, kind) or _layouts(named, kind)
        if found is None:
            raise InvalidSource(f"{named.location}: {_EXPECTED}")
        return found


@contextmanager
def _closed_on_error(tree: Tree) -> Iterator[None]:
    try:
        yield
    except BaseException:
        tree.close()
        raise


def _tree(location: str, links: bool, bucket: Reach | None) -> Tree:
    if _URL.match(location) is None:
        return FolderTree(location, links=links)
    try:
        from regmeta.sources.storage.trees.bucket import BucketTree
    except ImportError as error:
        raise UsageError(f"{location}: {error}: pip install 'regmeta[s3]'") from error
    return BucketTree(location, bucket)


def _docker_above(
    location: str, links: bool, kind: Kind | None, bucket: Reach | None
) -> RegistryStorage | None:
    for folder in folders_above(location):
        # What cannot be opened is a folder of whoever runs the registry, closed to who moves it.
        with suppress(InvalidSource):
            tree = _tree(folder, links, bucket)
            with _closed_on_error(tree):
                found = _docker(tree, kind)
            if found is not None:
                return found
            tree.close()
    return None


def folders_above(location: str) -> Iterator[str]:
    """Name what a location lies in, where it may be a folder that docker's registry made."""
    scheme = _URL.match(location)
    root = scheme.group() if scheme is not None else "/"
    path = location.removeprefix(root).rstrip("/")
    parts = DOCKER_FOLDER.split("/")
    for count in range(1, len(parts) + 1):
        made = "/".join(parts[:count])
        if path.endswith(f"/{made}"):
            yield root + path.removesuffix(f"/{made}")
        elif path == made and scheme is None:
            yield root


def _at_once(tree: Tree) -> int:
    return _REQUESTS_AT_ONCE if _URL.match(tree.location) else 1


def _docker(tree: Tree, kind: Kind | None) -> RegistryStorage | None:
    if kind == "layouts" or not _has_folder(tree, DOCKER_FOLDER):
        return None
    return DockerStorage(tree, at_once=_at_once(tree))


def _docker_copy(tree: Tree, kind: Kind | None) -> RegistryStorage | None:
    """Open a copy of ``v2`` that lies somewhere else, under another name."""
    if kind == "layouts" or not (_has_folder(tree, "repositories") and _has_folder(tree, "blobs")):
        return None
    return DockerStorage(tree, "", at_once=_at_once(tree))


def _layouts(tree: Tree, kind: Kind | None) -> RegistryStorage | None:
    if kind == "docker" or (kind is None and not _has_layout(tree)):
        return None
    return LayoutTreeStorage(tree, at_once=_at_once(tree))


def _has_layout(tree: Tree) -> bool:
    """Tell whether a tree has a layout anywhere near: who names the root of a disk waits no hours."""
    looked_at = 0

    def found(entries: list[TreeEntry]) -> bool:
        nonlocal looked_at
        looked_at += 1
        if looked_at > _FOLDERS_LOOKED_AT:
            raise InvalidSource(f"{tree.location}: {_EXPECTED}, and {_FOLDERS_LOOKED_AT} folders have none")
        return is_layout(entries)

    if is_layout(tree.entries("") or []):
        return True
    # What is named without being one could not be looked into.
    return any(_is_layout_at(tree, name) for name in names_in_order(tree, "", found, is_part_of_name))


def _is_layout_at(tree: Tree, path: str) -> bool:
    try:
        return is_layout(tree.entries(path) or [])
    except InvalidSource:
        return False


def _has_folder(tree: Tree, path: str) -> bool:
    found = tree.look(path)
    return found is not None and found.what == "folder"
