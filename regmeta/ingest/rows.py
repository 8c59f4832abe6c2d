"""From a plan to the values of rows. No statement is run here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from regmeta.ingest.plan import PlannedManifest
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.oci.folding import text_key, text_of
from regmeta.oci.manifest import Index, Manifest, may_be_manifest

Row = dict[str, Any]

# Labels are there to be searched; the bytes hold them whole.
MAX_LABELS: Final = 256  # of one origin and manifest
MAX_LABEL_NAME: Final = 512  # [characters]
MAX_LABEL_VALUE: Final = 4096  # [characters]


def manifest(
    planned: PlannedManifest,
    *,
    repository_id: int,
    blob_id: int,
    now: datetime,
    actor: str,
    lease_until: datetime,
) -> Row:
    """Return the row of a manifest or an index."""
    document, config = planned.document, planned.config
    image = document if isinstance(document, Manifest) else None
    chain = _chain(image, config.diff_ids) if image else []
    return {
        "repository_id": repository_id,
        "digest": document.digest,
        "kind": document.kind,
        "media_type": document.media_type,
        "size_bytes": len(document.content),
        "content": document.content,
        "blob_id": blob_id,
        "artifact_type": document.effective_artifact_type,
        "config_media_type": image.config.media_type if image else None,
        "subject_digest": document.subject.digest if document.subject else None,
        "os": config.os,
        "architecture": config.architecture,
        "variant": config.variant,
        "image_created_at": config.created_at,
        "layer_count": len(image.layers) if image else None,
        "total_size_bytes": sum(blob.size_bytes for blob in image.blobs) if image else None,
        "chain_digest": chain[-1] if chain else None,
        "pushed_at": now if planned.pushed_at is None else min(now, planned.pushed_at),
        "pushed_by": actor,
        "lease_until": lease_until,
    }


def blob_edges(
    manifests: Iterable[PlannedManifest], ids: Mapping[Digest, int], blob_ids: Mapping[Digest, int]
) -> list[Row]:
    """Return the edges from image manifests to their configurations and layers."""
    result = []
    for planned in manifests:
        document = planned.document
        if not isinstance(document, Manifest):
            continue
        chain = [None, *_chain(document, planned.config.diff_ids)]
        for position, descriptor in enumerate(document.blobs):
            absent = position > 0 and descriptor.media_type in media_types.NON_DISTRIBUTABLE
            result.append(
                {
                    "manifest_id": ids[document.digest],
                    "position": position,
                    "role": "layer" if position else "config",
                    "blob_id": None if absent else blob_ids[descriptor.digest],
                    "absent_digest": descriptor.digest if absent else None,
                    "chain_digest": chain[position],
                }
            )
    return result


def index_members(
    manifests: Iterable[PlannedManifest],
    ids: Mapping[Digest, int],
    blob_ids: Mapping[Digest, int],
    absent: Mapping[Digest, str],
) -> list[Row]:
    """Return the edges from indexes to what they list; *absent* says why a child is not there."""
    result = []
    for planned in manifests:
        document = planned.document
        if not isinstance(document, Index):
            continue
        for position, child in enumerate(document.manifests):
            # Content of another type is a blob, whatever else of the same digest there is.
            is_manifest = may_be_manifest(child.media_type)
            child_id = ids.get(child.digest) if is_manifest else None
            absence = absent.get(child.digest) if is_manifest and child_id is None else None
            platform = child.platform
            result.append(
                {
                    "index_id": ids[document.digest],
                    "position": position,
                    "child_digest": child.digest,
                    "child_id": child_id,
                    "blob_id": blob_ids[child.digest] if child_id is None and absence is None else None,
                    "absence": absence,
                    "media_type": child.media_type,
                    "size_bytes": child.size_bytes,
                    "os": _text(platform.os if platform else None),
                    "architecture": _text(platform.architecture if platform else None),
                    "variant": _text(platform.variant if platform else None),
                    "os_version": _text(platform.os_version if platform else None),
                }
            )
    return result


def labels(manifests: Iterable[PlannedManifest], ids: Mapping[Digest, int]) -> list[Row]:
    """Return the annotations and configuration labels that can be searched for."""
    result = []
    for planned in manifests:
        found = (
            ("annotation", planned.document.annotations),
            ("config", planned.config.labels),
        )
        for origin, pairs in found:
            for name, value in list(pairs.items())[:MAX_LABELS]:
                if len(name) <= MAX_LABEL_NAME and "\0" not in name:
                    kept = _said(value[:MAX_LABEL_VALUE])
                    result.append(
                        {
                            "manifest_id": ids[planned.document.digest],
                            "origin": origin,
                            "name": name,
                            "value": kept,
                            "text_key": text_key(text_of(kept)),
                        }
                    )
    return result


def _chain(document: Manifest, diff_ids: Sequence[Digest]) -> list[Digest]:
    """Name each prefix of the layers, as config.md names a "Layer ChainID".

    Over the diff ids, so that images that compress the same layer differently share it; over the layers'
    own digests where the configuration does not say them.
    """
    parts = [layer.digest for layer in document.layers]
    if len(diff_ids) == len(parts):
        parts = list(diff_ids)
    result: list[Digest] = []
    for part in parts:
        result.append(Digest.of(f"{result[-1]} {part}".encode()) if result else part)
    return result


def _text(value: str | None) -> str | None:
    return None if value is None else _said(value)


def _said(value: str) -> str:
    # NUL is legal JSON and not legal in a PostgreSQL text.
    return value.replace("\0", "\ufffd")
