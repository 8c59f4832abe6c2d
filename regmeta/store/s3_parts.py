"""Uploads in parts, by S3's own requests: ``obstore`` finishes an upload only in one go with its last byte.

An upload is begun, its parts are sent, several at once, and when it is *sent* no byte of it is in memory any
more. It becomes an object with one more request, later. Until then nobody sees anything of it.

``botocore`` signs and parses; tries again are ours, so that they end when the settings say.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from regmeta.errors import StoreUnavailable
from regmeta.failpoints import reach
from regmeta.object_storage.reach import CONNECT_TIMEOUT_S, endpoint_of, without_secrets
from regmeta.store.bucket_options import MIB, BucketOptions

_T = TypeVar("_T")

MOST_PARTS: Final = 9_000  # S3 takes 10,000; what is left is for the smaller ones that large parts begin with
_PARTS_OF_A_SIZE: Final = 100
_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 10.0
# Bytes that come as others than were sent are sent again.
_TEMPORARY: Final = frozenset(
    {
        *("RequestTimeout", "RequestTimeTooSkewed", "SlowDown", "Throttling", "OperationAborted"),
        *("InternalError", "BadDigest", "XAmzContentSHA256Mismatch"),
    }
)
# The other client reads no profiles: both must use the same keys and the same server.
_NO_FILES: Final = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
_NO_ANSWER: Final = frozenset(
    {"HTTPClientError", "ConnectionError", "ResponseStreamingError", "ResponseParserError", "HTTPError"}
)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload that was begun and is no object."""

    name: str
    upload_id: str
    age_s: float  # by the server's clock


class UploadGone(StoreUnavailable):
    """The server knows no such upload: it was finished, or given up."""


class S3Requests:
    """The requests of uploads in parts. Safe to use from several threads."""

    def __init__(self, location: str, options: BucketOptions) -> None:
        self._location = location
        self._bucket, _, self._prefix = location.partition("://")[2].partition("/")
        self._options = options
        self._lock = threading.Lock()
        self._made: Any = None

    def create(self, name: str) -> str:
        """Begin an upload; return its id. One whose answer was lost is left for the sweep."""
        given = {"ChecksumAlgorithm": "SHA256"} if self._options.checksums else {}
        made = self._tried(name, lambda client: client.create_multipart_upload(**self._at(name), **given))
        return str(made["UploadId"])

    def send(self, name: str, upload_id: str, number: int, content: bytes | bytearray) -> dict[str, Any]:
        """Send one part; return what the upload is finished with.

        Raises:
            StoreUnavailable: it was not taken, as when other bytes have come than were sent.
        """
        given = {}
        if self._options.checksums:
            given["ChecksumSHA256"] = base64.b64encode(hashlib.sha256(content).digest()).decode()
        sent = self._tried(
            name,
            lambda client: client.upload_part(
                **self._at(name), UploadId=upload_id, PartNumber=number, Body=content, **given
            ),
        )
        return {"PartNumber": number, "ETag": sent["ETag"], **given}

    def finish(self, name: str, upload_id: str, parts: list[dict[str, Any]]) -> None:
        """Make an upload an object.

        Raises:
            UploadGone: there is none, perhaps since an earlier try has finished it.
        """
        self._tried(
            name,
            lambda client: client.complete_multipart_upload(
                **self._at(name), UploadId=upload_id, MultipartUpload={"Parts": parts}
            ),
        )

    def abort(self, name: str, upload_id: str, *, at_once: bool = False) -> bool:
        """Give an upload up; tell whether there was one. *at_once* makes one try only."""
        try:
            self._tried(
                name,
                lambda client: client.abort_multipart_upload(**self._at(name), UploadId=upload_id),
                retry_s=0.0 if at_once else None,
            )
        except UploadGone:
            return False
        return True

    def unfinished(self, folder: str) -> Iterator[Unfinished]:
        """List all uploads below a folder. It is whole, or it raises."""
        marks: dict[str, str] = {}
        prefix = self._full_name(folder) + "/"
        while True:
            page = self._tried(
                folder,
                lambda client, marks=marks: client.list_multipart_uploads(  # type: ignore[misc]
                    Bucket=self._bucket, Prefix=prefix, **marks
                ),
            )
            now = _server_time(page)
            for each in page.get("Uploads", ()):
                name = each["Key"].removeprefix(f"{self._prefix}/" if self._prefix else "")
                # The date of an answer has whole seconds: what was begun just now seems to be of the future.
                age_s = max((now - each["Initiated"]).total_seconds(), 0.0)
                yield Unfinished(name, each["UploadId"], age_s)
            if not page.get("IsTruncated"):
                return
            before, marks = (
                marks,
                {
                    "KeyMarker": page.get("NextKeyMarker") or "",
                    "UploadIdMarker": page.get("NextUploadIdMarker") or "",
                },
            )
            if marks == before:
                raise StoreUnavailable(f"{self._location}/{folder}: the list of uploads does not go on")

    # --- inside -------------------------------------------------------------------------------

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._full_name(name)}

    def _full_name(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _tried(self, name: str, call: Callable[[Any], _T], retry_s: float | None = None) -> _T:
        """Make a request, again and again while the server gives no answer, or an error of its own."""
        if retry_s is None:
            retry_s = self._options.retry_for.total_seconds()
        where = f"{self._location}/{name}"
        client = self._client()
        began_s = time.monotonic()
        longest_s = _FIRST_WAIT_S
        while True:
            try:
                return call(client)
            except Exception as error:
                # botocore's errors have no base that could be named before it is imported.
                if not type(error).__module__.startswith(("botocore", "urllib3")):
                    raise
                found = _judged(error)
                wait_s = longest_s * (0.5 + random.random() / 2)  # noqa: S311
                if found.is_gone:
                    raise UploadGone(f"{where}: {found.text}") from error
                if not found.is_temporary or time.monotonic() + wait_s - began_s > retry_s:
                    raise StoreUnavailable(f"{where}: {found.text}") from error
            time.sleep(wait_s)
            longest_s = min(2 * longest_s, _LONGEST_WAIT_S)

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._new_client()
            return self._made

    def _new_client(self) -> Any:
        try:
            import botocore.config
            import botocore.session
        except ImportError as error:
            raise StoreUnavailable(
                f"{self._location}: no upload in parts can be made ({error}): pip install 'regmeta[s3]'"
            ) from error
        options = self._options
        config = botocore.config.Config(
            s3={
                "addressing_style": "virtual" if options.virtual_hosted else "path",
                # What is signed names the checksum of the bytes: they are not hashed once more.
                **({"payload_signing_enabled": False} if options.checksums else {}),
            },
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=options.read_timeout.total_seconds(),
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=options.parts_at_once + options.requests_at_once,
            # Not every server understands checksums that nobody asked for.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        region = options.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        try:
            # Where a setting comes from: a key in a file, a variable of the environment, a default.
            session = botocore.session.Session(session_vars=_NO_FILES)
            return session.create_client(
                "s3", endpoint_url=endpoint_of(options) or None, region_name=region, config=config
            )
        except Exception as error:
            if not isinstance(error, ValueError) and not type(error).__module__.startswith("botocore"):
                raise
            raise StoreUnavailable(f"{self._location}: {error}") from error


class PartsUpload:
    """An upload in parts. Written by one thread; nothing is seen of it before :meth:`finish`.

    *turns* are the parts that may be under way at once, of all uploads of a store. Parts grow with
    the bytes that have come, and only where there would be too many: what size somebody says costs nothing.
    """

    def __init__(
        self,
        requests: S3Requests,
        name: str,
        size_bytes: int,
        part_bytes: int,
        pool: Executor,
        turns: threading.Semaphore,
    ) -> None:
        self._size_bytes = size_bytes
        self._first_part_bytes = self._part_bytes = part_bytes
        self._requests = requests
        self._name = name
        self._pool = pool
        self._turns = turns
        self._under_way: list[Future[dict[str, Any]]] = []
        self._filling = bytearray()
        self._upload_id: str | None = requests.create(name)

    def write(self, piece: memoryview) -> None:
        """Send bytes (a copy is kept until then); waits while as many parts are under way as may be."""
        while len(piece):
            room = self._part_bytes - len(self._filling)
            self._filling += piece[:room]
            piece = piece[room:]
            if len(self._filling) == self._part_bytes:
                self._send()

    def flush(self) -> None:
        """Return when the server has all that was written.

        Raises:
            StoreUnavailable: there is a part that it does not have.
        """
        if self._filling:
            self._send()
        for each in self._under_way:
            each.result()

    def finish(self, point: str) -> None:
        """Make it an object, durably. Call :meth:`flush` before.

        Raises:
            UploadGone: the server knows of none; one that is gone may be the object already.
        """
        assert self._upload_id is not None
        self._requests.finish(self._name, self._upload_id, [each.result() for each in self._under_way])
        reach(point)
        self._upload_id = None

    def abort(self) -> None:
        """Give it up, with one try; what is left the sweep gives up. Safe to call twice."""
        if self._upload_id is None:
            return
        upload_id, self._upload_id = self._upload_id, None
        for each in self._under_way:
            each.cancel()
        # A part that arrives after the end of its upload would stay.
        wait(self._under_way)
        self._requests.abort(self._name, upload_id, at_once=True)

    def _send(self) -> None:
        for each in self._under_way:
            if each.done():
                each.result()  # no more is read where a part has failed
        content, self._filling = self._filling, bytearray()
        self._turns.acquire()
        number = len(self._under_way) + 1
        try:
            sent = self._pool.submit(self._requests.send, self._name, str(self._upload_id), number, content)
        except BaseException:
            self._turns.release()
            raise
        del content
        sent.add_done_callback(lambda _: self._turns.release())
        self._under_way.append(sent)
        self._part_bytes = bytes_of_part(number + 1, self._size_bytes, self._first_part_bytes)


def bytes_of_part(number: int, size_bytes: int, first_part_bytes: int) -> int:
    """Return how long part *number* is, of which the first is 1: so that no blob has more than 10,000."""
    least = -(-size_bytes // MOST_PARTS)
    largest = max(first_part_bytes, -(-least // MIB) * MIB)
    return min(first_part_bytes << (number - 1) // _PARTS_OF_A_SIZE, largest)


@dataclass(frozen=True, slots=True)
class _Judged:
    text: str
    is_temporary: bool
    is_gone: bool = False


def _judged(error: Exception) -> _Judged:
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        # No answer, or half of one. What is wrong before anything is sent (keys, parameters) stays wrong.
        is_temporary = any(kind.__name__ in _NO_ANSWER for kind in type(error).__mro__)
        line = next(iter(str(error).splitlines()), type(error).__name__)
        return _Judged(without_secrets(line)[:500], is_temporary)
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    told = [str(status), code, str(answer.get("Error", {}).get("Message", ""))]
    text = "the server answered " + ", ".join(part for part in told if part and part != "0")[:500]
    if code == "NoSuchUpload":
        return _Judged(text, is_temporary=False, is_gone=True)
    return _Judged(text, status >= 500 or status == 429 or code in _TEMPORARY)


def _server_time(page: Any) -> datetime:
    from email.utils import parsedate_to_datetime

    date = page.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)
