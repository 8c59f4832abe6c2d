"""Object storage: S3 and what speaks it, Google's and Azure's. The one module that knows ``obstore``.

A request that got no answer may still take effect later. That is safe, as a key is used once: an object that
appears after its tombstone has gone is one of those that the sweep finds.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from regmeta import metrics
from regmeta.errors import StoreUnavailable
from regmeta.failpoints import reach
from regmeta.store.bucket_options import MIB, BucketOptions, is_endpoint
from regmeta.store.s3_parts import (
    CONNECT_TIMEOUT_S,
    MOST_PARTS,
    PartsUpload,
    S3Requests,
    UploadGone,
    endpoint_of,
    without_secrets,
)
from regmeta.threads import Threads

if TYPE_CHECKING:
    from obstore import WritableFile

_log = logging.getLogger(__name__)

DELETED_AT_ONCE: Final = 1000  # what S3 takes in one request
LISTED_AT_ONCE: Final = 1000
_STREAM_BYTES: Final = 1 * MIB
_LONGEST_REQUEST: Final = timedelta(hours=12)  # of a large object, however slowly it is read
_ANSWER: Final = (
    re.compile(r"non-2xx status code: (\d+ [A-Za-z ]+)"),
    re.compile(r"<Code>([^<]{1,100})</Code>"),
    re.compile(r"<Message>([^<]{1,300})</Message>"),
)
_ASKED_FOR_KEYS: Final = re.compile(r"Error performing [A-Z]+ http://169\.254\.")
_NOT_OURS: Final = (BaseError, OSError, ValueError)


class KeyTaken(StoreUnavailable):
    """There is an object of this name already."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing, or a look at one object, says."""

    name: str
    size_bytes: int
    modified_s: float


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


class Bucket:
    """One bucket, or what is below a prefix of it. Safe to use from several threads.

    Every call raises :class:`StoreUnavailable` where the server did not do it or could not tell; "there is
    none" is an answer of the server's.
    """

    def __init__(self, url: str, options: BucketOptions) -> None:
        """Prepare to connect; nothing is asked yet.

        Raises:
            StoreUnavailable: no client can be made, as when there is no region and no key.
        """
        self.location = url.rstrip("/")
        self.options = options
        self._scheme, _, path = self.location.partition("://")
        self._bucket, _, self._prefix = path.partition("/")
        with self._translated(""):
            self._store = self._client()
        self._requests = S3Requests(self.location, options) if self._scheme == "s3" else None
        # Ours are few, and held by uploads of several threads at once.
        self._turns = threading.BoundedSemaphore(options.parts_at_once)
        self._pool = Threads(options.parts_at_once, thread_name_prefix="parts")

    # --- objects ------------------------------------------------------------------------------

    def head(self, name: str) -> Listed | None:
        """Look at one object; None if the server says that there is none."""
        with self._translated(name):
            try:
                return _listed(obstore.head(self._store, name))
            except FileNotFoundError:
                return None

    def read(self, name: str, start: int = 0) -> Iterator[memoryview] | None:
        """Read an object from byte *start* on, piece by piece; None if the server says that there is none."""
        with self._translated(name):
            try:
                if start:
                    got = obstore.get(self._store, name, options={"range": {"offset": start}})
                else:
                    got = obstore.get(self._store, name)
            except FileNotFoundError:
                return None
            pieces = iter(got.stream(min_chunk_size=_STREAM_BYTES))
        return self._pieces(name, pieces)

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

    def walk(self, folder: str) -> Iterator[Listed]:
        """List all objects below a folder. It is whole, or it raises."""
        with self._translated(folder):
            for some in obstore.list(self._store, folder, chunk_size=LISTED_AT_ONCE):
                yield from map(_listed, some)

    def list_folder(self, folder: str) -> list[Listed]:
        """List the objects in a folder, and not those below it."""
        with self._translated(folder):
            return [_listed(found) for found in obstore.list_with_delimiter(self._store, folder)["objects"]]

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

    def _client(self) -> S3Store | GCSStore | AzureStore:
        options = self.options
        retries: Any = {"max_retries": 20, "retry_timeout": options.retry_for}
        client: Any = {
            "timeout": _LONGEST_REQUEST,
            "read_timeout": options.read_timeout,
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        }
        prefix = self._prefix or None
        if self._scheme == "gs":
            return GCSStore(self._bucket, prefix=prefix, client_options=client, retry_config=retries)
        if self._scheme == "az":
            return AzureStore(self._bucket, prefix=prefix, client_options=client, retry_config=retries)
        endpoint = endpoint_of(options)
        if endpoint and not is_endpoint(endpoint):  # the client would break off
            shown = without_secrets(endpoint)[:200]
            raise StoreUnavailable(f"{self.location}: {shown!r} is no http(s) URL of a server")
        given: dict[str, Any] = {"virtual_hosted_style_request": options.virtual_hosted}
        if endpoint:
            # Of a host for each bucket this client wants the bucket's, the other one makes it itself.
            scheme, _, host = endpoint.partition("://")
            given["endpoint"] = f"{scheme}://{self._bucket}.{host}" if options.virtual_hosted else endpoint
            client["allow_http"] = endpoint.startswith("http://")
        if options.region:
            given["region"] = options.region
        if options.checksums:
            given["checksum_algorithm"] = "sha256"
        return S3Store(self._bucket, prefix=prefix, client_options=client, retry_config=retries, **given)

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
                _log.info("%s/%s: written without a condition: %s", self.location, name, _said(error))
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

    def _pieces(self, name: str, pieces: Iterator[Any]) -> Iterator[memoryview]:
        with self._translated(name):
            for piece in pieces:
                yield memoryview(piece)

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Turn the clients' errors into ours, with the name and the server's first line."""
        where = f"{self.location}/{name}" if name else self.location
        try:
            yield
        except StoreUnavailable:
            raise
        except _NOT_OURS as error:
            metrics.STORE_ERRORS.add(1, type(error).__name__)
            raise StoreUnavailable(f"{where}: {_said(error)}") from error


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


def _listed(found: Any) -> Listed:
    return Listed(found["path"], found["size"], found["last_modified"].timestamp())


def _said(error: Exception) -> str:
    text = str(error)
    if _ASKED_FOR_KEYS.search(text):
        return "there are no keys in the environment, and this machine has no role that gives some"
    status, code, message = (found.search(text) for found in _ANSWER)
    if status is not None:
        words = [status[1].strip(), *(found[1] for found in (code, message) if found is not None)]
        return without_secrets(f"the server answered {', '.join(words)}")
    lines = (line.strip() for line in text.splitlines() if line.strip())
    return without_secrets(next(lines, type(error).__name__))[:500]
