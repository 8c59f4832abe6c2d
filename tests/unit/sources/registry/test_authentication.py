"""Basic and Bearer against registries and realms that keep what they were sent."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest

from regmeta.errors import InvalidSource, RemoteRefused, RemoteUnavailable, UnsafeRemote
from regmeta.sources.registry.credentials import Credential, FixedCredentials
from tests.unit.sources.registry.conftest import FAST, SECRET, Connect, Listen, login_for
from tests.unit.sources.registry.listener import Answer, Listener, Seen, answer_json, challenge

BASIC = "Basic " + base64.b64encode(f"kim:{SECRET}".encode()).decode()
SCOPE = "repository:a/b:pull"


class Guarded:
    """The script of a registry with its realm at ``/token``; counts the tokens, takes those in *good*."""

    def __init__(self, *, life_s: Any = 3600, name: str = "token", multiple: bool = False) -> None:
        self.listener: Listener
        self.life_s = life_s
        self.name = name
        self.multiple = multiple
        self.given = 0
        self.good: set[str] = set()
        self.lock = threading.Lock()

    def __call__(self, seen: Seen) -> Answer:
        if seen.path == "/token":
            return self.token(seen)
        if (seen.authorization or "").removeprefix("Bearer ") in self.good:
            return Answer(body=b"ok")
        return challenge(self.offer())

    def offer(self) -> str:
        bearer = (
            f'Bearer realm="{self.listener.url}/token",service="the \\"service\\"",scope="registry:all:*"'
        )
        return (
            f'Negotiate, Basic realm="x, y=z", {bearer}, error="invalid_token"' if self.multiple else bearer
        )

    def token(self, seen: Seen) -> Answer:
        with self.lock:
            self.given += 1
            token = f"t{self.given}"
            self.good.add(token)
        document = {self.name: token}
        return answer_json(document if self.life_s is None else {**document, "expires_in": self.life_s})


@pytest.fixture
def guarded(listen: Listen) -> Callable[..., Guarded]:
    def start(**options: Any) -> Guarded:
        script = Guarded(**options)
        script.listener = listen(script)
        return script

    return start


@pytest.mark.parametrize("name", ["token", "access_token"])
def test_anonymous_token_is_fetched_once_and_then_sent_at_once(
    guarded: Callable[..., Guarded], connect: Connect, name: str
) -> None:
    script = guarded(name=name)
    endpoint = connect(script.listener)
    for _ in range(3):
        with endpoint.request("GET", "/v2/a/b/tags/list", scope=SCOPE) as response:
            assert response.read(10) == b"ok"
    sent = [(seen.path, seen.authorization) for seen in script.listener.seen]
    api = "/v2/a/b/tags/list"
    assert sent == [(api, None), ("/token", None), (api, "Bearer t1"), (api, "Bearer t1"), (api, "Bearer t1")]
    # The scope is ours, whatever the challenge would have us ask for.
    assert script.listener.at("/token")[0].query == {"service": ['the "service"'], "scope": [SCOPE]}
    assert endpoint.requests == 5
    with endpoint.request("GET", "/v2/other", scope="repository:other:pull") as response:
        assert response.read(10) == b"ok"
    assert [seen.path for seen in script.listener.seen[5:]] == ["/token", "/v2/other"]


def test_bearer_is_found_among_several_challenges(guarded: Callable[..., Guarded], connect: Connect) -> None:
    script = guarded(multiple=True)
    credentials = login_for(script.listener)
    with connect(script.listener, credentials=credentials).request("GET", "/v2/", scope=SCOPE) as response:
        assert response.read(10) == b"ok"
    assert script.listener.at("/token")[0].authorization == BASIC


def test_password_goes_to_the_realm_and_only_the_token_to_the_registry(
    guarded: Callable[..., Guarded], connect: Connect
) -> None:
    script = guarded()
    endpoint = connect(script.listener, credentials=login_for(script.listener))
    endpoint.request("GET", "/v2/", scope=SCOPE).close()
    assert [seen.authorization for seen in script.listener.seen] == [None, BASIC, "Bearer t1"]


def test_identity_token_is_posted(guarded: Callable[..., Guarded], connect: Connect) -> None:
    script = guarded(name="access_token")
    host = f"{script.listener.host}:{script.listener.port}"
    credentials = FixedCredentials({host: Credential(identity_token=SECRET)})
    connect(script.listener, credentials=credentials).request("GET", "/v2/", scope=SCOPE).close()
    [seen] = script.listener.at("/token")
    assert (seen.method, seen.target, seen.authorization) == ("POST", "/token", None)
    assert parse_qs(seen.body.decode()) == {
        "grant_type": ["refresh_token"],
        "client_id": ["regmeta"],
        "service": ['the "service"'],
        "scope": [SCOPE],
        "refresh_token": [SECRET],
    }


def test_basic_is_sent_at_once_after_the_first_challenge(listen: Listen, connect: Connect) -> None:
    registry = listen(
        lambda seen: Answer(body=b"ok") if seen.authorization == BASIC else challenge('Basic realm="r"')
    )
    endpoint = connect(registry, credentials=login_for(registry))
    for _ in range(2):
        endpoint.request("GET", "/v2/", scope=SCOPE).close()
    assert [seen.authorization for seen in registry.seen] == [None, BASIC, BASIC]


def test_registry_without_authentication_gets_no_credentials(listen: Listen, connect: Connect) -> None:
    registry = listen()
    connect(registry, credentials=login_for(registry)).request("GET", "/v2/", scope=SCOPE).close()
    assert [seen.authorization for seen in registry.seen] == [None]


def test_token_is_renewed_before_its_end(
    guarded: Callable[..., Guarded], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = guarded(life_s=None)  # 60 s by the specification of tokens.
    endpoint = connect(script.listener)
    real = time.monotonic
    for ahead_s, given in ((0, 1), (45, 1), (55, 2), (90, 2), (110, 3)):
        monkeypatch.setattr(time, "monotonic", lambda ahead_s=ahead_s: real() + ahead_s)
        endpoint.request("GET", "/v2/", scope=SCOPE).close()
        assert script.given == given, ahead_s
    assert [seen.path for seen in script.listener.seen].count("/v2/") == 6  # One 401 only.


@pytest.mark.parametrize("life", [0, -5, "60", True, 10**15])
def test_odd_life_of_a_token_does_no_harm(
    guarded: Callable[..., Guarded], connect: Connect, life: object
) -> None:
    script = guarded(life_s=life)
    endpoint = connect(script.listener)
    for _ in range(3):
        endpoint.request("GET", "/v2/", scope=SCOPE).close()
    assert script.given == 1


def test_revoked_token_is_replaced_once(guarded: Callable[..., Guarded], connect: Connect) -> None:
    script = guarded()
    endpoint = connect(script.listener)
    endpoint.request("GET", "/v2/", scope=SCOPE).close()
    script.good.clear()
    endpoint.request("GET", "/v2/", scope=SCOPE).close()
    assert [seen.authorization for seen in script.listener.seen[3:]] == ["Bearer t1", None, "Bearer t2"]


def test_401_without_end_is_a_refusal(guarded: Callable[..., Guarded], connect: Connect) -> None:
    script = guarded()
    script.token = lambda seen: answer_json({"token": "never-good"})  # type: ignore[method-assign]
    endpoint = connect(script.listener)
    for requests in (4 - 1, 3 + 3):
        with pytest.raises(RemoteRefused, match="HTTP 401: UNAUTHORIZED"):
            endpoint.request("GET", "/v2/", scope=SCOPE)
        assert endpoint.requests == requests


def test_wrong_password_is_a_refusal_that_shows_no_secret(listen: Listen, connect: Connect) -> None:
    def script(seen: Seen) -> Answer:
        said = {"errors": [{"code": "UNAUTHORIZED", "message": f"not {SECRET} nor {seen.authorization}"}]}
        return answer_json(said, 401, (("WWW-Authenticate", 'Basic realm="r"'),))

    registry = listen(script)
    endpoint = connect(registry, credentials=login_for(registry))
    for _ in range(2):
        with pytest.raises(RemoteRefused) as raised:
            endpoint.request("GET", "/v2/", scope=SCOPE)
        assert SECRET not in str(raised.value)
        assert BASIC.removeprefix("Basic ") not in str(raised.value)


def test_realm_that_refuses_shows_no_secret(guarded: Callable[..., Guarded], connect: Connect) -> None:
    script = guarded()
    script.token = lambda seen: answer_json({"error": "denied", "message": f"bad {SECRET}"}, 403)  # type: ignore[method-assign]
    endpoint = connect(script.listener, credentials=login_for(script.listener))
    with pytest.raises(RemoteRefused, match=r"/token: no token for .* HTTP 403: denied: bad \*\*\*"):
        endpoint.request("GET", "/v2/", scope=SCOPE)


def test_rotated_credentials_are_looked_up_after_a_refusal(listen: Listen, connect: Connect) -> None:
    registry = listen(
        lambda seen: Answer(body=b"ok") if seen.authorization == BASIC else challenge('Basic realm="r"')
    )
    host = f"{registry.host}:{registry.port}"
    known = {host: Credential("kim", "old")}
    endpoint = connect(registry, credentials=FixedCredentials(known))
    with pytest.raises(RemoteRefused):
        endpoint.request("GET", "/v2/", scope=SCOPE)
    known[host] = Credential("kim", SECRET)
    endpoint.request("GET", "/v2/", scope=SCOPE).close()


def test_credentials_that_expire_are_asked_for_again(listen: Listen, connect: Connect) -> None:
    registry = listen(lambda seen: Answer() if seen.authorization else challenge('Basic realm="r"'))

    class Source:
        asked = 0

        def get(self, host: str) -> Credential:
            self.asked += 1
            return Credential(
                "kim", f"{self.asked}", expires_at_s=time.time() + (30 if self.asked == 1 else 999)
            )

    source = Source()
    endpoint = connect(registry, credentials=source)
    for _ in range(3):
        endpoint.request("GET", "/v2/", scope=SCOPE).close()
    # The first is close to its end, so it was not kept; the second is.
    assert source.asked == 2


def test_one_token_is_fetched_for_many_threads(guarded: Callable[..., Guarded], connect: Connect) -> None:
    script = guarded()
    fetch = script.token

    def slowly(seen: Seen) -> Answer:
        time.sleep(0.2)
        return fetch(seen)

    script.token = slowly  # type: ignore[method-assign]
    endpoint = connect(script.listener, replace(FAST, max_concurrent=8))
    threads = [
        threading.Thread(target=lambda: endpoint.request("GET", "/v2/", scope=SCOPE).close())
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert script.given == 1
    assert len([seen for seen in script.listener.at("/v2/") if seen.authorization == "Bearer t1"]) == 8


def test_failed_fetch_is_shared_by_those_who_wait(guarded: Callable[..., Guarded], connect: Connect) -> None:
    script = guarded()

    def fail(seen: Seen) -> Answer:
        time.sleep(0.4)
        return Answer(503)

    script.token = fail  # type: ignore[method-assign]
    endpoint = connect(script.listener, replace(FAST, retries=0, max_concurrent=8))
    errors: list[RemoteUnavailable] = []

    def work() -> None:
        with pytest.raises(RemoteUnavailable) as raised:
            endpoint.request("GET", "/v2/", scope=SCOPE)
        errors.append(raised.value)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 6
    assert len(script.listener.at("/token")) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": 5}',
        b'{"token": "a b"}',
        b'{"token": "a\\r\\nX-Evil: 1"}',
        b'{"token": ""}',
        b'{"token": "a", "token": "b"}',
        b"[" * 50000,
        json.dumps({"token": "x" * 65536}).encode(),
    ],
)
def test_token_answer_that_holds_none_is_bad_input(
    guarded: Callable[..., Guarded], connect: Connect, body: bytes
) -> None:
    script = guarded()
    script.token = lambda seen: Answer(body=body)  # type: ignore[method-assign]
    with pytest.raises(InvalidSource, match="/token"):
        connect(script.listener).request("GET", "/v2/", scope=SCOPE)


def test_realm_without_an_answer_is_tried_again(guarded: Callable[..., Guarded], connect: Connect) -> None:
    script = guarded()
    fetch = script.token
    script.token = lambda seen: Answer(502) if len(script.listener.at("/token")) < 3 else fetch(seen)  # type: ignore[method-assign]
    connect(script.listener).request("GET", "/v2/", scope=SCOPE).close()
    assert len(script.listener.at("/token")) == 3


def test_realm_that_redirects_is_not_followed(
    guarded: Callable[..., Guarded], connect: Connect, listen: Listen
) -> None:
    elsewhere = listen()
    script = guarded()
    script.token = lambda seen: Answer(307, (("Location", elsewhere.url),))  # type: ignore[method-assign]
    endpoint = connect(script.listener, credentials=login_for(script.listener))
    with pytest.raises(UnsafeRemote, match="redirect"):
        endpoint.request("GET", "/v2/", scope=SCOPE)
    assert not elsewhere.seen


@pytest.mark.parametrize(
    ("header", "kind", "says"),
    [
        ('Basic realm="r"', RemoteRefused, "none set up"),
        ("Negotiate", RemoteRefused, "not known here: negotiate"),
        ("Bearer", InvalidSource, "names no realm"),
        ('Bearer realm="unclosed', InvalidSource, "not valid"),
        ('Bearer realm="a", realm="b"', InvalidSource, "twice"),
    ],
)
def test_challenge_that_cannot_be_met_says_so(
    listen: Listen, connect: Connect, header: str, kind: type[Exception], says: str
) -> None:
    registry = listen(lambda seen: challenge(header))
    with pytest.raises(kind, match=says):
        connect(registry).request("GET", "/v2/", scope=SCOPE)
    assert len(registry.seen) == 1
