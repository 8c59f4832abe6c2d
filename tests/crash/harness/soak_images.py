"""Small random images that share layers, and all their bytes, to compare what is stored with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from regmeta.oci.descriptor import Descriptor
from tests.builders import ARM64, LayoutBuilder, parsed

LAYOUTS: Final = 16
IMAGES_OF_A_LAYOUT: Final = 3
SHARED_LAYERS: Final = 40
BIG_LAYER_BYTES: Final = 300_000  # [bytes] copied by a thread of its own


@dataclass(frozen=True)
class Material:
    """Layouts that share layers, and all that is in them."""

    folder: Path
    layouts: tuple[tuple[Descriptor, ...], ...]
    contents: Mapping[str, bytes]
    trees: Mapping[str, frozenset[str]]  # everything that an image reaches, by its root


def make_material(folder: Path, seed: int) -> Material:
    """Write the layouts."""
    rng = random.Random(seed)
    builder = LayoutBuilder(seed=seed)
    layers = [builder.layer(rng.randbytes(rng.randint(64, 4096))) for _ in range(SHARED_LAYERS)]
    layers += [builder.layer(rng.randbytes(BIG_LAYER_BYTES)) for _ in range(2)]
    layouts = []
    for number in range(LAYOUTS):
        builder.entries = []
        for image in range(IMAGES_OF_A_LAYOUT):
            made = builder.image(rng.sample(layers, 2), annotations={"number": f"{number}.{image}"})
            if rng.random() < 0.4:
                other = builder.image(rng.sample(layers, 2), platform=ARM64, annotations={"of": str(number)})
                made = builder.index([made, other])
            builder.tag(made, f"v{image}")
        builder.write(folder / str(number))
        layouts.append(tuple(parsed(entry) for entry in builder.entries))
    roots = [str(found.digest) for some in layouts for found in some]
    trees = {root: frozenset(_reached(builder.blobs, root)) for root in roots}
    return Material(folder, tuple(layouts), dict(builder.blobs), trees)


def _reached(contents: Mapping[str, bytes], manifest: str) -> Iterator[str]:
    yield manifest
    document = json.loads(contents[manifest])
    for child in document.get("manifests", []):
        yield from _reached(contents, child["digest"])
    for part in (document.get("config"), *document.get("layers", [])):
        if part:
            yield part["digest"]
