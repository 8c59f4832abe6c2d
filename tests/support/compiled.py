"""Statements that are compiled once per test run: SQLAlchemy keeps them per engine, and each test makes some.

What a statement compiles to depends on the kind of database and on nothing that a test changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import MutableMapping
from functools import cache, wraps
from typing import Any

import sqlalchemy as sa
import typer.testing

KEPT = 4000


class SharedStatements(MutableMapping[Any, Any]):
    """Compiled statements of all engines; the oldest make room.

    SQLAlchemy's keys begin with the engine's own dialect object, so its kind takes that place.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[Any, Any] = OrderedDict()

    @staticmethod
    def _shared(key: Any) -> Any:
        dialect, *rest = key
        return (dialect.name, dialect.driver, *rest)

    def get(self, key: Any, default: Any = None) -> Any:
        return self._of.get(self._shared(key), default)

    def __getitem__(self, key: Any) -> Any:
        return self._of[self._shared(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._of[self._shared(key)] = value
        while len(self._of) > KEPT:
            self._of.popitem(last=False)

    def __delitem__(self, key: Any) -> None:
        del self._of[self._shared(key)]

    def __iter__(self) -> Any:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)


def share_compiled() -> None:
    """Let all engines made from now on share their statements, and all runs of a command its tree."""
    statements = SharedStatements()
    create_engine: Any = sa.create_engine

    @wraps(create_engine)
    def sharing(*arguments: Any, **options: Any) -> sa.Engine:
        options.setdefault("execution_options", {"compiled_cache": statements})
        made: sa.Engine = create_engine(*arguments, **options)
        return made

    sa.create_engine = sharing
    tester: Any = typer.testing
    tester._get_command = cache(tester._get_command)
