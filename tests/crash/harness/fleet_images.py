"""Thousands of small images that share layers, each with a tag of its own; a few have a layer of many MiB."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from regmeta.oci.descriptor import Descriptor
from tests.builders import ARM64, Json, LayoutBuilder, parsed
from tests.crash.harness.soak_images import _reached

SHARED_LAYERS: Final = 60
LARGE_LAYERS: Final = 2
LARGE_BYTES: Final = 6 * 1024 * 1024 + 17  # [bytes] goes up in parts
LARGE_EVERY: Final = 100  # images
INDEX_EVERY: Final = 5
AT_ONCE: Final = 4  # images of one layout: what one push brings
REPOSITORIES: Final = 5  # each is pushed to by all


@dataclass(frozen=True)
class Picture:
    """One image: in which layout it lies, and what it is pushed as."""

    number: int
    folder: Path
    descriptor: Descriptor

    @property
    def tag(self) -> tuple[str, str]:
        """Its repository and its tag."""
        return (f"fleet/{self.number // AT_ONCE % REPOSITORIES}", f"image-{self.number}")


@dataclass(frozen=True)
class Gallery:
    """All images, and all bytes that are in them."""

    pictures: Sequence[Picture]
    contents: Mapping[str, bytes]
    trees: Mapping[str, frozenset[str]]  # everything that an image reaches, by its root


def make_gallery(folder: Path, images: int, seed: int) -> Gallery:
    """Write the layouts."""
    rng = random.Random(seed)
    base = LayoutBuilder(seed=seed)
    layers = [base.layer(rng.randbytes(rng.randint(64, 4096))) for _ in range(SHARED_LAYERS)]
    large = [base.layer(rng.randbytes(LARGE_BYTES)) for _ in range(LARGE_LAYERS)]
    contents: dict[str, bytes] = dict(base.blobs)
    trees: dict[str, frozenset[str]] = {}
    pictures: list[Picture] = []
    for first in range(0, images, AT_ONCE):
        builder = LayoutBuilder(seed=seed + first)
        made: list[Json] = []
        for number in range(first, min(first + AT_ONCE, images)):
            found = [*rng.sample(layers, 2), *([rng.choice(large)] if number % LARGE_EVERY == 7 else [])]
            image = builder.image(found, annotations={"number": str(number)})
            if number % INDEX_EVERY == 0:
                other = builder.image(rng.sample(layers, 2), platform=ARM64, annotations={"of": str(number)})
                image = builder.index([image, other])
                found += [
                    layer for layer in layers if layer["digest"] in _reached_by(builder, contents, image)
                ]
            builder.blobs.update((layer["digest"], contents[layer["digest"]]) for layer in found)
            builder.tag(image, f"image-{number}")
            made.append(image)
        path = builder.write(folder / str(first))
        contents.update(builder.blobs)
        for number, image in enumerate(made, first):
            trees[image["digest"]] = frozenset(_reached(contents, image["digest"]))
            pictures.append(Picture(number, path, parsed(image)))
    return Gallery(pictures, contents, trees)


def _reached_by(builder: LayoutBuilder, contents: Mapping[str, bytes], image: Json) -> set[str]:
    return set(_reached({**contents, **builder.blobs}, image["digest"]))
