"""An image after the conversion of Docker's types: its manifests are new, its blobs are the source's."""

from __future__ import annotations

from collections.abc import Mapping

from regmeta.errors import InvalidManifest
from regmeta.oci.conversion import Converted, convert_tree
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import MAX_MANIFEST_BYTES
from regmeta.sources import Source
from regmeta.sources.wrapped import WrappedSource


def converted(source: Source, root: Descriptor, content: bytes) -> tuple[Source, Descriptor]:
    """Return the source and the descriptor of what *root* becomes; both are as they were if nothing changes.

    Raises:
        InputError, IntegrityError: a manifest below it is bad or not there.
        RemoteUnavailable: it could not be read.
    """
    tree = convert_tree(root, content, lambda child: source.read(child, MAX_MANIFEST_BYTES))
    new_root = tree[root.digest].descriptor
    if new_root.digest == root.digest:
        return source, root
    return ConvertedSource(source, {each.descriptor.digest: each for each in tree.values()}), new_root


class ConvertedSource(WrappedSource):
    """Hands out converted manifests, and of all else what the source does."""

    def __init__(self, source: Source, manifests: Mapping[Digest, Converted]) -> None:
        super().__init__(source)
        self._manifests = manifests

    def read(self, descriptor: Descriptor, limit_bytes: int) -> bytes:
        """Return small content whole, verified; see :class:`regmeta.sources.Source`."""
        found = self._manifests.get(descriptor.digest)
        if found is None:
            return self._source.read(descriptor, limit_bytes)
        if len(found.content) > limit_bytes:
            raise InvalidManifest(f"{descriptor.digest}: more than {limit_bytes} bytes")
        return found.content
