"""Images that go in together or not at all: what is left out with what, and which groups fit one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from regmeta.errors import Error, InvalidSource, SizeMismatch
from regmeta.ingest.plan import ImageGroup, PlannedImage
from regmeta.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Joined:
    """The images of groups as the positions of a batch, in the order of their groups: image, companions."""

    images: tuple[PlannedImage, ...]
    bonds: Mapping[int, tuple[int, ...]]  # who goes when the image at a position goes
    failures: Mapping[int, Error]  # what cannot go in whatever the source holds


def join(groups: Sequence[ImageGroup]) -> Joined:
    """Lay groups out as one batch.

    A companion that contradicts its image about the size of a blob is left out: the image's own source may
    be right. Of two images for one tag the later one is.
    """
    images: list[PlannedImage] = []
    bonds: dict[int, tuple[int, ...]] = {}
    failures: dict[int, Error] = {}
    named: dict[tuple[str, str], Digest] = {}
    for group in groups:
        first = len(images)
        companions = range(first + 1, first + len(group.members))
        bonds[first] = tuple(companions)
        if group.all_or_nothing:
            bonds |= dict.fromkeys(companions, (first,))
        for position, image in enumerate(group.members, first):
            error = _twice(image, named)
            if error is None and position != first:
                error = _contradiction(image, group.image)
            if error is not None:
                failures[position] = error
        images += group.members
    return Joined(tuple(images), bonds, failures)


def in_batches(groups: Sequence[ImageGroup]) -> Iterator[list[int]]:
    """Give the positions of the groups of each batch: one, unless groups contradict each other.

    Of two that say different sizes of a blob one is wrong. In one batch the wrong one would take the right
    one with it.
    """
    left = list(range(len(groups)))
    while left:
        batch: list[int] = []
        sizes: dict[Digest, int] = {}
        for position in left:
            mine = _sizes(groups[position])
            if all(sizes.get(digest, size_bytes) == size_bytes for digest, size_bytes in mine.items()):
                batch.append(position)
                sizes.update(mine)
        yield batch
        left = sorted(set(left).difference(batch))


def _sizes(group: ImageGroup) -> dict[Digest, int]:
    sizes: dict[Digest, int] = {}
    for image in group.members:
        for digest, size_bytes in image.blobs.items():
            sizes.setdefault(digest, size_bytes)
    return sizes


def _twice(image: PlannedImage, named: dict[tuple[str, str], Digest]) -> Error | None:
    request = image.request
    if request.tag is None:
        return None
    first = named.setdefault((request.repository, request.tag), image.root)
    return None if first == image.root else InvalidSource(f"{request}: is to be {first}, and {image.root}")


def _contradiction(companion: PlannedImage, image: PlannedImage) -> Error | None:
    for digest, size_bytes in companion.blobs.items():
        said = image.blobs.get(digest, size_bytes)
        if said != size_bytes:
            return SizeMismatch(
                f"{digest}: {companion.request} says {size_bytes} bytes, {image.request} says {said}"
            )
    return None
