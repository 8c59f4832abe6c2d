"""Push images of a layout one by one to a tag: ``python -m tests.crash.push_tag REPOSITORY TAG LAYOUT``."""

from __future__ import annotations

import sys
from contextlib import closing

from regmeta.app import open_for_writing
from regmeta.ingest.plan import ImageRequest
from regmeta.settings import load_settings
from regmeta.sources.open import open_source


def main(repository: str, tag: str, layout: str) -> None:
    with open_for_writing(load_settings()) as writing, closing(open_source(layout)) as source:
        for entry in source.entries():
            assert entry.descriptor is not None
            request = ImageRequest(source, entry.descriptor, repository, tag)
            for outcome in writing.registry.import_images([request]):
                print(outcome.status if outcome.error is None else repr(outcome.error))


if __name__ == "__main__":
    main(*sys.argv[1:])
