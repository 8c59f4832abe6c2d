"""Which realm may be asked for a token, and which gets to see our credentials."""

from __future__ import annotations

from typing import Final

from regmeta.errors import UnsafeRemote
from regmeta.sources.registry.addresses import Reach
from regmeta.sources.registry.places import BadURL, Place, parse_url
from regmeta.sources.registry.text import shown

# Registries whose realm is known to be another host of the same operator.
_KNOWN: Final = {
    "docker.io": "auth.docker.io",
    "index.docker.io": "auth.docker.io",
    "registry-1.docker.io": "auth.docker.io",
    "registry.gitlab.com": "gitlab.com",
}


def check_realm(
    realm: str, registry: Place, *, auth_hosts: frozenset[str], has_credentials: bool
) -> tuple[Place, str, Reach]:
    """Return the place of *realm*, its path, and on whose word it is dialled.

    Credentials go to the registry's own host (any port of it), to a host of *auth_hosts*, and to the realms
    of a few known registries; never from https to http. Anonymously a token may also be asked for at any
    other https realm that is at a public address.

    Raises:
        UnsafeRemote: this realm is none of them.
    """
    try:
        place, target = parse_url(realm)
    except BadURL as error:
        raise UnsafeRemote(f"{registry.name}: its authentication realm cannot be used: {error}") from None
    name = shown(place.origin)
    if place.scheme != "https" and registry.scheme == "https":
        raise UnsafeRemote(f"{registry.name}: its authentication realm {name} is not https")
    if place.host == registry.host:
        return place, target, Reach.OWN
    if place.is_in(auth_hosts):
        return place, target, Reach.LISTED
    if place.scheme == "https" and _KNOWN.get(registry.host) == place.name:
        return place, target, Reach.NAMED
    if has_credentials:
        raise UnsafeRemote(
            f"{registry.name}: its authentication realm {name} is another host, so it gets no credentials"
            f" (list {place.name} in auth_hosts to allow it)"
        )
    if place.scheme != "https":
        raise UnsafeRemote(
            f"{registry.name}: its authentication realm {name} is another host, without TLS"
            f" (list {place.name} in auth_hosts to allow it)"
        )
    return place, target, Reach.PUBLIC
