"""Manifests: the bytes in the row, and everything that is derived from them, parsed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.errors import InputError, StoreUnavailable
from regmeta.ingest.plan import PlannedManifest
from regmeta.maintain.verify import expected
from regmeta.maintain.verify.expected import Actual, Surroundings
from regmeta.maintain.verify.findings import Finding, Kind
from regmeta.maintain.verify.pages import digest_of, pages, reading, shown
from regmeta.models import Manifest
from regmeta.oci import image_config, manifest, media_types
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Index, may_be_manifest
from regmeta.oci.streams import read_up_to
from regmeta.store import BlobStore, ObjectMissing
from regmeta.store.paths import is_key

CHUNK_MANIFESTS: Final = 200
CHUNK_BYTES: Final = 16 * 1024 * 1024  # [bytes] of manifests that are held at once

_SIZES: Final = sa.select(Manifest.id, sa.func.length(Manifest.content).label("size_bytes"))


@dataclass(frozen=True, slots=True)
class _Parsed:
    row: Any
    planned: PlannedManifest
    config_known: bool


def check_manifests(database: Database, store: BlobStore, advanced: Any) -> Iterator[Finding]:
    """Compare each manifest's row, edges, labels and links with what its bytes say.

    A page is read in one transaction, so a writer at work is seen before or after and not halfway.
    """
    for ids in _chunks(database):
        with reading(database) as connection:
            actual = expected.actual_rows(connection, ids)
            documents = {row.id: _parse(row) for row in actual.manifests}
            around = {}
            for repository_id in {row.repository_id for row in actual.manifests}:
                named = [
                    documents[row.id].document
                    for row in actual.manifests
                    if row.repository_id == repository_id and isinstance(documents[row.id], PlannedManifest)
                ]
                around[repository_id] = expected.surroundings(connection, repository_id, *_named(named))
        for row in actual.manifests:
            found = documents[row.id]
            if isinstance(found, Finding):
                yield found
            else:
                yield from _check(row, found, actual, around[row.repository_id], store)
        advanced(len(ids))


def _chunks(database: Database) -> Iterator[Sequence[int]]:
    """Give ids in pieces whose manifests fit into memory together."""
    for rows in pages(database, _SIZES, Manifest.id):
        some: list[int] = []
        size_bytes = 0
        for row in rows:
            if some and (len(some) >= CHUNK_MANIFESTS or size_bytes + row.size_bytes > CHUNK_BYTES):
                yield some
                some, size_bytes = [], 0
            some.append(row.id)
            size_bytes += row.size_bytes
        if some:
            yield some


def _parse(row: Any) -> Any:
    """Return the plan of a manifest without its configuration, or what is wrong with its bytes."""
    subject = f"{row.repository}@{shown(row.digest)}"
    digest = digest_of(row.digest)
    if digest is None:
        return Finding(Kind.MANIFEST_CONTENT, subject, "its digest is none", row.id)
    content = bytes(row.content)
    if not digest.matches(content):
        return Finding(Kind.MANIFEST_CONTENT, subject, "the bytes in its row have another digest", row.id)
    try:
        document = manifest.parse(content, digest, row.media_type, verified=True)
    except InputError as error:
        return Finding(Kind.MANIFEST_CONTENT, subject, f"the bytes are no manifest: {error}", row.id)
    return PlannedManifest(document, image_config.UNKNOWN)


def _named(documents: Sequence[Any]) -> tuple[set[Digest], set[Digest]]:
    """Return the digests of blobs and of children that manifests name; their own are blobs."""
    blobs: set[Digest] = set()
    children: set[Digest] = set()
    for document in documents:
        blobs.add(document.digest)
        if isinstance(document, Index):
            for child in document.manifests:
                (children if may_be_manifest(child.media_type) else blobs).add(child.digest)
        else:
            blobs.update(blob.digest for blob in document.blobs)
    return blobs, children


def _check(
    row: Any, planned: PlannedManifest, actual: Actual, around: Surroundings, store: BlobStore
) -> Iterator[Finding]:
    subject = f"{row.repository}@{planned.document.digest}"
    config = None
    if not isinstance(planned.document, Index):
        config = around.blobs.get(planned.document.config.digest)
    planned, config_known = with_config(planned, config, store)
    for detail in expected.manifest_differences(row, planned, config_known=config_known):
        yield Finding(Kind.MANIFEST_DRIFT, subject, detail, row.id)
    if row.blob_digest is None or bytes(row.blob_digest) != bytes(row.digest):
        yield Finding(Kind.MANIFEST_DRIFT, subject, "the blob that holds its bytes is another", row.id)
    for detail in expected.edge_differences(row, planned, actual, around, config_known=config_known):
        yield Finding(Kind.EDGE_DRIFT, subject, detail, row.id)
    blobs, _ = _named([planned.document])
    unlinked = sorted(
        digest
        for digest in blobs
        if digest in around.blobs
        and around.blobs[digest].id not in around.linked
        and digest not in _absent(planned)
    )
    if unlinked:
        detail = f"its repository may not read {len(unlinked)} blobs that it names, first {unlinked[0]}"
        yield Finding(Kind.LINK_MISSING, subject, detail, row.id)


def _absent(planned: PlannedManifest) -> set[Digest]:
    document = planned.document
    if isinstance(document, Index):
        return set()
    kept = {document.config.digest, document.digest}
    return {
        layer.digest for layer in document.layers if layer.media_type in media_types.NON_DISTRIBUTABLE
    } - kept


def with_config(planned: PlannedManifest, blob: Any, store: BlobStore) -> tuple[PlannedManifest, bool]:
    """Read an image's configuration from its blob (a row, or None); tell whether it could be, if it is one.

    What derives from one that is damaged is not compared.
    """
    document = planned.document
    if (
        isinstance(document, Index)
        or document.config.media_type not in media_types.IMAGE_CONFIGS
        or document.config.size_bytes > image_config.MAX_CONFIG_BYTES
    ):
        return planned, True
    size_bytes = document.config.size_bytes
    content = None if blob is None or blob.state != "live" else _content(store, blob, size_bytes)
    if content is None:
        return planned, False
    return PlannedManifest(document, image_config.parse(content)), True


def _content(store: BlobStore, blob: Any, size_bytes: int) -> bytes | None:
    """Return a small object's bytes, None if they are not the blob's: another pass reports that."""
    if not is_key(str(blob.key)):
        return None
    try:
        with store.open(blob.key) as stream:
            content = read_up_to(stream, size_bytes)
    except ObjectMissing:
        return None
    except StoreUnavailable:
        if store.stat(blob.key) is None:
            raise
        return None  # reading all data tells that it cannot be read
    return content if blob.digest.matches(content) else None
