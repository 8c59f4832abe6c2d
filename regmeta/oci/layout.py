"""The two documents of an OCI image layout (image-spec ``image-layout.md``)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from regmeta.errors import InvalidSource
from regmeta.oci import media_types, strict_json
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest

LAYOUT_FILE: Final = "oci-layout"
INDEX_FILE: Final = "index.json"
BLOBS_FOLDER: Final = "blobs"
LAYOUT_CONTENT: Final = b'{"imageLayoutVersion":"1.0.0"}'
MAX_LAYOUT_FILE_BYTES: Final = 64 * 1024  # [bytes]
MAX_INDEX_FILE_BYTES: Final = 64 * 1024 * 1024  # [bytes] some 200,000 entries


def blob_path(digest: Digest) -> str:
    """Return the path of a blob in a layout, relative to it, from a digest that was parsed."""
    return f"{BLOBS_FOLDER}/{digest.algorithm}/{digest.hex}"


def check_layout_file(content: bytes, where: str) -> None:
    """Check ``oci-layout``.

    Raises:
        InvalidSource: not strict JSON, or not of version 1.
    """
    document = _object(content, where)
    version = document.get("imageLayoutVersion")
    if not isinstance(version, str):
        raise InvalidSource(f"{where}: imageLayoutVersion is missing")
    if not version.startswith("1."):
        raise InvalidSource(f"{where}: layout version {version[:40]!r} is not supported")


def parse_index_file(content: bytes, where: str) -> list[object]:
    """Return the entries of ``index.json``, each still to be parsed as a descriptor.

    Raises:
        InvalidSource: not strict JSON, or not an index.
    """
    document = _object(content, where)
    version = document.get("schemaVersion")
    if type(version) is not int or version != 2:
        raise InvalidSource(f"{where}: schemaVersion is not 2")
    own_type = document.get("mediaType", media_types.OCI_INDEX)
    if own_type != media_types.OCI_INDEX:
        raise InvalidSource(f"{where}: mediaType is {str(own_type)[:100]!r}")
    if "layers" in document or "config" in document:
        raise InvalidSource(f"{where}: both an image manifest and an index")
    entries = document.get("manifests")
    if not isinstance(entries, list):
        raise InvalidSource(f"{where}: manifests is not a list")
    return entries


def index_content(entries: Iterable[Descriptor], annotations: dict[str, str] | None = None) -> bytes:
    """Return the bytes of an ``index.json`` that lists *entries* in their order."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [entry.to_json() for entry in entries],
    }
    if annotations:
        document["annotations"] = annotations
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _object(content: bytes, where: str) -> dict[str, Any]:
    try:
        return strict_json.load_object(content)
    except strict_json.StrictJSONError as error:
        raise InvalidSource(f"{where}: {error}") from None
