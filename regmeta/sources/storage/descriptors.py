"""What the bytes of a manifest say of it: the descriptor that an old registry kept nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from regmeta.errors import DigestMismatch, InvalidManifest
from regmeta.oci import media_types, strict_json
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import MAX_MANIFEST_BYTES
from regmeta.sources.registry.text import shown

_KNOWN: Final = media_types.IMAGE_MANIFESTS | media_types.INDEXES
_REMEMBERED: Final = 1000


class Schema1(InvalidManifest):
    """A manifest of Docker's schema 1, which is not kept here."""


class UnknownMediaType(InvalidManifest):
    """A document of a type that is not known, or of none, whose members are no image's and no index's."""


@dataclass(frozen=True, slots=True)
class FoundManifest:
    """The descriptor of a manifest, and whether its type is said, or need not be: not where it is empty."""

    descriptor: Descriptor
    says_type: bool


class SaidTypes:
    """Remembers of the manifests described last whether anything said their types: who asks, asks next.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._said: dict[tuple[str, Digest], bool] = {}

    def note(self, name: str, found: FoundManifest) -> FoundManifest:
        """Remember what was found in a repository, and return it."""
        if len(self._said) >= _REMEMBERED:
            self._said.clear()
        self._said[name, found.descriptor.digest] = found.says_type
        return found

    def get(self, name: str, digest: Digest) -> bool | None:
        """Return what is remembered of a manifest; None for nothing."""
        return self._said.get((name, digest))


def found_manifest(
    content: bytes, digest: Digest, where: str, listed_type: str | None = None
) -> FoundManifest:
    """Describe a manifest by its bytes, of which there may be one more than a manifest may have.

    Its own media type counts, then the *listed_type*, then its members: those of OCI documents need not say
    a type (image-spec ``manifest.md``, ``image-index.md``). What says two types that differ gets the listed
    one: who parses it refuses it then (CVE-2021-41190).

    Raises:
        DigestMismatch: the bytes have another digest.
        Schema1: Docker's schema 1.
        UnknownMediaType: of no kind that is kept here.
        InvalidManifest: too large, not strict JSON, no object, or both an image and an index.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"{where}: {digest} has more than {MAX_MANIFEST_BYTES} bytes")
    if not digest.matches(content):
        raise DigestMismatch(f"{where}: the bytes of {digest} have another digest")
    try:
        document = strict_json.load_object(content)
    except strict_json.StrictJSONError as error:
        raise InvalidManifest(f"{where}: {digest}: {error}") from None
    own_type = _own_type(document, f"{where}: {digest}")
    said = listed_type or own_type
    _refuse_schema1(document, own_type, f"{where}: {digest}")
    by_members = _type_by_members(document, f"{where}: {digest}")
    if said not in _KNOWN and by_members is None:
        raise UnknownMediaType(
            f"{where}: {digest} is {shown(said) if said else 'of no media type'},"
            " and has the members of neither an image manifest nor an index"
        )
    media_type = said or by_members
    assert media_type is not None
    # An OCI document need not say it.
    says_type = said is not None or "mediaType" not in document
    return FoundManifest(Descriptor(media_type, digest, len(content)), says_type)


def _own_type(document: dict[str, Any], where: str) -> str | None:
    """Return the type that a document says; none for an empty one, as registries in Go read it."""
    found = document.get("mediaType")
    if found is None or found == "":
        return None
    if not isinstance(found, str) or not media_types.is_media_type(found):
        raise InvalidManifest(f"{where}: mediaType is {shown(str(found), 100)!r}")
    return found


def _refuse_schema1(document: dict[str, Any], own_type: str | None, where: str) -> None:
    version = document.get("schemaVersion")
    if own_type in media_types.DOCKER_SCHEMA1 or (type(version) is int and version == 1):
        raise Schema1(f"{where}: Docker schema 1 is not supported")


def _type_by_members(document: dict[str, Any], where: str) -> str | None:
    is_index = "manifests" in document
    is_image = "config" in document or "layers" in document
    if is_index and is_image:
        raise InvalidManifest(f"{where}: both an image manifest and an index")
    if is_index:
        return media_types.OCI_INDEX
    return media_types.OCI_MANIFEST if is_image else None
