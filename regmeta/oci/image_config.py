"""The fields of an image configuration that are searched for (image-spec ``config.md``).

A configuration is content like a layer: one that cannot be understood does not make its image bad.
It leaves the fields empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from regmeta.errors import InvalidDigest
from regmeta.oci import strict_json
from regmeta.oci.digest import Digest

# fromisoformat alone takes other forms of ISO 8601 as well, and no lower-case z.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024  # [bytes] a larger one is kept, but not read


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What is known of an image from its configuration; a field is None where it is not said."""

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    created_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    diff_ids: tuple[Digest, ...] = ()


UNKNOWN: Final = ImageConfig()


def parse(content: bytes) -> ImageConfig:
    """Read an image configuration as far as it can be understood. Never raises."""
    if len(content) > MAX_CONFIG_BYTES:
        return UNKNOWN
    try:
        document = strict_json.loads(content)
    except strict_json.StrictJSONError:
        return UNKNOWN
    if not isinstance(document, dict):
        return UNKNOWN
    inner = document.get("config")
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    return ImageConfig(
        _text(document, "os"),
        _text(document, "architecture"),
        _text(document, "variant"),
        parse_time(document.get("created")),
        {key: value for key, value in labels.items() if isinstance(value, str)}
        if isinstance(labels, dict)
        else {},
        _diff_ids(document.get("rootfs")),
    )


def parse_time(value: object) -> datetime | None:
    """Read an RFC 3339 time (config.md: ``created``) to the microsecond; None if it is none."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value.upper()):
        return None
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


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
