"""One endpoint of a remote registry: requests with authentication, retries, limits and safe redirects."""

from __future__ import annotations

import threading
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from regmeta import metrics
from regmeta.errors import RemoteUnavailable, UnsafeRemote, UsageError
from regmeta.sources.registry.addresses import Guard, Reach, Resolver, resolve
from regmeta.sources.registry.answers import MAX_SMALL_BODY, refusal
from regmeta.sources.registry.connections import Connections
from regmeta.sources.registry.credentials import CredentialSource
from regmeta.sources.registry.limits import Limits, TryAgain, retry_after_s
from regmeta.sources.registry.places import BadURL, Place, parse_url, without_query
from regmeta.sources.registry.redirects import MAX_HOPS, STATUSES, next_hop
from regmeta.sources.registry.response import Response
from regmeta.sources.registry.stopping import Stopping
from regmeta.sources.registry.terms import Terms
from regmeta.sources.registry.text import shown
from regmeta.sources.registry.tokens import Authenticator, TokenRequest

__all__ = ["Endpoint", "Response"]

_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
# Once without a token, once with a kept one, once with a new one; more only while other threads renew it.
_MAX_SENDS: Final = 4


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    scope: str | None
    headers: Mapping[str, str]
    follow: bool
    expect: Container[int]
    where: str


class Endpoint:
    """One base URL of a registry (``https://host[:port]`` or ``http://...``). Thread-safe.

    A slot of *max_concurrent* is held while a :class:`Response` is open, not while waiting for another try.
    So a thread that holds one response open and sends another request may wait for itself.
    """

    def __init__(
        self,
        url: str,
        *,
        terms: Terms,
        credentials: CredentialSource,
        stopped: threading.Event | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        """Connect to nothing yet. Waits end when *stopped* is set; reads too, if it is :class:`Stopping`.

        Raises:
            UsageError: *url* is not the base URL of a registry.
        """
        self._place = _base_of(url)
        self._terms = terms
        self._limits = Limits(terms, location=self._place.name, stopped=stopped or threading.Event())
        self._connections = Connections(self._place, terms=terms, guard=Guard(resolver))
        self._authenticator = Authenticator(
            self._place, terms=terms, credentials=credentials, fetch=self._fetch_token
        )
        self._stopped = stopped
        if isinstance(stopped, Stopping):
            stopped.call_when_set(self._connections.break_off)
        self._count_lock = threading.Lock()
        self.requests = 0
        """How many requests were sent, those for tokens and after redirects included."""

    @property
    def location(self) -> str:
        """``host``, with its port when that is not the scheme's own."""
        return self._place.name

    def request(
        self,
        method: str,
        path: str,
        *,
        scope: str | None,
        accept: Sequence[str] = (),
        headers: Mapping[str, str] = {},
        follow: bool = False,
        expect: Container[int] = (200,),
    ) -> Response:
        """Send a request for *path* (``/v2/...``) and return the answer, with its body unread.

        *scope* is what a token is asked for when the registry wants one. GET and HEAD are tried again after a
        lost connection, 429 and 5xx. Redirects are followed with *follow* only, and carry no credentials to
        another origin.

        Raises:
            NotFound: the registry answers 404.
            RemoteRefused: 401 or 403; no credentials, or not for this.
            RemoteUnavailable: no connection, no answer in time, 429 or 5xx, after the last try; or stopped.
            UnsafeRemote: sent to a place that we do not go to.
            InvalidSource: any other status that is not in *expect*, or a broken challenge.
            UsageError: certificates or credentials that are set up cannot be used.
        """
        sent = {"Accept-Encoding": "identity", "User-Agent": "regmeta", **headers}
        if accept:
            sent["Accept"] = ", ".join(accept)
        where = f"{self._place.name}{shown(without_query(path))}"
        call = _Call(method, path, scope, sent, follow, expect, where)
        return self._limits.repeat(lambda: self._try(call), retries=None if method in _SAFE_METHODS else 0)

    def close(self) -> None:
        """Close the connections that are idle, and the others as soon as they are done with."""
        if isinstance(self._stopped, Stopping):
            self._stopped.forget(self._connections.break_off)
        self._connections.close()

    def _try(self, call: _Call) -> Response:
        """Send it once, or as often as authentication needs."""
        authorization, is_new = self._authenticator.authorization(call.scope)
        for _ in range(_MAX_SENDS):
            response, is_ours = self._exchange(call, authorization)
            challenges = _all_of(response.headers, "WWW-Authenticate")
            if response.status != 401 or not is_ours or not challenges:
                return self._judged(call, response, authorization)
            if is_new:
                break
            response.close()
            authorization, is_new = self._authenticator.renewed(call.scope, authorization, challenges)
        secrets = self._authenticator.secrets(authorization)
        self._authenticator.refused()
        with response:
            raise _error_of(response, secrets)

    def _exchange(self, call: _Call, authorization: str | None) -> tuple[Response, bool]:
        """Send it and follow where that leads; also return whether the registry itself has answered."""
        self._limits.take_turn()
        response = self._hop(call, self._place, call.path, Reach.OWN, authorization)
        hops, has_left, seen = 0, False, {response.url}
        while call.follow and response.status in STATUSES:
            where, current, location = call.where, response.url, response.headers.get("Location")
            with response:
                place, target, reach = next_hop(
                    where,
                    current,
                    location,
                    registry=self._place,
                    redirect_hosts=self._terms.redirect_hosts,
                )
                hops += 1
                if hops > MAX_HOPS or place.origin + target in seen:
                    raise UnsafeRemote(f"{where}: redirects without end")
                seen.add(place.origin + target)
            if place != self._place:
                # Gone for good: another host may not send our own token back to us either.
                authorization, has_left = None, True
            response = self._hop(call, place, target, reach, authorization)
        return response, not has_left

    def _hop(
        self, call: _Call, place: Place, target: str, reach: Reach, authorization: str | None
    ) -> Response:
        headers = dict(call.headers)
        if authorization is not None:
            headers["Authorization"] = authorization
        self._limits.take_slot()
        try:
            self._count()
            answer = self._connections.send(call.method, place, target, headers=headers, reach=reach)
        except BaseException:
            metrics.REMOTE_REQUESTS.add(1, call.method, "none")
            self._limits.free_slot()
            raise
        metrics.REMOTE_REQUESTS.add(1, call.method, str(answer.status))
        return Response(
            answer,
            url=place.origin + target,
            where=f"{place.name}{shown(without_query(target))}",
            read_timeout_s=self._terms.read_timeout_s,
            done=self._limits.free_slot,
        )

    def _judged(self, call: _Call, response: Response, authorization: str | None) -> Response:
        if response.status in call.expect:
            return response
        with response:
            raise _error_of(response, self._authenticator.secrets(authorization))

    def _fetch_token(self, request: TokenRequest) -> tuple[int, bytes]:
        """Ask a realm for a token. No redirect of it is followed: the request may carry credentials."""
        where = f"{request.place.name}{shown(without_query(request.target))}"

        def once() -> tuple[int, bytes]:
            self._limits.take_turn()
            self._count()
            answer = self._connections.send(
                request.method,
                request.place,
                request.target,
                headers=request.headers,
                reach=request.reach,
                body=request.body,
            )
            with Response(
                answer,
                url=request.place.origin,
                where=where,
                read_timeout_s=self._terms.read_timeout_s,
                done=_nothing,
            ) as response:
                if response.status in STATUSES:
                    raise UnsafeRemote(f"{where}: a redirect, where a token was asked for")
                if response.status == 429 or response.status >= 500:
                    after_s = retry_after_s(response.headers.get("Retry-After"))
                    raise refusal(where, response.status, b"", after_s=after_s)
                try:
                    return response.status, response.read(MAX_SMALL_BODY)
                except RemoteUnavailable as error:
                    raise TryAgain(error) from error

        return self._limits.repeat(once)

    def _count(self) -> None:
        with self._count_lock:
            self.requests += 1


def _base_of(url: str) -> Place:
    try:
        place, target = parse_url(url)
    except BadURL as error:
        raise UsageError(f"not the URL of a registry: {error}") from None
    if target != "/":
        raise UsageError(f"{place.origin}: the URL of a registry has no path")
    return place


def _error_of(response: Response, secrets: Sequence[str]) -> Exception:
    """Return what the answer means, with the words of its body as far as they can be read."""
    try:
        body = response.read(MAX_SMALL_BODY)
    except Exception:  # noqa: BLE001 - the status says enough
        body = b""
    after_s = retry_after_s(response.headers.get("Retry-After"))
    return refusal(response.where, response.status, body, after_s=after_s, secrets=secrets)


def _all_of(headers: Mapping[str, str], name: str) -> list[str]:
    getlist = getattr(headers, "getlist", None)
    return list(getlist(name)) if getlist is not None else [headers[name]] if name in headers else []


def _nothing() -> None:
    pass
