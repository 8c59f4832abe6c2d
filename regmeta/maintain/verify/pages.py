"""Reading tables in pages, each in a short transaction of its own, whatever their values are.

Long reads would keep a write-ahead log from being cut. Values that other programs wrote may be anything:
digests are read as bytes, and text that is not UTF-8 is read with replacements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.db import Database
from regmeta.errors import InvalidDigest
from regmeta.oci.digest import Digest

PAGE_ROWS: Final = 1000


@contextmanager
def reading(database: Database) -> Iterator[Connection]:
    """Read in one transaction of one moment; text that is no text does not end it."""
    with database.read() as connection:
        if database.is_sqlite:
            driver_connection: Any = connection.connection.dbapi_connection
            driver_connection.text_factory = _tolerant
        yield connection


def pages(database: Database, statement: Any, key: Any, size: int = PAGE_ROWS) -> Iterator[Sequence[Any]]:
    """Give the rows of *statement*, whose first column is *key*, in order of it, page by page."""
    ordered = statement.order_by(key).limit(size)
    last = None
    while True:
        page = ordered if last is None else ordered.where(key > last)
        with reading(database) as connection:
            rows = connection.execute(page).all()
        if rows:
            yield rows
        # The same again: text that is no text, which compares otherwise than it was read.
        if len(rows) < size or rows[-1][0] == last:
            return
        last = rows[-1][0]


def raw(column: Any) -> Any:
    """Select a digest as the bytes that stand in the row."""
    return sa.type_coerce(column, sa.LargeBinary).label(column.key)


def digest_of(value: object) -> Digest | None:
    """Return the digest that some bytes of a row are, None if they are none."""
    try:
        return Digest.from_bytes(bytes(value)) if isinstance(value, (bytes, memoryview)) else None
    except InvalidDigest:
        return None


def shown(value: object) -> str:
    """Return a digest, or what stands in its place, for a message."""
    digest = digest_of(value)
    if digest is not None:
        return str(digest)
    return f"0x{bytes(value).hex()[:80]}" if isinstance(value, (bytes, memoryview)) else repr(value)[:80]


def _tolerant(value: bytes) -> str:
    return value.decode("utf-8", "replace")
