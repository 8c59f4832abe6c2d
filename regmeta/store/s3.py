"""The bucket of a store: what it writes, finishes, removes and signs; reading is of ``object_storage``.

A request that got no answer may still take effect later. That is safe, as a key is used once: an object that
appears after its tombstone has gone is one of those that the sweep finds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from regmeta import metrics
from regmeta.errors import StoreUnavailable
from regmeta.failpoints import reach
from regmeta.object_storage.objects import Objects, said
from regmeta.store.bucket_options import MIB, BucketOptions
from regmeta.store.s3_parts import MOST_PARTS, PartsUpload, S3Requests, UploadGone
from regmeta.threads import Threads

if TYPE_CHECKING:
    from obstore import WritableFile

_log = logging.getLogger(__name__)

DELETED_AT_ONCE: Final = 1000  # what S3 takes in one request


class KeyTaken(StoreUnavailable):
    """There is an object of this name already."""


class Upload(Protocol):
    """An upload in parts, of which nothing is seen before it is finished."""

    def write(self, piece: memoryview) -> None:
        """Send bytes; waits while as many parts are under way as may be."""

    def flush(self) -> None:
        """Return when no byte of it is in memory any more, as far as the client can do that."""

    def finish(self, point: str) -> None:
        """Make it an object, durably."""

    def abort(self) -> None:
        """Give it up. Safe to call twice."""


class Bucket(Objects):
    """One bucket, or what is below a prefix of it. Safe to use from several threads.

    Every call raises :class:`StoreUnavailable` where the server did not do it or could not tell; "there is
    none" is an answer of the server's.
    """

    def __init__(self, url: str, options: BucketOptions) -> None:
        """Prepare to connect; nothing is asked yet.

        Raises:
            StoreUnavailable: no client can be made, as when there is no region and no key.
        """
        self.options = options
        super().__init__(url, options)
        self._requests = S3Requests(self.location, options) if self._scheme == "s3" else None
        # Ours are few, and held by uploads of several threads at once.
        self._turns = threading.BoundedSemaphore(options.parts_at_once)
        self._pool = Threads(options.parts_at_once, thread_name_prefix="parts")

    def failure(self, where: str, error: Exception) -> StoreUnavailable:
        """Return what is raised instead of a client's *error* about *where*."""
        metrics.STORE_ERRORS.add(1, type(error).__name__)
        return StoreUnavailable(f"{where}: {said(error)}")

    # --- objects ------------------------------------------------------------------------------

    def put(self, name: str, content: bytes | memoryview, point: str, *, new: bool) -> None:
        """Write an object whole, durably. With *new* it is refused where there is one of this name.

        A request that was tried again may find what the first try wrote: that is no refusal.

        Raises:
            KeyTaken: another object has this name.
        """
        with self._translated(name):
            if not new:
                obstore.put(self._store, name, content, use_multipart=False)
            elif not self._put_new(name, content):
                found = self.read(name)
                if found is None or b"".join(found) != content:
                    raise KeyTaken(f"{self.location}/{name}: is there already")
        reach(point)

    def begin_upload(self, name: str, size_bytes: int) -> Upload:
        """Begin an upload in parts, of which nothing is seen before it is finished."""
        if self._requests is not None:
            part_bytes = self.options.part_bytes
            return PartsUpload(self._requests, name, size_bytes, part_bytes, self._pool, self._turns)
        least = -(-size_bytes // MOST_PARTS)
        part_bytes = max(self.options.part_bytes, -(-least // MIB) * MIB)
        with self._translated(name):
            writer = obstore.open_writer(
                self._store, name, buffer_size=part_bytes, max_concurrency=self.options.parts_at_once
            )
        return WriterUpload(self, name, writer)

    def finish(self, upload: Upload, name: str, size_bytes: int, point: str) -> None:
        """Make an upload an object, durably, and see that it is as long as it should be.

        Where the answer to this was lost, the server may know no such upload any more: then the object says
        whether it was finished. Nobody else writes under its name.
        """
        gone: UploadGone | None = None
        try:
            upload.finish(point)
        except UploadGone as error:
            gone = error
        found = self.head(name)
        if found is None or found.size_bytes != size_bytes:
            if gone is not None:
                raise gone
            there = "nothing" if found is None else f"{found.size_bytes} bytes"
            raise StoreUnavailable(
                f"{self.location}/{name}: {size_bytes} bytes were written, {there} is there"
            )

    def delete(self, names: Sequence[str], point: str) -> bool:
        """Remove objects. One that is not there is no error; tell whether the server said so of any."""
        any_missing = False
        for start in range(0, len(names), DELETED_AT_ONCE):
            some = names[start : start + DELETED_AT_ONCE]
            with self._translated(some[0]):
                if self._scheme == "s3":
                    # It does not say which were there; "not found" is said of the bucket.
                    obstore.delete(self._store, some)
                else:
                    any_missing |= self._delete_each(some)
            reach(point)
        return any_missing

    def sign(self, name: str, lifetime_s: int) -> str:
        """Return a URL that anybody can read an object at, for a while."""
        with self._translated(name):
            return obstore.sign(self._store, "GET", name, timedelta(seconds=lifetime_s))

    # --- uploads that nobody finished -----------------------------------------------------------

    def abort_uploads(
        self, folder: str, older_than_s: float, point: str, is_ours: Callable[[str], bool]
    ) -> int:
        """Give up uploads below a folder that were begun long ago; return how many there were.

        Those of names that are not *is_ours* are left: another registry's prefix may be below this folder.
        Only S3 has them: Google's and Azure's expire by themselves.
        """
        if self._requests is None:
            return 0
        count = 0
        old = [each for each in self._requests.unfinished(folder) if each.age_s >= older_than_s]
        for each in filter(lambda each: is_ours(each.name), old):
            count += self._requests.abort(each.name, each.upload_id)
            reach(point)
        return count

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    # --- inside ---------------------------------------------------------------------------------

    def _writing(self) -> dict[str, Any]:
        """Return the options of an S3 client that are about what it writes."""
        return {"checksum_algorithm": "sha256"} if self.options.checksums else {}

    def _put_new(self, name: str, content: bytes | memoryview) -> bool:
        """Write an object that is not there; tell whether it was not.

        Its name is given to one writer, so it is safe to write it without a condition: that is tried again
        where no answer came, a conditional one is not.
        """
        if self.options.conditional_put:
            try:
                obstore.put(self._store, name, content, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
            except PermissionError:
                raise
            except (BaseError, OSError) as error:  # not understood, or no answer
                _log.info("%s/%s: written without a condition: %s", self.location, name, said(error))
            else:
                return True
        if self.head(name) is not None:
            return False
        obstore.put(self._store, name, content, use_multipart=False)
        return True

    def _delete_each(self, names: Sequence[str]) -> bool:
        any_missing = False
        for name in names:
            with self._translated(name):
                try:
                    obstore.delete(self._store, name)
                except FileNotFoundError:
                    any_missing = True
        return any_missing


class WriterUpload:
    """An upload in parts by ``obstore``'s own writer, for servers that do not speak S3.

    Its last part is in memory until it is finished.
    """

    def __init__(self, bucket: Bucket, name: str, writer: WritableFile) -> None:
        self._bucket = bucket
        self._name = name
        self._writer = writer
        self._is_open = True

    def write(self, piece: memoryview) -> None:
        """Send bytes; waits while as many parts are under way as may be."""
        with self._bucket._translated(self._name):
            # The client keeps what it is given until it is sent; the caller's buffer is filled again before.
            self._writer.write(bytes(piece))

    def flush(self) -> None:
        """Do nothing: this client sends the last part when it is closed."""

    def finish(self, point: str) -> None:
        """Make it an object, durably."""
        with self._bucket._translated(self._name):
            self._writer.close()
        self._is_open = False
        reach(point)

    def abort(self) -> None:
        """Give it up. Safe to call twice."""
        if not self._is_open:
            return
        self._is_open = False
        reason = StoreUnavailable("given up")
        with self._bucket._translated(self._name):
            self._writer.__exit__(type(reason), reason, None)
