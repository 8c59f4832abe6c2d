"""The failpoints that there are, read from the source: every durable step has one of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_POINT: Final = re.compile(r"[a-z_]+\.[a-z_]+")
_IN_BUCKET: Final = re.compile(r"bucket\.[a-z_]+")
_DURABLE: Final = {
    *("flush", "rename", "link", "unlink", "make_folder", "remove_folder", "remove_tree", "create"),
    *("flush_folder", "link_open"),
}


def named_points() -> list[str]:
    """Return the name of every failpoint, those of transactions included."""
    found = {point for call in _calls() for point in _points_of(call)}
    for name in transaction_names():
        found |= {f"{name}.committing", f"{name}.committed"}
    return sorted(found)


def transaction_names() -> list[str]:
    """Return the name of every transaction that the package makes; "" for one without a literal name."""
    found = []
    for call in _calls():
        if isinstance(call.func, ast.Attribute) and call.func.attr == "transaction":
            first = call.args[0] if call.args else None
            is_text = isinstance(first, ast.Constant) and isinstance(first.value, str)
            found.append(str(first.value) if is_text and isinstance(first, ast.Constant) else "")
    return found


def _calls() -> Iterator[ast.Call]:
    for folder in ("regmeta", "migrations"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield node


def _points_of(call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    of_repeat = [arg for arg in call.args if isinstance(arg, ast.Call)]
    literals = [arg for arg in call.args if isinstance(arg, ast.Constant)]
    if name in _DURABLE or name == "reach":
        yield from _texts(literals)
    elif any(isinstance(each.value, str) and _IN_BUCKET.fullmatch(each.value) for each in literals):
        yield from _texts(literals)  # what a bucket is asked for says which point follows
    elif name == "map":  # pool.map(flush_folder, folders, repeat("point"))
        for inner in of_repeat:
            yield from _texts([arg for arg in inner.args if isinstance(arg, ast.Constant)])


def _texts(constants: list[ast.Constant]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant.value, str) and _POINT.fullmatch(constant.value):
            yield constant.value
