"""Whether what is here is what the old registry serves: tags, manifests and their bytes, and blobs.

A difference that a defect explains was reported when it was found; any other one is a loss, or a change that
came since. Changes nothing. The old registry may be at work: what it got since the last run is a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from regmeta.adopt.records import defects, here, repositories
from regmeta.adopt.records.adoptions import KnownAdoption
from regmeta.adopt.records.defects import KnownDefect
from regmeta.adopt.terms import destination_of, fingerprint_of
from regmeta.db import Database
from regmeta.errors import DigestMismatch, Error, SizeMismatch, StoreUnavailable, without_frames
from regmeta.ingest.adopted_statistics import PUSHED
from regmeta.ingest.plan import ADOPTED
from regmeta.oci.digest import Digest
from regmeta.sources.storage import RegistryStorage, StoredRepository
from regmeta.store import BlobStore, ObjectMissing
from regmeta.store.intake import read_through
from regmeta.threads import Threads

READING: Final = 8
DifferenceKind = Literal["missing", "different", "only here", "damaged here", "unreadable there"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same: *subject* is a tag or a digest, or a repository that does not come.

    *explained_by* is the class of a defect that was reported; or "gone-there" for what an adoption brought
    and was deleted there since: it is kept here until the adoption is finalized, and then collected.
    """

    kind: DifferenceKind
    subject: str
    detail: str
    explained_by: str | None = None


@dataclass(slots=True)
class ComparedRepository:
    """What was compared of one repository: how much is the same, and what is not."""

    source: str
    destination: str
    tags: int = 0
    manifests: int = 0
    blobs: int = 0
    differences: list[Difference] = field(default_factory=list)
    failure: Error | None = None

    @property
    def is_equal(self) -> bool:
        """Whether all that the old registry serves is here, but for what defects explain."""
        return self.failure is None and all(each.explained_by for each in self.differences)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a comparison works with."""

    storage: RegistryStorage
    database: Database
    store: BlobStore
    adoption: KnownAdoption
    deep: bool = False


def compare(parts: Parts, advanced: Callable[[str], None]) -> Iterator[ComparedRepository]:
    """Compare one repository after the other; *advanced* is told which one comes next.

    With *deep* the bytes of all blobs are read and hashed here, not only those of manifests.

    Raises:
        InvalidSource: the repositories there cannot be listed.
        Unavailable: the registry here does not answer.
    """
    with Threads(READING, thread_name_prefix="compare") as pool:
        seen = set()
        for name in parts.storage.repositories():
            advanced(name)
            seen.add(name)
            destination = destination_of(parts.adoption.prefix, name) or ""
            compared = ComparedRepository(name, destination)
            try:
                fingerprint = fingerprint_of(parts.storage, name)
                listing = parts.storage.repository(name)
            except Error as error:
                compared.failure = without_frames(error)
            else:
                _Comparison(parts, pool, listing, compared, fingerprint).run()
            yield compared
        yield from _gone(parts, seen)


def _gone(parts: Parts, seen: set[str]) -> Iterator[ComparedRepository]:
    """Give the repositories that were brought and are not there any more."""
    for known in repositories.every(parts.database, parts.adoption.id):
        if known.source in seen or not known.tags:
            continue
        if next(here.manifests(parts.database, known.destination), None) is not None:
            detail = f"the whole repository is gone there since {known.checked_at:%F %TZ}"
            gone = [Difference("only here", known.destination, detail)]
            yield ComparedRepository(known.source, known.destination, differences=gone)


class _Comparison:
    """Of one repository."""

    def __init__(
        self,
        parts: Parts,
        pool: Threads,
        listing: StoredRepository,
        compared: ComparedRepository,
        fingerprint: str,
    ) -> None:
        self._parts = parts
        self._pool = pool
        self._listing = listing
        self._compared = compared
        row = repositories.known(parts.database, parts.adoption.id, listing.name)
        # What was noted before something changed there explains nothing of how it is now.
        is_current = row is not None and row.fingerprint == fingerprint
        known = defects.of_repository(parts.database, parts.adoption.id, listing.name) if is_current else []
        self._refused = _refused(known, listing.name)
        self._explained = _by_subject(known)
        for tag in listing.tags:  # what is wrong with an image is noted under its tag
            if tag.name in self._explained:
                self._explained.setdefault(str(tag.digest), self._explained[tag.name])

    def run(self) -> None:
        """Compare tags, manifests, and blobs."""
        for defect in self._listing.defects:
            if defect.kind == "unreadable" and defect.subject == self._listing.name:
                self._differ("unreadable there", defect.subject, defect.detail)
        if not self._compared.destination or self._refused is not None:
            # By its name where it lists nothing: one with a bad name is not even looked into.
            subjects = [tag.name for tag in self._listing.tags]
            subjects += [str(digest) for digest in sorted(self._listing.manifests)]
            self._compared.differences += [
                Difference("missing", subject, "has no place here", self._refused)
                for subject in subjects or [self._listing.name]
            ]
            return
        self._tags()
        self._manifests()

    def _tags(self) -> None:
        now = here.live_tags(self._parts.database, self._compared.destination)
        there = {tag.name: tag.digest for tag in self._listing.tags}
        for name, digest in there.items():
            found = now.get(name)
            if found is None:
                self._differ("missing", name, f"is {digest} there", digest)
            elif found.digest != digest:
                self._differ("different", name, f"is {digest} there, and {found.digest} here", digest)
            else:
                self._compared.tags += 1
        broken = {defect.subject for defect in self._listing.defects}
        for name in sorted(now.keys() - there.keys()):
            detail = f"points at {now[name].digest}"
            self._differ("only here", name, detail + (", and is broken there" if name in broken else ""))

    def _manifests(self) -> None:
        database, name = self._parts.database, self._compared.destination
        left = set(self._listing.manifests)
        more: dict[Digest, bool] = {}
        for some in here.manifests(database, name):
            for manifest, wrong in zip(some, self._pool.map(self._wrong_with, some), strict=True):
                if wrong is not None:
                    self._differ("damaged here", str(manifest.digest), wrong)
                elif manifest.digest in left:
                    self._compared.manifests += 1
                if manifest.digest not in left:
                    # zot's statistics may have told meanwhile who pushed it there.
                    more[manifest.digest] = manifest.pushed_by.startswith((ADOPTED, PUSHED))
                left.discard(manifest.digest)
            self._blobs([manifest.id for manifest in some])
        for digest in sorted(left):
            self._differ("missing", str(digest), "is served there", digest)
        if self._parts.storage.kind == "layouts":
            # A layout lists an index, and not what the index lists.
            for digest in here.listed_children(database, name) & more.keys():
                del more[digest]
        for digest, is_ours in sorted(more.items()):
            difference = Difference(
                "only here", str(digest), "is not served there", "gone-there" if is_ours else None
            )
            self._compared.differences.append(difference)

    def _blobs(self, manifest_ids: Sequence[int]) -> None:
        found = here.blobs(self._parts.database, manifest_ids)
        infos = self._parts.store.look(blob.key for blob in found.values())
        wrongs = self._pool.map(self._read, found.values()) if self._parts.deep else ()
        by_digest = dict(zip(found, wrongs, strict=False))
        for digest, blob in found.items():
            info = infos[blob.key]
            wrong = by_digest.get(digest)
            if isinstance(info, StoreUnavailable):
                raise info
            if blob.state != "live":
                wrong = "is marked as damaged"
            elif info is None:
                wrong = "its object is missing"
            elif info.size_bytes != blob.size_bytes:
                wrong = f"its object has {info.size_bytes} bytes, not {blob.size_bytes}"
            if wrong is not None:
                self._differ("damaged here", str(digest), wrong)
            else:
                self._compared.blobs += 1

    def _wrong_with(self, manifest: here.ManifestHere) -> str | None:
        if not manifest.digest.matches(manifest.content):
            return "the bytes in its row have another digest"
        return self._read(here.BlobHere(manifest.digest, manifest.key, manifest.size_bytes, manifest.state))

    def _read(self, blob: here.BlobHere) -> str | None:
        """Read an object to its end; return in words what is wrong with it."""
        try:
            with self._parts.store.open(blob.key) as stream:
                read_through(stream, blob.digest, blob.size_bytes)
        except (ObjectMissing, DigestMismatch, SizeMismatch) as error:
            return str(error)
        return None

    def _differ(self, kind: DifferenceKind, subject: str, detail: str, digest: Digest | None = None) -> None:
        explained = None
        # What was moved here is explained by nothing that is wrong there.
        for key in (subject, str(digest)) if kind in ("missing", "different") else ():
            explained = explained or self._explained.get(key)
        self._compared.differences.append(Difference(kind, subject, detail, explained))


def _refused(known: Sequence[KnownDefect], name: str) -> str | None:
    """Return the class of what keeps a whole repository from coming; None if nothing does."""
    kinds = ("bad-repository-name", "refused-here")
    return next((each.kind for each in known if each.subject == name and each.kind in kinds), None)


def _by_subject(known: Sequence[KnownDefect]) -> dict[str, str]:
    """Return the class that explains why something is not here, by tag and digest."""
    explained: dict[str, str] = {}
    for each in known:
        if each.outcome == "left out" and each.kind not in ("moved-here", "tags-gone"):
            for key in (each.image, each.subject):
                explained.setdefault(key, each.kind)
    explained.pop("", None)
    return explained
