"""The door to the registry for everything that brings images in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from typing import Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import DamagedBlob, InvalidDigest, SizeMismatch
from regmeta.ingest.batch import Batch, BatchResult, Company
from regmeta.ingest.claims import Claims
from regmeta.ingest.elsewhere import Elsewhere
from regmeta.ingest.groups import in_batches, join
from regmeta.ingest.import_run import BatchLimits, ImportRun, outcomes_of
from regmeta.ingest.lint import check_annotations
from regmeta.ingest.local_first import LocalFirst
from regmeta.ingest.plan import (
    CommitResult,
    GroupOutcome,
    ImageGroup,
    ImageOutcome,
    ImageRequest,
    NoProgress,
    PlannedImage,
    Progress,
)
from regmeta.ingest.read_image import Wants, read_image
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
from regmeta.threads import Threads

COPYING_THREADS: Final = 8
BATCH_IMAGES: Final = 100
BATCH_BYTES: Final = 64 * 1024 * 1024  # [bytes]
BATCH_S: Final = 1.0  # [s]
LOOK_AHEAD: Final = 500  # images that one look at the rows covers

_BLOB: Final = sa.select(Blob.key, Blob.state, Blob.size_bytes).where(Blob.digest == sa.bindparam("of"))
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

    Any number of processes may hold one, and any number of threads may use one at once: only an iterator that
    :meth:`import_images` gave belongs to one thread. The batches of one process download no digest twice
    while they run at once (:class:`~regmeta.ingest.claims.Claims`). They share the copying threads.
    """

    def __init__(
        self,
        writer: Writer,
        store: BlobStore,
        *,
        mandatory_annotations: Sequence[str] = (),
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._writer = writer
        self._store = store
        self._mandatory_annotations = mandatory_annotations
        self._clock_s = clock_s
        self._sleep = sleep
        self._claims = Claims()
        self._pool = Threads(COPYING_THREADS, thread_name_prefix="copy")

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

    def copy_manifest(
        self, request: ImageRequest, *, sparse: bool = False, wants: Wants | None = None
    ) -> PlannedImage:
        """Read and check an image's tree of manifests; nothing is written yet.

        *wants* tells of each child that an index lists whether it is wanted. One that is not is not read: it
        is absent by policy, unless the repository has it, until an image comes that wants it.

        Raises:
            NothingWanted: no child is wanted.
            InputError, IntegrityError: the image is bad, or breaks a rule.
            RemoteUnavailable, RemoteRefused, UnsafeRemote: its source did not give it.
        """
        image = read_image(
            request,
            sparse=sparse,
            find_config=self._stored_content,
            has_manifest=self._has_manifest,
            wants=wants,
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
        shown = progress or NoProgress()
        run = ImportRun(
            self._database,
            lambda request: self.copy_manifest(request, sparse=sparse),
            lambda images: self._ingest(images, shown, atomic=atomic),
            shown,
            sparse=sparse,
            atomic=atomic,
            limits=BatchLimits(BATCH_IMAGES, BATCH_BYTES, BATCH_S),
            clock_s=self._clock_s,
        )
        for some in chunks(list(requests), LOOK_AHEAD):
            yield from run.add(some)
        yield from run.flush()

    def commit_groups(
        self,
        groups: Sequence[ImageGroup],
        *,
        progress: Progress | None = None,
        copying: Executor | None = None,
    ) -> list[GroupOutcome]:
        """Commit images and what goes with them, in one batch and one transaction; groups answer in order.

        An image that is bad, whose source fails, whose tag may not be moved, or whose repository is being
        removed, is left out, and its companions with it. A companion that is left out leaves the image where
        it is, unless the group is all or nothing. Groups that contradict each other about the size of a blob
        go in by batches of their own.

        *copying* are the threads that bytes come in; without, those of this registry, which all its imports
        share. Who brings from a source that may be slow has its own, so that it holds up nobody else.

        What another batch of this process is bringing is waited for and not fetched twice; large blobs that
        other processes are bringing are waited for while they get on. May be called from several threads at
        once, and next to any other command.

        Raises:
            RepositoryNotActive: the one repository that all are for is being removed.
            Unavailable, Locked: the store or the database did not do it. Of the batch at hand nothing was
                taken in; of groups that contradict each other, some may have been before.
        """
        shown = progress or NoProgress()
        outcomes: dict[int, GroupOutcome] = {}
        for positions in in_batches(groups):
            joined = join([groups[position] for position in positions])
            sizes = {digest: size for image in joined.images for digest, size in image.blobs.items()}
            shown.planned(len(joined.images), sum(sizes.values()))
            elsewhere = Elsewhere(self._database, clock_s=self._clock_s, sleep=self._sleep)
            batch = Batch(
                self._writer,
                copying or self._pool,
                joined.images,
                shown,
                Company(self._claims, elsewhere),
                bonds=joined.bonds,
                failures=joined.failures,
            ).run(atomic=False)
            found = outcomes_of(joined.images, batch)
            shown.finished(found)
            left = iter(found)
            for position in positions:
                image, *companions = islice(left, len(groups[position].members))
                outcomes[position] = GroupOutcome(image, tuple(companions))
        return [outcomes[position] for position in range(len(groups))]

    def local_first(self, source: Source) -> Source:
        """Return *source* so that manifests and configurations that are here are not read from it.

        What is stored is verified; damaged or missing, it is read from *source*.
        """
        return LocalFirst(source, self._stored_content)

    def close(self) -> None:
        """End the copying threads."""
        self._pool.shutdown()

    def _ingest(self, images: Sequence[PlannedImage], progress: Progress, *, atomic: bool) -> BatchResult:
        return Batch(self._writer, self._pool, images, progress, Company(self._claims)).run(atomic=atomic)

    def _has_manifest(self, repository: str, digest: Digest) -> bool:
        with self._database.read() as connection:
            parameters = {"repository": repository, "of": digest}
            return connection.execute(_MANIFEST, parameters).first() is not None

    def _stored_content(self, descriptor: Descriptor) -> bytes | None:
        """Return small content that is here already, verified; None if it is not here.

        Raises:
            SizeMismatch: it has another size than the descriptor says.
            DamagedBlob: the stored bytes are wrong, or gone.
            StoreUnavailable, DatabaseUnavailable: it could not be found out.
        """
        with self._database.read() as connection:
            row = connection.execute(_BLOB, {"of": descriptor.digest}).first()
        if row is None or row.state != "live":
            return None
        if row.size_bytes != descriptor.size_bytes:
            raise SizeMismatch(
                f"{descriptor.digest}: {row.size_bytes} bytes are here, {descriptor.size_bytes} are announced"
            )
        try:
            with self._store.open(row.key) as stream:
                content = read_up_to(stream, descriptor.size_bytes)
        except ObjectMissing as error:
            raise DamagedBlob(f"{descriptor.digest}: {error}") from error
        if not descriptor.digest.matches(content):
            raise DamagedBlob(f"{descriptor.digest}: the stored bytes have another digest")
        return content


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
