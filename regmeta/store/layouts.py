"""Repositories readable in place as OCI image layouts: ``repositories/<name>/_layout/``.

A convenience for ``skopeo``, ``umoci`` and their like, made of hard links to the objects. No invariant
rests on it, so nothing here is flushed, and what cannot be done is a finding and not an error. One writer
at a time works on a repository's layout, under a ``flock`` on ``_layout.lock``, which holds the revision that
the layout shows: a writer that was overtaken leaves the newer one alone.

(``_layout``: ``foo/index.json`` and ``foo/blobs`` are legal repository names, a part that starts with an
underscore is not.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress

from regmeta.errors import StoreUnavailable
from regmeta.failpoints import reach
from regmeta.oci import layout
from regmeta.oci.digest import Digest
from regmeta.store import durable
from regmeta.store.locks import wait_for_lock
from regmeta.store.paths import Root, checked_key, checked_name, wrapped, write_all

LOCK_TIMEOUT_S = 0.5  # [s] the next writer does it, if this one cannot


class RepositoryLayouts:
    """Writes the layouts of one store."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def update(
        self,
        repository: str,
        version: tuple[int, int],
        index: bytes,
        objects: Callable[[], Collection[tuple[Digest, str]]],
        *,
        whole: bool = False,
    ) -> list[str]:
        """Show *index* as a repository's layout, with links to *objects* (digest, key) added.

        They are asked for under the layout's lock, so that a writer which was overtaken does not link what
        has been collected meanwhile. With *whole* other links go. *version* is (epoch, revision): an older
        index never replaces a newer one. Returns what could not be done, in words.

        Raises:
            Locked: another process works on this layout for longer than half a second.
        """
        folder = f"repositories/{checked_name(repository)}"
        try:
            self._root.make_folders([f"{folder}/_layout/blobs"], lasting=False)
            flags = os.O_RDWR | os.O_NOFOLLOW
            lock_fd = durable.create(
                f"{folder}/_layout.lock", flags, 0o600, self._root.fd, "layout.lock_made"
            )
        except OSError as error:
            return [f"{folder}: {error.strerror}"]
        except StoreUnavailable as error:
            return [str(error)]
        try:
            wait_for_lock(lock_fd, f"{self._root.path}/{folder}/_layout.lock", LOCK_TIMEOUT_S)
            wanted = objects()
            findings = self._link(f"{folder}/_layout", wanted)
            if _shown(lock_fd) < version:
                self._write(f"{folder}/_layout/{layout.LAYOUT_FILE}", layout.LAYOUT_CONTENT)
                self._write(f"{folder}/_layout/{layout.INDEX_FILE}", index)
                os.pwrite(lock_fd, b"%020d %020d" % version, 0)
                reach("layout.shown")
            if whole:
                self._remove_others(f"{folder}/_layout", wanted)
        except OSError as error:
            return [f"{folder}/_layout: {error.strerror}"]
        except StoreUnavailable as error:
            return [str(error)]
        finally:
            os.close(lock_fd)
        return findings

    def check(
        self,
        repository: str,
        index: bytes,
        objects: Collection[tuple[Digest, str]],
        damaged: Collection[Digest],
    ) -> Iterator[str]:
        """Compare a repository's layout with what it should show; give each difference, in words."""
        folder = f"repositories/{checked_name(repository)}/_layout"
        with wrapped(self._root.path, folder):
            for name, content in ((layout.LAYOUT_FILE, layout.LAYOUT_CONTENT), (layout.INDEX_FILE, index)):
                if self._content(f"{folder}/{name}") != content:
                    yield f"{folder}/{name} is not as it should be"
            expected = {layout.blob_path(digest): f"blobs/{checked_key(key)}" for digest, key in objects}
            for path, key in expected.items():
                shown, stored = self._inode(f"{folder}/{path}"), self._inode(key)
                if shown != stored and stored is not None:
                    yield f"{folder}/{path} is " + ("missing" if shown is None else "another file")
            tolerated = {layout.blob_path(digest) for digest in damaged}
            for path in self._shown_blobs(folder):
                if path not in expected and path not in tolerated:
                    yield f"{folder}/{path} is of a blob that the repository does not hold"

    def _shown_blobs(self, folder: str) -> Iterator[str]:
        try:
            with self._root.opened_folder(f"{folder}/blobs") as fd:
                algorithms = os.listdir(fd)
        except FileNotFoundError:
            return
        for algorithm in algorithms:
            with self._root.opened_folder(f"{folder}/blobs/{algorithm}") as fd:
                yield from (f"blobs/{algorithm}/{name}" for name in os.listdir(fd))

    def _content(self, name: str) -> bytes | None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root.fd)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def _inode(self, name: str) -> int | None:
        try:
            return os.stat(name, dir_fd=self._root.fd, follow_symlinks=False).st_ino
        except FileNotFoundError:
            return None

    def _link(self, folder: str, objects: Iterable[tuple[Digest, str]]) -> list[str]:
        links = [(f"blobs/{checked_key(key)}", f"{folder}/{layout.blob_path(d)}") for d, key in objects]
        self._root.make_folders({target.rpartition("/")[0] for _, target in links}, lasting=False)
        findings = []
        for source, target in links:
            try:
                try:
                    self._link_one(source, target)
                except FileExistsError:
                    self._replace_if_other(source, target)
            except OSError as error:  # too many links, another file system, no room
                findings.append(f"{target}: {error.strerror}")
        return findings

    def _remove_others(self, folder: str, objects: Iterable[tuple[Digest, str]]) -> None:
        """Take away links to what the repository does not hold any more: they keep the bytes on the disk."""
        kept = {layout.blob_path(digest) for digest, _ in objects}
        for path in list(self._shown_blobs(folder)):
            if path not in kept:
                durable.unlink(f"{folder}/{path}", self._root.fd, "layout.link_removed")

    def _link_one(self, source: str, target: str) -> None:
        root = self._root.fd
        durable.link(source, root, target, root, "layout.linked")

    def _replace_if_other(self, source: str, target: str) -> None:
        # A blob that was healed has a new object; the layout must not keep showing the rotten one.
        root = self._root.fd
        shown = os.stat(target, dir_fd=root, follow_symlinks=False)
        if shown.st_ino != os.stat(source, dir_fd=root, follow_symlinks=False).st_ino:
            with suppress(FileNotFoundError):
                durable.unlink(f"{target}.new", root, "layout.unlinked")
            self._link_one(source, f"{target}.new")
            durable.rename(f"{target}.new", root, target, root, "layout.replaced")

    def _write(self, name: str, content: bytes) -> None:
        temporary = f"{name}.new"
        flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW
        fd = durable.create(temporary, flags, 0o644, self._root.fd, "layout.created")
        try:
            write_all(fd, memoryview(content))
        finally:
            os.close(fd)
        durable.rename(temporary, self._root.fd, name, self._root.fd, "layout.written")


def _shown(lock_fd: int) -> tuple[int, int]:
    """Return the version that a layout shows, lower than any if it shows none."""
    words = os.pread(lock_fd, 64, 0).split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return (0, 0)
    return (int(words[0]), int(words[1]))
