"""Authentication at one registry: what it asks for, tokens by scope, and when new ones are fetched."""

from __future__ import annotations

import base64
import copy
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from regmeta.errors import Error, InvalidSource, RemoteRefused
from regmeta.oci import strict_json
from regmeta.sources.registry.addresses import Reach
from regmeta.sources.registry.answers import words_of
from regmeta.sources.registry.challenge import BadChallenge, Challenge, parse_challenges
from regmeta.sources.registry.credentials import Credential, CredentialSource
from regmeta.sources.registry.places import Place, without_query
from regmeta.sources.registry.realms import check_realm
from regmeta.sources.registry.terms import Terms
from regmeta.sources.registry.text import shown

_CLIENT: Final = "regmeta"
_DEFAULT_LIFE_S: Final = 60
_MAX_LIFE_S: Final = 24 * 3600
# A token is replaced before its end: the request that carries it takes time too.
_LEEWAY_S: Final = 10.0
_MAX_SCOPES: Final = 1000
_TOKEN_RE: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What is sent to a realm. Its repr shows no secret."""

    method: str
    place: Place
    target: str
    reach: Reach
    headers: dict[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


Fetch = Callable[[TokenRequest], tuple[int, bytes]]
"""Sends it, again where that helps; returns the status (below 500) and at most 64 KiB of body."""


@dataclass(slots=True)
class _Scope:
    """The token of one scope. *round* counts the fetches that ended: who waited for one shares it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    header: str | None = None
    renew_at_s: float = 0.0
    round: int = 0
    error: Error | None = None

    def usable(self) -> str | None:
        return self.header if time.monotonic() < self.renew_at_s else None


class Authenticator:
    """Knows what to send to one registry. Thread-safe; one token is fetched at a time for one scope."""

    def __init__(self, registry: Place, *, terms: Terms, credentials: CredentialSource, fetch: Fetch) -> None:
        self._registry = registry
        self._terms = terms
        self._source = credentials
        self._fetch = fetch
        self._lock = threading.Lock()
        # Of its own: a helper program may take its time, and who holds a token need not wait for it.
        self._look_up_lock = threading.Lock()
        self._scopes: dict[str | None, _Scope] = {}
        self._challenge: Challenge | None = None
        self._credential: Credential | None = None
        self._has_asked = False

    def authorization(self, scope: str | None) -> tuple[str | None, bool]:
        """Return the header to send now (None until the registry has asked for one), and whether it is new.

        Raises:
            UnsafeRemote, RemoteRefused, RemoteUnavailable, InvalidSource: there is no token to be had.
        """
        challenge = self._challenge
        if challenge is None:
            return None, False
        if challenge.scheme == "basic":
            return self._basic(), False
        return self._token(challenge, scope, rejected=None)

    def renewed(self, scope: str | None, rejected: str | None, headers: Sequence[str]) -> tuple[str, bool]:
        """Return what to send after a 401 to *rejected*, and whether it is new.

        *headers* are the ``WWW-Authenticate`` lines of the answer. What is not new is a token that another
        thread has got meanwhile.

        Raises:
            RemoteRefused: there is nothing else to send.
            UnsafeRemote, RemoteUnavailable, InvalidSource: there is no token to be had.
        """
        challenge = self._choose(headers)
        self._challenge = challenge
        if challenge.scheme == "basic":
            header = self._basic()
            if header == rejected:
                self._forget_credential()
                raise RemoteRefused(f"{self._registry.name}: the user name or the secret is not accepted")
            return header, True
        return self._token(challenge, scope, rejected=rejected)

    def secrets(self, header: str | None) -> list[str]:
        """Return what no message may show after *header* was sent, should the registry quote it."""
        known = _secrets_of(self._credential)
        return [*known, header.partition(" ")[2]] if header is not None else known

    def refused(self) -> None:
        """Note that all was tried: the credentials are looked up anew next time."""
        self._forget_credential()

    def _choose(self, headers: Sequence[str]) -> Challenge:
        try:
            challenges = parse_challenges(headers)
        except BadChallenge as error:
            raise InvalidSource(
                f"{self._registry.name}: its WWW-Authenticate is not valid: {shown(str(error))}"
            ) from None
        for scheme in ("bearer", "basic"):
            for challenge in challenges:
                if challenge.scheme == scheme:
                    return challenge
        offered = ", ".join(shown(challenge.scheme, 30) for challenge in challenges[:5]) or "nothing"
        raise RemoteRefused(f"{self._registry.name}: wants authentication that is not known here: {offered}")

    def _basic(self) -> str:
        credential = self._look_up()
        if credential is None or credential.identity_token is not None:
            raise RemoteRefused(f"{self._registry.name}: wants a user name, and there is none set up for it")
        return _basic_header(credential)

    def _token(self, challenge: Challenge, scope: str | None, *, rejected: str | None) -> tuple[str, bool]:
        entry = self._entry(scope)
        if (header := entry.usable()) is not None and header != rejected:
            return header, False
        seen = entry.round
        with entry.lock:
            if (header := entry.usable()) is not None and header != rejected:
                return header, False
            if entry.round != seen and entry.error is not None:
                # Who waited while it failed does not try it all over again.
                raise copy.copy(entry.error)
            entry.header, entry.error = None, None
            try:
                entry.header, entry.renew_at_s = self._fetched(challenge, scope)
            except Error as error:
                entry.error = copy.copy(error)
                raise
            finally:
                entry.round += 1
            return entry.header, True

    def _entry(self, scope: str | None) -> _Scope:
        with self._lock:
            entry = self._scopes.get(scope)
            if entry is None:
                if len(self._scopes) >= _MAX_SCOPES:
                    self._scopes.pop(next(iter(self._scopes)))
                entry = self._scopes[scope] = _Scope()
            return entry

    def _fetched(self, challenge: Challenge, scope: str | None) -> tuple[str, float]:
        credential = self._look_up()
        realm = challenge.parameters.get("realm")
        if realm is None:
            raise InvalidSource(f"{self._registry.name}: its challenge names no realm")
        place, target, reach = check_realm(
            realm,
            self._registry,
            auth_hosts=self._terms.auth_hosts,
            has_credentials=credential is not None,
        )
        # The scope is ours: what the registry would have us ask for may be more than reading.
        wanted = [("scope", part) for part in (scope or "").split()]
        service = [("service", challenge.parameters["service"])] if "service" in challenge.parameters else []
        where = f"{place.name}{shown(without_query(target))}"
        started_s = time.monotonic()
        status, body = self._fetch(_token_request(place, target, reach, credential, service, wanted))
        if status in (400, 401, 403):
            self._forget_credential()
        if status != 200:
            said = words_of(body, secrets=_secrets_of(credential))
            message = f"{where}: no token for {self._registry.name}: HTTP {status}" + (
                f": {said}" if said else ""
            )
            raise RemoteRefused(message) if status in (400, 401, 403) else InvalidSource(message)
        token, life_s = _parse_token(where, body)
        return f"Bearer {token}", started_s + life_s - min(_LEEWAY_S, life_s / 4)

    def _look_up(self) -> Credential | None:
        """Return the credentials, asked for once, and again before they expire."""
        with self._look_up_lock:
            known = self._credential
            expires_at_s = known.expires_at_s if known is not None else None
            # The wall clock decides only when we ask again; a wrong one costs a look-up, or a 401.
            if self._has_asked and (expires_at_s is None or time.time() < expires_at_s - 6 * _LEEWAY_S):
                return known
            self._credential = self._source.get(self._registry.name)
            self._has_asked = True
            return self._credential

    def _forget_credential(self) -> None:
        with self._look_up_lock:
            self._credential, self._has_asked = None, False


def _secrets_of(credential: Credential | None) -> list[str]:
    """Return what no message may show, in each form in which it is sent."""
    if credential is None:
        return []
    pair = _basic_header(credential).partition(" ")[2]
    return [secret for secret in (pair, credential.secret, credential.identity_token) if secret]


def _basic_header(credential: Credential) -> str:
    pair = f"{credential.username}:{credential.secret}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def _token_request(
    place: Place,
    target: str,
    reach: Reach,
    credential: Credential | None,
    service: list[tuple[str, str]],
    scopes: list[tuple[str, str]],
) -> TokenRequest:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": _CLIENT}
    if credential is not None and credential.identity_token is not None:
        scope = [("scope", " ".join(text for _, text in scopes))] if scopes else []
        form = [("grant_type", "refresh_token"), ("client_id", _CLIENT), *service, *scope]
        form.append(("refresh_token", credential.identity_token))
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return TokenRequest("POST", place, target, reach, headers, urlencode(form).encode())
    if credential is not None:
        headers["Authorization"] = _basic_header(credential)
    query = urlencode([*service, *scopes])
    if query:
        target += ("&" if "?" in target else "?") + query
    return TokenRequest("GET", place, target, reach, headers)


def _parse_token(where: str, body: bytes) -> tuple[str, float]:
    try:
        document = strict_json.loads(body)
    except (strict_json.StrictJSONError, RecursionError):
        # What is wrong with it is not said: it may quote the token.
        raise InvalidSource(f"{where}: the token is not in a JSON document") from None
    if not isinstance(document, dict):
        raise InvalidSource(f"{where}: the token is not in a JSON object")
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or _TOKEN_RE.fullmatch(token) is None:
        raise InvalidSource(f"{where}: the answer holds no token that can be sent")
    life = document.get("expires_in")
    if not isinstance(life, int) or isinstance(life, bool) or life <= 0:
        life = _DEFAULT_LIFE_S
    return token, float(min(life, _MAX_LIFE_S))
