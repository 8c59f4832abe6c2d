"""Credentials go to the registry that they are for, and to nobody that it sends us to.

Whole syncs, with credentials in a Docker configuration file. A listener poses as a realm, as what a redirect
leads to, as a next page, as a mirror; it keeps all that it is sent.
"""

from __future__ import annotations

import json
import re
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest

from regmeta.app import syncing
from regmeta.errors import Error, InvalidSource, RemoteRefused, RemoteUnavailable, UnsafeRemote
from regmeta.settings import Content, Settings
from regmeta.sync.records import ItemOutcome
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.registries.bad_registry import PASSWORD, USERNAME, BadRegistry
from tests.support.registries.rules import Headers, Redirect, Status
from tests.support.registry import open_parts, rows, tags
from tests.support.syncs import mirroring, run_once
from tests.unit.sources.registry.listener import (
    Answer,
    Listener,
    Script,
    Seen,
    challenge,
    listening,
    redirect,
)
from tests.unit.sources.registry.test_tls_and_proxies import Certificates, certificates

__all__ = ["certificates"]

pytestmark = pytest.mark.parametrize("backend", ["sqlite"])  # no database has a part in it

PAIR = b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
OTHERS = ("someone", "the-secret-of-the-mirror")
Auth = Literal["basic", "bearer"]
Sync = Callable[..., ItemOutcome]


@pytest.fixture(params=["basic", "bearer"])
def auth(request: pytest.FixtureRequest) -> Auth:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def registry(auth: Auth) -> Iterator[BadRegistry]:
    """A registry that lets in who has its credentials."""
    with BadRegistry(auth=auth) as found:
        yield found


@pytest.fixture
def image(registry: BadRegistry, builder: LayoutBuilder) -> Json:
    made = builder.image([b"one", b"two"])
    builder.tag(made, "v1")
    registry.push(builder, "app")
    return made


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    """Start listeners at ``localhost``, which is another host than 127.0.0.1."""
    with ExitStack() as stack:

        def start(script: Script, tls: ssl.SSLContext | None = None) -> Listener:
            return stack.enter_context(listening(script, name="localhost", tls=tls))

        yield start


@pytest.fixture
def foreign(listen: Callable[..., Listener]) -> Listener:
    """A listener that answers everything with nothing in particular."""
    return listen(lambda seen: Answer(body=b"{}"))


@pytest.fixture(params=["policy", "image"])
def sync(request: pytest.FixtureRequest, settings: Settings, registry: BadRegistry, tmp_path: Path) -> Sync:
    """Sync the one image, by its policy or by its name; return its outcome.

    The credentials are those of the registry, unless others are given, by host.
    """

    def run(*mirrors: str, logins: dict[str, tuple[str, str]] | None = None, **others: Any) -> ItemOutcome:
        file = write_logins(tmp_path, {registry.host: (USERNAME, PASSWORD), **(logins or {})})
        content = others.pop("content", (Content(prefix="app"),))
        url = others.pop("url", registry.url)
        chosen = mirroring(settings, url, *mirrors, credentials_file=str(file), content=content, **others)
        if request.param == "image":
            report = syncing.sync_one(chosen, f"{url}/app:v1", None)
        else:
            try:
                report = run_once(chosen)
            except Error as error:
                return ItemOutcome("app", "*", "app", "failed", "", reason=str(error), error=error)
        [item] = report.items
        return item

    return run


def write_logins(folder: Path, logins: dict[str, tuple[str, str]]) -> Path:
    """Write a Docker configuration file."""
    auths = {
        host: {"auth": b64encode(f"{name}:{secret}".encode()).decode()}
        for host, (name, secret) in logins.items()
    }
    path = folder / "config.json"
    path.write_text(json.dumps({"auths": auths}))
    return path


def content_of(registry: BadRegistry, image: Json, seen: Seen) -> Answer:
    """Answer as another registry that has the same image."""
    name = seen.path.rpartition("/")[2]
    digest = image["digest"] if name == "v1" else name
    if seen.path.endswith("/tags/list"):
        return Answer(body=b'{"name":"app","tags":["v1"]}')
    if digest not in registry.blobs or "/referrers/" in seen.path:
        return Answer(404)
    kind = registry.types.get(digest, "application/octet-stream")
    return Answer(200, (("Content-Type", kind), ("Docker-Content-Digest", digest)), registry.blobs[digest])


def secrets_in(text: str, registry: BadRegistry) -> list[str]:
    """Return what a text holds of what only the registry may see."""
    secrets = (USERNAME, PASSWORD, PAIR, *registry._tokens, "authorization", "cookie")
    return [secret for secret in secrets if secret.lower() in text.lower()]


def assert_saw_nothing(listener: Listener, registry: BadRegistry) -> None:
    for seen in listener.seen:
        assert secrets_in(seen.everything(), registry) == []


def assert_failed(item: ItemOutcome, error: type[Error], said: str) -> None:
    assert item.outcome == "failed"
    assert type(item.error) is error, item.error
    assert re.search(said, str(item.reason)), item.reason


def assert_here(settings: Settings, image: Json | None) -> None:
    database, store = open_parts(settings)
    try:
        assert tags(database) == ({} if image is None else {"v1": digest_of(image)})
    finally:
        database.close()
        store.close()


# --- the way that works -----------------------------------------------------------------------


def test_registry_itself_gets_its_credentials(
    sync: Sync, settings: Settings, registry: BadRegistry, image: Json
) -> None:
    """Else the tests below would show nothing."""
    assert sync().outcome == "copied"
    assert_here(settings, image)
    assert any(PAIR in request.headers.get("Authorization", "") for request in registry.requests)


# --- realms -----------------------------------------------------------------------------------

REALMS = [
    "http://localhost:{port}/token",
    "https://localhost:{port}/token",
    "http://{own}@localhost:{port}/",
    "http://good@localhost:{port}/",
    "http://{own}:80@localhost:{port}/token",
    "http://localhost:{port}\\\\@{own}/token",
    "http://localhost:{port}/#@{own}",
    "//localhost:{port}/token",
    "http://LOCALHOST.:{port}/token",
]


@pytest.mark.parametrize("realm", REALMS)
def test_foreign_realm_gets_nothing(
    sync: Sync, settings: Settings, registry: BadRegistry, image: Json, foreign: Listener, realm: str
) -> None:
    text = realm.format(own="127.0.0.1", port=foreign.port)
    asks = Status(401, {"WWW-Authenticate": f'Bearer realm="{text}",service="s",scope="repository:app:pull"'})
    registry.misbehave("/v2/", asks)
    assert_failed(sync(), UnsafeRemote, "gets no credentials" if text.startswith("https") else "realm")
    assert foreign.seen == []
    assert registry.count("POST") == 0
    assert_here(settings, None)


def test_foreign_realm_gets_no_identity_token(
    settings: Settings, registry: BadRegistry, image: Json, foreign: Listener, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {registry.host: {"identitytoken": PASSWORD}}}))
    registry.misbehave("/v2/", Status(401, {"WWW-Authenticate": f'Bearer realm="{foreign.url}/token"'}))
    chosen = mirroring(settings, registry.url, credentials_file=str(path), content=(Content(prefix="app"),))
    [item] = run_once(chosen).items
    assert_failed(item, UnsafeRemote, "auth_hosts")
    assert foreign.seen == []


def test_redirect_of_a_realm_is_not_followed(
    sync: Sync, settings: Settings, registry: BadRegistry, image: Json, foreign: Listener
) -> None:
    realm = f'Bearer realm="{registry.url}/token",service="s"'
    registry.misbehave("/v2/", Status(401, {"WWW-Authenticate": realm}))
    registry.misbehave("^/token", Redirect(f"{foreign.url}/token"))
    assert_failed(sync(), UnsafeRemote, "a redirect, where a token was asked for")
    assert foreign.seen == []


# --- redirects --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_blobs_come_from_where_a_redirect_leads_without_credentials(
    sync: Sync,
    settings: Settings,
    registry: BadRegistry,
    image: Json,
    listen: Callable[..., Listener],
    code: int,
) -> None:
    def blob(seen: Seen) -> Answer:
        content = registry.blobs[seen.path.rpartition("/")[2]]
        if "range" not in seen.headers:  # cut: the rest is asked for, by the same way
            return Answer(body=content[:2], length=len(content))
        first = int(seen.headers["range"].removeprefix("bytes=").rstrip("-"))
        of = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return Answer(206, (("Content-Range", of),), content[first:])

    foreign = listen(blob)
    registry.misbehave("/blobs/", Redirect(f"{foreign.url}{{path}}", code))
    assert sync(retries=3).outcome == "copied"
    assert_here(settings, image)
    assert len(foreign.seen) >= 3
    assert any("range" in seen.headers for seen in foreign.seen)
    assert_saw_nothing(foreign, registry)


def test_manifests_come_from_where_a_redirect_leads_without_credentials(
    sync: Sync, settings: Settings, registry: BadRegistry, image: Json, listen: Callable[..., Listener]
) -> None:
    content = registry.blobs[image["digest"]]
    headers = (("Content-Type", image["mediaType"]), ("Docker-Content-Digest", image["digest"]))
    foreign = listen(lambda seen: Answer(200, headers, content))
    registry.misbehave("/manifests/v1", Redirect(f"{foreign.url}{{path}}"))
    assert sync().outcome == "copied"
    assert foreign.seen != []
    assert_saw_nothing(foreign, registry)
    assert_here(settings, image)


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_401_of_where_a_redirect_leads_is_not_answered(
    sync: Sync,
    settings: Settings,
    registry: BadRegistry,
    image: Json,
    listen: Callable[..., Listener],
    scheme: str,
) -> None:
    foreign = listen(lambda seen: challenge(f'{scheme} realm="{registry.url}/token",service="s"'))
    registry.misbehave("/blobs/", Redirect(f"{foreign.url}{{path}}"))
    assert_failed(sync(), RemoteRefused, r"localhost:\d+.* HTTP 401")
    assert foreign.seen != []
    assert_saw_nothing(foreign, registry)
    assert_here(settings, None)


@pytest.mark.parametrize(
    "to", ["http://{own}@localhost:{port}/", "ftp://localhost:{port}/", "http://169.254.169.254/"]
)
def test_redirect_in_disguise_is_refused(
    sync: Sync,
    settings: Settings,
    registry: BadRegistry,
    image: Json,
    foreign: Listener,
    to: str,
) -> None:
    registry.misbehave("/blobs/", Redirect(to.format(own=registry.host, port=foreign.port)))
    assert_failed(sync(), UnsafeRemote, "redirect|link-local|address")
    assert foreign.seen == []


def test_redirect_of_a_list_carries_no_credentials(
    settings: Settings, registry: BadRegistry, image: Json, foreign: Listener, tmp_path: Path
) -> None:
    file = write_logins(tmp_path, {registry.host: (USERNAME, PASSWORD)})
    for what, content in (("/tags/list", "app"), ("/_catalog", "**")):
        registry.behave()
        registry.misbehave(what, Redirect(f"{foreign.url}{{path}}"))
        chosen = mirroring(
            settings, registry.url, credentials_file=str(file), content=(Content(prefix=content),)
        )
        [report] = syncing.sync_policies(chosen)
        if isinstance(report, syncing.FailedRun):
            assert isinstance(report.error, InvalidSource | UnsafeRemote)
        else:
            assert [item.error_class in ("InvalidSource", "UnsafeRemote") for item in report.items] == [True]
    assert_saw_nothing(foreign, registry)
    assert_here(settings, None)


# --- pages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["/tags/list", "/_catalog"])
@pytest.mark.parametrize(
    "link", ["<{url}{path}?last=v1>", "<//localhost:{port}{path}>", "<http://{own}@localhost:{port}{path}>"]
)
def test_next_page_elsewhere_is_not_asked_for(
    settings: Settings,
    registry: BadRegistry,
    image: Json,
    foreign: Listener,
    tmp_path: Path,
    what: str,
    link: str,
) -> None:
    path = "/v2/app/tags/list" if what == "/tags/list" else "/v2/_catalog"
    text = link.format(url=foreign.url, port=foreign.port, path=path, own=registry.host)
    if registry.auth == "bearer":  # who is not let in is not sent on
        run_once(
            mirroring(
                settings,
                registry.url,
                credentials_file=str(write_logins(tmp_path, {registry.host: (USERNAME, PASSWORD)})),
                content=(Content(prefix="nothing"),),
            )
        )
    registry.misbehave(what, Headers({"Link": f'{text}; rel="next"'}))
    file = write_logins(tmp_path, {registry.host: (USERNAME, PASSWORD)})
    content = (Content(prefix="app" if what == "/tags/list" else "**"),)
    chosen = mirroring(settings, registry.url, credentials_file=str(file), content=content)
    [report] = syncing.sync_policies(chosen)
    if isinstance(report, syncing.FailedRun):
        assert isinstance(report.error, UnsafeRemote)
        assert what == "/_catalog"
    else:
        [item] = report.items
        assert_failed(item, UnsafeRemote, "elsewhere")
    assert foreign.seen == []
    assert_here(settings, None)


# --- mirrors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [None, "Basic", "Bearer"])
def test_mirror_gets_no_credentials_of_the_registry(
    sync: Sync,
    settings: Settings,
    registry: BadRegistry,
    image: Json,
    listen: Callable[..., Listener],
    scheme: str | None,
) -> None:
    """Whether it asks for some or not."""
    mirror = listen(lambda seen: Answer(404))
    if scheme is not None:
        mirror.script = lambda seen: challenge(f'{scheme} realm="{mirror.url}/token"')
    registry.misbehave("/v2/", Status(503), method="GET")
    item = sync(mirror.url)
    assert_failed(item, RemoteUnavailable, "503")
    assert mirror.seen != []
    assert_saw_nothing(mirror, registry)


def test_mirror_gets_no_credentials_though_the_registry_was_let_in_before(
    sync: Sync, settings: Settings, registry: BadRegistry, image: Json, listen: Callable[..., Listener]
) -> None:
    """Blobs fail there, after it has had a token: the mirror is asked for them alone."""

    def script(seen: Seen) -> Answer:
        content = registry.blobs.get(seen.path.rpartition("/")[2])
        return Answer(404) if content is None or "/blobs/" not in seen.path else Answer(body=content)

    mirror = listen(script)
    registry.misbehave("/blobs/", Status(500))
    assert sync(mirror.url).outcome == "copied"
    assert [seen for seen in mirror.seen if "/blobs/" in seen.path] != []
    assert_saw_nothing(mirror, registry)
    assert_here(settings, image)


def test_mirror_gets_its_own_credentials_and_the_registry_does_not(
    sync: Sync, settings: Settings, registry: BadRegistry, image: Json, listen: Callable[..., Listener]
) -> None:
    theirs = b64encode(":".join(OTHERS).encode()).decode()

    def script(seen: Seen) -> Answer:
        if seen.authorization != f"Basic {theirs}":
            return challenge('Basic realm="mirror"')
        return content_of(registry, image, seen)

    mirror = listen(script)
    registry.misbehave("/(manifests|blobs|referrers)/|tags", Status(503))
    item = sync(mirror.url, logins={f"localhost:{mirror.port}": OTHERS}, referrers=False, cosign_tags=False)
    assert item.outcome == "copied", item.reason
    assert_saw_nothing_of(mirror, registry)
    for request in registry.requests:
        assert theirs not in str(request.headers)
        assert OTHERS[1] not in f"{request.path} {request.headers}"
    assert_here(settings, image)


def assert_saw_nothing_of(listener: Listener, registry: BadRegistry) -> None:
    """Check a listener that may be sent credentials of its own."""
    for seen in listener.seen:
        found = secrets_in(seen.everything(), registry)
        assert found in ([], ["authorization"])
        assert seen.authorization is None or PAIR not in seen.authorization


# --- from https to http -----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["realm", "blob"])
def test_https_registry_cannot_send_us_to_http(
    settings: Settings,
    listen: Callable[..., Listener],
    certificates: Certificates,
    tmp_path: Path,
    foreign: Listener,
    registry: BadRegistry,
    image: Json,
    what: str,
) -> None:
    def script(seen: Seen) -> Answer:
        if what == "realm":
            return challenge(f'Bearer realm="{foreign.url}/token"')
        if seen.authorization is None:
            return challenge('Basic realm="secure"')
        return redirect(foreign.url) if "/blobs/" in seen.path else content_of(registry, image, seen)

    secure = listen(script, tls=certificates.server())
    host = f"localhost:{secure.port}"
    file = write_logins(tmp_path, {host: (USERNAME, PASSWORD)})
    ca = str(certificates.folder / "ca.pem")
    chosen = mirroring(settings, secure.url, credentials_file=str(file), ca_file=ca)
    report = syncing.sync_one(chosen, f"{host}/app:v1", None)
    assert secure.seen != []
    assert_failed(report.items[0], UnsafeRemote, "is not https" if what == "realm" else "from https to http")
    assert foreign.seen == []


# --- what has no end --------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_401_without_end_ends(
    sync: Sync, settings: Settings, registry: BadRegistry, image: Json, scheme: str
) -> None:
    asks = {"WWW-Authenticate": f'{scheme} realm="{registry.url}/token",service="s"'}
    registry.misbehave("/v2/", Status(401, asks))
    item = sync(retries=3)
    assert_failed(item, RemoteRefused, "accepted|HTTP 401")
    assert len(registry.requests) <= 10
    assert secrets_in(str(item.reason), registry) == []


def test_token_of_a_million_bytes_is_refused(
    sync: Sync, settings: Settings, registry: BadRegistry, image: Json
) -> None:
    registry.misbehave("/v2/", Status(401, {"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'}))
    registry.misbehave("^/token", Status(200, {}, json.dumps({"token": "x" * 1_000_000}).encode()))
    item = sync(retries=3)
    assert_failed(item, InvalidSource, "more than|larger|bytes")
    assert registry.count("GET", "^/token") <= 4
    assert len(str(item.reason)) < 1000


# --- what a manifest names, and what is told of it all --------------------------------------------


def test_urls_of_a_foreign_layer_are_not_asked(
    sync: Sync, settings: Settings, registry: BadRegistry, builder: LayoutBuilder, foreign: Listener
) -> None:
    layer = {
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "digest": "sha256:" + "1" * 64,
        "size": 1000,
        "urls": [f"{foreign.url}/layer", f"http://{USERNAME}:{PASSWORD}@localhost:{foreign.port}/"],
    }
    made = builder.image([layer, builder.blob(b"here", urls=[f"{foreign.url}/here"])])
    builder.tag(made, "v1")
    registry.push(builder, "app")
    assert sync().outcome == "copied"
    assert foreign.seen == []
    assert registry.count("GET", "1" * 64) == 0
    assert_here(settings, made)


def test_registry_that_says_our_secrets_back_does_not_get_them_into_our_messages_or_rows(
    sync: Sync,
    settings: Settings,
    registry: BadRegistry,
    image: Json,
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = f"you are {USERNAME}:{PASSWORD}, {PAIR}"
    body = json.dumps({"errors": [{"code": "DENIED", "message": said}]}).encode()
    registry.misbehave("/blobs/", Status(403, {}, body))
    item = sync()
    assert_failed(item, RemoteRefused, "403")
    database, store = open_parts(settings)
    try:
        kept = str(rows(database, "SELECT * FROM sync_items")) + str(
            rows(database, "SELECT * FROM sync_runs")
        )
    finally:
        database.close()
        store.close()
    for text in (str(item.reason), str(item.error), repr(item), kept, caplog.text):
        assert PASSWORD not in text
        assert PAIR not in text
