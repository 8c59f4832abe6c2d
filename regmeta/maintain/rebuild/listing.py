"""What the store lists: its objects by digest, and its snapshots by repository."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from regmeta.errors import InvalidName
from regmeta.ingest.snapshots import version_of
from regmeta.oci import names
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore, ObjectInfo

SNAPSHOTS: Final = "layouts"
_GREATEST: Final = 2**62  # of an epoch or a revision: the next one fits a row as well
_UUID_BYTES: Final = 16
_COPY_BYTES: Final = _UUID_BYTES + 8


@dataclass(frozen=True, slots=True)
class Copy:
    """One stored copy of some content, as a listing shows it."""

    key: str
    size_bytes: int


class ObjectMap:
    """All objects of a store, by digest: some 250 bytes each, so that millions fit."""

    def __init__(self, store: BlobStore) -> None:
        """List the store, and make what it lists durable: rows are going to name it (I1).

        Raises:
            StoreUnavailable: the listing is not whole.
        """
        self._store = store
        self._copies: dict[bytes, bytes] = {}
        self._asked_twice = False
        self._read()

    def __len__(self) -> int:
        return len(self._copies)

    def copies(self, digest: Digest) -> list[Copy]:
        """Return the copies of a digest, in the order of their keys."""
        found = self._copies.get(digest.to_bytes(), b"")
        return [_unpacked(digest, found[at : at + _COPY_BYTES]) for at in range(0, len(found), _COPY_BYTES)]

    def ask_again(self) -> bool:
        """List once more, since something is missing; tells whether this is the first time.

        What either listing shows is there, if it can be read.
        """
        if self._asked_twice:
            return False
        self._asked_twice = True
        self._read()
        return True

    def _read(self) -> None:
        for info in self._store.walk():
            digest, packed = _packed(info)
            known = self._copies.get(digest, b"")
            starts = range(0, len(known), _COPY_BYTES)
            if all(known[at : at + _UUID_BYTES] != packed[:_UUID_BYTES] for at in starts):
                copies = [known[at : at + _COPY_BYTES] for at in starts]
                self._copies[digest] = b"".join(sorted([*copies, packed]))
        self._store.settle()


def _packed(info: ObjectInfo) -> tuple[bytes, bytes]:
    algorithm, _, name = info.key.split("/")
    encoded, _, unique = name.partition(".")
    digest = Digest(algorithm, encoded).to_bytes()
    return digest, bytes.fromhex(unique) + info.size_bytes.to_bytes(8, "big")


def _unpacked(digest: Digest, packed: bytes) -> Copy:
    key = f"{digest.algorithm}/{digest.hex[:2]}/{digest.hex}.{packed[:_UUID_BYTES].hex()}"
    return Copy(key, int.from_bytes(packed[_UUID_BYTES:], "big"))


@dataclass(frozen=True, slots=True)
class SnapshotList:
    """The snapshots that a store lists."""

    versions: dict[str, list[tuple[int, int]]]  # repository -> (epoch, revision), newest first
    records: dict[tuple[str, tuple[int, int]], list[str]]  # names; several of one version are possible
    strange: tuple[str, ...]  # of a repository or a version that there cannot be

    @property
    def greatest_epoch(self) -> int:
        """The greatest epoch that anyone wrote a snapshot in; 0 if there is none."""
        return max((versions[0][0] for versions in self.versions.values()), default=0)

    def newest_first(self, repository: str) -> Iterable[tuple[tuple[int, int], str]]:
        """Give the snapshots of a repository, with their versions."""
        for version in self.versions.get(repository, []):
            for record in self.records[repository, version]:
                yield version, record


def list_snapshots(store: BlobStore) -> SnapshotList:
    """List all snapshots.

    Raises:
        StoreUnavailable: the listing is not whole.
    """
    return sort_records(store.walk_records(SNAPSHOTS))


def sort_records(records: Iterable[str]) -> SnapshotList:
    """Sort the names of snapshots by repository and version; other documents are left out."""
    versions: dict[str, set[tuple[int, int]]] = {}
    named: dict[tuple[str, tuple[int, int]], list[str]] = {}
    strange = []
    for record in records:
        version = version_of(record)
        if version is None:
            continue
        if max(version) > _GREATEST:
            strange.append(record)
            continue
        repository = record.removeprefix(f"{SNAPSHOTS}/").rpartition("/")[0]
        try:
            names.repository_name(repository)
        except InvalidName:
            strange.append(record)
            continue
        versions.setdefault(repository, set()).add(version)
        named.setdefault((repository, version), []).append(record)
    return SnapshotList(
        {name: sorted(found, reverse=True) for name, found in sorted(versions.items())},
        {key: sorted(found) for key, found in named.items()},
        tuple(sorted(strange)),
    )
