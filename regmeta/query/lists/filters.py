"""Filters as conditions: which of them are set makes a statement's shape, their values are bound to it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from regmeta.errors import UsageError
from regmeta.models import Repository, TagName
from regmeta.models.base import Name
from regmeta.oci import globs
from regmeta.oci.folding import behind, folded
from regmeta.query.lists.paging import Accept, Shape
from regmeta.query.search.patterns import is_matched, trigrams_of
from regmeta.query.visibility import under_values

_ESCAPE: Final = "!"
_SHORTEST_TRIGRAM: Final = 3  # [characters]


def shape_of(where: object) -> tuple[Shape, dict[str, Any]]:
    """Return which fields of a filter are set, and the values to be bound.

    Raises:
        UsageError: a text cannot stand in any row, or a pattern, a number or a time is none.
    """
    shape: list[tuple[str, Hashable]] = []
    values: dict[str, Any] = {}
    for field in fields(where):  # type: ignore[arg-type]
        value = getattr(where, field.name)
        if value is None or value == ():
            continue
        _check(field.name, value)
        if field.name == "name":
            form, parameters = _glob(value)
            shape.append((field.name, form))
            values.update(parameters)
        elif field.name == "contains":
            term = folded(value)
            is_trigram = len(term) >= _SHORTEST_TRIGRAM
            shape.append((field.name, is_trigram))
            values.update(contains=term, contains_like=f"%{_like(term)}%")
            if is_trigram:
                values["contains_trigrams"] = trigrams_of(term)
        elif field.name == "labels":
            shape.append((field.name, tuple(said is not None for _, said in value)))
            for number, (name, said) in enumerate(value):
                values.update({f"label_{number}_name": name, f"label_{number}_value": said})
        elif isinstance(value, bool):
            shape.append((field.name, value))
        else:
            shape.append((field.name, None))
            values[field.name] = value
            if field.name == "begins":
                values["begins_until"] = behind(value)
            elif field.name == "under":
                values |= under_values(value)
    return tuple(shape), values


def _check(name: str, value: Any) -> None:
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UsageError(f"{name}: a number out of range")
    if isinstance(value, datetime) and value.tzinfo is None:
        raise UsageError(f"{name}: {value} has no time zone")
    texts = [value] if isinstance(value, str) else []
    if name == "labels":
        texts = [text for pair in value for text in pair if text is not None]
    for text in texts:
        try:
            is_text = "\0" not in text and bool(text.encode())
        except UnicodeEncodeError:
            is_text = False
        if not is_text and (text or name != "labels"):
            raise UsageError(f"{name}: {text[:80]!r} is no text to look for")


# --- names ------------------------------------------------------------------------------------


def exact(pattern: str | None) -> Accept | None:
    """Return what tells whether a row's ``name`` is matched, for a pattern that SQL can only narrow down."""
    if pattern is None or not globs.has_wildcard(pattern):
        return None
    return lambda row: globs.matches((pattern,), row.name)


def _glob(pattern: str) -> tuple[Hashable, dict[str, str]]:
    """Return how SQL narrows a pattern down: a name, or a range of names and what LIKE can say of it."""
    globs.check(pattern)
    if not globs.has_wildcard(pattern):
        return "is", {"name_is": pattern}
    begin = pattern[: next(i for i, c in enumerate(pattern) if globs.has_wildcard(c))]
    values = {"name_like": _loose(pattern)}
    if begin:
        values |= {"name_from": begin, "name_until": behind(begin)}
    return "range" if begin else "like", values


def _loose(pattern: str) -> str:
    """Return a pattern for LIKE that matches all that *pattern* does, and more."""
    result, depth, index = [], 0, 0
    while index < len(pattern):
        character = pattern[index]
        if character == "[":
            end = pattern.index("]", index + 2)
            inside = pattern[index:end]
            if "{" in inside or "}" in inside or (depth and "," in inside):
                return "%"  # braces are expanded before brackets are looked at
            index = end
            result.append("_" if depth == 0 else "")
        elif character in "{}":
            depth += 1 if character == "{" else -1
            # What is inside may be **, too.
            result.append("%%" if depth == 0 else "")
        elif depth == 0:
            # ** may stand for no part at all, and then a slash beside it is not there.
            result.append({"*": "%", "?": "_", "/": "/"}.get(character) or _like(character))
        index += 1
    return "".join(result).replace("%%/", "%").replace("/%%", "%")


def _like(text: str) -> str:
    return "".join(_ESCAPE + c if c in ("%", "_", _ESCAPE) else c for c in text)


def named(column: Any, form: Hashable) -> sa.ColumnElement[bool]:
    """Return the condition that a name may be matched by a pattern of this form."""
    if form == "is":
        return column == _text("name_is")  # type: ignore[no-any-return]
    like = column.like(_text("name_like"), escape=_ESCAPE)
    if form == "like":
        return like  # type: ignore[no-any-return]
    return sa.and_(column >= _text("name_from"), column < _text("name_until"), like)


def begins(column: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a tag's name begins so."""
    return sa.and_(column >= _text("begins"), column < _text("begins_until"))


def repository_contains(is_trigram: bool, is_sqlite: bool) -> sa.ColumnElement[bool]:
    """Return the condition that a repository's name contains something; names have no capitals."""
    if is_trigram and is_sqlite:
        return _is_found("repositories", Repository.id, Repository.name)
    return Repository.name.like(_text("contains_like"), escape=_ESCAPE)


def tag_contains(column: Any, is_everywhere: bool, is_trigram: bool, is_sqlite: bool) -> Any:
    """Return the condition that a tag's name contains something, without regard to case.

    Among all tags the names that do are looked up first: each is kept once, beside its trigrams.
    """
    if not is_everywhere or not is_trigram:
        return sa.func.lower(column).like(_text("contains_like"), escape=_ESCAPE)
    if is_sqlite:
        found = sa.select(TagName.name).where(_is_found("tag_names", TagName.id, TagName.folded))
    else:
        found = sa.select(TagName.name).where(TagName.folded.like(_text("contains_like"), escape=_ESCAPE))
    return column.in_(found)


def _is_found(table: str, row_id: Any, text: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a text holds what is looked for, for SQLite; its trigrams lead to it."""
    trigrams = sa.select(sa.table(f"{table}_fts", sa.column("rowid", sa.Integer)).c.rowid)
    matched = trigrams.where(is_matched(table, _text("contains_trigrams")))
    return sa.and_(row_id.in_(matched), sa.func.instr(text, _text("contains")) > 0)


def _text(name: str) -> Any:
    return sa.bindparam(name, type_=Name)
