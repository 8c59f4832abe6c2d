"""Move one tag to and fro: ``python -m tests.crash.move_tag REPOSITORY TAG MOVES DIGEST DIGEST``."""

from __future__ import annotations

import sys

from regmeta.app import open_for_writing
from regmeta.ingest.tags import set_tag
from regmeta.oci.digest import Digest
from regmeta.settings import load_settings


def main(repository: str, tag: str, moves: int, *digests: str) -> None:
    targets = [Digest.parse(digest) for digest in digests]
    with open_for_writing(load_settings()) as registry:
        for number in range(moves):
            result = set_tag(registry.writer, repository, tag, targets[number % len(targets)])
            print(len(result.tags_changed))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
