"""One image of a registry, as a source."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager

from regmeta.errors import MissingContent, NotFound
from regmeta.oci import manifest
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.streams import ByteStream, read_up_to
from regmeta.sources import SourceEntry
from regmeta.sources.registry.blobs import RemoteBlob
from regmeta.sources.registry.manifests import RemoteManifest, get_manifest
from regmeta.sources.registry.mirrors import Mirrors
from regmeta.sources.verified import check_limit, verified


class RemoteImage:
    """An image of a registry: its root is here and verified, the rest is fetched when it is asked for.

    Safe to use from several threads. The places that a layer's ``urls`` name are never asked.
    """

    def __init__(
        self, mirrors: Mirrors, location: str, repository: str, reference: str, root: RemoteManifest
    ) -> None:
        self._mirrors = mirrors
        self._location = location
        self._repository = repository
        self._reference = reference
        self._root = root

    @property
    def location(self) -> str:
        """Host, repository, and tag or digest."""
        return self._location

    @property
    def descriptor(self) -> Descriptor:
        """What the root is."""
        return self._root.descriptor

    @property
    def content(self) -> bytes:
        """The root's exact bytes."""
        return self._root.content

    def entries(self) -> Iterator[SourceEntry]:
        """List the image."""
        tag = None if ":" in self._reference else self._reference
        yield SourceEntry(0, tag, self._root.descriptor)

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Return small content whole, verified; see :meth:`regmeta.sources.Source.read`.

        Raises besides:
            RemoteUnavailable, RemoteRefused: the registry did not answer, or does not let us in.
        """
        check_limit(descriptor, limit_bytes, self._location)
        if descriptor.digest == self._root.descriptor.digest:
            content = self._root.content
        elif manifest.may_be_manifest(descriptor.media_type):
            content = self._manifest(descriptor.digest)
        else:
            with self.open(descriptor.digest) as stream:
                content = read_up_to(stream, descriptor.size_bytes)
        return verified(descriptor, content, self._location)

    def open(self, digest: Digest) -> AbstractContextManager[ByteStream]:
        """Open content for reading; see :meth:`regmeta.sources.Source.open`.

        What is no blob there may be a manifest: of a child whose type is not known here, nothing says which
        it is.

        Raises besides:
            RemoteUnavailable, RemoteRefused: the registry did not answer, or does not let us in.
        """
        if digest == self._root.descriptor.digest:
            return io.BytesIO(self._root.content)
        try:
            return RemoteBlob(self._mirrors, self._repository, digest)
        except MissingContent:
            return io.BytesIO(self._manifest(digest))

    def close(self) -> None:
        """Nothing is held open."""

    def _manifest(self, digest: Digest) -> bytes:
        try:
            found = self._mirrors.first(
                lambda endpoint: get_manifest(endpoint, self._repository, str(digest))
            )
        except NotFound as error:
            raise MissingContent(f"{self._location}: {digest} is missing ({error})") from None
        return found.content
