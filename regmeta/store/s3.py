"""Object storage: S3 and what speaks it, Google's and Azure's. The one module that knows the clients.

Requests and retries are ``obstore``'s. ``botocore`` is used for what it has no call for: to find uploads that
nobody finished and to give them up.

A request that got no answer may still take effect later. That is safe, as a key is used once: an object that
appears after its tombstone has gone is one of those that the sweep finds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from regmeta.errors import StoreUnavailable
from regmeta.failpoints import reach

if TYPE_CHECKING:
    from obstore import WritableFile

DELETED_AT_ONCE: Final = 1000  # what S3 takes in one request
LISTED_AT_ONCE: Final = 1000
MOST_PARTS: Final = 9_000  # S3 takes 10,000
MIB: Final = 1024 * 1024
_STREAM_BYTES: Final = 1 * MIB
_LONGEST_REQUEST: Final = timedelta(hours=12)  # of a large object, however slowly it is read
_ANSWER: Final = (
    re.compile(r"non-2xx status code: (\d+ [A-Za-z ]+)"),
    re.compile(r"<Code>([^<]{1,100})</Code>"),
    re.compile(r"<Message>([^<]{1,300})</Message>"),
)
_NOT_OURS: Final = (BaseError, OSError, ValueError)


class KeyTaken(StoreUnavailable):
    """There is an object of this name already."""


@dataclass(frozen=True, slots=True)
class BucketOptions:
    """How a bucket is reached; see ``regmeta.settings.object_store``."""

    endpoint: str = ""
    region: str = ""
    virtual_hosted: bool = False
    part_bytes: int = 8 * MIB
    parts_at_once: int = 4
    requests_at_once: int = 8
    retry_for: timedelta = timedelta(seconds=60)
    read_timeout: timedelta = timedelta(seconds=30)
    conditional_put: bool = True
    checksums: bool = True


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing, or a look at one object, says."""

    name: str
    size_bytes: int
    modified_s: float


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
        self._is_conditional = options.conditional_put

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

    def begin(self, name: str, size_bytes: int) -> Upload:
        """Begin an upload in parts, of which nothing is seen before it is finished."""
        least = -(-size_bytes // MOST_PARTS)
        part_bytes = max(self.options.part_bytes, -(-least // MIB) * MIB)
        with self._translated(name):
            writer = obstore.open_writer(
                self._store, name, buffer_size=part_bytes, max_concurrency=self.options.parts_at_once
            )
        return Upload(self, name, size_bytes, writer)

    def delete(self, names: Sequence[str], point: str) -> None:
        """Remove objects. One that is not there is no error."""
        for start in range(0, len(names), DELETED_AT_ONCE):
            some = names[start : start + DELETED_AT_ONCE]
            with self._translated(some[0]):
                try:
                    obstore.delete(self._store, some)
                except FileNotFoundError:
                    self._delete_each(some)
            reach(point)

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

    def abort_uploads(self, folder: str, older_than_s: float, point: str) -> int:
        """Give up uploads below a folder that were begun long ago; return how many there were.

        Only S3 has them: Google's and Azure's expire by themselves.
        """
        if self._scheme != "s3":
            return 0
        client = self._requests()
        # By the server's clock: it says when each was begun.
        dead = []
        with self._translated(folder):
            pages = client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._full_name(folder) + "/"):
                now = _server_time(page)
                for upload in page.get("Uploads", ()):
                    if (now - upload["Initiated"]).total_seconds() >= older_than_s:
                        dead.append((upload["Key"], upload["UploadId"]))
        for key, upload_id in dead:
            with self._translated(key):
                try:
                    client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
                except client.exceptions.NoSuchUpload:
                    continue  # another sweep was faster, or it was finished
            reach(point)
        return len(dead)

    # --- inside ---------------------------------------------------------------------------------

    def _client(self) -> S3Store | GCSStore | AzureStore:
        options = self.options
        retries: Any = {"max_retries": 20, "retry_timeout": options.retry_for}
        client: Any = {"timeout": _LONGEST_REQUEST, "read_timeout": options.read_timeout}
        prefix = self._prefix or None
        if self._scheme == "gs":
            return GCSStore(self._bucket, prefix=prefix, client_options=client, retry_config=retries)
        if self._scheme == "az":
            return AzureStore(self._bucket, prefix=prefix, client_options=client, retry_config=retries)
        endpoint = self._endpoint()
        given: dict[str, Any] = {"virtual_hosted_style_request": options.virtual_hosted}
        if endpoint:
            given["endpoint"] = endpoint
            client["allow_http"] = endpoint.startswith("http://")
        if options.region:
            given["region"] = options.region
        if options.checksums:
            given["checksum_algorithm"] = "sha256"
        return S3Store(self._bucket, prefix=prefix, client_options=client, retry_config=retries, **given)

    def _endpoint(self) -> str:
        environment = os.environ.get
        return (
            self.options.endpoint
            or environment("AWS_ENDPOINT_URL_S3")
            or environment("AWS_ENDPOINT_URL")
            or ""
        )

    def _requests(self) -> Any:
        try:
            import botocore.config
            import botocore.session
        except ImportError as error:
            raise StoreUnavailable(
                f"{self.location}: unfinished uploads cannot be found ({error}): pip install 'regmeta[s3]'"
            ) from error
        style = "virtual" if self.options.virtual_hosted else "path"
        config = botocore.config.Config(
            s3={"addressing_style": style}, read_timeout=self.options.read_timeout.total_seconds()
        )
        region = self.options.region or os.environ.get("AWS_REGION")
        with self._translated(""):
            session = botocore.session.get_session()
            return session.create_client(
                "s3", endpoint_url=self._endpoint() or None, region_name=region, config=config
            )

    def _put_new(self, name: str, content: bytes | memoryview) -> bool:
        """Write an object that is not there; tell whether it was not."""
        if self._is_conditional:
            try:
                obstore.put(self._store, name, content, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
            except NotSupportedError:
                self._is_conditional = False
            else:
                return True
        if self.head(name) is not None:
            return False
        obstore.put(self._store, name, content, use_multipart=False)
        return True

    def _delete_each(self, names: Sequence[str]) -> None:
        for name in names:
            with self._translated(name):
                try:
                    obstore.delete(self._store, name)
                except FileNotFoundError:
                    continue

    def _pieces(self, name: str, pieces: Iterator[Any]) -> Iterator[memoryview]:
        with self._translated(name):
            for piece in pieces:
                yield memoryview(piece)

    def _full_name(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Turn the clients' errors into ours, with the name and the server's first line."""
        where = f"{self.location}/{name}" if name else self.location
        try:
            yield
        except StoreUnavailable:
            raise
        except _NOT_OURS as error:
            raise StoreUnavailable(f"{where}: {_said(error)}") from error
        except Exception as error:
            # botocore's errors have no base that can be named before it is imported.
            if not type(error).__module__.startswith("botocore"):
                raise
            raise StoreUnavailable(f"{where}: {_said(error)}") from error


class Upload:
    """An upload in parts. Used by one thread; nothing is seen of it before :meth:`finish`."""

    def __init__(self, bucket: Bucket, name: str, size_bytes: int, writer: WritableFile) -> None:
        self._bucket = bucket
        self._name = name
        self._size_bytes = size_bytes
        self._writer = writer

    def write(self, piece: memoryview) -> None:
        """Send bytes; waits while as many parts are under way as may be."""
        with self._bucket._translated(self._name):
            # The client keeps what it is given until it is sent; the caller's buffer is filled again before.
            self._writer.write(bytes(piece))

    def finish(self, point: str) -> None:
        """Make it an object, durably, and see that it is as long as it should be."""
        with self._bucket._translated(self._name):
            self._writer.close()
        reach(point)
        found = self._bucket.head(self._name)
        if found is None or found.size_bytes != self._size_bytes:
            there = "nothing" if found is None else f"{found.size_bytes} bytes"
            where = f"{self._bucket.location}/{self._name}"
            raise StoreUnavailable(f"{where}: {self._size_bytes} bytes were written, {there} is there")

    def abort(self) -> None:
        """Give it up. The server forgets what it was sent."""
        if self._writer.closed():
            return
        reason = StoreUnavailable("given up")
        with self._bucket._translated(self._name):
            self._writer.__exit__(type(reason), reason, None)


def _listed(found: Any) -> Listed:
    return Listed(found["path"], found["size"], found["last_modified"].timestamp())


def _server_time(page: Any) -> datetime:
    from email.utils import parsedate_to_datetime

    date = page.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)


def _said(error: Exception) -> str:
    text = str(error)
    status, code, message = (found.search(text) for found in _ANSWER)
    if status is not None:
        words = [status[1].strip(), *(found[1] for found in (code, message) if found is not None)]
        return f"the server answered {', '.join(words)}"
    lines = (line.strip() for line in text.splitlines() if line.strip())
    return next(lines, type(error).__name__)[:500]
