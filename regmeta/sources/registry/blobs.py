"""Blobs of a registry, streamed; a stream that is cut goes on from the byte that it reached.

Nothing is promised of the bytes: who reads them hashes and counts them. So bytes of two mirrors may follow
each other in one stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from regmeta.errors import Error, InvalidSource, MissingContent, NotFound, RemoteUnavailable
from regmeta.oci import names
from regmeta.oci.digest import Digest
from regmeta.sources.registry.calls import pull_scope
from regmeta.sources.registry.mirrors import Mirrors
from regmeta.sources.registry.transport import Endpoint, Response

FRUITLESS_RESUMES: Final = 5  # that bring no byte; one byte makes the count start again
MAX_RESUMES: Final = 1000  # of one blob, whatever they bring
_SKIP_BYTES: Final = 64 * 1024  # [bytes]
_CONTENT_RANGE: Final = re.compile(
    r"bytes (?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})/(?P<total>[0-9]{1,19}|\*)"
)
_UNSATISFIED: Final = re.compile(r"bytes \*/(?P<total>[0-9]{1,19})")


class RemoteBlob:
    """The bytes of one blob, from the first one on; for one thread. Its ``with`` block closes it."""

    def __init__(self, mirrors: Mirrors, repository: str, digest: Digest) -> None:
        """Ask for the blob.

        Raises:
            MissingContent: no endpoint has it.
            RemoteUnavailable, RemoteRefused, UnsafeRemote, InvalidSource: see :meth:`Endpoint.request`.
        """
        self._mirrors = mirrors
        self._path = f"/v2/{names.repository_name(repository)}/blobs/{digest}"
        self._scope = pull_scope(repository)
        self._reached = 0  # bytes handed out
        self._total: int | None = None
        self._resumes = 0
        self._fruitless = 0
        self._response: Response | None = None
        try:
            self._response = mirrors.first(self._ask)
        except NotFound as error:
            raise MissingContent(str(error)) from None

    def readinto(self, buffer: memoryview, /) -> int:
        """Read into *buffer*; return how many bytes, 0 at the end.

        Raises:
            RemoteUnavailable: it was cut, and going on did not succeed.
            InvalidSource: going on gave another part than the one asked for.
        """
        while self._response is not None:
            try:
                got = self._response.readinto(buffer)
            except RemoteUnavailable as error:
                self._resume(error)
                continue
            if got:
                self._reached += got
                self._fruitless = 0
                return got
            if not len(buffer):
                return 0
            if self._total is None or self._reached >= self._total:
                self.close()
            else:  # a range that was shorter than the one asked for
                self._resume(RemoteUnavailable(f"{self._response.where}: ended at byte {self._reached}"))
        return 0

    def close(self) -> None:
        """Let go of the connection."""
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def __enter__(self) -> RemoteBlob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _resume(self, cut: RemoteUnavailable) -> None:
        """Go on from the byte that was reached: with the same endpoint, or else another."""
        self.close()  # its slot is needed for the next
        error: Error = cut
        while self._reached != self._total:
            self._resumes += 1
            self._fruitless += 1
            if self._fruitless > FRUITLESS_RESUMES or self._resumes > MAX_RESUMES:
                raise RemoteUnavailable(f"{error} (given up at byte {self._reached})") from error
            try:
                # What answers and then brings nothing is not asked first for ever.
                self._response = self._mirrors.first(self._ask, start=self._fruitless - 1)
                return
            except NotFound as gone:
                # It was there a moment ago, so this says nothing of whether it is.
                raise RemoteUnavailable(f"{gone} (at byte {self._reached}: it was there before)") from gone
            except RemoteUnavailable as again:
                error = again

    def _ask(self, endpoint: Endpoint) -> Response | None:
        """Ask one endpoint for the rest; None if nothing is left."""
        start = self._reached
        headers = {"Range": f"bytes={start}-"} if start else {}
        expect = (200, 206, 416) if start else (200,)
        response = endpoint.request(
            "GET", self._path, scope=self._scope, headers=headers, follow=True, expect=expect
        )
        try:
            return response if self._is_at(response, start) else None
        except BaseException:
            response.close()
            raise

    def _is_at(self, response: Response, start: int) -> bool:
        """Tell whether bytes are left, and have an answer begin with the one at *start*."""
        if response.status == 206:
            self._check_range(response, start)
            return True
        if response.status == 416:
            found = _UNSATISFIED.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found["total"]) != start:
                raise InvalidSource(f"{response.where}: has no bytes from {start} on, and they were not all")
            response.close()
            return False
        self._learn_total(_length(response.headers), response.where)
        _skip(response, start)
        return True

    def _check_range(self, response: Response, start: int) -> None:
        text = response.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(text)
        if found is None or int(found["first"]) != start or int(found["last"]) < start:
            raise InvalidSource(
                f"{response.where}: was asked for bytes from {start} on, and gave {text[:100]!r}"
            )
        if found["total"] != "*":
            total = int(found["total"])
            if int(found["last"]) >= total:
                raise InvalidSource(f"{response.where}: Content-Range is {text[:100]!r}")
            self._learn_total(total, response.where)

    def _learn_total(self, total: int | None, where: str) -> None:
        if total is None:
            return
        if self._total is not None and total != self._total:
            raise InvalidSource(f"{where}: has {total} bytes now, and had {self._total}")
        self._total = total


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _skip(response: Response, size_bytes: int) -> None:
    """Read bytes that are here already: the registry knows no ranges."""
    buffer = memoryview(bytearray(min(size_bytes, _SKIP_BYTES)))
    while size_bytes:
        got = response.readinto(buffer[:size_bytes])
        if not got:
            raise InvalidSource(f"{response.where}: is shorter than it was, by {size_bytes} bytes or more")
        size_bytes -= got
