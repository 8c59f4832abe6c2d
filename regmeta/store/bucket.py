"""A blob store in a bucket of an object storage, for any number of hosts.

::

    store.json                                        which database this store belongs to
    blobs/z_store                                     says that this is where the objects are
    blobs/<algorithm>/<2 hex>/<hex>.<uuid>            objects
    staging/<uuid>/<host>                             a process that is at work, for others to know
    layouts/<repository>/_<epoch>-<revision>.<uuid>.json   snapshots of tags

Uploads in parts are seen by nobody before they are finished, so bytes are staged at their key; small ones are
kept in memory. What lies on
this machine is a scratch folder: the locks of its processes, and temporary files. There are no hard links, so
repositories are not shown as layouts.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final
from uuid import UUID

from regmeta.errors import StoreUnavailable
from regmeta.object_storage.objects import ObjectReader
from regmeta.store import ObjectInfo, ObjectMissing, Staging
from regmeta.store.bucket_options import BucketOptions
from regmeta.store.bucket_staging import BucketStaging
from regmeta.store.folders import make_folder
from regmeta.store.owners import abandoned_folders, folder_of
from regmeta.store.paths import Root, checked_key, checked_name, is_key, wrapped
from regmeta.store.s3 import Bucket
from regmeta.threads import Threads

# It comes after every object in a listing: one that was cut short does not have it.
MARKER: Final = "blobs/z_store"
_MARK: Final = b"The objects of a registry's store lie here.\n"
_BOOT: Final = "/proc/sys/kernel/random/boot_id"


class BucketStore:
    """Implements :class:`regmeta.store.BlobStore` in a bucket. Safe to use from several threads."""

    def __init__(self, url: str, scratch: str, options: BucketOptions | None = None) -> None:
        """Prepare to work with the bucket at *url*; *scratch* is a folder, made with the first staging area.

        Raises:
            StoreUnavailable: no client can be made for it.
        """
        self._options = options if options is not None else BucketOptions()
        self._bucket = Bucket(url, self._options)
        self.scratch = scratch
        self._root: Root | None = None
        self._pool = Threads(self._options.requests_at_once, thread_name_prefix="bucket")
        self.location = self._bucket.location
        self.layouts = None

    location: str
    layouts: None
    scratch: str

    @property
    def host(self) -> str:
        """This machine and its scratch folder, since it was started."""
        boot = "unknown"
        with suppress(OSError), open(_BOOT, encoding="ascii") as file:
            boot = file.read(8)
        place = "none"
        with wrapped(self.scratch), suppress(FileNotFoundError):
            found = os.stat(self.scratch)
            place = f"{found.st_dev:x}.{found.st_ino:x}"
        # Machines that are copies of one another have the same name, and containers the same folder.
        return f"{platform.node()}/{boot}.{place}"

    def create(self) -> None:
        """Say that objects will be here. Later on what says so is never written again."""
        self._bucket.put(MARKER, _MARK, "bucket.marked", new=False)

    def open_staging(self) -> Staging:
        """Make a staging area for this process."""
        make_folder(self.scratch)
        return BucketStaging(self._bucket, self._opened(), self._pool, self.host)

    @contextmanager
    def abandoned_stagings(self) -> Iterator[Sequence[UUID]]:
        """Hold the staging areas of this machine's processes that have ended; remove them after the block."""
        if not self._has_scratch():
            yield []
            return
        with abandoned_folders(self._opened()) as owners:
            yield owners
            signs = [found.name for owner in owners for found in self._bucket.walk(folder_of(owner))]
            self._bucket.delete(signs, "bucket.sign_removed")

    def staging_exists(self, owner: UUID) -> bool:
        """Tell whether *owner* still has a staging folder on this machine."""
        return self._has_scratch() and self._opened().has(folder_of(owner))

    @contextmanager
    def open(self, key: str, start: int = 0) -> Iterator[ObjectReader]:
        """Open an object for reading; see :class:`regmeta.store.BlobStore`."""
        name = f"blobs/{checked_key(key)}"
        if start:
            found = self._bucket.head(name)
            if found is not None and found.size_bytes <= start:
                yield ObjectReader(iter(()))
                return
        pieces = self._bucket.read(name, start)
        if pieces is None:
            self._require_marker()
            raise ObjectMissing(f"{self.location}/{name}: no such object")
        yield ObjectReader(pieces)

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, None if there is none."""
        found = self._bucket.head(f"blobs/{checked_key(key)}")
        if found is None:
            self._require_marker()
            return None
        return ObjectInfo(key, found.size_bytes, found.modified_s)

    def look(self, keys: Iterable[str]) -> dict[str, ObjectInfo | StoreUnavailable | None]:
        """Look at many at once; that the bucket is the right one is asked once, after the last."""
        found = {key: self._pool.submit(self._head, key) for key in keys}
        answers = {key: each.result() for key, each in found.items()}
        if None in answers.values():
            try:
                self._require_marker()
            except StoreUnavailable as error:
                return {key: error if answer is None else answer for key, answer in answers.items()}
        return answers

    def _head(self, key: str) -> ObjectInfo | StoreUnavailable | None:
        try:
            found = self._bucket.head(f"blobs/{checked_key(key)}")
        except StoreUnavailable as error:
            return error
        return None if found is None else ObjectInfo(key, found.size_bytes, found.modified_s)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, a thousand with each request."""
        names = [f"blobs/{checked_key(key)}" for key in keys]
        if self._bucket.delete(names, "bucket.deleted"):
            self._require_marker()

    def abort_uploads(self, older_than_s: float) -> int:
        """Give up uploads that were begun *older_than_s* ago and not finished."""
        return self._bucket.abort_uploads(
            "blobs",
            older_than_s,
            "bucket.upload_aborted",
            lambda name: is_key(name.removeprefix("blobs/")),
        )

    def signed_url(self, key: str, lifetime_s: int) -> str:
        """Return a URL that anybody can read an object at for *lifetime_s*."""
        return self._bucket.sign(f"blobs/{checked_key(key)}", lifetime_s)

    def walk(self) -> Iterator[ObjectInfo]:
        """List every object, a thousand with each request."""
        is_marked = False
        for found in self._bucket.walk("blobs"):
            is_marked |= found.name == MARKER
            key = found.name.removeprefix("blobs/")
            if is_key(key):  # else it is not ours, and never deleted
                yield ObjectInfo(key, found.size_bytes, found.modified_s)
        if not is_marked:
            raise self._unmarked()

    def settle(self) -> None:
        """Do nothing: what a bucket has answered for is durable."""

    def read_record(self, name: str) -> bytes | None:
        """Return a small document, None if there is none."""
        pieces = self._bucket.read(checked_name(name))
        if pieces is not None:
            return b"".join(pieces)
        if "/" in name:  # what lies at the top is there before the marker
            self._require_marker()
        return None

    def list_records(self, folder: str) -> list[str]:
        """Return the names of the documents that lie in a folder, not below it."""
        found = [item.name for item in self._bucket.list_folder(checked_name(folder))]
        return sorted(name for name in found if name.startswith(f"{folder}/"))

    def walk_records(self, folder: str) -> Iterator[str]:
        """Return the names of all documents below a folder."""
        for found in self._bucket.walk(checked_name(folder)):
            yield found.name

    def delete_record(self, name: str) -> None:
        """Remove a small document, if it is there."""
        self._bucket.delete([checked_name(name)], "bucket.record_removed")

    def close(self) -> None:
        """End the threads and let go of the scratch folder."""
        self._pool.shutdown()
        self._bucket.close()
        if self._root is not None:
            self._root.close()

    def _require_marker(self) -> None:
        """Refuse to call something absent where the bucket itself may be another, or gone (I8)."""
        if self._bucket.head(MARKER) is None:
            raise self._unmarked()

    def _unmarked(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.location}: holds no {MARKER}: it is no store, or not the right bucket"
        )

    def _has_scratch(self) -> bool:
        return self._root is not None or os.path.isdir(self.scratch)

    def _opened(self) -> Root:
        if self._root is None:
            self._root = Root(self.scratch)
        return self._root
