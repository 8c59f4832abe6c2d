"""Generate the OCI image layouts that the benchmarks read: same arguments, same bytes.

Sets:

    S   200 images x 5 layers x 4 KiB, 2 of the 5 shared by 8 bases: 1,016 blobs
    L   4 images x 4 layers x 64 MiB: 24 blobs, 1 GiB
    M   20 indexes x 4 platforms x 4 layers x 4 KiB, 2 of the 4 shared by 8 bases: 356 blobs

Every set is one layout with tags img-000, img-001, ... Layers are uncompressed tar files of one
member each, so a layer's diff id is its digest. Blob counts include manifests and configs.

Usage: python benchmarks/generate.py {S,L,M} DEST [--seed N]
"""

import argparse
import datetime
import hashlib
import json
import random
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

JsonObject = dict[str, Any]

MEDIA_INDEX: Final = "application/vnd.oci.image.index.v1+json"
MEDIA_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
MEDIA_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
MEDIA_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
REF_NAME: Final = "org.opencontainers.image.ref.name"

PLATFORMS: Final[tuple[JsonObject, ...]] = (
    {"architecture": "amd64", "os": "linux"},
    {"architecture": "arm64", "os": "linux", "variant": "v8"},
    {"architecture": "ppc64le", "os": "linux"},
    {"architecture": "s390x", "os": "linux"},
)
EPOCH: Final = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
BLOCK_BYTES: Final = 1 << 20
TAR_OVERHEAD_BYTES: Final = 3 * tarfile.BLOCKSIZE  # one header, two closing zero blocks


@dataclass(frozen=True)
class SetSpec:
    """The shape of one set: counts, and the size of every layer in bytes."""

    tags: int
    platforms: int  # 0: a tag points at an image manifest, otherwise at an index of so many
    layers: int
    layer_bytes: int
    shared_layers: int = 0  # the first so many layers of an image come from its base
    bases: int = 0


@dataclass(frozen=True)
class LayoutSummary:
    """What a layout holds: distinct blobs, image manifests, tags, and the blobs' bytes."""

    blobs: int
    images: int
    tags: int
    size_bytes: int


SETS: Final = {
    "S": SetSpec(tags=200, platforms=0, layers=5, layer_bytes=4096, shared_layers=2, bases=8),
    "L": SetSpec(tags=4, platforms=0, layers=4, layer_bytes=64 << 20),
    "M": SetSpec(tags=20, platforms=4, layers=4, layer_bytes=4096, shared_layers=2, bases=8),
}


def tar_layer(member: str, size_bytes: int, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a tar file of exactly `size_bytes` (a multiple of 512) with one member.

    The member's data are taken from `blocks`, which must not run out.
    """
    header = tarfile.TarInfo(member)
    header.size = left = size_bytes - TAR_OVERHEAD_BYTES
    yield header.tobuf(tarfile.USTAR_FORMAT)
    while left:
        block = next(blocks)[:left]
        left -= len(block)
        yield block
    yield bytes(2 * tarfile.BLOCKSIZE)


def random_blocks(key: str, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield an endless row of random blocks that depends on `key` only."""
    source = random.Random(key)
    while True:
        yield source.randbytes(block_bytes)


class LayoutWriter:
    """Write an OCI image layout blob by blob; nothing is flushed to the disk."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise FileExistsError(f"{root} is not empty")
        self._root = root
        self._blobs = root / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        self._sizes: dict[str, int] = {}
        self._images = 0
        self._tags: list[JsonObject] = []

    def add_blob(self, media_type: str, chunks: Iterable[bytes]) -> JsonObject:
        """Write one blob and return its descriptor."""
        digest, size_bytes = hashlib.sha256(), 0
        partial = self._root / "blob.partial"
        with partial.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                size_bytes += file.write(chunk)
        partial.replace(self._blobs / digest.hexdigest())
        name = f"sha256:{digest.hexdigest()}"
        self._sizes[name] = size_bytes
        return {"mediaType": media_type, "digest": name, "size": size_bytes}

    def add_json(self, media_type: str, value: JsonObject) -> JsonObject:
        """Write one JSON blob and return its descriptor."""
        return self.add_blob(media_type, [json.dumps(value, separators=(",", ":")).encode()])

    def add_image(self, name: str, number: int, platform: JsonObject, layers: list[JsonObject]) -> JsonObject:
        """Write the config and the manifest of an image; return the manifest's descriptor."""
        created = (EPOCH + datetime.timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
        title = {"org.opencontainers.image.title": name}
        config = {
            "created": created,
            **platform,
            "config": {
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
                "Cmd": ["/bin/sh"],
                "Labels": {
                    **title,
                    "org.opencontainers.image.version": f"1.{number}",
                    "tier": f"tier-{number % 7}",
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
            "history": [
                {"created": created, "created_by": f"COPY layer-{position} /"}
                for position in range(len(layers))
            ],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": self.add_json(MEDIA_CONFIG, config),
            "layers": layers,
            "annotations": {**title, "org.opencontainers.image.created": created},
        }
        self._images += 1
        return self.add_json(MEDIA_MANIFEST, manifest)

    def add_index(self, name: str, manifests: list[JsonObject]) -> JsonObject:
        """Write an index of `manifests` (descriptors with platforms); return its descriptor."""
        index = {
            "schemaVersion": 2,
            "mediaType": MEDIA_INDEX,
            "manifests": manifests,
            "annotations": {"org.opencontainers.image.title": name},
        }
        return self.add_json(MEDIA_INDEX, index)

    def tag(self, name: str, descriptor: JsonObject) -> None:
        """Let the tag `name` of the layout point at `descriptor`."""
        self._tags.append({**descriptor, "annotations": {REF_NAME: name}})

    def finish(self) -> LayoutSummary:
        """Write `oci-layout` and `index.json`, which make the folder a layout."""
        index = {"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": self._tags}
        (self._root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (self._root / "index.json").write_text(json.dumps(index, separators=(",", ":")))
        return LayoutSummary(len(self._sizes), self._images, len(self._tags), sum(self._sizes.values()))


def generate(name: str, dest: Path, seed: int = 0) -> LayoutSummary:
    """Write the set `name` into the new or empty folder `dest`.

    Raises FileExistsError when `dest` holds anything, KeyError for an unknown set.
    """
    spec = SETS[name]
    writer = LayoutWriter(dest)

    def layer(path: str, position: int) -> JsonObject:
        size_bytes = spec.layer_bytes
        blocks = random_blocks(f"{seed}/{name}/{path}/{position}", min(BLOCK_BYTES, size_bytes))
        return writer.add_blob(MEDIA_LAYER, tar_layer(f"layer-{position}", size_bytes, blocks))

    shared = range(spec.shared_layers)
    bases = [[layer(f"base/{base}", position) for position in shared] for base in range(spec.bases)]

    def image(tag: str, number: int, platform: JsonObject, base: int) -> JsonObject:
        own = range(spec.shared_layers, spec.layers)
        layers = [
            *(bases[base] if bases else []),
            *(layer(f"image/{number}", position) for position in own),
        ]
        return writer.add_image(tag, number, platform, layers)

    for number in range(spec.tags):
        tag = f"img-{number:03d}"
        if not spec.platforms:
            writer.tag(tag, image(tag, number, PLATFORMS[0], number % max(1, spec.bases)))
            continue
        children = []
        for position, platform in enumerate(PLATFORMS[: spec.platforms]):
            # A base has one platform, so each platform has its own share of the bases.
            share = spec.bases // spec.platforms
            base = position * share + number % share
            child = image(tag, number * spec.platforms + position, platform, base)
            children.append({**child, "platform": platform})
        writer.tag(tag, writer.add_index(tag, children))
    return writer.finish()


def main() -> None:
    """Generate one set from the command line and print what was written."""
    parser = argparse.ArgumentParser(description="Generate an OCI image layout.")
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("dest", type=Path, help="a new or empty folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(generate(arguments.set, arguments.dest, arguments.seed))


if __name__ == "__main__":
    main()
