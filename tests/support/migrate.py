"""Bring a database's schema to a revision: ``python -m tests.support.migrate URL FOLDER REVISION``.

Alembic keeps what it is doing in module globals, so two migrators at once are two processes. Each
says that it is there, and begins when its input is closed.
"""

from __future__ import annotations

import sys

from regmeta.db import Database
from regmeta.maintain import schema


def main(url: str, folder: str, revision: str) -> None:
    database = Database(url)
    print("ready", flush=True)
    sys.stdin.read()
    schema.upgrade(database, folder, revision)
    database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
