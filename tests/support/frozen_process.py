"""A process of some host that stops itself at a point: ``python -m tests.support.frozen_process JSON``.

The JSON says where the registry is (*home*, *database*, *store*), what is done (*act* with *arguments*), and
the *number* of the times that a *point* is reached at which it stops; without a point it does not. It says on
its output what it was told.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from regmeta import failpoints
from regmeta.app import Writing, open_for_writing
from regmeta.errors import Error
from regmeta.ingest.plan import ImageRequest
from regmeta.ingest.tags import set_tag
from regmeta.maintain.collect import dead_objects, hold
from regmeta.maintain.collect.run import collect
from regmeta.maintain.recover import recover
from regmeta.oci.digest import Digest
from regmeta.sources.open import open_source
from regmeta.store import s3
from regmeta.store.bucket import BucketStore
from tests.support.registry import AT_ONCE, import_layout, settings_of

SHORT_S: Final = 1.0
SHORT: Final = replace(AT_ONCE, intent=timedelta(seconds=SHORT_S))


def settings_in(home: Path, database_url: str, store: str) -> Any:
    """Return the settings of a host, which is a scratch folder in *home*."""
    return settings_of(home, database_url, store=store)


def main(told: dict[str, Any]) -> None:
    """Do it, and say what came of it."""
    _add_points()
    settings = settings_in(Path(told["home"]), told["database"], told["store"])
    with (
        failpoints.armed(_stop_at(told["point"], told["number"])),
        open_for_writing(settings, lifetimes=SHORT) as registry,
    ):
        try:
            done = _ACTS[told["act"]](registry, **told["arguments"])
        except Error as error:
            done = f"{type(error).__name__}: {error}"
    print(json.dumps(done), flush=True)


def _stop_at(point: str, number: int) -> Callable[[str], None]:
    left = number

    def handler(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGSTOP)

    return handler


def _add_points() -> None:
    """Make points of what is no durable step: an upload is about to be finished, objects to be deleted."""
    finish, delete, check = s3.Bucket.finish, BucketStore.delete, hold.check_may_delete

    def finished(*arguments: Any) -> None:
        failpoints.reach("test.parts_sent")
        finish(*arguments)

    def deleted(self: BucketStore, keys: Any) -> None:
        failpoints.reach("test.record_read")
        delete(self, keys)

    def checked(*arguments: Any) -> Any:
        failpoints.reach("test.tombstones_read")
        return check(*arguments)

    s3.Bucket.finish = finished  # type: ignore[method-assign,assignment]
    BucketStore.delete = deleted  # type: ignore[method-assign]
    vars(dead_objects)["check_may_delete"] = checked


def _import(registry: Writing, layout: str, repository: str) -> list[str]:
    outcomes = import_layout(registry, Path(layout), repository)
    return [outcome.status if outcome.error is None else str(outcome.error) for outcome in outcomes]


def _collect(registry: Writing) -> int:
    return sum(collect(registry.writer, registry.store).objects.deleted for _ in range(2))


def _flush(registry: Writing) -> int:
    return recover(registry.writer, registry.store).snapshots_written


def _push_tag(registry: Writing, layout: str, repository: str, times: int) -> int:
    """Push the images of a layout under one tag in turn; returns how often that was acknowledged."""
    done = 0
    source = open_source(layout)
    images = [entry.descriptor for entry in source.entries() if entry.descriptor is not None]
    for number in range(times):
        [outcome] = registry.registry.import_images(
            [ImageRequest(source, images[number % len(images)], repository, "latest")]
        )
        if outcome.error is not None:
            raise outcome.error
        done += 1
    source.close()
    return done


def _move_tag(registry: Writing, repository: str, digests: list[str], times: int) -> int:
    """Point one tag at images in turn; returns how often that was acknowledged."""
    for number in range(times):
        set_tag(registry.writer, repository, "latest", Digest.parse(digests[number % len(digests)]))
    return times


_ACTS: Final[dict[str, Callable[..., Any]]] = {
    "import": _import,
    "collect": _collect,
    "flush": _flush,
    "push tag": _push_tag,
    "move tag": _move_tag,
}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
