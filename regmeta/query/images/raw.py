"""Digests and times from what rows hold, where one that is damaged must not fail a whole page."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy.engine.default import DefaultDialect

from regmeta.errors import IntegrityError, InvalidDigest
from regmeta.models.base import UtcTime
from regmeta.oci.digest import Digest

_TIME: Final = UtcTime()
_ANY: Final = DefaultDialect()


def digest_of(value: Any) -> Digest | None:
    """Return a digest from the bytes of a row; None is NULL.

    Raises:
        InvalidDigest: they are none.
    """
    return None if value is None else Digest.from_bytes(value)


def digest_or_none(value: Any) -> Digest | None:
    """Return a digest from the bytes of a row, None also if they are none."""
    try:
        return digest_of(value)
    except InvalidDigest:
        return None


def time_of(value: Any) -> datetime | None:
    """Return a time from the number of a row; None is NULL.

    Raises:
        IntegrityError: it is none.
    """
    return _TIME.process_result_value(value, _ANY)


def time_or_none(value: Any) -> datetime | None:
    """Return a time from the number of a row, None also if it is none."""
    try:
        return time_of(value)
    except IntegrityError:
        return None
