"""One image of an old registry: is it whole, and what of it is to be brought.

All that it names is looked for before anything is written. What is wrong with one child of an index leaves
the others: the index comes in without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from regmeta.adopt.defects import Found, Rejected, defect_of
from regmeta.errors import (
    Error,
    InputError,
    IntegrityError,
    MissingContent,
    RemoteUnavailable,
    without_frames,
)
from regmeta.ingest.plan import ImageGroup, ImageRequest, PlannedImage, Times
from regmeta.ingest.read_image import MAX_INDEX_DEPTH
from regmeta.oci import manifest, media_types
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Index, Manifest
from regmeta.sources import Source
from regmeta.sources.storage import Defect, RegistryStorage, StoredRepository
from regmeta.sources.wrapped import WrappedSource
from regmeta.store.intake import read_through
from regmeta.sync.items import Item, Look
from regmeta.sync.records import ItemKey

_BAD: Final = (InputError, IntegrityError)
REMEMBERED: Final = 50_000  # blobs of repositories whose size and link are known
MAX_ODD: Final = 100  # things that are told of one image
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)  # a file's time before it is one that nobody set


@dataclass(frozen=True, slots=True)
class Wanted(Item):
    """An image of an old registry that is to be brought: a tag of a repository, or what has none."""

    listing: StoredRepository | None = None
    digest: Digest | None = None
    times: Times = field(default_factory=Times)

    @property
    def image(self) -> str:
        """What its defects say: the tag, or the digest."""
        return self.reference


@dataclass(frozen=True, slots=True)
class Assessed:
    """An image that is whole, with what is odd about it."""

    image: PlannedImage
    found: tuple[Found, ...]


class Looker:
    """Looks at images of one storage. Safe to use from several threads.

    *plan* reads an image's tree, *live* tells which blobs are here already.
    """

    def __init__(
        self,
        storage: RegistryStorage,
        plan: Callable[[ImageRequest], PlannedImage],
        live: Callable[[Collection[Digest]], Set[Digest]],
    ) -> None:
        self._storage = storage
        self._plan = plan
        self._live = live
        self._damaged: dict[tuple[str, Digest], str] = {}  # by repository: each may have a copy of its own
        self._found: dict[ItemKey, tuple[Found, ...]] = {}
        self._suspects: set[ItemKey] = set()
        # Images of one repository share most of their blobs.
        self._blob_size = lru_cache(REMEMBERED)(storage.blob_size)
        self._is_linked = lru_cache(REMEMBERED)(storage.is_linked)

    def look(self, item: Item) -> Look:
        """Find out whether *item* can be brought. What is wrong with it is the answer then.

        Raises:
            Unavailable, Locked: the registry here does not answer.
        """
        assert isinstance(item, Wanted)
        try:
            if item.key in self._suspects:
                self._find_damage(item)
            assessed = self.assess(item)
        except Error as error:
            if not isinstance(error, (*_BAD, RemoteUnavailable)):
                raise
            return Look(item, "failed", error=without_frames(error))
        self._found[item.key] = assessed.found
        return Look(item, "wanted", item.digest, item.digest, ImageGroup(assessed.image))

    def taken_found(self, item: Wanted) -> tuple[Found, ...] | None:
        """Return, once, what was odd about an image; None if it could not be brought."""
        return self._found.pop(item.key, None)

    def suspect(self, item: Wanted) -> None:
        """Let all bytes of an image be read when it is looked at again, since a commit found some wrong."""
        self._suspects.add(item.key)

    def assess(self, wanted: Wanted) -> Assessed:
        """Read an image's tree and look for all that it names.

        Raises:
            InputError, IntegrityError: it cannot be brought; :func:`~regmeta.adopt.defects.defect_of` says
                what is wrong.
            RemoteUnavailable: it could not be found out.
        """
        assert wanted.digest is not None
        descriptor, said = self._descriptor(wanted.source, wanted.digest)
        broken: dict[Digest, Defect] = {}
        try:
            image = self._whole(wanted, descriptor, broken)
        except _BAD:
            with suppress(*_BAD):
                self._find_broken(wanted, descriptor, broken, set(), 0)
            if not broken:
                raise
            image = self._whole(wanted, descriptor, broken)
        odd = [*_absent(image, broken), *_foreign(image), *self._unlinked(wanted, image)]
        if not said:
            odd.append(Defect("empty-media-type", str(wanted.digest), f"taken for {descriptor.media_type}"))
        return Assessed(image, tuple(Found(defect, wanted.image) for defect in _capped(odd)))

    # --- the tree -----------------------------------------------------------------------------

    def _whole(self, wanted: Wanted, descriptor: Descriptor, broken: Collection[Digest]) -> PlannedImage:
        source: Source = _Served(self._storage.source(wanted.source), self._serves(wanted), broken)
        image = self._plan(ImageRequest(source, descriptor, wanted.repository, wanted.tag, wanted.times))
        self._check_blobs(wanted.source, image)
        return image

    def _serves(self, wanted: Wanted) -> Callable[[Digest], bool]:
        """Tell of a manifest whether the old registry serves it: docker's wants a link to each."""
        if self._storage.kind != "docker":
            return lambda _: True
        assert wanted.listing is not None
        listed = wanted.listing.manifests
        return lambda digest: digest in listed

    def _descriptor(self, repository: str, digest: Digest) -> tuple[Descriptor, bool]:
        try:
            return self._storage.descriptor(repository, digest), self._storage.says_type(repository, digest)
        except MissingContent as error:
            raise Rejected(Defect("missing-manifest", str(digest), str(error))) from error
        except IntegrityError as error:
            raise Rejected(Defect("damaged-manifest", str(digest), str(error))) from error

    def _find_broken(
        self,
        wanted: Wanted,
        index: Descriptor,
        broken: dict[Digest, Defect],
        seen: set[Digest],
        depth: int,
    ) -> None:
        """Note the manifests below an index that cannot be brought by themselves; each is looked at once."""
        source = self._storage.source(wanted.source)
        document = manifest.parse(
            source.read(index, manifest.MAX_MANIFEST_BYTES), index.digest, index.media_type, verified=True
        )
        for child in document.manifests if isinstance(document, Index) else ():
            if child.digest in seen or not manifest.may_be_manifest(child.media_type):
                continue
            seen.add(child.digest)
            try:
                self._descriptor(wanted.source, child.digest)
                self._whole(wanted, child, ())
            except _BAD as error:
                before = len(broken)
                if child.media_type in media_types.INDEXES and depth < MAX_INDEX_DEPTH:
                    with suppress(*_BAD):
                        self._find_broken(wanted, child, broken, seen, depth + 1)
                if len(broken) == before:
                    broken[child.digest] = defect_of(error, str(child.digest))

    # --- blobs --------------------------------------------------------------------------------

    def _check_blobs(self, repository: str, image: PlannedImage) -> None:
        """Refuse an image that names a blob whose bytes are neither there, as they should be, nor here."""
        lacking: dict[Digest, Defect] = {}
        for digest, size_bytes in image.blobs.items():
            if digest in image.in_memory:
                continue  # read and verified
            there = self._blob_size(repository, digest)
            wrong = self._damaged.get((repository, digest))
            if wrong is not None:
                lacking[digest] = Defect("damaged-blob", str(digest), wrong)
            elif there is None:
                lacking[digest] = self._missing(repository, digest, image.root)
            elif there != size_bytes:
                detail = f"has {there} bytes, and {image.root} says {size_bytes}"
                lacking[digest] = Defect("damaged-blob", str(digest), detail)
        for digest in sorted(lacking.keys() - self._live(lacking.keys())) if lacking else ():
            raise Rejected(lacking[digest])

    def _find_damage(self, wanted: Wanted) -> None:
        """Read all blobs of an image, and remember those that are wrong."""
        image = self.assess(wanted).image
        source = self._storage.source(wanted.source)
        for digest, size_bytes in image.blobs.items():
            if digest in image.in_memory:
                continue
            wrong = what_is_wrong(source, digest, size_bytes)
            if wrong is not None:
                self._damaged[wanted.source, digest] = wrong

    def _missing(self, repository: str, digest: Digest, root: Digest) -> Defect:
        if self._storage.is_placeholder(repository, digest):
            detail = f"{root} names it, and its original is nowhere"
            return Defect("unfilled-placeholder", str(digest), detail)
        return Defect("missing-blob", str(digest), f"{root} names it, and there are no bytes of it")

    # --- what is odd --------------------------------------------------------------------------

    def _unlinked(self, wanted: Wanted, image: PlannedImage) -> Iterator[Defect]:
        manifests = {planned.document.digest for planned in image.manifests}
        for digest in image.blobs:
            if digest not in manifests and not self._is_linked(wanted.source, digest):
                yield Defect("unlinked-blob", str(digest), f"{wanted.source} has no link to it")


def _capped(odd: Sequence[Defect]) -> Sequence[Defect]:
    """Return what the table is told of one image; an index may list thousands that are missing."""
    if len(odd) <= MAX_ODD:
        return odd
    last = odd[MAX_ODD - 1]
    more = f"{last.detail} (and {len(odd) - MAX_ODD} more things of this image)"
    return [*odd[: MAX_ODD - 1], replace(last, detail=more)]


def _absent(image: PlannedImage, broken: Mapping[Digest, Defect]) -> Iterator[Defect]:
    for digest in sorted(image.absent):
        because = broken.get(digest)
        detail = (
            "missing" if because is None else f"broken: {because.kind}: {because.subject}: {because.detail}"
        )
        yield Defect("broken-index-child", str(digest), f"{image.root} lists it, and it is {detail}")


def _foreign(image: PlannedImage) -> Iterator[Defect]:
    for planned in image.manifests:
        for layer in planned.document.layers if isinstance(planned.document, Manifest) else ():
            if layer.media_type in media_types.NON_DISTRIBUTABLE:
                yield Defect("foreign-layer", str(layer.digest), f"{planned.document.digest} names it")


def time_of(at: datetime | None) -> datetime | None:
    """Return the time of a file, None for one that nobody can have set."""
    return None if at is None or at < _EARLIEST else at


def what_is_wrong(source: Source, digest: Digest, size_bytes: int) -> str | None:
    """Read a blob to its end; return in words what is wrong with it, None if nothing is."""
    try:
        with source.open(digest) as stream:
            read_through(stream, digest, size_bytes)
    except _BAD as error:
        return str(error)
    return None


class _Served(WrappedSource):
    """Hands out the manifests that the old registry would, without those that are *broken*."""

    def __init__(self, source: Source, serves: Callable[[Digest], bool], broken: Collection[Digest]) -> None:
        super().__init__(source)
        self._serves = serves
        self._broken = broken

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Return small content whole, verified; a manifest that is not served is missing."""
        if descriptor.digest in self._broken:
            raise MissingContent(f"{self.location}: {descriptor.digest} is broken")
        if manifest.may_be_manifest(descriptor.media_type) and not self._serves(descriptor.digest):
            raise MissingContent(f"{self.location}: {descriptor.digest} was deleted")
        return super().read(descriptor, limit_bytes)
