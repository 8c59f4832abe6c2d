"""An image configuration (image-spec ``config.md``): what is searched for, and all that people look at.

A configuration is content like a layer: one that cannot be understood does not make its image bad.
It leaves the fields empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from regmeta.errors import InvalidDigest
from regmeta.oci import strict_json
from regmeta.oci.digest import Digest

# fromisoformat alone takes other forms of ISO 8601 as well, and no lower-case z.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024  # [bytes] a larger one is kept, but not read

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What is known of an image from its configuration; a field is None where it is not said."""

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    created_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    diff_ids: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One step in which an image was made, as ``history`` tells it; an *empty* one made no layer."""

    created_at: datetime | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    is_empty: bool = False


@dataclass(frozen=True, slots=True)
class ConfigDetails:
    """All that a configuration says and people look at. What it does not say is None or empty.

    ``settings`` are the fields of its ``config`` that decide how a container runs, under their own names
    (``Env``, ``Entrypoint``, ``User``...), as JSON has them; labels are apart.
    """

    created_at: datetime | None
    author: str | None
    os: str | None
    architecture: str | None
    variant: str | None
    settings: Mapping[str, Any]
    labels: Mapping[str, str]
    diff_ids: tuple[Digest, ...]
    history: tuple[HistoryEntry, ...]


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """One line of a history beside the layer that it made; either may be missing."""

    entry: HistoryEntry | None
    layer: T | None


@dataclass(frozen=True, slots=True)
class Aligned(Generic[T]):
    """A history and layers side by side, from the base up. ``problem`` says why they could not be."""

    steps: tuple[Step[T], ...]
    problem: str | None = None


UNKNOWN: Final = ImageConfig()


def parse(content: bytes) -> ImageConfig:
    """Read of an image configuration what is searched for, as far as it can be understood. Never raises."""
    document = _document(content)
    if document is None:
        return UNKNOWN
    return ImageConfig(
        _text(document, "os"),
        _text(document, "architecture"),
        _text(document, "variant"),
        parse_time(document.get("created")),
        _labels(document.get("config")),
        _diff_ids(document.get("rootfs")),
    )


def parse_details(content: bytes) -> ConfigDetails | None:
    """Read all of an image configuration that people look at; None if it is none. Never raises."""
    document = _document(content)
    if document is None:
        return None
    inner = document.get("config")
    settings = inner if isinstance(inner, dict) else {}
    entries = document.get("history")
    return ConfigDetails(
        parse_time(document.get("created")),
        _text(document, "author"),
        _text(document, "os"),
        _text(document, "architecture"),
        _text(document, "variant"),
        # null, "", [], {} and false are what tools write for nothing.
        {name: value for name, value in settings.items() if name != "Labels" and value},
        _labels(inner),
        _diff_ids(document.get("rootfs")),
        tuple(_entry(item) for item in entries) if isinstance(entries, list) else (),
    )


def align(history: Sequence[HistoryEntry], layers: Sequence[T]) -> Aligned[T]:
    """Put each layer beside the entry that made it: one after the other, leaving out empty entries.

    Where their numbers differ nobody knows which belongs to which. Then all layers come first, without an
    entry, and the entries after them. Without any history there is nothing to disagree with.
    """
    makers = sum(not entry.is_empty for entry in history)
    if not history or makers != len(layers):
        problem = f"the history tells of {makers} layers, the manifest has {len(layers)}" if history else None
        steps: list[Step[T]] = [Step(None, layer) for layer in layers]
        steps += [Step(entry, None) for entry in history]
        return Aligned(tuple(steps), problem)
    rest = iter(layers)
    return Aligned(tuple(Step(entry, None if entry.is_empty else next(rest)) for entry in history))


def setting_lines(value: Any) -> tuple[str, ...]:
    """Return one of ``ConfigDetails.settings`` as lines: items of a list, names of a set, or one text.

    ``ExposedPorts`` and ``Volumes`` are sets that JSON has as objects with empty values (``config.md``).
    """
    if isinstance(value, list):
        return tuple(_line(item) for item in value)
    if isinstance(value, dict) and all(item in ({}, None) for item in value.values()):
        return tuple(sorted(value))
    return (_line(value),)


def parse_time(value: object) -> datetime | None:
    """Read an RFC 3339 time (config.md: ``created``) to the microsecond; None if it is none."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value.upper()):
        return None
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _document(content: bytes) -> dict[str, Any] | None:
    if len(content) > MAX_CONFIG_BYTES:
        return None
    try:
        document = strict_json.loads(content)
    except strict_json.StrictJSONError:
        return None
    return document if isinstance(document, dict) else None


def _labels(inner: object) -> dict[str, str]:
    found = inner.get("Labels") if isinstance(inner, dict) else None
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _line(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _entry(item: object) -> HistoryEntry:
    # An entry that is none still stands for a layer.
    if not isinstance(item, dict):
        return HistoryEntry()
    return HistoryEntry(
        parse_time(item.get("created")),
        _text(item, "created_by"),
        _text(item, "author"),
        _text(item, "comment"),
        item.get("empty_layer") is True,
    )


def _text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    # NUL is legal JSON and not legal in a PostgreSQL text.
    return value if isinstance(value, str) and value and "\0" not in value else None


def _diff_ids(rootfs: object) -> tuple[Digest, ...]:
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list):
        return ()
    try:
        return tuple(Digest.parse(item) for item in found)
    except InvalidDigest:
        return ()
