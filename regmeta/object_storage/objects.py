"""The objects of a bucket, read: listed, looked at, and read piece by piece.

A listing is whole or raises. A client must not be used by a process that was forked after its first request.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import obstore
from obstore.exceptions import BaseError, InvalidPathError
from obstore.store import AzureStore, GCSStore, S3Store

from regmeta.errors import Error, InvalidSource, RemoteUnavailable
from regmeta.object_storage.reach import (
    CONNECT_TIMEOUT_S,
    MIB,
    Keys,
    Reach,
    endpoint_of,
    is_endpoint,
    without_secrets,
)

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


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing, or a look at one object, says."""

    name: str
    size_bytes: int
    modified_s: float
    mark: str = ""
    """The server's entity tag, without quotes: another one when the content is another; or nothing."""


class Objects:
    """One bucket, or what is below a prefix of it. Safe to use from several threads.

    Every call raises what :meth:`failure` makes of an error where the server did not do it or could not
    tell. "There is none" is an answer of the server's; that the bucket itself is there, only a listing says.
    """

    def __init__(self, url: str, reach: Reach) -> None:
        """Prepare to connect; nothing is asked yet.

        Raises:
            Error: no client can be made, as when there is no region and no key.
        """
        self.location = url.rstrip("/")
        self._scheme, _, path = self.location.partition("://")
        self._bucket, _, self._prefix = path.partition("/")
        self._reach = reach
        with self._translated(""):
            self._store = self._client()

    def failure(self, where: str, error: Exception) -> Error:
        """Return what is raised instead of a client's *error* about *where*."""
        if isinstance(error, (InvalidPathError, ValueError)):  # of a name that this client does not take
            return InvalidSource(f"{where}: {said(error)}")
        return RemoteUnavailable(f"{where}: {said(error)}")

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

    def walk(self, folder: str) -> Generator[Listed, None, None]:
        """List all objects below a folder. It is whole, or it raises."""
        with self._translated(folder):
            for some in obstore.list(self._store, folder, chunk_size=LISTED_AT_ONCE):
                yield from map(_listed, some)

    def list_folder(self, folder: str) -> list[Listed]:
        """List the objects in a folder, and not those below it."""
        return self.list_all(folder)[0]

    def list_all(self, folder: str) -> tuple[list[Listed], list[str]]:
        """List the objects in a folder, and the names of the folders in it."""
        with self._translated(folder):
            found = obstore.list_with_delimiter(self._store, folder)
            return [_listed(each) for each in found["objects"]], list(found["common_prefixes"])

    # --- inside ---------------------------------------------------------------------------------

    def _client(self) -> S3Store | GCSStore | AzureStore:
        reach = self._reach
        retries: Any = {"max_retries": 20, "retry_timeout": reach.retry_for}
        client: Any = {
            "timeout": _LONGEST_REQUEST,
            "read_timeout": reach.read_timeout,
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        }
        prefix = self._prefix or None
        if self._scheme == "gs":
            return GCSStore(self._bucket, prefix=prefix, client_options=client, retry_config=retries)
        if self._scheme == "az":
            return AzureStore(self._bucket, prefix=prefix, client_options=client, retry_config=retries)
        endpoint = endpoint_of(reach)
        if endpoint and not is_endpoint(endpoint):  # the client would break off
            shown = without_secrets(endpoint)[:200]
            raise self.failure(self.location, OSError(f"{shown!r} is no http(s) URL of a server"))
        given: dict[str, Any] = {"virtual_hosted_style_request": reach.virtual_hosted, **self._writing()}
        if endpoint:
            # Of a host for each bucket this client wants the bucket's, the other one makes it itself.
            scheme, _, host = endpoint.partition("://")
            given["endpoint"] = f"{scheme}://{self._bucket}.{host}" if reach.virtual_hosted else endpoint
            client["allow_http"] = endpoint.startswith("http://")
        if reach.region:
            given["region"] = reach.region
        if reach.keys is not None:
            given["credential_provider"] = _Given(reach.keys)
        return S3Store(self._bucket, prefix=prefix, client_options=client, retry_config=retries, **given)

    def _writing(self) -> dict[str, Any]:
        """Return the options of an S3 client that are about what it writes."""
        return {}

    def _pieces(self, name: str, pieces: Iterator[Any]) -> Iterator[memoryview]:
        with self._translated(name):
            for piece in pieces:
                yield memoryview(piece)

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Turn the client's errors into ours, with the name and the server's first line."""
        try:
            yield
        except _NOT_OURS as error:
            raise self.failure(f"{self.location}/{name}" if name else self.location, error) from error


class ObjectReader:
    """An object being read: the pieces that come, as a :class:`~regmeta.oci.streams.ByteStream`."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill *buffer* as far as one piece goes; return how many bytes that was, 0 at the end."""
        while not len(self._piece):
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = piece
        got = min(len(buffer), len(self._piece))
        buffer[:got] = self._piece[:got]
        self._piece = self._piece[got:]
        return got


class _Given:
    """Gives the client keys that are not the environment's, and with them none of its tokens."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def __call__(self) -> Any:
        keys = self._keys
        return {
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "token": keys.session_token or None,
            "expires_at": None,
        }


def _listed(found: Any) -> Listed:
    mark = (found["e_tag"] or "").removeprefix("W/").strip('"')
    return Listed(found["path"], found["size"], found["last_modified"].timestamp(), mark)


def said(error: Exception) -> str:
    """Return the first line of what a client's error says, or what the server answered; without secrets."""
    text = str(error)
    if _ASKED_FOR_KEYS.search(text):
        return "there are no keys in the environment, and this machine has no role that gives some"
    status, code, message = (found.search(text) for found in _ANSWER)
    if status is not None:
        words = [status[1].strip(), *(found[1] for found in (code, message) if found is not None)]
        return without_secrets(f"the server answered {', '.join(words)}")
    lines = (line.strip() for line in text.splitlines() if line.strip())
    return without_secrets(next(lines, type(error).__name__))[:500]
