"""Images in and out, and tags: the commands that use a registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from datetime import timedelta
from typing import Final

from regmeta import app
from regmeta.content.export import export
from regmeta.errors import DatabaseUnavailable, IntegrityError, NotFound
from regmeta.ingest import reserve, tag_locks, tag_restore, tags
from regmeta.ingest.local_registry import StagedImage
from regmeta.ingest.plan import ImageGroup, ImageOutcome, Lifetimes, NoProgress
from regmeta.ingest.selection import select_images
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.sources.open import open_source
from regmeta.store import bucket_staging
from regmeta.store.exports import open_export
from tests.crash.harness import images
from tests.crash.harness.children import Acknowledge
from tests.crash.harness.images import REPOSITORY
from tests.crash.harness.places import Place
from tests.crash.harness.use_case import UseCase


def _init(place: Place, acknowledge: Acknowledge) -> None:
    app.initialise(place.settings)
    acknowledge("initialised")


def _importing(layout: str) -> Callable[[Place, Acknowledge], None]:
    def run(place: Place, acknowledge: Acknowledge) -> None:
        found = app.import_source(
            place.settings,
            str(place.sources / layout),
            REPOSITORY,
            with_untagged=True,
            progress=_no_progress,
        )
        with closing(found):
            for outcome in found:
                _told(acknowledge, outcome)

    return run


def _import_in_parts(place: Place, acknowledge: Acknowledge) -> None:
    """There is no room in memory: every blob is an upload of its own."""
    room = bucket_staging.IN_MEMORY_BYTES
    vars(bucket_staging)["IN_MEMORY_BYTES"] = -1
    try:
        _importing("new")(place, acknowledge)
    finally:
        vars(bucket_staging)["IN_MEMORY_BYTES"] = room


def _no_progress(images: int) -> AbstractContextManager[NoProgress]:
    return nullcontext(NoProgress())


def _told(acknowledge: Acknowledge, outcome: ImageOutcome) -> None:
    acknowledge("status", outcome.image, outcome.status)
    if outcome.status == "failed":
        return
    reference = Reference.parse(outcome.image)
    if reference.tag is not None:
        acknowledge("tag", reference.repository, reference.tag, str(outcome.digest))
    else:
        acknowledge("manifest", reference.repository, str(outcome.digest))


def _import_atomically(place: Place, acknowledge: Acknowledge) -> None:
    """All or nothing: there is a bad image, so nothing."""
    found = app.import_source(
        place.settings, str(place.sources / "bad"), REPOSITORY, atomic=True, progress=_no_progress
    )
    with suppress(IntegrityError), closing(found):
        list(found)
    acknowledge("refused")


def _import_while_the_database_is_away(place: Place, acknowledge: Acknowledge) -> None:
    """What was reserved cannot be given back when it is wanted to; it is when the registry is closed."""
    give_back = reserve.give_back

    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("away")

    reserve.give_back = fail
    try:
        _import_atomically(place, acknowledge)
    finally:
        reserve.give_back = give_back


def _commit_in_flight(place: Place, acknowledge: Acknowledge) -> None:
    """An image that a tool has written to a scratch layout."""
    with app.open_for_writing(place.settings) as registry:
        scratch = registry.registry.scratch_layout()
        shutil.copytree(place.sources / "slow", scratch, dirs_exist_ok=True)
        with closing(open_source(scratch)) as source:
            [entry] = source.entries()
            assert entry.descriptor is not None
            staged = StagedImage(source, entry.descriptor)
            registry.registry.commit_image(staged, REPOSITORY, "flown")
        acknowledge("tag", REPOSITORY, "flown", str(entry.descriptor.digest))


def _commit_groups(place: Place, acknowledge: Acknowledge) -> None:
    """All images of a source in one batch, as a sync does, each of them with the same companion."""
    lifetimes = Lifetimes(intent=timedelta(0))
    with (
        closing(open_source(str(place.sources / "new"))) as source,
        app.open_for_writing(place.settings, lifetimes=lifetimes) as registry,
    ):
        chosen = select_images(source, Reference.parse(REPOSITORY), with_untagged=True)
        *tagged, referrer = [registry.registry.copy_manifest(each) for each in chosen.requests]
        groups = []
        for image in tagged:
            tag = image.request.tag or ""
            if registry.registry.can_skip_image(REPOSITORY, tag, image.root):
                _told(acknowledge, ImageOutcome(str(image.request), "skipped", image.root))
            else:
                groups.append(ImageGroup(image, (referrer,), all_or_nothing=True))
        for outcome in registry.registry.commit_groups(groups):
            for each in (outcome.image, *outcome.companions):
                _told(acknowledge, each)


def _slow_import(place: Place, acknowledge: Acknowledge) -> None:
    """Renews its intents at each chance, as an import that takes hours does now and then."""
    lifetimes = Lifetimes(intent=timedelta(0))
    with (
        closing(open_source(str(place.sources / "slow"))) as source,
        app.open_for_writing(place.settings, lifetimes=lifetimes) as registry,
    ):
        chosen = select_images(source, Reference.parse(REPOSITORY))
        for outcome in registry.registry.import_images(chosen.requests):
            _told(acknowledge, outcome)


def _set_tag(place: Place, acknowledge: Acknowledge) -> None:
    with app.open_for_writing(place.settings) as registry:
        for tag, digest in (
            ("moving", images.digest_in("old", "kept")),
            ("added", images.digest_in("old", "kept")),
        ):
            tags.set_tag(registry.writer, REPOSITORY, tag, Digest.parse(digest))
            acknowledge("tag", REPOSITORY, tag, digest)


def _remove_tag(place: Place, acknowledge: Acknowledge) -> None:
    with app.open_for_writing(place.settings) as registry:
        with suppress(NotFound):  # it was removed, and the process died before it could say so
            tags.remove_tag(registry.writer, REPOSITORY, "moving")
        acknowledge("untagged", REPOSITORY, "moving")


def _restore_tag(place: Place, acknowledge: Acknowledge) -> None:
    """One tag goes back to what it was, another comes back with its image, which was deleted."""
    with app.open_for_writing(place.settings) as registry:
        for tag, digest in (
            ("moving", images.digest_in("old", "moving")),
            ("multi", images.digest_in("new", "multi")),
        ):
            tag_restore.restore_tag(
                registry.writer, REPOSITORY, tag, tag_restore.Wanted(to=Digest.parse(digest))
            )
            acknowledge("tag", REPOSITORY, tag, digest)


def _lock_tags(place: Place, acknowledge: Acknowledge) -> None:
    with app.open_for_writing(place.settings) as registry:
        for pattern in ("kept", "v*"):
            tag_locks.lock_tags(registry.writer, REPOSITORY, pattern)
        with suppress(NotFound):  # it was unlocked, and the process died before it could say so
            tag_locks.unlock_tags(registry.writer, REPOSITORY, "v*")
    acknowledge("finished")


def _recover(place: Place, acknowledge: Acknowledge) -> None:
    with app.open_for_writing(place.settings):
        acknowledge("recovered")


def _export(place: Place, acknowledge: Acknowledge) -> None:
    target = place.folder / "exported"
    shutil.rmtree(target, ignore_errors=True)
    with app.open_for_reading(place.settings, check_store=True) as registry:
        export(registry.database, registry.store, Reference.parse(REPOSITORY), open_export(str(target)))
    acknowledge("exported", target.name)


CONTENT_CASES: Final = (
    UseCase("init", "nothing", _init),
    UseCase("import", "populated", _importing("new")),
    UseCase("import in parts", "populated", _import_in_parts, only_in_bucket=True),
    UseCase("import again", "imported", _importing("new")),
    UseCase("import bad", "populated", _importing("bad")),
    UseCase("import atomically", "populated", _import_atomically),
    UseCase("import cut off", "populated", _import_while_the_database_is_away),
    UseCase("commit in flight", "populated", _commit_in_flight),
    UseCase("commit groups", "populated", _commit_groups),
    UseCase("slow import", "populated", _slow_import),
    UseCase("heal", "damaged", _importing("old")),
    UseCase("tag set", "populated", _set_tag),
    UseCase("tag rm", "populated", _remove_tag),
    UseCase("tag restore", "hidden", _restore_tag),
    UseCase("tag lock", "imported", _lock_tags),
    UseCase("recover", "crashed", _recover),
    UseCase("export", "imported", _export),
)
