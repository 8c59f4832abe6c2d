"""What an adoption would do: counts, bytes, defects, and about how long. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from regmeta.adopt.defects import Found, defect_of
from regmeta.adopt.look import Looker, Wanted, what_is_wrong
from regmeta.adopt.pieces import OpenRepository
from regmeta.adopt.terms import destination_of
from regmeta.errors import Error, InputError, IntegrityError, RemoteUnavailable, without_frames
from regmeta.ingest.plan import ImageRequest, PlannedImage
from regmeta.ingest.read_image import read_image
from regmeta.oci.digest import Digest
from regmeta.sources.storage import Defect, RegistryStorage, StoredRepository
from regmeta.threads import Threads

LOOKING: Final = 8
SAMPLE_BYTES: Final = 64 * 1024 * 1024  # [bytes] that are hashed to learn how fast that goes
COMMIT_S: Final = (
    0.004  # [s] of one image's rows and flushes, as the benchmark measured it; see docs/adopt.md
)
"""An estimate's part for what a plan cannot try: writing."""


@dataclass(slots=True)
class PlannedRepository:
    """What there is of one repository; *size_bytes* counts what it shares with others as well."""

    source: str
    destination: str  # empty: nowhere
    tags: int
    manifests: int
    images: int = 0
    size_bytes: int = 0
    defects: int = 0


@dataclass(slots=True)
class AdoptPlan:
    """What a run would bring. *blobs* and *size_bytes* count each digest once, manifests included."""

    location: str
    kind: str
    repositories: list[PlannedRepository] = field(default_factory=list)
    images: int = 0
    left_out: int = 0
    blobs: int = 0
    size_bytes: int = 0
    defects: list[tuple[str, Found]] = field(default_factory=list)  # with the repository of each
    failures: dict[str, Error] = field(default_factory=dict)
    estimate_s: float = 0.0


def make_plan(
    storage: RegistryStorage,
    prefix: str,
    advanced: Callable[[str, int], None],
    *,
    clock_s: Callable[[], float] = time.monotonic,
) -> AdoptPlan:
    """Look at all of a storage. *advanced* is told the repository, and how many more images were looked at.

    Raises:
        InvalidSource: the repositories cannot be listed.
        RemoteUnavailable: the bucket did not answer.
    """
    began_s = clock_s()
    planner = _Planner(storage, prefix, advanced)
    with Threads(LOOKING, thread_name_prefix="look") as pool:
        for name in storage.repositories():
            planner.add(name, pool)
    looked_s = clock_s() - began_s
    plan = planner.plan
    plan.estimate_s = looked_s + plan.images * COMMIT_S + planner.hashing_s(clock_s)
    return plan


class _Planner:
    """Adds one repository after the other."""

    def __init__(self, storage: RegistryStorage, prefix: str, advanced: Callable[[str, int], None]) -> None:
        self.plan = AdoptPlan(storage.location, storage.kind)
        self._storage = storage
        self._prefix = prefix
        self._advanced = advanced
        self._looker = Looker(storage, _read, lambda _: frozenset())
        self._sizes: dict[Digest, int] = {}
        self._sample: list[tuple[str, Digest, int]] = []
        self._sample_bytes = 0

    def add(self, name: str, pool: Executor) -> None:
        """Look at a repository and at all its images."""
        try:
            listing = self._storage.repository(name)
        except RemoteUnavailable as error:
            self.plan.failures[name] = without_frames(error)
            return
        destination = destination_of(self._prefix, name)
        row = PlannedRepository(name, destination or "", len(listing.tags), len(listing.manifests))
        found = [Found(defect) for defect in listing.defects]
        if destination is not None:
            found += self._images(row, listing, pool)
        elif not found:
            detail = f"{self._prefix}/{name}: not a repository name"
            found.append(Found(Defect("bad-repository-name", name, detail)))
        row.defects = len(found)
        self.plan.defects += [(name, each) for each in found]
        self.plan.repositories.append(row)

    def hashing_s(self, clock_s: Callable[[], float]) -> float:
        """Return how long it takes to read and hash all bytes, as long as those of a sample took."""
        began_s, total = clock_s(), 0
        for name, digest, size_bytes in self._sample:
            part = min(size_bytes, SAMPLE_BYTES)
            what_is_wrong(self._storage.source(name), digest, part)
            total += part
        return (clock_s() - began_s) * self.plan.size_bytes / total if total else 0.0

    def _images(self, row: PlannedRepository, listing: StoredRepository, pool: Executor) -> list[Found]:
        opened = OpenRepository.begun(listing, row.destination, "", None)
        pieces = (*opened.tags(), *opened.untagged())
        all_found: list[Found] = []
        mine: set[Digest] = set()
        children: set[Digest] = set()
        for wanted, image, found in self._assessed((each for p in pieces for each in p.wanted), pool):
            self._advanced(listing.name, 1)
            if image is None:
                all_found += found
                self.plan.left_out += 1
                continue
            children.update(planned.document.digest for planned in image.manifests[:-1])
            if wanted.tag is None and wanted.digest in children:
                continue  # here with its index by then: a run does not look at it either
            all_found += found
            row.images += 1
            self.plan.images += 1
            row.size_bytes += sum(image.blobs[digest] for digest in image.blobs.keys() - mine)
            mine |= image.blobs.keys()
            self._count(wanted.source, image)
        return all_found

    def _count(self, name: str, image: PlannedImage) -> None:
        for digest in image.blobs.keys() - self._sizes.keys():
            size_bytes = self._sizes[digest] = image.blobs[digest]
            self.plan.blobs += 1
            self.plan.size_bytes += size_bytes
            if self._sample_bytes < SAMPLE_BYTES:
                self._sample.append((name, digest, size_bytes))
                self._sample_bytes += size_bytes

    def _assessed(
        self, wanted: Iterable[Wanted], pool: Executor
    ) -> Iterator[tuple[Wanted, PlannedImage | None, list[Found]]]:
        waiting = iter(wanted)
        # Some at a time: what was looked at is not kept.
        while some := list(islice(waiting, 8 * LOOKING)):
            yield from pool.map(self._assess, some)

    def _assess(self, wanted: Wanted) -> tuple[Wanted, PlannedImage | None, list[Found]]:
        try:
            assessed = self._looker.assess(wanted)
        except (InputError, IntegrityError) as error:
            return wanted, None, [Found(defect_of(error, wanted.image), wanted.image)]
        return wanted, assessed.image, list(assessed.found)


def _read(request: ImageRequest) -> PlannedImage:
    return read_image(request, sparse=True, find_config=lambda _: None, has_manifest=lambda *_: False)
