"""The page of races names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "internals" / "races.md"
NAMED = re.compile(r"`(tests/[a-z_/]+\.py)::(test_\w+)`")
ROWS = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31}
ROWS |= {33, 34, 35, 36, 37, 38, 42, 44}


def _tests_in(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_names_is_there() -> None:
    named = NAMED.findall(PAGE.read_text())
    assert len(named) > 80
    assert [pair for pair in named if pair[1] not in _tests_in(ROOT / pair[0])] == []


def test_every_test_of_races_is_on_the_page() -> None:
    folder = ROOT / "tests" / "contract" / "races"
    there = {
        name for path in folder.glob("test_*.py") for name in _tests_in(path) if name.startswith("test_")
    }
    assert there - {name for _, name in NAMED.findall(PAGE.read_text())} == set()


def test_every_row_of_the_catalogue_is_on_the_page() -> None:
    found = {int(number) for number in re.findall(r"\bT(\d\d)\b", PAGE.read_text())}
    assert found >= ROWS
