"""The page on locks names every transaction, once, and takes levels that it has."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.points import ROOT, transaction_names

PAGE = ROOT / "docs" / "internals" / "locks.md"
_LEVEL = re.compile(r"^\| (\d+) \|", re.MULTILINE)
_TRANSACTION = re.compile(r"^\| `([a-z_]+)` \| ([^|]+) \| [^|]+\|$", re.MULTILINE)


def read() -> tuple[list[str], list[tuple[str, str]]]:
    text = Path(PAGE).read_text()
    return _LEVEL.findall(text), _TRANSACTION.findall(text)


def test_every_transaction_is_in_the_table_of_locks_once() -> None:
    _, rows = read()
    assert sorted(name for name, _ in rows) == sorted(transaction_names())


def test_levels_of_transactions_are_those_of_the_order() -> None:
    levels, rows = read()
    assert levels == [str(number) for number in range(len(levels))]
    for name, taken in rows:
        assert taken == "own" or set(taken.split(", ")) <= set(levels), name
