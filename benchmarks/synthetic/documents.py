"""The bytes of manifests and indexes, written by hand since ``json.dumps`` would take most of the time.

Layers are said to be uncompressed, so a chain digest over layers is one over diff ids as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Final, NamedTuple

MEDIA_INDEX: Final = "application/vnd.oci.image.index.v1+json"
MEDIA_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
MEDIA_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
MEDIA_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
MEDIA_EMPTY: Final = "application/vnd.oci.empty.v1+json"
SHA256: Final = b"\x01"  # as rows write it before the hash

Platform = tuple[str, str, str | None]
PLATFORMS: Final[tuple[Platform, ...]] = (
    ("linux", "amd64", None),
    ("linux", "arm64", "v8"),
    ("linux", "ppc64le", None),
    ("linux", "s390x", None),
)


class Content(NamedTuple):
    """A blob that a manifest names; of a layer, ``chain`` names it and all below it."""

    blob_id: int
    digest: bytes  # as rows hold it
    size_bytes: int
    chain: bytes | None = None


class Document(NamedTuple):
    """The bytes of a manifest, and their digest as rows hold it."""

    content: bytes
    digest: bytes


def chain_of(below: bytes | None, layer: bytes) -> bytes:
    """Return the chain digest of a layer on top of others (image-spec config.md, "Layer ChainID")."""
    if below is None:
        return layer
    text = f"sha256:{below[1:].hex()} sha256:{layer[1:].hex()}"
    return SHA256 + hashlib.sha256(text.encode()).digest()


def image(
    config: Content,
    layers: Iterable[Content],
    annotations: Mapping[str, str],
    *,
    config_type: str = MEDIA_CONFIG,
    layer_type: str = MEDIA_LAYER,
    artifact_type: str | None = None,
    subject: tuple[bytes, int] | None = None,
) -> Document:
    """Return the manifest of an image or an artifact; *subject* is the digest and size of a manifest."""
    head = f',"artifactType":"{artifact_type}"' if artifact_type else ""
    named = ",".join(
        f'{{"mediaType":"{layer_type}","digest":"sha256:{layer.digest[1:].hex()}","size":{layer.size_bytes}}}'
        for layer in layers
    )
    about = (
        f',"subject":{{"mediaType":"{MEDIA_MANIFEST}","digest":"sha256:{subject[0][1:].hex()}",'
        f'"size":{subject[1]}}}'
        if subject
        else ""
    )
    return _document(
        f'{{"schemaVersion":2,"mediaType":"{MEDIA_MANIFEST}"{head},"config":{{"mediaType":"{config_type}",'
        f'"digest":"sha256:{config.digest[1:].hex()}","size":{config.size_bytes}}},"layers":[{named}]{about}'
        f"{_annotations(annotations)}}}"
    )


def index(children: Sequence[tuple[Document, Platform]], annotations: Mapping[str, str]) -> Document:
    """Return the index of images, one a platform."""
    named = ",".join(
        f'{{"mediaType":"{MEDIA_MANIFEST}","digest":"sha256:{child.digest[1:].hex()}",'
        f'"size":{len(child.content)},"platform":{{"os":"{os}","architecture":"{architecture}"'
        + (f',"variant":"{variant}"}}}}' if variant else "}}")
        for child, (os, architecture, variant) in children
    )
    return _document(
        f'{{"schemaVersion":2,"mediaType":"{MEDIA_INDEX}","manifests":[{named}]{_annotations(annotations)}}}'
    )


def _annotations(annotations: Mapping[str, str]) -> str:
    if not annotations:
        return ""
    pairs = ",".join(f"{quoted(name)}:{quoted(value)}" for name, value in annotations.items())
    return f',"annotations":{{{pairs}}}'


def _document(text: str) -> Document:
    content = text.encode()
    return Document(content, SHA256 + hashlib.sha256(content).digest())
