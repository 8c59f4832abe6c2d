"""The rank of an address, and which ranks may be dialled on whose word."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest

from regmeta.errors import UnsafeRemote
from regmeta.sources.registry.addresses import Address, Guard, Rank, Reach, rank_of, resolve

PUBLIC, PRIVATE, LOOPBACK, NEVER = "93.184.215.14", "10.0.0.1", "127.0.0.1", "169.254.169.254"
PORT = 443


@pytest.mark.parametrize(
    ("rank", "addresses"),
    [
        (Rank.PUBLIC, [PUBLIC, "2606:2800::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]),
        (Rank.PRIVATE, [PRIVATE, "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "fc00::1"]),
        (Rank.PRIVATE, ["100.64.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1", "198.18.0.1"]),
        (Rank.LOOPBACK, [LOOPBACK, "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]),
        (
            Rank.NEVER,
            [NEVER, "::ffff:169.254.169.254", "fe80::1", "fe80::1%eth0", "0.0.0.0", "0.1.2.3", "::"],
        ),
        (Rank.NEVER, ["224.0.0.1", "255.255.255.255", "240.0.0.1", "ff02::1", "fd00:ec2::254"]),
        (
            Rank.NEVER,
            ["100.100.100.200", "168.63.129.16", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "", "x"],
        ),
    ],
)
def test_rank_of_an_address(rank: Rank, addresses: list[str]) -> None:
    assert {address: rank_of(address) for address in addresses} == dict.fromkeys(addresses, rank)


@pytest.mark.parametrize("spelling", ["0x7f.1", "2130706433", "127.1", "017700000001", "localhost", "[::1]"])
def test_spelling_does_not_change_the_rank(spelling: str) -> None:
    assert {rank_of(str(address[0])) for _, address in resolve(spelling, PORT)} == {Rank.LOOPBACK}


def test_label_that_no_name_has_does_not_resolve() -> None:
    for name in ("a" * 64 + ".example", "a..b"):
        with pytest.raises(socket.gaierror):
            resolve(name, PORT)


def at(address: str) -> Address:
    return (socket.AF_INET6 if ":" in address else socket.AF_INET, (address, PORT))


class Names:
    """A resolver that answers from a table."""

    def __init__(self, **table: Sequence[str]) -> None:
        self.table = table

    def __call__(self, host: str, port: int) -> list[Address]:
        return [at(address) for address in self.table[host]]


@pytest.mark.parametrize(
    ("own", "target", "is_allowed"),
    [
        (own, target, is_allowed)
        for own, allowed in (
            (PUBLIC, {PUBLIC}),
            (PRIVATE, {PUBLIC, PRIVATE}),
            (LOOPBACK, {PUBLIC, PRIVATE, LOOPBACK}),
            (NEVER, {PUBLIC, PRIVATE, LOOPBACK}),
        )
        for target in (PUBLIC, PRIVATE, LOOPBACK, NEVER)
        for is_allowed in (target in allowed,)
    ],
)
def test_named_host_is_no_nearer_than_the_registry(own: str, target: str, is_allowed: bool) -> None:
    guard = Guard(Names(own=[own], target=[target]))
    assert guard.addresses("own", PORT, Reach.OWN) == [at(own)]
    guard.dialled(at(own), Reach.OWN)
    if is_allowed:
        assert guard.addresses("target", PORT, Reach.NAMED) == [at(target)]
    else:
        with pytest.raises(UnsafeRemote, match=f"target: is at {target}"):
            guard.addresses("target", PORT, Reach.NAMED)
    assert guard.addresses("target", PORT, Reach.LISTED) == [at(target)]


def test_public_reach_takes_public_addresses_only() -> None:
    guard = Guard(Names(own=[LOOPBACK], near=[PRIVATE], far=[PUBLIC]))
    guard.dialled(at(LOOPBACK), Reach.OWN)
    assert guard.addresses("far", PORT, Reach.PUBLIC) == [at(PUBLIC)]
    with pytest.raises(UnsafeRemote):
        guard.addresses("near", PORT, Reach.PUBLIC)


def test_addresses_that_are_not_allowed_are_left_out() -> None:
    guard = Guard(Names(mixed=[LOOPBACK, "::ffff:127.0.0.1", PUBLIC, PRIVATE]))
    guard.dialled(at(PUBLIC), Reach.OWN)
    assert guard.addresses("mixed", PORT, Reach.NAMED) == [at(PUBLIC)]


def test_without_an_own_address_only_public_ones_are_named() -> None:
    guard = Guard(Names(near=[PRIVATE], far=[PUBLIC]))
    assert guard.addresses("far", PORT, Reach.NAMED) == [at(PUBLIC)]
    with pytest.raises(UnsafeRemote):
        guard.addresses("near", PORT, Reach.NAMED)


def test_what_others_dial_does_not_raise_the_ceiling() -> None:
    guard = Guard(Names(near=[PRIVATE]))
    guard.dialled(at(PUBLIC), Reach.OWN)
    guard.dialled(at(LOOPBACK), Reach.LISTED)
    with pytest.raises(UnsafeRemote):
        guard.addresses("near", PORT, Reach.NAMED)


def test_registry_does_not_come_nearer() -> None:
    names = Names(own=[PUBLIC])
    guard = Guard(names)
    guard.dialled(at(PUBLIC), Reach.OWN)
    for nearer in (PRIVATE, LOOPBACK, NEVER):
        names.table["own"] = [nearer]
        with pytest.raises(UnsafeRemote, match="own: has moved"):
            guard.addresses("own", PORT, Reach.OWN)


def test_name_without_addresses_does_not_resolve() -> None:
    with pytest.raises(OSError, match="no address"):
        Guard(Names(empty=[])).addresses("empty", PORT, Reach.LISTED)
