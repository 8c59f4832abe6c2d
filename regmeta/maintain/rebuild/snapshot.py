"""One snapshot, read and checked: what is in the store's folder may be torn, or not ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from regmeta.errors import InputError, InvalidSource, UsageError
from regmeta.ingest import snapshots
from regmeta.ingest.immutable import Lock
from regmeta.maintain.rebuild.listing import SnapshotList
from regmeta.maintain.rebuild.report import Problem
from regmeta.oci import globs, layout, manifest, names, strict_json
from regmeta.oci.descriptor import REF_NAME, Descriptor, parse_annotations
from regmeta.oci.digest import Digest
from regmeta.oci.image_config import parse_time
from regmeta.store import BlobStore

MAX_SNAPSHOT_BYTES: Final = 1 << 30  # [bytes] some four million entries
STATES: Final = ("active", "deleted", "purging")


@dataclass(frozen=True, slots=True)
class RepositorySnapshot:
    """What a repository held at one revision: exactly these manifests, under these tags."""

    record: str
    repository: str
    version: tuple[int, int]  # epoch, revision
    state: str
    created_at: datetime | None  # None in snapshots of older releases
    updated_at: datetime | None
    manifests: Mapping[Digest, Descriptor]
    tags: Mapping[str, Digest]
    locks: tuple[Lock, ...] = ()


def newest_readable(
    store: BlobStore, listed: SnapshotList, repository: str
) -> tuple[RepositorySnapshot | None, list[Problem]]:
    """Return the newest snapshot that can be understood, and what is wrong with those that cannot.

    Raises:
        StoreUnavailable: one could not be read; what it says is not known, so no older one takes its place.
    """
    problems = []
    for version, record in listed.newest_first(repository):
        try:
            found = read_snapshot(store, record, repository, version)
        except InputError as error:
            problems.append(Problem(repository, record, f"not a snapshot ({error})"))
            continue
        if found is not None:  # a newer one has taken its place since it was listed
            return found, problems
    return None, problems


def read_snapshot(
    store: BlobStore, record: str, repository: str, version: tuple[int, int]
) -> RepositorySnapshot | None:
    """Read one snapshot; None if it is gone.

    Raises:
        InputError: it is torn, or of another repository or version than its name says.
        StoreUnavailable: it could not be read.
    """
    content = store.read_record(record)
    if content is None:
        return None
    if len(content) > MAX_SNAPSHOT_BYTES:
        raise InvalidSource(f"{len(content)} bytes are more than {MAX_SNAPSHOT_BYTES}")
    entries, annotations = _document(content, record)
    _expect(annotations, snapshots.REPOSITORY_ANNOTATION, repository)
    _expect(annotations, snapshots.REVISION_ANNOTATION, f"{version[0]}-{version[1]}")
    state = annotations.get(snapshots.STATE_ANNOTATION)
    if state not in STATES:
        raise InvalidSource(f"its state is {str(state)[:40]!r}")
    manifests, tags = _contents(entries, record)
    return RepositorySnapshot(
        record,
        repository,
        version,
        state,
        parse_time(annotations.get(snapshots.CREATED_ANNOTATION)),
        parse_time(annotations.get(snapshots.UPDATED_ANNOTATION)),
        manifests,
        tags,
        _locks(annotations.get(snapshots.LOCKS_ANNOTATION)),
    )


def _document(content: bytes, where: str) -> tuple[list[object], Mapping[str, str]]:
    entries = layout.parse_index_file(content, where)
    document: Any = strict_json.loads(content)
    return entries, parse_annotations(document, where)


def _expect(annotations: Mapping[str, str], name: str, value: str) -> None:
    found = annotations.get(name)
    if found != value:
        raise InvalidSource(f"its {name} is {str(found)[:300]!r}, its own name says {value!r}")


def _locks(text: str | None) -> tuple[Lock, ...]:
    """Read which tags are locked.

    Raises:
        InvalidSource: it is not what a snapshot says of locks; to go on without them would lose them.
    """
    if text is None:
        return ()
    try:
        return tuple(_lock(item) for item in strict_json.loads(text.encode()))
    except (InputError, UsageError, TypeError, ValueError) as error:
        raise InvalidSource(f"its {snapshots.LOCKS_ANNOTATION} is {text[:100]!r}") from error


def _lock(item: Any) -> Lock:
    pattern, created, actor = item
    created_at = parse_time(created)
    if created_at is None:
        raise InvalidSource(f"the lock {pattern} has no time")
    return Lock(globs.check(pattern), created_at, str(actor))


def _contents(entries: list[object], where: str) -> tuple[dict[Digest, Descriptor], dict[str, Digest]]:
    manifests: dict[Digest, Descriptor] = {}
    tags: dict[str, Digest] = {}
    for number, entry in enumerate(entries):
        descriptor = Descriptor.parse(entry, f"entry {number}")
        digest = descriptor.digest
        if descriptor.size_bytes > manifest.MAX_MANIFEST_BYTES:
            raise InvalidSource(f"{digest}: {descriptor.size_bytes} bytes are too many for a manifest")
        known = manifests.setdefault(digest, descriptor)
        if (known.media_type, known.size_bytes) != (descriptor.media_type, descriptor.size_bytes):
            raise InvalidSource(f"{digest}: listed twice, and not the same")
        tag = descriptor.annotations.get(REF_NAME)
        if tag is not None:
            if names.tag_name(tag) in tags:
                raise InvalidSource(f"the tag {tag} is there twice")
            tags[tag] = digest
    return manifests, tags
