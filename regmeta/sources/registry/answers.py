"""What an answer other than the wished one means, as an error."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from regmeta.errors import Error, InvalidSource, NotFound, RemoteRefused, RemoteUnavailable
from regmeta.oci import strict_json
from regmeta.sources.registry.limits import TryAgain
from regmeta.sources.registry.text import shown

MAX_SMALL_BODY: Final = 64 * 1024
"""Errors and tokens are no longer than this."""

# What Go's server and nginx say, in plain text.
_IS_HTTPS: Final = re.compile(rb"HTTP request (was sent )?to (an )?HTTPS (server|port)")
_WORTH_ANOTHER_TRY: Final = frozenset({408, 429, 500, 502, 503, 504})


def refusal(
    where: str, status: int, body: bytes, *, after_s: float | None = None, secrets: Iterable[str] = ()
) -> Error | TryAgain:
    """Return the error that *status* means, with the server's own words, short and escaped.

    A server that is busy or broken says nothing of what is there (I8): 5xx and 429 are unavailability.
    """
    said = words_of(body, secrets=secrets)
    message = f"{where}: HTTP {status}" + (f": {said}" if said else "")
    if status == 404:
        return NotFound(message)
    if status in (401, 403):
        return RemoteRefused(message)
    if status == 429 or status == 408 or status >= 500:
        unavailable = RemoteUnavailable(message, retry_after_s=after_s)
        return TryAgain(unavailable, after_s=after_s) if status in _WORTH_ANOTHER_TRY else unavailable
    if status == 400 and _IS_HTTPS.search(body):
        return InvalidSource(f"{message}: it speaks HTTPS, and was asked in plain HTTP: write https://")
    return InvalidSource(message)


def words_of(body: bytes, *, secrets: Iterable[str] = ()) -> str:
    """Return the code and the message that an error's body holds; empty when it is of no known form."""
    try:
        document = strict_json.loads(body)
    except (strict_json.StrictJSONError, RecursionError):
        return ""
    said = _words(document)
    for secret in secrets:
        if secret:
            said = said.replace(secret, "***")
    return shown(said)


def _words(document: Any) -> str:
    if not isinstance(document, dict):
        return ""
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else document
    texts = [first.get(name) for name in ("code", "error", "message", "error_description", "details")]
    return ": ".join(text for text in texts if isinstance(text, str) and text)
