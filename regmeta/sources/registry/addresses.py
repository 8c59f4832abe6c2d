"""Which addresses are dialled.

A registry that we trust with nothing may still name hosts: a redirect's target, a realm. It must not make us
reach what only we can reach. So a name is resolved once, each address is looked at, and the connection
goes to one that was looked at: no second look-up can answer with another one. All spellings of an address
(``0x7f.1``, ``2130706433``, a name that resolves to 127.0.0.1) end up here as the same address.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from typing import Any, Final

from regmeta.errors import UnsafeRemote

Address = tuple[int, tuple[Any, ...]]
"""An address family, and a socket address of it."""

Resolver = Callable[[str, int], Sequence[Address]]
"""Resolves a host and a port; raises OSError when it cannot."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Rank(IntEnum):
    """How far an address is from the public network."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    NEVER = 3
    """Link-local, multicast, unspecified, reserved, and the metadata services of clouds."""


class Reach(Enum):
    """On whose word a host is dialled, which decides the addresses it may be at."""

    OWN = "own"
    """The registry's own host, as the settings name it: anywhere, but never nearer than before."""
    LISTED = "listed"
    """A host that the settings list: anywhere."""
    NAMED = "named"
    """A host that the registry named: no nearer than the registry itself, and never of the last rank."""
    PUBLIC = "public"
    """A host that the registry named, at a public address only."""


_METADATA: Final[tuple[_Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in ("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::/32")
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def rank_of(address: str) -> Rank:
    """Return the rank of a numeric address. What is no address has the last one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return Rank.NEVER
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return rank_of(str(inner))
    if ip.is_loopback:
        return Rank.LOOPBACK
    if ip.is_unspecified or ip.is_multicast or ip.is_link_local or ip.is_reserved:
        return Rank.NEVER
    if any(ip in network for network in _METADATA) or (ip.version == 4 and int(ip) >> 24 == 0):
        return Rank.NEVER
    return Rank.PUBLIC if ip.is_global else Rank.PRIVATE


def resolve(host: str, port: int) -> Sequence[Address]:
    """Resolve as the system does.

    Raises:
        OSError: it does not resolve.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, socket.AF_UNSPEC, socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "a label is empty or too long") from error
    return [(family, address) for family, _, _, _, address in found]


class Guard:
    """Picks the addresses that may be dialled for one registry. Thread-safe."""

    def __init__(self, resolver: Resolver = resolve) -> None:
        self._resolver = resolver
        self._lock = threading.Lock()
        self._own: Rank | None = None

    def addresses(self, host: str, port: int, reach: Reach) -> list[Address]:
        """Return where *host* may be dialled.

        Raises:
            UnsafeRemote: it resolves, but to no address that it may be at.
            OSError: it does not resolve.
        """
        found = self._resolver(host, port)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        ceiling = self._ceiling(reach)
        allowed = [address for address in found if rank_of(str(address[1][0])) <= ceiling]
        if allowed:
            return allowed
        at = str(found[0][1][0])
        if reach is Reach.OWN:
            raise UnsafeRemote(f"{host}: has moved to {at}, which is nearer to this machine than before")
        raise UnsafeRemote(
            f"{host}: is at {at}, where the registry may not send us; a host that is meant to be there"
            " can be listed in auth_hosts (for a realm) or redirect_hosts (for a redirect)"
        )

    def _ceiling(self, reach: Reach) -> Rank:
        if reach is Reach.LISTED:
            return Rank.NEVER
        if reach is Reach.PUBLIC:
            return Rank.PUBLIC
        with self._lock:
            own = self._own
        if reach is Reach.OWN:
            return Rank.NEVER if own is None else own
        # Without an own address (a proxy dials it) nothing but public ones can be compared with it.
        return Rank.PUBLIC if own is None else min(own, Rank.LOOPBACK)

    def dialled(self, address: Address, reach: Reach) -> None:
        """Note that a connection stands to *address*."""
        if reach is Reach.OWN:
            rank = rank_of(str(address[1][0]))
            with self._lock:
                self._own = rank if self._own is None else min(self._own, rank)
