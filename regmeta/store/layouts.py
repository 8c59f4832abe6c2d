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
from collections.abc import Iterable
from contextlib import suppress

from regmeta.errors import StoreUnavailable
from regmeta.failpoints import reach
from regmeta.oci import layout
from regmeta.oci.digest import Digest
from regmeta.store import durable
from regmeta.store.locks import wait_for_lock
from regmeta.store.paths import Root, checked_key, checked_name, write_all

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
        objects: Iterable[tuple[Digest, str]],
    ) -> list[str]:
        """Show *index* as a repository's layout, with links to *objects* (digest, key) added.

        *version* is (epoch, revision). Returns what could not be done, in words.

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
            findings = self._link(f"{folder}/_layout", objects)
            if _shown(lock_fd) < version:
                self._write(f"{folder}/_layout/{layout.LAYOUT_FILE}", layout.LAYOUT_CONTENT)
                self._write(f"{folder}/_layout/{layout.INDEX_FILE}", index)
                os.pwrite(lock_fd, b"%020d %020d" % version, 0)
                reach("layout.shown")
        except OSError as error:
            return [f"{folder}/_layout: {error.strerror}"]
        except StoreUnavailable as error:
            return [str(error)]
        finally:
            os.close(lock_fd)
        return findings

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
