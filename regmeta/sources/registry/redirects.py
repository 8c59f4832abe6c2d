"""Where a redirect may lead."""

from __future__ import annotations

from typing import Final

from regmeta.errors import UnsafeRemote
from regmeta.sources.registry.addresses import Reach
from regmeta.sources.registry.places import BadURL, Place, join_url
from regmeta.sources.registry.text import shown

STATUSES: Final = frozenset({301, 302, 303, 307, 308})
MAX_HOPS: Final = 5


def next_hop(
    where: str, current: str, location: str | None, *, registry: Place, redirect_hosts: frozenset[str]
) -> tuple[Place, str, Reach]:
    """Return where *location*, found at the URL *current*, leads, and on whose word it is dialled.

    Raises:
        UnsafeRemote: to no place, with credentials in the URL, or from https to http.
    """
    if location is None:
        raise UnsafeRemote(f"{where}: a redirect to nowhere")
    try:
        place, target = join_url(current, location)
    except BadURL as error:
        raise UnsafeRemote(f"{where}: a redirect that cannot be followed: {error}") from None
    if current.startswith("https:") and place.scheme != "https":
        raise UnsafeRemote(f"{where}: a redirect from https to http, at {shown(place.name)}")
    if place == registry:
        return place, target, Reach.OWN
    return place, target, Reach.LISTED if place.is_in(redirect_hosts) else Reach.NAMED
