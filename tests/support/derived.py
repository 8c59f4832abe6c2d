"""What the bytes of a manifest say should stand in rows, worked out a second time and in another way.

Nothing of the package is used here but its limits: a mistake in how it reads a manifest must not hide itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from regmeta.ingest.rows import MAX_LABEL_NAME, MAX_LABEL_VALUE, MAX_LABELS

Json = dict[str, Any]

FOREIGN = ("nondistributable", "image.rootfs.foreign")
IMAGE_CONFIGS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_NUMBERS = {"sha256": 1, "sha512": 2}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_MAX_CONFIG_BYTES = 4 * 1024 * 1024  # [bytes]
_MAX_DEPTH = 32


def raw(digest: str) -> bytes:
    """Return a digest as rows hold it."""
    algorithm, _, encoded = digest.partition(":")
    return bytes([_NUMBERS[algorithm]]) + bytes.fromhex(encoded)


def text(stored: bytes) -> str:
    """Return a digest that a row holds as it is written."""
    algorithm = {number: name for name, number in _NUMBERS.items()}[stored[0]]
    return f"{algorithm}:{stored[1:].hex()}"


def hash_of(digest: str, content: bytes) -> str:
    """Return the digest of *content*, by the algorithm of another one."""
    algorithm = digest.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def is_image_config(media_type: str) -> bool:
    """Whether a configuration is one that says what is searched for."""
    return media_type in IMAGE_CONFIGS


def config_of(content: bytes | None) -> Json:
    """Return a configuration if it is an object and within the limits of what is read; else an empty one."""
    if content and len(content) > _MAX_CONFIG_BYTES:
        return {}
    try:
        found = json.loads((content or b"{}").decode(), object_pairs_hook=_once_each)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and _depth(found) <= _MAX_DEPTH else {}


def _once_each(pairs: list[tuple[str, Any]]) -> Json:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if parts is None else 1 + max(map(_depth, parts), default=0)


def _said(value: Any) -> str | None:
    return value if isinstance(value, str) and value and "\0" not in value else None


def manifest_row(document: Json, config: Json, size: int) -> Json:
    """Return the columns of ``manifests`` that are derived."""
    image = "manifests" not in document
    created = config.get("created")
    inner = document["config"] if image else {}
    row = {
        "kind": "image" if image else "index",
        "size_bytes": size,
        "artifact_type": document.get("artifactType") or inner.get("mediaType"),
        "config_media_type": inner.get("mediaType"),
        "subject_digest": document["subject"]["digest"] if document.get("subject") else None,
        "os": _said(config.get("os")),
        "architecture": _said(config.get("architecture")),
        "variant": _said(config.get("variant")),
        "image_created_at": _microseconds(created) if isinstance(created, str) else None,
        "layer_count": len(document["layers"]) if image else None,
        "total_size_bytes": None,
    }
    if image:
        row["total_size_bytes"] = sum(part["size"] for part in [inner, *document["layers"]])
    return row


def blob_edges(document: Json, config: Json) -> list[tuple[Any, ...]]:
    """Return (position, role, digest, is absent, chain digest) of each blob of an image manifest."""
    if "manifests" in document:
        return []
    layers = document["layers"]
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    known = isinstance(diff_ids, list) and all(isinstance(i, str) and _DIGEST.fullmatch(i) for i in diff_ids)
    parts = [layer["digest"] for layer in layers]
    if diff_ids and known and len(diff_ids) == len(layers):
        parts = diff_ids
    edges: list[tuple[Any, ...]] = [(0, "config", document["config"]["digest"], False, None)]
    chain = None
    for position, (layer, part) in enumerate(zip(layers, parts, strict=True), 1):
        chain = part if chain is None else "sha256:" + hashlib.sha256(f"{chain} {part}".encode()).hexdigest()
        absent = any(word in layer["mediaType"] for word in FOREIGN)
        edges.append((position, "layer", layer["digest"], absent, chain))
    return edges


def members(document: Json) -> list[tuple[Any, ...]]:
    """Return (position, digest, media type, size, os, architecture, variant, os version) of each child."""
    found = []
    for position, child in enumerate(document.get("manifests", [])):
        platform = child.get("platform") or {}
        texts = (platform.get(name) for name in ("os", "architecture", "variant", "os.version"))
        said = (text if text is None else text.replace("\0", "\ufffd") for text in texts)
        found.append((position, child["digest"], child["mediaType"], child["size"], *said))
    return found


def labels(document: Json, config: Json) -> set[tuple[str, str, str]]:
    """Return (origin, name, value) of what can be searched for."""
    inner = config.get("config")
    found = set()
    for origin, pairs in (
        ("annotation", document.get("annotations") or {}),
        ("config", (inner.get("Labels") if isinstance(inner, dict) else None) or {}),
    ):
        if not isinstance(pairs, dict):
            continue
        said = [(name, value) for name, value in pairs.items() if isinstance(value, str)]
        for name, value in said[:MAX_LABELS]:
            if len(name) <= MAX_LABEL_NAME and "\0" not in name:
                found.add((origin, name, value[:MAX_LABEL_VALUE].replace("\0", "\ufffd")))
    return found


def _microseconds(created: str) -> int | None:
    try:
        moment = datetime.fromisoformat(created).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
