"""The staging area of one process, before a bucket.

=========  ======================================  ====================================  ==================
step       durable effect                          a crash right after leaves            repaired by
=========  ======================================  ====================================  ==================
claim      a folder on this machine, its lock;     both                                  ``recover``
           a sign in the bucket
stage      small: nothing, it is in memory;        parts that are no object              the sweep gives
           large: parts of an upload                                                     the upload up
publish    the object at its key                   an object whose intent still stands   ``recover``
record     the document at its name                nothing, or the document              --
=========  ======================================  ====================================  ==================
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, wait
from itertools import count
from typing import Final
from uuid import UUID

from regmeta.errors import StoreUnavailable
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream
from regmeta.store import Staged, durable
from regmeta.store.bucket_options import MIB
from regmeta.store.intake import take_in
from regmeta.store.owners import claim_folder, release_folder, sign_of
from regmeta.store.paths import Root, checked_key, checked_name, wrapped
from regmeta.store.s3 import Bucket, Upload

_log = logging.getLogger(__name__)

IN_MEMORY_BYTES: Final = 48 * MIB  # [bytes] of all small blobs that are staged; what comes then goes in parts


class BucketStaging:
    """Implements :class:`regmeta.store.Staging` for a bucket."""

    def __init__(self, bucket: Bucket, root: Root, pool: Executor, host: str) -> None:
        self._bucket = bucket
        self._root = root
        self._pool = pool
        self._numbers = count()
        self._lock = threading.Lock()
        self._waiting: dict[str, bytearray | Upload] = {}  # by token
        self._in_memory_bytes = 0
        with wrapped(root.path, "staging"):
            self._claim = claim_folder(root)
        self.owner = self._claim.owner
        self._sign = f"{self._claim.folder}/{sign_of(host)}"
        self._is_open = True
        try:
            bucket.put(self._sign, b"", "bucket.signed", new=False)
        except BaseException:
            release_folder(root, self._claim)
            raise

    owner: UUID

    def stage(
        self,
        key: str,
        digest: Digest,
        size_bytes: int,
        stream: ByteStream,
        progress: Callable[[int], None] | None = None,
    ) -> Staged:
        """Take bytes in, verified; see :class:`regmeta.store.Staging`."""
        name = f"blobs/{checked_key(key)}"
        token = str(next(self._numbers))
        if size_bytes <= self._bucket.options.part_bytes and self._has_room(size_bytes):
            try:
                content = bytearray()
                take_in(stream, digest, size_bytes, content.extend, progress)
            except BaseException:
                self._free(size_bytes)
                raise
            self._waiting[token] = content
        else:
            upload = self._bucket.begin_upload(name, size_bytes)
            try:
                take_in(stream, digest, size_bytes, upload.write, progress)
                # However many wait to be published, no byte of them is in memory.
                upload.flush()
            except BaseException:
                _give_up(upload, name)
                raise
            self._waiting[token] = upload
        return Staged(key, digest, size_bytes, token)

    def publish(self, staged: Sequence[Staged]) -> None:
        """Give each its key, durably; see :class:`regmeta.store.Staging`."""
        under_way = [self._pool.submit(self._publish_one, item) for item in staged]
        wait(under_way)  # also after a failure: what failed is taken back, and must not go on
        for each in under_way:
            each.result()

    def write_record(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        """Write a small document, durably; see :class:`regmeta.store.Staging`."""
        self._bucket.put(checked_name(name), content, "bucket.record_put", new=exclusive)

    def discard(self, staged: Iterable[Staged]) -> None:
        """Forget staged bytes that were not published."""
        for item in staged:
            self._forget(item.token, f"blobs/{item.key}")

    def scratch_folder(self) -> str:
        """Make a folder inside the staging folder; it is removed with it, also after a crash."""
        name = f"scratch-{next(self._numbers)}"
        with wrapped(self._root.path, f"{self._claim.folder}/{name}"):
            durable.make_folder(name, self._claim.folder_fd, "scratch.made", 0o700)
        return os.path.join(self._root.path, self._claim.folder, name)

    def close(self) -> None:
        """Give up what is not published, remove the folder and let go of its lock. Safe to call twice."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            for token in list(self._waiting):
                self._forget(token, token)
            # The sign goes first: without a folder nobody would know that it is one of a process that ended.
            self._bucket.delete([self._sign], "bucket.sign_removed")
        except StoreUnavailable as error:
            # The folder stays: who writes next here finds that its process has ended, and removes both.
            _log.warning("a staging area is left: %s", error)
            os.close(self._claim.folder_fd)
            os.close(self._claim.lock_fd)
            return
        try:
            release_folder(self._root, self._claim)
        except StoreUnavailable as error:
            _log.warning("a staging folder is left: %s", error)

    def _publish_one(self, staged: Staged) -> None:
        waiting = self._waiting[staged.token]
        name = f"blobs/{staged.key}"
        try:
            if isinstance(waiting, bytearray):
                # Keys hold a uuid: only a defect gives one out twice, and nothing is overwritten then.
                self._bucket.put(name, memoryview(waiting), "bucket.published", new=True)
            else:
                self._bucket.finish(waiting, name, staged.size_bytes, "bucket.completed")
        finally:
            # What could not be published is not used again.
            self._forget(staged.token, name)

    def _forget(self, token: str, name: str) -> None:
        waiting = self._waiting.pop(token, None)
        if isinstance(waiting, bytearray):
            self._free(len(waiting))
        elif waiting is not None:
            _give_up(waiting, name)

    def _has_room(self, size_bytes: int) -> bool:
        with self._lock:
            if self._in_memory_bytes + size_bytes > IN_MEMORY_BYTES:
                return False
            self._in_memory_bytes += size_bytes
            return True

    def _free(self, size_bytes: int) -> None:
        with self._lock:
            self._in_memory_bytes -= size_bytes


def _give_up(upload: Upload, name: str) -> None:
    try:
        upload.abort()
    except StoreUnavailable as error:
        _log.warning("an unfinished upload of %s is left for the sweep: %s", name, error)
