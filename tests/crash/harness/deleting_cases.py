"""Deletes and their undoing."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from regmeta import app
from regmeta.errors import NotFound
from regmeta.maintain.collect.run import collect
from regmeta.maintain.delete.blob import delete_blob
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.delete.undelete import undelete_manifest, undelete_repository
from regmeta.oci.digest import Digest
from tests.crash.harness import images
from tests.crash.harness.children import Acknowledge
from tests.crash.harness.images import REPOSITORY
from tests.crash.harness.places import Place
from tests.crash.harness.use_case import UseCase
from tests.support.registry import AT_ONCE

TAGS: Final = {"kept": "old", "moving": "new", "one": "new", "multi": "new"}
"""All tags of the registry that everything was imported into, and the layout that each came from."""


# Where a delete is not there any more, or a deletion is not, it was done, and the process died before it
# could say so.


def _delete_manifest(place: Place, acknowledge: Acknowledge) -> None:
    digest = Digest.parse(images.digest_in("new", "multi"))
    with app.open_for_writing(place.settings) as registry, suppress(NotFound):
        delete_manifest(registry.writer, REPOSITORY, digest, cascade=True)
    acknowledge("untagged", REPOSITORY, "multi")


def _undelete_manifest(place: Place, acknowledge: Acknowledge) -> None:
    digest = Digest.parse(images.digest_in("new", "multi"))
    with app.open_for_writing(place.settings) as registry, suppress(NotFound):
        undelete_manifest(registry.writer, REPOSITORY, digest, tags=True)
    acknowledge("tag", REPOSITORY, "multi", str(digest))


def _delete_repository(place: Place, acknowledge: Acknowledge) -> None:
    with app.open_for_writing(place.settings) as registry, suppress(NotFound):
        delete_repository(registry.writer, REPOSITORY)
    for tag in TAGS:
        acknowledge("untagged", REPOSITORY, tag)


def _undelete_repository(place: Place, acknowledge: Acknowledge) -> None:
    with app.open_for_writing(place.settings) as registry, suppress(NotFound):
        undelete_repository(registry.writer, REPOSITORY)
    for tag, layout in TAGS.items():
        acknowledge("tag", REPOSITORY, tag, images.digest_in(layout, tag))


def _delete_blob(place: Place, acknowledge: Acknowledge) -> None:
    _, [_, layer] = images.parts(images.digest_in("slow", "slow"))
    with app.open_for_writing(place.settings) as registry, suppress(NotFound):
        delete_blob(registry.writer, REPOSITORY, Digest.parse(layer))
    acknowledge("finished")


def _purge(place: Place, acknowledge: Acknowledge) -> None:
    with app.open_for_writing(place.settings, lifetimes=AT_ONCE) as registry:
        collect(registry.writer, registry.store)
    acknowledge("finished")


DELETING_CASES: Final = (
    UseCase("manifest rm", "imported", _delete_manifest),
    UseCase("manifest undelete", "hidden", _undelete_manifest),
    UseCase("repo rm", "imported", _delete_repository),
    UseCase("repo undelete", "deleted", _undelete_repository),
    UseCase("blob rm", "mounted", _delete_blob),
    UseCase("purge", "deleted long ago", _purge),
)
