"""A process that imports a layout and stands still at a point: ``python -m tests.support.waking_writer``.

Takes the settings' home, store and database's URL, a layout and the name of a failpoint. Says on its output
that it has got there, goes on when it is told a line, and then says what became of the import.
"""

from __future__ import annotations

import sys
from pathlib import Path

from regmeta import failpoints
from regmeta.app import open_for_writing
from regmeta.errors import Error
from tests.support.registry import import_all, settings_of


def main(home: str, store: str, database_url: str, layout: str, point: str) -> None:
    waits = [point]

    def stand_still(name: str) -> None:
        if name in waits:
            waits.remove(name)
            print(name, flush=True)
            sys.stdin.readline()

    with open_for_writing(settings_of(Path(home), database_url, store=store)) as writing:
        try:
            with failpoints.armed(stand_still):
                import_all(writing, Path(layout), "late")
        except Error as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        else:
            print("acknowledged", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
