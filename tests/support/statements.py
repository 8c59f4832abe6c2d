"""Counting SQL statements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event


@dataclass
class Statements:
    """The statements that were sent, BEGIN left out. Many rows in one go are one statement."""

    texts: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, *words: str) -> list[str]:
        """Return those that start with one of *words*."""
        return [text for text in self.texts if text.startswith(words)]

    @property
    def writes(self) -> list[str]:
        """Those that change rows."""
        return self.of("INSERT", "UPDATE", "DELETE")

    def __str__(self) -> str:
        return "\n".join(" ".join(text.split())[:150] for text in self.texts)


@contextmanager
def counted(engine: sa.Engine) -> Iterator[Statements]:
    """Collect the statements that an engine sends while the block runs."""
    found = Statements()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            found.texts.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)
