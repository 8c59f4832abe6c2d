"""One remote registry with its mirrors: what the distribution specification offers to a reader."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from regmeta.errors import InvalidSource, NotFound
from regmeta.oci import names
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.sources.registry import listing, manifests
from regmeta.sources.registry.image import RemoteImage
from regmeta.sources.registry.mirrors import Mirrors
from regmeta.sources.registry.referrers import Referrers
from regmeta.sources.registry.transport import Endpoint


class Upstream:
    """One registry. Thread-safe.

    *endpoints* are asked in their order: the registry, then its mirrors, or the other way round. *name* is
    what the registry is called in messages and locations, its host. Every method raises

    - ``NotFound`` only if all endpoints say so,
    - ``RemoteUnavailable``, ``RemoteRefused``: it did not answer, or does not let us in,
    - ``UnsafeRemote``: it sends us to a place that we do not go to,
    - ``InvalidSource``: what it says is not of the protocol,
    - ``InvalidName``, ``InvalidDigest``: the arguments are not of the grammar.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        name: str,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._mirrors = Mirrors(endpoints, clock_s)
        self._referrers = Referrers()

    @property
    def requests(self) -> int:
        """How many requests were sent, tokens and redirects included."""
        return sum(endpoint.requests for endpoint in self._mirrors.endpoints)

    @property
    def has_referrers_api(self) -> bool | None:
        """Whether it has the referrers API; None until that is known."""
        return self._referrers.has_api

    def ping(self) -> None:
        """Check that a registry answers and lets us in.

        Raises:
            InvalidSource: what answers is no registry.
        """
        try:
            self._mirrors.first(_ping)
        except NotFound as error:
            raise InvalidSource(f"{self.name}: not a registry ({error})") from None

    def catalog(self) -> Iterator[str]:
        """Return the names of all repositories, each once. All of them are here before the first is given."""
        return iter(self._mirrors.first(listing.list_repositories))

    def tags(self, repository: str) -> list[str]:
        """Return all tags of a repository, each once: the whole list, or an error."""
        return self._mirrors.first(lambda endpoint: listing.list_tags(endpoint, repository))

    def resolve(self, repository: str, reference: str) -> Descriptor:
        """Return what a tag, or a digest, names: one HEAD where the registry says digest, size and type.

        Raises:
            DigestMismatch: it has another manifest under this digest.
        """
        return self._mirrors.first(lambda endpoint: manifests.resolve(endpoint, repository, reference))

    def image(self, repository: str, reference: str) -> RemoteImage:
        """Fetch the root of an image, by tag or digest, and verify it.

        Raises:
            DigestMismatch: its bytes have another digest than the one asked for, or than the registry says.
        """
        root = self._mirrors.first(lambda endpoint: manifests.get_manifest(endpoint, repository, reference))
        location = names.image_name(f"{self.name}/{repository}", reference)
        return RemoteImage(self._mirrors, location, repository, reference, root)

    def referrers(self, repository: str, digest: Digest) -> Sequence[Descriptor]:
        """Return what refers to a manifest, each once. None is a real answer; an error is never that."""
        try:
            return self._mirrors.first(lambda endpoint: self._referrers.of(endpoint, repository, digest))
        except NotFound:
            return []

    def close(self) -> None:
        """Let go of all connections."""
        for endpoint in self._mirrors.endpoints:
            endpoint.close()


def _ping(endpoint: Endpoint) -> None:
    endpoint.request("GET", "/v2/", scope=None).close()
