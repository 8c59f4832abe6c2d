"""The settings of upkeep: what is taken in, which tags do not move, how long things are left alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import msgspec

from regmeta.errors import UsageError
from regmeta.settings.values import check_globs, duration

SHORTEST_TOMBSTONE: Final = timedelta(minutes=1)
SHORTEST_UPLOAD: Final = timedelta(hours=1)  # what an intent lasts before it is renewed


class Lint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules that an image must keep before it is taken in."""

    mandatory_annotations: tuple[str, ...] = ()


class Immutable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule: which tags, in which repositories, may be made and then neither moved nor removed."""

    repositories: tuple[str, ...]
    tags: tuple[str, ...]


class Collection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long things are left alone before they are collected; see ``Lifetimes``."""

    history: str = "7d"
    garbage: str = "1h"
    tombstone: str = "1h"
    lease: str = "24h"
    max_upload: str = "24h"


def check_immutable(rules: Sequence[Immutable]) -> None:
    """Refuse a rule that protects nothing."""
    for number, rule in enumerate(rules, 1):
        for key, patterns in (("repositories", rule.repositories), ("tags", rule.tags)):
            where = f"immutable rule {number}: {key}"
            if not patterns:
                raise UsageError(f"settings: {where}: there are none")
            check_globs(where, patterns, tags=key == "tags")


def check_collection(collection: Collection) -> None:
    """Refuse times with which a collector takes away what somebody is just using."""
    times = {}
    for key in Collection.__struct_fields__:
        try:
            times[key] = duration(getattr(collection, key))
        except UsageError as error:
            raise UsageError(f"settings: collection.{key}: {error}") from error
    for key, shortest, why in (
        ("tombstone", SHORTEST_TOMBSTONE, "reads that have begun would find their objects gone"),
        ("max_upload", SHORTEST_UPLOAD, "intents last as long"),
        ("lease", times["max_upload"], "an import as long as collection.max_upload would lose what it found"),
    ):
        if times[key] < shortest:
            minutes = int(shortest.total_seconds()) // 60
            raise UsageError(
                f"settings: collection.{key}: {getattr(collection, key)!r} is too short, {minutes}m is the"
                f" least: {why}"
            )
