"""A registry that a test damages in ways that regmeta itself cannot."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from regmeta.db import Database
from regmeta.settings import Settings
from regmeta.store import BlobStore
from tests.support import consistency


@dataclass
class Registry:
    """A copy of the sound registry that can be damaged."""

    settings: Settings
    database: Database
    store: BlobStore

    def sql(self, *statements: str) -> None:
        """Change rows as no transaction of regmeta could."""
        connection = sqlite3.connect(self.settings.database.removeprefix("sqlite:///"))
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, statement
        connection.commit()
        connection.close()

    def path(self, where: str) -> Path:
        """Return the object of the blob that a condition names."""
        connection = sqlite3.connect(self.settings.database.removeprefix("sqlite:///"))
        [(key,)] = connection.execute(f"SELECT key FROM blobs WHERE {where} LIMIT 1").fetchall()
        connection.close()
        return self.root / "blobs" / str(key)

    @property
    def root(self) -> Path:
        """The store's folder."""
        return Path(self.store.location)

    def findings(self) -> list[str]:
        """Return what the check says."""
        return consistency.findings(self.database, self.store)
