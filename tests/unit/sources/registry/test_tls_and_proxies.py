"""Certificates made with openssl, and a small real proxy."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from regmeta.errors import RemoteUnavailable, UnsafeRemote, UsageError
from tests.unit.sources.registry.conftest import FAST, Connect, Listen, login_for
from tests.unit.sources.registry.listener import Answer, Seen, answer_json, challenge, redirect


@dataclass(frozen=True)
class Certificates:
    """A CA with a server's certificate (for localhost and 127.0.0.1), and a client's."""

    folder: Path

    def server(self, *, wants_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.folder / "ca.pem")
        return context


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def sign(folder: Path, name: str, extension: str) -> None:
    (folder / f"{name}.ext").write_text(extension)
    openssl(
        folder,
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        f"/CN={name}",
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.csr",
    )
    openssl(
        folder,
        "x509",
        "-req",
        "-in",
        f"{name}.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        f"{name}.ext",
        "-out",
        f"{name}.pem",
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    openssl(
        folder,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=test-ca",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    )
    sign(folder, "server", "subjectAltName=DNS:localhost,DNS:registry.test,IP:127.0.0.1")
    sign(folder, "client", "extendedKeyUsage=clientAuth")
    return Certificates(folder)


# --- TLS ------------------------------------------------------------------------------------------


def test_unknown_certificate_is_an_error_that_names_the_host(
    listen: Listen, connect: Connect, certificates: Certificates
) -> None:
    registry = listen(tls=certificates.server())
    endpoint = connect(registry, credentials=login_for(registry))
    with pytest.raises(RemoteUnavailable, match=r"the certificate of 127\.0\.0\.1 does not verify"):
        endpoint.request("GET", "/v2/", scope=None)
    assert registry.seen == []
    assert endpoint.requests == 1  # Another try would not mend it.


def test_certificate_of_another_name_does_not_verify(
    listen: Listen, connect: Connect, certificates: Certificates
) -> None:
    registry = listen(tls=certificates.server(), host="127.0.0.2")
    terms = replace(FAST, ca_file=str(certificates.folder / "ca.pem"))
    with pytest.raises(RemoteUnavailable, match=r"127\.0\.0\.2 does not verify"):
        connect(registry, terms).request("GET", "/v2/", scope=None)


def test_ca_file_makes_it_verify_under_the_name_that_was_asked_for(
    listen: Listen, connect: Connect, certificates: Certificates
) -> None:
    registry = listen(tls=certificates.server(), name="registry.test")
    terms = replace(FAST, ca_file=str(certificates.folder / "ca.pem"))
    endpoint = connect(registry, terms, resolver=lambda host, port: [(socket.AF_INET, ("127.0.0.1", port))])
    with endpoint.request("GET", "/v2/", scope=None) as response:
        assert response.read(10) == b"{}"
    assert registry.seen[0].headers["host"] == f"registry.test:{registry.port}"


def test_verification_can_be_switched_off(
    listen: Listen, connect: Connect, certificates: Certificates
) -> None:
    registry = listen(tls=certificates.server(), host="127.0.0.2")
    with connect(registry, replace(FAST, tls_verify=False)).request("GET", "/v2/", scope=None) as response:
        assert response.read(10) == b"{}"


def test_large_body_and_cut_over_tls(listen: Listen, connect: Connect, certificates: Certificates) -> None:
    body = bytes(range(256)) * 8192
    registry = listen(lambda seen: Answer(body=body), tls=certificates.server())
    endpoint = connect(registry, replace(FAST, ca_file=str(certificates.folder / "ca.pem")))
    with endpoint.request("GET", "/v2/", scope=None) as response:
        assert response.read(len(body)) == body
    registry.script = lambda seen: Answer(body=body, length=len(body) + 1)
    with (
        endpoint.request("GET", "/v2/", scope=None) as response,
        pytest.raises(RemoteUnavailable, match="cut"),
    ):
        response.read(len(body) + 1)


def test_certificate_folder_is_dockers(
    listen: Listen, connect: Connect, certificates: Certificates, tmp_path: Path
) -> None:
    """``*.crt`` is trusted, ``*.cert`` with ``*.key`` is shown, to the registry and to nobody else."""
    folder = tmp_path / "certs.d"
    folder.mkdir()
    shutil.copy(certificates.folder / "ca.pem", folder / "ca.crt")
    terms = replace(FAST, cert_dir=str(folder))
    registry = listen(tls=certificates.server(wants_client=True))
    with pytest.raises(RemoteUnavailable):
        connect(registry, replace(terms, retries=0)).request("GET", "/v2/", scope=None)
    shutil.copy(certificates.folder / "client.pem", folder / "client.cert")
    with pytest.raises(UsageError, match=r"client\.cert: cannot be used with .*client\.key: No such file"):
        connect(registry, terms).request("GET", "/v2/", scope=None)
    shutil.copy(certificates.folder / "client.key", folder / "client.key")
    (folder / "README").write_text("not a certificate")
    with connect(registry, terms).request("GET", "/v2/", scope=None) as response:
        assert response.read(10) == b"{}"
    # Another host that wants one as well does not get it.
    other = listen(tls=certificates.server(wants_client=True), name="localhost")
    registry.script = lambda seen: redirect(other.url)
    with pytest.raises(RemoteUnavailable):
        connect(registry, replace(terms, retries=0)).request("GET", "/v2/", scope=None, follow=True)
    assert other.seen == []


@pytest.mark.parametrize("name", ["ca_file", "cert_dir"])
def test_certificates_that_cannot_be_read_are_a_usage_error(
    connect: Connect, tmp_path: Path, name: str
) -> None:
    terms = replace(FAST, **{name: str(tmp_path / "none")})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="/none"):
        connect("https://127.0.0.1:1", terms).request("GET", "/v2/", scope=None)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "bad.crt").write_text("no certificate")
    with pytest.raises(UsageError, match="/none"):
        connect("https://127.0.0.1:1", terms).request("GET", "/v2/", scope=None)


def test_https_registry_sends_nothing_to_http(
    listen: Listen, connect: Connect, certificates: Certificates
) -> None:
    plain = listen()
    registry = listen(tls=certificates.server())
    terms = replace(
        FAST,
        ca_file=str(certificates.folder / "ca.pem"),
        auth_hosts=frozenset({"127.0.0.1"}),
        redirect_hosts=frozenset({"127.0.0.1"}),
    )
    endpoint = connect(registry, terms, login_for(registry))
    registry.script = lambda seen: redirect(plain.url)
    with pytest.raises(UnsafeRemote, match="from https to http"):
        endpoint.request("GET", "/v2/", scope=None, follow=True)
    registry.script = lambda seen: challenge(f'Bearer realm="{plain.url}/token"')
    with pytest.raises(UnsafeRemote, match="not https"):
        endpoint.request("GET", "/v2/", scope=None)
    assert plain.seen == []


def test_tls_where_there_is_none_is_unavailable(listen: Listen, connect: Connect) -> None:
    registry = listen()
    url = registry.url.replace("http:", "https:")
    with pytest.raises(RemoteUnavailable, match=r"127\.0\.0\.1:\d+/v2/"):
        connect(url, replace(FAST, retries=0)).request("GET", "/v2/", scope=None)


# --- proxies --------------------------------------------------------------------------------------


@dataclass
class Proxy:
    """Forwards http, tunnels https; whatever the name, it goes to one port of the loopback."""

    url: str
    port: int
    heads: list[bytes] = field(default_factory=list)


@contextmanager
def proxying(to_port: int) -> Iterator[Proxy]:
    server = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(f"http://agent:pw@127.0.0.1:{server.getsockname()[1]}", server.getsockname()[1])

    def pump(source: socket.socket, target: socket.socket) -> None:
        with closing(source), closing(target):
            try:
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def serve(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := client.recv(65536)):
                client.close()
                return
            head += data
        proxy.heads.append(head)
        server_side = socket.create_connection(("127.0.0.1", to_port))
        if head.startswith(b"CONNECT "):
            client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            server_side.sendall(head)
        back = threading.Thread(target=pump, args=(server_side.dup(), client.dup()), daemon=True)
        back.start()
        pump(client, server_side)
        back.join()

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def test_http_goes_through_the_proxy(
    listen: Listen, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = listen(lambda seen: Answer(body=b"ok"))
    with proxying(registry.port) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with connect("http://registry.test").request("GET", "/v2/a", scope=None) as response:
            assert response.read(10) == b"ok"
        assert proxy.heads[0].startswith(b"GET http://registry.test/v2/a HTTP/1.1\r\n")
        assert (
            b"Proxy-Authorization: Basic " in proxy.heads[0]
            or b"proxy-authorization: Basic " in proxy.heads[0]
        )


def test_https_is_tunnelled_and_still_verified(
    listen: Listen, connect: Connect, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(seen: Seen) -> Answer:
        if seen.path == "/token":
            return answer_json({"token": "t"})
        return (
            Answer(body=b"ok")
            if seen.authorization
            else challenge('Bearer realm="https://registry.test/token"')
        )

    registry = listen(script, tls=certificates.server())
    with proxying(registry.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        terms = replace(FAST, ca_file=str(certificates.folder / "ca.pem"))
        with connect("https://registry.test", terms).request("GET", "/v2/", scope="s") as response:
            assert response.read(10) == b"ok"
        assert all(head.startswith(b"CONNECT registry.test:443 ") for head in proxy.heads)
        assert "proxy-authorization" not in registry.seen[0].headers
        with pytest.raises(RemoteUnavailable, match=r"other\.test does not verify"):
            connect("https://other.test", terms).request("GET", "/v2/", scope=None)


def test_no_proxy_and_the_loopback_go_directly(
    listen: Listen, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = listen()
    with proxying(registry.port) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", ".inside.test")
        connect(registry).request("GET", "/v2/", scope=None).close()
        endpoint = connect(
            f"http://a.inside.test:{registry.port}",
            resolver=lambda host, port: [(socket.AF_INET, ("127.0.0.1", port))],
        )
        endpoint.request("GET", "/v2/", scope=None).close()
        assert proxy.heads == []
    assert len(registry.seen) == 2


def test_registry_behind_a_proxy_cannot_send_us_to_our_loopback(
    listen: Listen, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = listen()
    registry = listen(lambda seen: redirect(here.url))
    with proxying(registry.port) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(UnsafeRemote, match="may not send us"):
            connect("http://registry.test").request("GET", "/v2/", scope=None, follow=True)
    assert here.seen == []


@pytest.mark.parametrize("proxy", ["http://agent:hidden@127.0.0.1:1", "socks5://agent:hidden@127.0.0.1:1"])
def test_proxy_that_cannot_be_used_shows_no_password(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(
        UsageError if proxy.startswith("socks") else RemoteUnavailable, match="proxy"
    ) as raised:
        connect("http://registry.test").request("GET", "/v2/", scope=None)
    assert "hidden" not in str(raised.value)
