"""The images that use cases import, and all their bytes, to compare what is stored with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.builders import AMD64, ARM64, LayoutBuilder, tar_layer

Json = dict[str, Any]

SHARED: Final = tar_layer(b"base of all images")
REPOSITORY: Final = "app"


@cache
def layouts() -> dict[str, LayoutBuilder]:
    """Return each layout by its name."""
    return {"old": _old(), "new": _new(), "bad": _bad(), "slow": _slow()}


def write(folder: Path) -> None:
    """Write all layouts below *folder*."""
    for name, builder in layouts().items():
        builder.write(folder / name)


@cache
def contents() -> Mapping[str, bytes]:
    """Return the bytes of every digest."""
    return {digest: content for builder in layouts().values() for digest, content in builder.blobs.items()}


def parts(digest: str) -> tuple[list[str], list[str]]:
    """Return what a manifest refers to: (child manifests, blobs)."""
    document: Json = json.loads(contents()[digest])
    children = [child["digest"] for child in document.get("manifests", [])]
    blobs = [part["digest"] for part in (document.get("config"), *document.get("layers", [])) if part]
    return children, blobs


def manifests(root: str) -> Iterator[str]:
    """Give the digests of all manifests of a tree."""
    yield root
    for child in parts(root)[0]:
        yield from manifests(child)


def digest_in(layout: str, tag: str) -> str:
    """Return what a tag of a layout names."""
    for entry in layouts()[layout].entries:
        if tag in (entry.get("annotations") or {}).values():
            return str(entry["digest"])
    raise KeyError(tag)


def _old() -> LayoutBuilder:
    """What is here before: one image that stays, one whose tag will move."""
    builder = LayoutBuilder(seed=1)
    base = builder.layer(SHARED)
    builder.tag(builder.image([base, builder.layer()]), "moving")
    builder.tag(builder.image([base]), "kept")
    return builder


def _new() -> LayoutBuilder:
    """Two batches of two: shared layers, a moved tag, an index in an index, a referrer without a name."""
    builder = LayoutBuilder(seed=2)
    base, fresh = builder.layer(SHARED), builder.layer()
    builder.tag(builder.image([base, builder.layer()]), "one")
    builder.tag(builder.image([base, fresh], annotations={"moved": "yes"}), "moving")
    inner = builder.index([builder.image([fresh], platform=ARM64)])
    index = builder.index([builder.image([base, fresh], platform=AMD64), inner])
    builder.tag(index, "multi")
    builder.tag(builder.artifact(b"signature", "application/vnd.example.signature", index))
    return builder


def _bad() -> LayoutBuilder:
    """A good image, and one with a layer whose bytes are wrong, in one batch."""
    builder = LayoutBuilder(seed=3)
    builder.tag(builder.image([builder.layer(SHARED), builder.layer()]), "good")
    rotten = builder.layer(tar_layer(b"right"))
    builder.tag(builder.image([rotten]), "rotten")
    builder.blobs[rotten["digest"]] = tar_layer(b"wrong")
    return builder


def _slow() -> LayoutBuilder:
    builder = LayoutBuilder(seed=4)
    builder.tag(builder.image([builder.layer()]), "slow")
    return builder
