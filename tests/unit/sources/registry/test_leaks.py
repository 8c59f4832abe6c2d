"""Realms and redirects to other hosts: listeners pose as them, and nobody but the registry sees a secret."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from regmeta.errors import RemoteRefused, UnsafeRemote
from regmeta.sources.registry.addresses import Address, Resolver, resolve
from regmeta.sources.registry.credentials import Credential, CredentialSource, FixedCredentials
from tests.unit.sources.registry.conftest import FAST, SECRET, Connect, Listen, login_for
from tests.unit.sources.registry.listener import (
    Answer,
    Listener,
    Seen,
    answer_json,
    challenge,
    outer_address,
    redirect,
)

PAIR = base64.b64encode(f"kim:{SECRET}".encode()).decode()
TOKEN = "the-token-of-the-registry"


def secrets_seen(listener: Listener) -> list[str]:
    """Every request of a listener that holds something of ours."""
    texts = [seen.everything() for seen in listener.seen]
    return [
        text for text in texts if any(secret in text for secret in (SECRET, PAIR, TOKEN, "authorization"))
    ]


def names(**addresses: str) -> Resolver:
    """A resolver in which each ``NAME.test`` is at an address."""

    def resolver(host: str, port: int) -> list[Address]:
        name = host.removesuffix(".test").replace("-", "_")
        return list(resolve(addresses.get(name, host), port))

    return resolver


def identity(listener: Listener) -> FixedCredentials:
    return FixedCredentials({f"{listener.host}:{listener.port}": Credential(identity_token=SECRET)})


# --- realms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [login_for, identity])
def test_realm_at_another_host_gets_no_credentials(
    listen: Listen, connect: Connect, make: type[CredentialSource]
) -> None:
    foreign = listen(name="localhost")
    registry = listen(lambda seen: challenge(f'Bearer realm="{foreign.url}/token",service="s"'))
    endpoint = connect(registry, credentials=make(registry))  # type: ignore[call-arg]
    for _ in range(2):
        with pytest.raises(UnsafeRemote, match=rf"{foreign.url}.*auth_hosts"):
            endpoint.request("GET", "/v2/", scope="repository:a:pull")
    assert foreign.seen == []


def test_realm_that_is_listed_gets_them(listen: Listen, connect: Connect) -> None:
    foreign = listen(lambda seen: answer_json({"token": TOKEN}), name="localhost")
    registry = listen(
        lambda seen: Answer() if seen.authorization else challenge(f'Bearer realm="{foreign.url}/token"')
    )
    for listed in ("localhost", f"localhost:{foreign.port}"):
        terms = replace(FAST, auth_hosts=frozenset({listed}))
        connect(registry, terms, login_for(registry)).request("GET", "/v2/", scope=None).close()
        assert foreign.seen[-1].authorization == f"Basic {PAIR}"
        assert registry.seen[-1].authorization == f"Bearer {TOKEN}"
    terms = replace(FAST, auth_hosts=frozenset({f"localhost:{foreign.port + 1}"}))
    with pytest.raises(UnsafeRemote):
        connect(registry, terms, login_for(registry)).request("GET", "/v2/", scope=None)


@pytest.mark.parametrize(
    "realm",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://{own}@localhost:{port}/token",
        "http://{own}:80@localhost:{port}/token",
        "http://localhost:{port}\\\\@{own}/token",
        "http://localhost:{port} @{own}/token",
        "//localhost:{port}/token",
        "ftp://localhost:{port}/token",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "/token",
        "token",
        "http:///token",
        "http://{own}.evil.test:{port}/token",
        "http://localhost:{port}/#@{own}",
        "HTTP://LOCALHOST:{port}/token",
    ],
)
@pytest.mark.parametrize("is_anonymous", [False, True])
def test_realm_in_disguise_is_refused(
    listen: Listen, connect: Connect, realm: str, is_anonymous: bool
) -> None:
    foreign = listen(name="localhost")
    registry = listen()
    text = realm.format(own=registry.host, port=foreign.port)
    registry.script = lambda seen: challenge(f'Bearer realm="{text}"')
    endpoint = connect(registry, credentials=None if is_anonymous else login_for(registry))
    with pytest.raises(UnsafeRemote):
        endpoint.request("GET", "/v2/", scope=None)
    assert foreign.seen == []
    assert len(registry.seen) == 1


def test_anonymous_token_is_not_fetched_from_a_foreign_realm_here(listen: Listen, connect: Connect) -> None:
    """By https it may be anywhere that is public, which this machine's own addresses are not."""
    foreign = listen(name="localhost")
    registry = listen(lambda seen: challenge(f'Bearer realm="https://localhost:{foreign.port}/token"'))
    with pytest.raises(UnsafeRemote, match="may not send us"):
        connect(registry).request("GET", "/v2/", scope=None)
    assert foreign.seen == []


# --- redirects ------------------------------------------------------------------------------------


def protected(registry: Listener, location: str, *, scheme: str) -> None:
    """Make *registry* want authentication, and then redirect to *location*."""

    def script(seen: Seen) -> Answer:
        if seen.path == "/token":
            return answer_json({"token": TOKEN})
        if seen.authorization is None:
            return challenge(f'{scheme} realm="{registry.url}/token"')
        return redirect(location)

    registry.script = script


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_to_another_origin_carries_no_credentials(
    listen: Listen, connect: Connect, scheme: str, status: int
) -> None:
    blobs = listen(lambda seen: Answer(body=b"blob"))  # The same host at another port is another origin.
    named = listen(lambda seen: Answer(body=b"blob"), name="localhost")
    registry = listen()
    endpoint = connect(registry, credentials=login_for(registry))
    for target in (blobs, named):
        protected(registry, f"{target.url}/b?X-Signature=1%2F2", scheme=scheme)
        with endpoint.request(
            "GET", "/v2/", scope="s", headers={"Range": "bytes=5-"}, follow=True
        ) as response:
            assert response.read(10) == b"blob"
            assert response.url == f"{target.url}/b?X-Signature=1%2F2"
        [seen] = target.seen
        assert seen.target == "/b?X-Signature=1%2F2"
        assert seen.headers["range"] == "bytes=5-"
        assert secrets_seen(target) == []


def test_redirect_within_the_registry_keeps_the_token(listen: Listen, connect: Connect) -> None:
    registry = listen(
        lambda seen: (
            challenge('Basic realm="r"')
            if seen.authorization is None
            else Answer(body=b"blob")
            if seen.path == "/elsewhere"
            else redirect("../elsewhere")
        )
    )
    endpoint = connect(registry, credentials=login_for(registry))
    with endpoint.request("GET", "/v2/blob", scope=None, follow=True) as response:
        assert response.read(10) == b"blob"
    assert registry.seen[-1].authorization == f"Basic {PAIR}"


def test_redirect_back_from_another_host_carries_no_credentials(listen: Listen, connect: Connect) -> None:
    registry, other = listen(), listen(name="localhost")
    protected(registry, other.url, scheme="Basic")
    other.script = lambda seen: redirect(f"{registry.url}/v2/private")
    endpoint = connect(registry, credentials=login_for(registry))
    with pytest.raises(RemoteRefused):
        endpoint.request("GET", "/v2/", scope=None, follow=True)
    assert [seen.authorization for seen in registry.at("/v2/private")] == [None]


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_401_of_another_host_is_not_answered(listen: Listen, connect: Connect, scheme: str) -> None:
    registry, other = listen(), listen(name="localhost")
    protected(registry, other.url, scheme=scheme)
    other.script = lambda seen: challenge(f'Bearer realm="{registry.url}/token?service=other"')
    endpoint = connect(registry, credentials=login_for(registry))
    # The second time the token is a kept one, which a 401 of the registry itself would have renewed.
    for requests in (1, 2):
        with pytest.raises(RemoteRefused, match=r"localhost.* HTTP 401"):
            endpoint.request("GET", "/v2/", scope=None, follow=True)
        assert len(other.seen) == requests
    assert len(registry.at("/token")) == (scheme == "Bearer")
    assert secrets_seen(other) == []


def test_redirect_is_followed_only_when_asked(listen: Listen, connect: Connect) -> None:
    other = listen()
    registry = listen(lambda seen: redirect(other.url))
    with connect(registry).request("GET", "/v2/", scope=None, expect=(307,)) as response:
        assert response.status == 307
    assert other.seen == []


def test_redirects_end_after_five(listen: Listen, connect: Connect) -> None:
    def script(seen: Seen) -> Answer:
        left = int(seen.path.rpartition("/")[2])
        return redirect(f"/{left - 1}") if left else Answer(body=b"blob")

    registry = listen(script)
    endpoint = connect(registry)
    with endpoint.request("GET", "/v2/5", scope=None, follow=True) as response:
        assert response.read(10) == b"blob"
    assert endpoint.requests == 6
    with pytest.raises(UnsafeRemote, match="without end"):
        endpoint.request("GET", "/v2/6", scope=None, follow=True)
    assert len(registry.seen) == 6 + 6
    registry.script = lambda seen: redirect("/v2/6" if seen.path == "/v2/5" else "/v2/5")
    with pytest.raises(UnsafeRemote, match="without end"):
        endpoint.request("GET", "/v2/5", scope=None, follow=True)
    assert len(registry.seen) == 12 + 2


@pytest.mark.parametrize(
    "location",
    [
        "http://kim:pw@localhost:{port}/",
        "http://{own}@localhost:{port}/",
        "ftp://localhost:{port}/",
        "file:///etc",
        "http://localhost:{port}\\@{own}/",
        "http://localhost :{port}/",
        "http://",
        "http://localhost:99999/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://0.0.0.0:{port}/",
        "http://0:{port}/",
        "http://224.0.0.1/",
        "http://[fe80::1]/",
        "http://2852039166/latest/",
    ],
)
def test_redirect_to_where_we_do_not_go_is_refused(listen: Listen, connect: Connect, location: str) -> None:
    other = listen(name="localhost")
    registry = listen()
    registry.script = lambda seen: redirect(location.format(own=registry.host, port=other.port))
    endpoint = connect(registry, credentials=login_for(registry))
    with pytest.raises(UnsafeRemote) as raised:
        endpoint.request("GET", "/v2/", scope=None, follow=True)
    assert "pw" not in str(raised.value)
    assert other.seen == []


def test_redirect_without_a_location_is_refused(listen: Listen, connect: Connect) -> None:
    registry = listen(lambda seen: Answer(302))
    with pytest.raises(UnsafeRemote, match="nowhere"):
        connect(registry).request("GET", "/v2/", scope=None, follow=True)


@pytest.fixture
def outer() -> str:
    address = outer_address()
    if address is None:
        pytest.skip("this machine has only its loopback address")
    return address


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "rebound.test"]
)
def test_registry_elsewhere_cannot_send_us_to_our_loopback(
    listen: Listen, connect: Connect, outer: str, host: str
) -> None:
    here = listen()
    registry = listen(lambda seen: redirect(f"http://{host}:{here.port}/"), host=outer)
    resolver = names(rebound="127.0.0.1")
    with pytest.raises(UnsafeRemote, match="may not send us"):
        connect(registry, resolver=resolver).request("GET", "/v2/", scope=None, follow=True)
    assert here.seen == []
    # What the settings list may be anywhere.
    terms = replace(FAST, redirect_hosts=frozenset({host}))
    if host != "[::ffff:127.0.0.1]":
        connect(registry, terms, resolver=resolver).request("GET", "/v2/", scope=None, follow=True).close()
        assert len(here.seen) == 1


def test_registry_here_may_send_us_to_an_outer_address(listen: Listen, connect: Connect, outer: str) -> None:
    there = listen(lambda seen: Answer(body=b"blob"), host=outer)
    registry = listen(lambda seen: redirect(there.url))
    with connect(registry).request("GET", "/v2/", scope=None, follow=True) as response:
        assert response.read(10) == b"blob"


def test_registry_that_moves_nearer_is_refused(listen: Listen, connect: Connect, outer: str) -> None:
    """Its own name, answered with the loopback's address after the first connection (DNS rebinding)."""
    registry = listen(host=outer)
    here = listen()
    at = {"registry": outer}

    def resolver(host: str, port: int) -> list[Address]:
        return list(resolve(at["registry"], here.port if at["registry"] != outer else port))

    endpoint = connect(f"http://registry.test:{registry.port}", resolver=resolver)
    with endpoint.request("GET", "/v2/", scope=None) as held:
        at["registry"] = "127.0.0.1"
        # The connection is in use, so this one needs another.
        with pytest.raises(UnsafeRemote, match="nearer"):
            endpoint.request("GET", "/v2/", scope=None)
        held.read(10)
    assert here.seen == []
