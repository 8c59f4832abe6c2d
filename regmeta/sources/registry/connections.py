"""Connections: kept open, dialled at addresses that were looked at, through a proxy where one is set up.

The environment's ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` are honoured (read once). A proxy resolves
names itself, so **the check of addresses is the proxy's business** for whatever goes through it; this
machine's own loopback never does.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import unquote
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection

from regmeta.errors import InvalidSource, RemoteUnavailable, UsageError
from regmeta.sources.registry.addresses import Guard, Rank, Reach, rank_of
from regmeta.sources.registry.limits import TryAgain
from regmeta.sources.registry.open_sockets import OpenSockets
from regmeta.sources.registry.places import Place, without_query
from regmeta.sources.registry.terms import Terms
from regmeta.sources.registry.text import shown
from regmeta.sources.registry.timed import TimedResponse
from regmeta.sources.registry.tls import tls_context

# Redirects may name any number of hosts.
_MAX_POOLS: Final = 32
# What OpenSSL makes of an answer that is no TLS.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL"})


class _CheckedConnection(HTTPConnection):
    """A connection that asks the guard for its addresses. Without one a proxy is what it connects to."""

    response_class = TimedResponse

    def __init__(
        self,
        *args: Any,
        opened: OpenSockets,
        guard: Guard | None = None,
        reach: Reach = Reach.NAMED,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._opened = opened
        self._guard = guard
        self._reach = reach

    def connect(self) -> None:
        super().connect()
        self._opened.add(self.sock)

    def _new_conn(self) -> socket.socket:
        return super()._new_conn() if self._guard is None else _dial(self, self._guard, self._reach)


class _CheckedTLSConnection(_CheckedConnection, HTTPSConnection):
    """The same over TLS: the name that the certificate must have stays the host's."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _CheckedConnection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _CheckedTLSConnection

    def _validate_conn(self, conn: Any) -> None:
        # As the base class, which warns at each request that verification is off: the terms say so.
        if conn.is_closed:
            conn.connect()


def _dial(connection: HTTPConnection, guard: Guard, reach: Reach) -> socket.socket:
    try:
        addresses = guard.addresses(connection.host, connection.port, reach)
    except socket.gaierror as error:
        raise exceptions.NameResolutionError(connection.host, connection, error) from error
    failure: OSError | None = None
    for family, address in addresses:
        dialled = socket.socket(family, socket.SOCK_STREAM)
        try:
            for option in connection.socket_options or ():
                dialled.setsockopt(*option)
            dialled.settimeout(connection.timeout)
            dialled.connect(address)
        except OSError as error:
            dialled.close()
            failure = error
        except BaseException:
            dialled.close()
            raise
        else:
            guard.dialled((family, address), reach)
            return dialled
    assert failure is not None
    if isinstance(failure, TimeoutError):
        raise exceptions.ConnectTimeoutError(connection, "timed out") from failure
    raise exceptions.NewConnectionError(connection, str(failure)) from failure


class Connections:
    """The connections of one endpoint, to the registry and to where it sends us. Thread-safe."""

    def __init__(self, own: Place, *, terms: Terms, guard: Guard) -> None:
        self._own = own
        self._terms = terms
        self._guard = guard
        self._timeout = urllib3.Timeout(connect=terms.connect_timeout_s, read=terms.read_timeout_s)
        self._proxies = getproxies_environment()
        self._lock = threading.Lock()
        self._pools: dict[tuple[Place, Reach], urllib3.HTTPConnectionPool] = {}
        self._managers: dict[tuple[str, bool], urllib3.ProxyManager] = {}
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._opened = OpenSockets()

    def send(
        self,
        method: str,
        place: Place,
        target: str,
        *,
        headers: Mapping[str, str],
        reach: Reach,
        body: bytes | None = None,
    ) -> urllib3.HTTPResponse:
        """Send one request; return the answer, with its body unread.

        Raises:
            TryAgain: no connection, or no answer in time.
            RemoteUnavailable: the server's certificate does not verify, or it does not speak TLS.
            UnsafeRemote: the host is at an address where it may not be.
            UsageError: the terms name certificates, or the environment a proxy, that cannot be used.
        """
        where = f"{place.name}{shown(without_query(target))}"
        proxy = self._proxy_of(place)
        try:
            # Through a proxy the target is the whole URL.
            by = self._pool_of(place, reach) if proxy is None else self._manager_of(proxy, place)
            answer = by.urlopen(
                method,
                target if proxy is None else place.origin + target,
                body=body,
                headers=headers,
                redirect=False,
                retries=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
        except exceptions.SSLError as error:
            cause = error.args[0] if error.args else None
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise RemoteUnavailable(
                    f"{where}: the certificate of {place.host} does not verify: {shown(cause.verify_message)}"
                    " (see ca_file, cert_dir and tls_verify)"
                ) from error
            if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
                raise RemoteUnavailable(
                    f"{where}: {place.name} does not speak TLS; if it speaks plain HTTP, write http://{place.name}"
                ) from error
            raise TryAgain(RemoteUnavailable(f"{where}: {_reason(error)}")) from error
        except exceptions.LocationValueError as error:
            raise InvalidSource(f"{where}: {_reason(error)}") from error
        except (exceptions.HTTPError, OSError) as error:
            is_stale = isinstance(error, exceptions.ProtocolError) and isinstance(
                error.args[-1], ConnectionError
            )
            unavailable = RemoteUnavailable(f"{where}: {_reason(error)}")
            raise TryAgain(unavailable, is_stale=is_stale) from error
        assert isinstance(answer, urllib3.HTTPResponse)
        return answer

    def break_off(self) -> None:
        """Let everybody who waits for bytes fail now, and whoever connects from now on."""
        self._opened.break_off()

    def close(self) -> None:
        """Close what is idle; what is in use closes when it is done with."""
        with self._lock:
            pools, managers = list(self._pools.values()), list(self._managers.values())
            self._pools.clear()
            self._managers.clear()
        for pool in pools:
            pool.close()
        for manager in managers:
            manager.clear()

    def _proxy_of(self, place: Place) -> str | None:
        if not self._proxies or place.scheme not in self._proxies:
            return None
        if place.host == "localhost" or rank_of(place.host.strip("[]")) is Rank.LOOPBACK:
            return None
        if proxy_bypass_environment(f"{place.host}:{place.port}", self._proxies):
            return None
        return self._proxies[place.scheme]

    def _manager_of(self, proxy: str, place: Place) -> urllib3.ProxyManager:
        is_own = place == self._own
        with self._lock:
            manager = self._managers.get((proxy, is_own))
            if manager is None:
                manager = _proxy_manager(
                    proxy, self._terms, self._timeout, self._context(is_own), self._opened
                )
                self._managers[(proxy, is_own)] = manager
            return manager

    def _pool_of(self, place: Place, reach: Reach) -> urllib3.HTTPConnectionPool:
        with self._lock:
            pool = self._pools.get((place, reach))
            if pool is None:
                while len(self._pools) >= _MAX_POOLS:
                    self._pools.pop(next(iter(self._pools))).close()
                options: dict[str, Any] = {
                    "maxsize": self._terms.max_concurrent,
                    "timeout": self._timeout,
                    "opened": self._opened,
                    "guard": self._guard,
                    "reach": reach,
                }
                if place.scheme == "https":
                    context = self._context(place == self._own)
                    pool = _TLSPool(place.host, place.port, ssl_context=context, **options)
                else:
                    pool = _Pool(place.host, place.port, **options)
                self._pools[(place, reach)] = pool
            return pool

    def _context(self, is_own: bool) -> ssl.SSLContext:
        context = self._contexts.get(is_own)
        if context is None:
            context = self._contexts[is_own] = tls_context(self._terms, with_client_certificate=is_own)
        return context


def _proxy_manager(
    proxy: str, terms: Terms, timeout: urllib3.Timeout, context: ssl.SSLContext, opened: OpenSockets
) -> urllib3.ProxyManager:
    try:
        url = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
        if url.scheme not in ("http", "https") or not url.host:
            raise UsageError(f"the proxy of the environment is no http or https URL ({url.scheme}://)")
    except exceptions.LocationParseError as error:
        raise UsageError("the proxy of the environment is not a URL") from error
    login = urllib3.make_headers(proxy_basic_auth=unquote(url.auth)) if url.auth else None
    manager = urllib3.ProxyManager(
        url._replace(auth=None).url,
        num_pools=_MAX_POOLS,
        proxy_headers=login,
        maxsize=terms.max_concurrent,
        timeout=timeout,
        ssl_context=context,
    )
    # What urllib3 calls a class it only calls.
    manager.pool_classes_by_scheme = {
        "http": partial(_Pool, opened=opened),  # type: ignore[dict-item]
        "https": partial(_TLSPool, opened=opened),  # type: ignore[dict-item]
    }
    return manager


def _reason(error: BaseException) -> str:
    """Say in a few words what went wrong, without the addresses of objects that urllib3 puts in."""
    if isinstance(error, exceptions.ProxyError) and len(error.args) > 1:
        return f"the proxy: {_reason(error.original_error)}"
    if isinstance(error, exceptions.NameResolutionError):
        return f"the name does not resolve: {shown(_system_reason(error.__cause__))}"
    if isinstance(error, exceptions.NewConnectionError):
        return f"no connection: {shown(_system_reason(error.__cause__))}"
    if isinstance(error, exceptions.ConnectTimeoutError):
        return "no connection in time"
    if isinstance(error, exceptions.ReadTimeoutError):
        return "no answer in time"
    if isinstance(error, exceptions.ProtocolError):
        return f"the connection broke: {shown(_system_reason(error.args[-1]))}"
    return shown(str(error))


def _system_reason(cause: object) -> str:
    return str(getattr(cause, "strerror", None) or cause)
