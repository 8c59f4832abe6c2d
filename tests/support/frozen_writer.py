"""A process that has begun an ingest and goes no further: ``python -m tests.support.frozen_writer``.

Takes the settings' home, the database's URL, a layout and a phase. Says on its output that it has got there,
then waits until its input is closed or it is killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from regmeta.app import open_for_writing
from regmeta.sources.open import open_source
from tests.support.registry import ingest_of, requests, settings_of


def main(home: str, database_url: str, layout: str, phase: str) -> None:
    with open_for_writing(settings_of(Path(home), database_url)) as writing:
        [wanted] = requests(open_source(layout))
        ingest = ingest_of(writing, wanted)
        ingest.unit.reserve(ingest.image.blobs)
        if phase != "reserved":
            ingest.stage()
        if phase == "published":
            ingest.unit.publish()
        print(writing.writer.staging.owner.hex, flush=True)
        sys.stdin.read()
        ingest.unit.abort()


if __name__ == "__main__":
    main(*sys.argv[1:])
