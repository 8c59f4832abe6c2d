"""Manifests of a registry, by tag and by digest (distribution-spec, "Pulling manifests")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from regmeta.errors import DigestMismatch, InvalidDigest, InvalidSource
from regmeta.oci import media_types, names
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import MAX_MANIFEST_BYTES
from regmeta.sources.registry.calls import Answer, call, pull_scope
from regmeta.sources.registry.transport import Endpoint

# Without a type in this list, a registry gives another manifest than the one that the tag names, or none. The
# last one is for types that nobody knew when this was written.
ACCEPT: Final = (
    media_types.OCI_INDEX,
    media_types.OCI_MANIFEST,
    media_types.DOCKER_LIST,
    media_types.DOCKER_MANIFEST,
    "*/*",
)
_DIGEST_HEADER: Final = "Docker-Content-Digest"


@dataclass(frozen=True, slots=True)
class RemoteManifest:
    """A manifest as it came, verified: *content* has the descriptor's digest and size."""

    descriptor: Descriptor
    content: bytes = field(repr=False)


def resolve(endpoint: Endpoint, repository: str, reference: str) -> Descriptor:
    """Return what a tag, or a digest, names, without reading it where the registry's headers say enough.

    Raises:
        NotFound: there is no such manifest.
        DigestMismatch: the registry has another one under this digest.
        InvalidSource: the answer is no manifest's.
        RemoteUnavailable, RemoteRefused: the registry did not answer, or does not let us in.
    """
    path, wanted = _path(repository, reference)
    scope = pull_scope(repository)
    # 405: HEAD is not known there. Some registries only send on to where the manifests are, as with blobs.
    answer = call(
        endpoint, "HEAD", path, scope=scope, accept=ACCEPT, limit_bytes=0, expect=(200, 405), follow=True
    )
    said = _from_headers(answer) if answer.status == 200 else None
    if said is None or (wanted is not None and wanted.algorithm != said.digest.algorithm):
        return get_manifest(endpoint, repository, reference).descriptor
    if wanted is not None and wanted != said.digest:
        raise DigestMismatch(f"{answer.where}: the registry says that it is {said.digest}")
    return said


def get_manifest(endpoint: Endpoint, repository: str, reference: str) -> RemoteManifest:
    """Return a manifest of at most 4 MiB by tag or digest, verified.

    Raises:
        NotFound: there is no such manifest.
        DigestMismatch: the bytes have another digest than the one asked for, or than the registry says.
        InvalidSource: the answer is too large, or no manifest's.
        RemoteUnavailable, RemoteRefused: the registry did not answer, or does not let us in.
    """
    path, wanted = _path(repository, reference)
    answer = call(
        endpoint,
        "GET",
        path,
        scope=pull_scope(repository),
        accept=ACCEPT,
        limit_bytes=MAX_MANIFEST_BYTES,
        follow=True,
    )
    media_type = answer.media_type
    if not media_types.is_media_type(media_type):
        raise InvalidSource(f"{answer.where}: the Content-Type is {media_type[:100]!r}")
    said = _said_digest(answer)
    for digest in (wanted, said):
        if digest is not None and not digest.matches(answer.content):
            who = "asked for" if digest is wanted else "that the registry says it has"
            raise DigestMismatch(f"{answer.where}: the bytes do not have the digest {who}, {digest}")
    digest = wanted or said or Digest.of(answer.content)
    return RemoteManifest(Descriptor(media_type, digest, len(answer.content)), answer.content)


def _path(repository: str, reference: str) -> tuple[str, Digest | None]:
    """Return the path of a manifest, and the digest if it is asked for by that.

    Raises:
        InvalidName, InvalidDigest: one of them is not of the grammar.
    """
    wanted = Digest.parse(reference) if ":" in reference else None
    if wanted is None:
        names.tag_name(reference)
    return f"/v2/{names.repository_name(repository)}/manifests/{reference}", wanted


def _from_headers(answer: Answer) -> Descriptor | None:
    """Return what the headers of an answer to HEAD say; None if that is not enough."""
    length = answer.headers.get("Content-Length", "")
    media_type = answer.media_type
    try:
        digest = _said_digest(answer)
    except InvalidSource:
        return None
    if digest is None or not media_types.is_media_type(media_type):
        return None
    if not (length.isascii() and length.isdigit() and len(length) < 10 and int(length) > 0):
        return None
    size_bytes = int(length)
    if size_bytes > MAX_MANIFEST_BYTES:
        raise InvalidSource(
            f"{answer.where}: a manifest of {size_bytes} bytes, more than {MAX_MANIFEST_BYTES}"
        )
    return Descriptor(media_type, digest, size_bytes)


def _said_digest(answer: Answer) -> Digest | None:
    text = answer.headers.get(_DIGEST_HEADER)
    if text is None:
        return None
    try:
        return Digest.parse(text)
    except InvalidDigest as error:
        raise InvalidSource(f"{answer.where}: {_DIGEST_HEADER}: {error}") from None
