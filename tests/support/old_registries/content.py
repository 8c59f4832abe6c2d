"""The images of an old registry: a list of steps, the same for the same seed.

Steps come in an order that has all the main kinds among the first six. Of every step the blobs are in a
builder of its own, so that large layers are in memory only while their image is pushed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.builders import AMD64, ARM64, S390X, Json, LayoutBuilder, tar_layer

LAYER_BYTES: Final = 256
"""How much random content a layer has, if nobody says."""

_REPOSITORIES: Final = (
    "library/base",
    "team/app",
    "team/app/cache",
    "team/web",
    "deep/er/than/most/service",
    "a",
    "tools/cli_one.two--three",
)
_IMAGES_A_REPOSITORY: Final = 12


@dataclass(frozen=True, slots=True)
class Put:
    """One manifest: under a tag, or by its digest."""

    descriptor: Json
    tag: str | None = None


@dataclass(slots=True)
class Step:
    """What is done to one repository, in this order: *puts*, with all that they name, then *deletes*.

    *from_repository* is where a client that mounts finds the blobs that are there already. A step that
    may is pushed by skopeo, where there is one.
    """

    kind: str
    repository: str
    builder: LayoutBuilder
    puts: list[Put] = field(default_factory=list)
    deletes: list[str] = field(default_factory=list)
    by_skopeo: bool = False


def steps(images: int, *, seed: int = 0, layer_bytes: int = LAYER_BYTES) -> Iterator[Step]:
    """Make the steps of so many images; a promoted image is one more in another repository."""
    kinds = tuple(_KINDS.items())
    bases = [_Base(number, seed, layer_bytes) for number in range(3)]
    rounds: dict[str, int] = {}
    before: Step | None = None
    for number in range(images):
        kind, make = kinds[number % len(kinds)]
        repository = _repository(number, images)
        rounds[kind] = rounds.get(kind, 0) + 1
        maker = _Maker(number, seed, layer_bytes, bases[number % len(bases)])
        step = Step(kind, repository, maker.oci)
        make(maker, step, f"v{number}")
        step.by_skopeo = kind in _BY_SKOPEO and rounds[kind] == 1
        yield step
        if kind == "promoted" and before is not None:
            yield Step("promoted", "production/" + before.repository, before.builder, before.puts)
        before = step if kind == "multi-platform" or before is None else before


def _repository(number: int, images: int) -> str:
    """Spread images over the named repositories, and over as many more as it takes."""
    count = max(len(_REPOSITORIES), images // _IMAGES_A_REPOSITORY)
    chosen = number % count
    return _REPOSITORIES[chosen] if chosen < len(_REPOSITORIES) else f"many/service-{chosen:03d}"


class _Base:
    """The layers that many images share, and the configuration of no image."""

    def __init__(self, number: int, seed: int, layer_bytes: int) -> None:
        content = random.Random(f"{seed} base {number}")
        self.layers = [tar_layer(content.randbytes(layer_bytes), f"base{part}") for part in range(2)]


class _Maker:
    """Makes the content of one step; its builders hold the same blobs."""

    def __init__(self, number: int, seed: int, layer_bytes: int, base: _Base) -> None:
        self._random = random.Random(f"{seed} image {number}")
        self._layer_bytes = layer_bytes
        self._base = base
        self.oci = LayoutBuilder()
        self.docker = LayoutBuilder(docker=True)
        self.docker.blobs = self.oci.blobs

    def layer(self) -> bytes:
        """Return a layer that no other image has."""
        return tar_layer(self._random.randbytes(self._layer_bytes), "own")

    def image(self, *, docker: bool = False, platform: Json | None = None) -> Json:
        """Add an image on a base."""
        builder = self.docker if docker else self.oci
        return builder.image([*self._base.layers, self.layer()], platform=platform)


def _multi_platform(maker: _Maker, step: Step, tag: str) -> None:
    children = [maker.image(platform=platform) for platform in (AMD64, ARM64)]
    step.puts.append(Put(maker.oci.index(children, {"org.opencontainers.image.version": tag}), tag))


def _docker_image(maker: _Maker, step: Step, tag: str) -> None:
    step.puts.append(Put(maker.image(docker=True), tag))


def _referred(maker: _Maker, step: Step, tag: str) -> None:
    """An image with two referrers, listed by a fallback tag (distribution-spec, "Referrers Tag Schema")."""
    subject = maker.image()
    bill = maker.oci.artifact(maker.layer(), "application/spdx+json", subject)
    signature = maker.oci.artifact(maker.layer(), "application/vnd.example.signature", subject)
    listed = maker.oci.index([bill, signature])
    fallback = subject["digest"].replace(":", "-")
    step.puts += [Put(subject, tag), Put(bill), Put(signature), Put(listed, fallback)]
    legacy = maker.oci.image([maker.layer()])
    step.puts.append(Put(legacy, f"{fallback}.sig"))


def _retired(maker: _Maker, step: Step, tag: str) -> None:
    """A tag that was moved: what it named first is gone, what it named next has no tag, the last one has."""
    first, next_one, last = maker.image(), maker.image(docker=True), maker.image()
    step.puts += [Put(first, tag), Put(next_one, tag), Put(last, tag)]
    step.deletes.append(first["digest"])


def _docker_list(maker: _Maker, step: Step, tag: str) -> None:
    children = [maker.image(docker=True, platform=platform) for platform in (AMD64, ARM64, S390X)]
    step.puts.append(Put(maker.docker.index(children), tag))


def _oci_image(maker: _Maker, step: Step, tag: str) -> None:
    step.puts += [Put(image := maker.image(), tag), Put(image, f"{tag}-stable")]


def _untagged(maker: _Maker, step: Step, tag: str) -> None:
    step.puts += [Put(maker.image()), Put(maker.oci.index([maker.image(platform=ARM64)]))]


def _deleted(maker: _Maker, step: Step, tag: str) -> None:
    """An image that is gone by its digest, with both of its tags."""
    step.puts += [Put(image := maker.image(), tag), Put(image, f"{tag}-old")]
    step.deletes.append(image["digest"])


def _without_layers(maker: _Maker, step: Step, tag: str) -> None:
    """No layers; one layer twice; one layer of no bytes."""
    config = maker.oci.config([], None, Labels={"made": tag})
    step.puts.append(Put(maker.oci.image([], config), tag))
    layer = maker.oci.layer(maker.layer())
    step.puts.append(Put(maker.oci.image([layer, layer]), f"{tag}-twice"))
    step.puts.append(Put(maker.oci.image([maker.layer(), b""]), f"{tag}-empty"))


def _nested_index(maker: _Maker, step: Step, tag: str) -> None:
    inner = maker.oci.index([maker.image(platform=AMD64)])
    mixed = maker.image(docker=True, platform=ARM64)
    step.puts.append(Put(maker.oci.index([inner, mixed]), tag))


def _artifact(maker: _Maker, step: Step, tag: str) -> None:
    """Something that is no image; and a manifest that says no type of its own, as early tools wrote it."""
    chart = maker.oci.artifact(maker.layer(), "application/vnd.cncf.helm.chart")
    step.puts.append(Put(chart, tag))
    layer = maker.oci.layer(maker.layer())
    bare = {"schemaVersion": 2, "config": maker.oci.config([layer]), "layers": [layer]}
    step.puts.append(Put(maker.oci.document(bare), f"{tag}-bare"))


_KINDS: Final[dict[str, Callable[[_Maker, Step, str], None]]] = {
    "multi-platform": _multi_platform,
    "docker": _docker_image,
    "referred": _referred,
    "promoted": _oci_image,
    "retired": _retired,
    "docker-list": _docker_list,
    "untagged": _untagged,
    "deleted": _deleted,
    "without-layers": _without_layers,
    "nested-index": _nested_index,
    "artifact": _artifact,
    "oci": _oci_image,
}
_BY_SKOPEO: Final = frozenset({"multi-platform", "docker", "docker-list"})
