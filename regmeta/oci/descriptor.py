"""Descriptors (image-spec ``descriptor.md``) and the platform that one may carry."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from regmeta.errors import InvalidDigest, InvalidManifest
from regmeta.oci import media_types
from regmeta.oci.digest import Digest

EMPTY_JSON: Final = b"{}"
EMPTY_DIGEST: Final = Digest.of(EMPTY_JSON)
REF_NAME: Final = "org.opencontainers.image.ref.name"
_NO_ANNOTATIONS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Platform:
    """The platform an index entry is for (image-spec ``image-index.md``)."""

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    os_version: str | None = None

    @classmethod
    def parse(cls, value: object, where: str) -> Platform:
        """Read the ``platform`` object of a descriptor; *where* names it in an error."""
        if not isinstance(value, dict):
            raise InvalidManifest(f"{where}: platform is not an object")
        return cls(
            optional_string(value, "os", where),
            optional_string(value, "architecture", where),
            optional_string(value, "variant", where),
            optional_string(value, "os.version", where),
        )

    def to_json(self) -> dict[str, str]:
        """Return the object as it stands in a descriptor."""
        names = {
            "architecture": self.architecture,
            "os": self.os,
            "os.version": self.os_version,
            "variant": self.variant,
        }
        return {name: value for name, value in names.items() if value is not None}

    def __str__(self) -> str:
        parts = (self.os or "unknown", self.architecture or "unknown", self.variant)
        return "/".join(part for part in parts if part is not None)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What is said of some content before it is read: type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False)
    platform: Platform | None = None
    artifact_type: str | None = None

    @classmethod
    def parse(cls, value: object, where: str) -> Descriptor:
        """Read one descriptor; *where* names it in an error.

        Raises:
            InvalidManifest: a field is missing or of the wrong type, the size is negative or does
                not fit 64 bits, or embedded ``data`` is not the content.
            InvalidDigest: the digest is not of the grammar, or of an algorithm not kept here.
        """
        if not isinstance(value, dict):
            raise InvalidManifest(f"{where}: not a descriptor")
        media_type = value.get("mediaType")
        if not isinstance(media_type, str) or not media_types.is_media_type(media_type):
            raise InvalidManifest(f"{where}: mediaType is {str(media_type)[:100]!r}")
        try:
            digest = Digest.parse(value.get("digest"))
        except InvalidDigest as error:
            raise InvalidDigest(f"{where}: {error}") from None
        size = value.get("size")
        if type(size) is not int or size < 0:  # True is an int in Python
            raise InvalidManifest(f"{where}: size of {digest} is {str(size)[:40]!r}")
        if digest == EMPTY_DIGEST and size != len(EMPTY_JSON):
            raise InvalidManifest(f"{where}: the empty JSON {digest} has 2 bytes, not {size}")
        if "data" in value:
            _check_data(value["data"], digest, size, where)
        urls = value.get("urls", [])
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise InvalidManifest(f"{where}: urls of {digest} is not a list of strings")
        return cls(
            media_type,
            digest,
            size,
            parse_annotations(value, where),
            Platform.parse(value["platform"], where) if "platform" in value else None,
            optional_string(value, "artifactType", where),
        )

    def to_json(self) -> dict[str, object]:
        """Return the descriptor as it stands in a document."""
        result: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size_bytes,
        }
        if self.annotations:
            result["annotations"] = dict(self.annotations)
        if self.platform is not None:
            result["platform"] = self.platform.to_json()
        if self.artifact_type is not None:
            result["artifactType"] = self.artifact_type
        return result


def parse_annotations(value: Mapping[str, Any], where: str) -> Mapping[str, str]:
    """Return the ``annotations`` of a document or descriptor: a map of strings."""
    found = value.get("annotations")
    if found is None:
        return _NO_ANNOTATIONS
    if not isinstance(found, dict):
        raise InvalidManifest(f"{where}: annotations is not an object")
    for name, text in found.items():
        if not isinstance(text, str):
            raise InvalidManifest(f"{where}: annotation {name[:100]!r} is not a string")
    return MappingProxyType(found)


def optional_string(value: Mapping[str, Any], name: str, where: str) -> str | None:
    """Return a field that is a string if it is there at all."""
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise InvalidManifest(f"{where}: {name} is not a string")
    return found


def _check_data(data: object, digest: Digest, size_bytes: int, where: str) -> None:
    # descriptor.md, "Embedded Content": the data MUST be the content, base64 as in RFC 4648.
    try:
        content = base64.b64decode(data if isinstance(data, str) else b"?", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidManifest(f"{where}: data of {digest} is not base64") from None
    if len(content) != size_bytes or not digest.matches(content):
        raise InvalidManifest(f"{where}: data of {digest} is not its content")
