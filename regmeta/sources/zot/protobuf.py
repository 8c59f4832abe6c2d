"""The wire format of protocol buffers, as far as a reader needs it that skips what it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_VARINT: Final = 0
_FIXED: Final = {1: 8, 5: 4}  # [bytes] by wire type
_BYTES: Final = 2
_MAX_VARINT: Final = 10  # [bytes]
_MAX_FIELD: Final = 2**29 - 1


class BadMessage(ValueError):
    """The bytes are not a message; says what is wrong with them."""


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Give the fields of a message in their order: numbers (unsigned) of varints, bytes of everything else.

    Raises:
        BadMessage: it ends within a field, or has one of no known kind.
    """
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if not 1 <= number <= _MAX_FIELD:
            raise BadMessage(f"no field has the number {number}")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise BadMessage(f"field {number} is of the wire type {kind}")
        if size > end - at:
            raise BadMessage(f"field {number} goes beyond the end")
        yield number, data[at : at + size]
        at += size


def signed(value: int) -> int:
    """Return the number that an ``int32`` or ``int64`` field means."""
    return value - 2**64 if value >= 2**63 else value


def text(value: int | memoryview) -> str:
    """Return the text of a string field.

    Raises:
        BadMessage: it is no text.
    """
    if isinstance(value, int):
        raise BadMessage("a number stands for a text")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise BadMessage("a text is not UTF-8") from None


def message(value: int | memoryview) -> memoryview:
    """Return the bytes of a field that holds a message.

    Raises:
        BadMessage: it holds a number.
    """
    if isinstance(value, int):
        raise BadMessage("a number stands for a message")
    return value


def number(value: int | memoryview) -> int:
    """Return the number of an ``int32`` or ``int64`` field.

    Raises:
        BadMessage: it holds bytes.
    """
    if not isinstance(value, int):
        raise BadMessage("bytes stand for a number")
    return signed(value)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(data[at : at + _MAX_VARINT]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if value >= 2**64:
                raise BadMessage("a number has more than 64 bits")
            return value, at + place + 1
    raise BadMessage("a number has no end")
