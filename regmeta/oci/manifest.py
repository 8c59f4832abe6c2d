"""Manifests and indexes: exact bytes to a checked value (image-spec ``manifest.md``, ``image-index.md``).

The bytes are what counts: they are kept as they came, and a digest is only ever computed over
them. What is parsed here says which other content they name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from regmeta.errors import InvalidDigest, InvalidManifest
from regmeta.oci import media_types, strict_json
from regmeta.oci.descriptor import Descriptor, optional_string, parse_annotations
from regmeta.oci.digest import Digest

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024  # [bytes] distribution-spec: at least 4 MB accepted


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image or artifact manifest, OCI or Docker schema 2."""

    media_type: str
    digest: Digest
    content: bytes = field(repr=False)
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None
    artifact_type: str | None
    annotations: Mapping[str, str] = field(compare=False)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The configuration, then the layers from the base up."""
        return (self.config, *self.layers)

    @property
    def kind(self) -> str:
        """The discriminator of the ``manifests`` table."""
        return "image"

    @property
    def effective_artifact_type(self) -> str | None:
        """The type that the referrers API filters by (distribution-spec, "Listing Referrers")."""
        return self.artifact_type or self.config.media_type


@dataclass(frozen=True, slots=True)
class Index:
    """An image index or a Docker manifest list."""

    media_type: str
    digest: Digest
    content: bytes = field(repr=False)
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None
    artifact_type: str | None
    annotations: Mapping[str, str] = field(compare=False)

    @property
    def kind(self) -> str:
        """The discriminator of the ``manifests`` table."""
        return "index"

    @property
    def effective_artifact_type(self) -> str | None:
        """The type that the referrers API filters by (distribution-spec, "Listing Referrers")."""
        return self.artifact_type


def parse(
    content: bytes, digest: Digest, media_type: str | None = None, *, verified: bool = False
) -> Manifest | Index:
    """Read a manifest or an index.

    *media_type* is what a descriptor or a ``Content-Type`` says of it; parameters are ignored.
    Pass *verified* only where the bytes have been hashed already.

    Raises:
        InvalidManifest: too large, not strict JSON, of no type, of two types that differ, of Docker
            schema 1, both image and index (CVE-2021-41190), or a required field is missing or wrong.
        InvalidDigest: the bytes do not have *digest*, or name content by something that is no
            digest.
    """
    where = str(digest)
    if len(content) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"{where}: {len(content)} bytes are more than {MAX_MANIFEST_BYTES}")
    if not verified and not digest.matches(content):
        raise InvalidDigest(f"{where}: the manifest's bytes have another digest")
    try:
        document = strict_json.load_object(content)
    except strict_json.StrictJSONError as error:
        raise InvalidManifest(f"{where}: {error}") from None
    actual_type = _media_type(document, media_type, where)
    version = document.get("schemaVersion")
    if type(version) is not int or version != 2:
        raise InvalidManifest(f"{where}: schemaVersion is {str(version)[:40]!r}, not 2")
    if _is_index(document, actual_type, where):
        return Index(
            actual_type,
            digest,
            content,
            _descriptors(document, "manifests", where),
            _subject(document, where),
            _artifact_type(document, where),
            parse_annotations(document, where),
        )
    if "config" not in document:
        raise InvalidManifest(f"{where}: config is missing")
    return Manifest(
        actual_type,
        digest,
        content,
        Descriptor.parse(document["config"], f"{where}: config"),
        _descriptors(document, "layers", where),
        _subject(document, where),
        _artifact_type(document, where),
        parse_annotations(document, where),
    )


def may_be_manifest(media_type: str) -> bool:
    """Tell whether an index entry of this type is a manifest that must be understood.

    An entry of another type is kept as it is, unread (image-index.md: implementations MUST NOT
    generate an error for a type they do not know).
    """
    return (
        media_type in media_types.IMAGE_MANIFESTS
        or media_type in media_types.INDEXES
        or media_type in media_types.DOCKER_SCHEMA1
    )


def _media_type(document: dict[str, Any], given: str | None, where: str) -> str:
    if given is not None:
        given = given.partition(";")[0].strip()
    own = document.get("mediaType")
    # What registries in Go wrote for none is read as none, as they do.
    if own not in (None, "") and (not isinstance(own, str) or not media_types.is_media_type(own)):
        raise InvalidManifest(f"{where}: mediaType is {str(own)[:100]!r}")
    if own and given and own != given:
        raise InvalidManifest(f"{where}: says it is {own}, but is listed as {given}")
    found = own or given
    if not found:
        raise InvalidManifest(f"{where}: has no mediaType, and none was given with it")
    if found in media_types.DOCKER_SCHEMA1:
        raise InvalidManifest(f"{where}: Docker schema 1 is not supported ({found})")
    return found


def _is_index(document: dict[str, Any], media_type: str, where: str) -> bool:
    has_manifests = "manifests" in document
    has_image = "layers" in document or "config" in document
    if has_manifests and has_image:
        raise InvalidManifest(f"{where}: both an image manifest and an index")
    if media_type in media_types.INDEXES:
        if not has_manifests:
            raise InvalidManifest(f"{where}: {media_type} without manifests")
        return True
    if media_type in media_types.IMAGE_MANIFESTS:
        if not has_image:
            raise InvalidManifest(f"{where}: {media_type} without config and layers")
        return False
    # A type that is not known here is understood by its shape, or not at all.
    if not has_manifests and not has_image:
        raise InvalidManifest(f"{where}: {media_type} is neither an image manifest nor an index")
    return has_manifests


def _descriptors(document: dict[str, Any], name: str, where: str) -> tuple[Descriptor, ...]:
    found = document.get(name)
    if not isinstance(found, list):
        raise InvalidManifest(f"{where}: {name} is not a list")
    return tuple(Descriptor.parse(item, f"{where}: {name}[{number}]") for number, item in enumerate(found))


def _subject(document: dict[str, Any], where: str) -> Descriptor | None:
    found = document.get("subject")
    return None if found is None else Descriptor.parse(found, f"{where}: subject")


def _artifact_type(document: dict[str, Any], where: str) -> str | None:
    found = optional_string(document, "artifactType", where)
    if found and not media_types.is_media_type(found):
        raise InvalidManifest(f"{where}: artifactType is {found[:100]!r}")
    return found or None
