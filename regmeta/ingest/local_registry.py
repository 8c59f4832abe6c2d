"""The door to the registry for everything that brings images in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import (
    DamagedBlob,
    Error,
    InvalidDigest,
    InvalidSource,
    SizeMismatch,
    without_frames,
)
from regmeta.ingest.batch import BAD_IMAGE, Batch, BatchResult
from regmeta.ingest.lint import check_annotations
from regmeta.ingest.plan import (
    CommitResult,
    ImageOutcome,
    ImageRequest,
    NoProgress,
    PlannedImage,
    Progress,
    Status,
)
from regmeta.ingest.read_image import read_image
from regmeta.ingest.reserve import chunks
from regmeta.ingest.skip import skippable
from regmeta.ingest.unit_of_work import Writer
from regmeta.models import Blob, Manifest, Repository
from regmeta.oci import names
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.streams import read_up_to
from regmeta.sources import Source
from regmeta.store import BlobStore, ObjectMissing

COPYING_THREADS: Final = 8
BATCH_IMAGES: Final = 100
BATCH_BYTES: Final = 64 * 1024 * 1024  # [bytes]
BATCH_S: Final = 1.0  # [s]
LOOK_AHEAD: Final = 500  # images that one look at the rows covers

_BLOB: Final = sa.select(Blob.key, Blob.state).where(Blob.digest == sa.bindparam("of"))
_MANIFEST: Final = (
    sa.select(Manifest.id)
    .join(Repository, Repository.id == Manifest.repository_id)
    .where(
        Repository.name == sa.bindparam("repository"),
        Manifest.digest == sa.bindparam("of"),
        Manifest.deleted_at.is_(None),
    )
)


@dataclass(frozen=True, slots=True)
class StagedImage:
    """An image in flight: where its content is, and the descriptor of its root."""

    source: Source
    descriptor: Descriptor


class LocalRegistry:
    """Commits images to the store and the database, each whole or not at all.

    Any number of processes may hold one; inside one process it is used by one thread at a time.
    """

    def __init__(
        self,
        writer: Writer,
        store: BlobStore,
        *,
        mandatory_annotations: Sequence[str] = (),
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._store = store
        self._mandatory_annotations = mandatory_annotations
        self._clock_s = clock_s
        self._pool = ThreadPoolExecutor(COPYING_THREADS, thread_name_prefix="copy")

    @property
    def _database(self) -> Database:
        return self._writer.database

    def can_skip_image(self, repository: str, reference: str, digest: Digest) -> bool:
        """Tell whether *reference* (a tag, or the digest itself) is this image already, whole.

        Raises:
            DatabaseUnavailable: it could not be found out.
            InvalidName, InvalidDigest: the reference is neither.
        """
        item = (_tag_of(reference, digest), digest)
        return bool(skippable(self._database, names.repository_name(repository), [item]))

    def scratch_layout(self) -> str:
        """Make an empty folder for a tool to write an OCI layout to: an image in flight.

        Returns its path. It lies in this process's staging area: it goes when the process ends, or after a
        crash with the next writer.
        """
        return self._writer.staging.scratch_folder()

    def commit_image(self, staged: StagedImage, repository: str, reference: str) -> CommitResult:
        """Commit one image, its whole tree in one transaction, children first and the tag last.

        Raises:
            InputError, IntegrityError: the image is bad; nothing of it was taken in.
            RepositoryNotActive: the repository is being removed.
            ImmutableTag: the tag is there, of another image, and may not be moved.
            Unavailable, Locked: the store or the database did not do it.
        """
        tag = _tag_of(reference, staged.descriptor.digest)
        request = ImageRequest(staged.source, staged.descriptor, names.repository_name(repository), tag)
        batch = self._ingest([self.copy_manifest(request)], NoProgress(), atomic=True)
        assert batch.result is not None
        return batch.result

    def copy_manifest(self, request: ImageRequest, *, sparse: bool = False) -> PlannedImage:
        """Read and check an image's tree of manifests; nothing is written yet.

        Raises:
            InputError, IntegrityError: the image is bad, or breaks a rule.
        """
        image = read_image(
            request, sparse=sparse, find_config=self._stored_content, has_manifest=self._has_manifest
        )
        check_annotations(image.manifests, self._mandatory_annotations)
        return image

    def import_images(
        self,
        requests: Iterable[ImageRequest],
        *,
        sparse: bool = False,
        atomic: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[ImageOutcome]:
        """Commit many images in batches; each outcome is given once it is final.

        A bad image is left out, and so is one whose tag may not be moved. With *atomic* all of them are one
        ingest, and the first such image raises.

        Raises:
            RepositoryNotActive, Unavailable, Locked: the current batch was not taken in; what was
                given out before is committed.
        """
        run = _Import(self, progress or NoProgress(), sparse, atomic)
        for some in chunks(list(requests), LOOK_AHEAD):
            yield from run.add(some)
        yield from run.flush()

    def close(self) -> None:
        """End the copying threads."""
        self._pool.shutdown()

    def _ingest(self, images: Sequence[PlannedImage], progress: Progress, *, atomic: bool) -> BatchResult:
        return Batch(self._writer, self._pool, images, progress).run(atomic=atomic)

    def _has_manifest(self, repository: str, digest: Digest) -> bool:
        with self._database.read() as connection:
            parameters = {"repository": repository, "of": digest}
            return connection.execute(_MANIFEST, parameters).first() is not None

    def _stored_content(self, descriptor: Descriptor) -> bytes | None:
        """Return small content that is here already, verified; None if it is not here."""
        with self._database.read() as connection:
            row = connection.execute(_BLOB, {"of": descriptor.digest}).first()
        if row is None or row.state != "live":
            return None
        try:
            with self._store.open(row.key) as stream:
                content = read_up_to(stream, descriptor.size_bytes)
        except ObjectMissing as error:
            raise DamagedBlob(f"{descriptor.digest}: {error}") from error
        if not descriptor.digest.matches(content):
            raise DamagedBlob(f"{descriptor.digest}: the stored bytes have another digest")
        return content


class _Import:
    """The state of one import: the batch that is being filled."""

    def __init__(self, registry: LocalRegistry, progress: Progress, sparse: bool, atomic: bool) -> None:
        self._registry = registry
        self._progress = progress
        self._sparse = sparse
        self._atomic = atomic
        self._images: list[PlannedImage] = []
        self._sizes: dict[Digest, int] = {}
        self._size_bytes = 0
        self._began_s = 0.0
        self._named: dict[tuple[str, str], Digest] = {}

    def add(self, requests: Sequence[ImageRequest]) -> Iterator[ImageOutcome]:
        """Skip what is here, plan the rest, and ingest each batch that is full."""
        skip = self._skippable(requests)
        for request in requests:
            key = (request.repository, request.tag, request.descriptor.digest)
            try:
                self._check_name(request)
                if key in skip:
                    yield from self._done([_outcome(request, "skipped")])
                    continue
                image = self._registry.copy_manifest(request, sparse=self._sparse)
            except BAD_IMAGE as error:
                if self._atomic:
                    raise
                yield from self._done([_outcome(request, "failed", error)])
                continue
            conflict = self._conflict(image)
            if conflict is not None:
                if self._atomic:
                    raise SizeMismatch(f"{conflict}: the source says two sizes of it")
                yield from self.flush()
            self._append(image)
            if self._is_full():
                yield from self.flush()

    def flush(self) -> Iterator[ImageOutcome]:
        """Ingest what was planned."""
        if not self._images:
            return
        images, self._images, self._sizes, self._size_bytes = self._images, [], {}, 0
        batch = self._registry._ingest(images, self._progress, atomic=self._atomic)
        outcomes = []
        counted: set[Digest] = set()
        for position, image in enumerate(images):
            error = batch.failures.get(position)
            if error is not None:
                outcomes.append(_outcome(image.request, "failed", error))
                continue
            new = (batch.copied & image.blobs.keys()) - counted
            counted |= new
            copied_bytes = sum(image.blobs[digest] for digest in new)
            outcomes.append(_outcome(image.request, "imported", copied_bytes=copied_bytes))
        yield from self._done(outcomes)

    def _append(self, image: PlannedImage) -> None:
        if not self._images:
            self._began_s = self._registry._clock_s()
        self._images.append(image)
        new = {digest: size for digest, size in image.blobs.items() if digest not in self._sizes}
        self._sizes.update(new)
        size_bytes = sum(new.values())
        self._size_bytes += size_bytes
        self._progress.planned(1, size_bytes)

    def _is_full(self) -> bool:
        return not self._atomic and (
            len(self._images) >= BATCH_IMAGES
            or self._size_bytes >= BATCH_BYTES
            or self._registry._clock_s() - self._began_s >= BATCH_S
        )

    def _conflict(self, image: PlannedImage) -> Digest | None:
        """Return a blob of which it says another size than the batch: one of them is wrong, but not both."""
        differing = (d for d, size in image.blobs.items() if self._sizes.get(d, size) != size)
        return next(differing, None)

    def _check_name(self, request: ImageRequest) -> None:
        if request.tag is None:
            return
        digest = request.descriptor.digest
        first = self._named.setdefault((request.repository, request.tag), digest)
        if first != digest:
            raise InvalidSource(f"{request}: the source names it twice, {first} and {digest}")

    def _skippable(self, requests: Sequence[ImageRequest]) -> set[tuple[str, str | None, Digest]]:
        by_repository: dict[str, list[tuple[str | None, Digest]]] = {}
        for request in requests:
            item = (request.tag, request.descriptor.digest)
            by_repository.setdefault(request.repository, []).append(item)
        return {
            (repository, tag, digest)
            for repository, items in by_repository.items()
            for tag, digest in skippable(self._registry._database, repository, items, sparse=self._sparse)
        }

    def _done(self, outcomes: Sequence[ImageOutcome]) -> Iterator[ImageOutcome]:
        self._progress.finished(outcomes)
        yield from outcomes


def _outcome(
    request: ImageRequest,
    status: Status,
    error: Error | None = None,
    copied_bytes: int = 0,
) -> ImageOutcome:
    kept = None if error is None else without_frames(error)
    return ImageOutcome(str(request), status, request.descriptor.digest, kept, copied_bytes)


def _tag_of(reference: str, digest: Digest) -> str | None:
    """Return the tag that a reference is, None if it is the digest.

    Raises:
        InvalidDigest: it is another digest.
        InvalidName: it is neither a tag nor a digest.
    """
    if ":" not in reference:
        return names.tag_name(reference)
    if Digest.parse(reference) != digest:
        raise InvalidDigest(f"{reference}: the image has the digest {digest}")
    return None
