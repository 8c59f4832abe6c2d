"""Reading what may be damaged: one bad row must not fail a whole answer."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from regmeta.errors import InvalidDigest
from regmeta.oci.digest import Digest


def raw(column: Any) -> Any:
    """Return a column of digests as the bytes that its rows hold."""
    return sa.cast(column, sa.LargeBinary())  # SQLite may hold text there


def digest_or_none(stored: object) -> Digest | None:
    """Return the digest that a row holds, None if that is none."""
    try:
        return Digest.from_bytes(bytes(stored) if isinstance(stored, memoryview) else stored)
    except InvalidDigest:
        return None
