"""A registry in this process that keeps to the specification until it is told not to.

    with BadRegistry() as registry:
        registry.push(builder, "app")                       # the tags of a LayoutBuilder, and its blobs
        registry.misbehave("/blobs/", Cut(after_bytes=10, times=1))
        ...
        assert registry.count("GET", "/blobs/") == 2

It serves plain HTTP on a free port of 127.0.0.1 and records every request. Content is shared by all
repositories. Rules (:mod:`tests.support.registries.rules`) are looked at in the order that they were given
in; the first that fits the path (a regular expression that is searched in path and query) and has times
left is applied, to that request alone.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from regmeta.oci import media_types
from tests.builders import Json, LayoutBuilder, dumps
from tests.support.registries.http_server import Answer, HttpServer, Request
from tests.support.registries.rules import Rule

USERNAME, PASSWORD = "reader", "s3cret-of-the-reader"
_NAME = r"(?P<name>[^?]+?)"
_MANIFEST = re.compile(rf"/v2/{_NAME}/manifests/(?P<of>[^/]+)")
_BLOB = re.compile(rf"/v2/{_NAME}/blobs/(?P<of>[^/]+)")
_TAGS = re.compile(rf"/v2/{_NAME}/tags/list")
_REFERRERS = re.compile(rf"/v2/{_NAME}/referrers/(?P<of>[^/]+)")
_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass
class _Applied:
    pattern: re.Pattern[str]
    method: str | None
    rule: Rule
    left: int | None


class BadRegistry:
    """One registry; thread-safe.

    *auth* is ``basic`` or ``bearer``: then :data:`USERNAME` and :data:`PASSWORD` are asked for; a token is
    also given to nobody in particular if *anonymous*. *page_size* is the most names or referrers on one page.
    A test may change ``blobs``, ``types`` (what is a manifest), ``tags`` and ``referrers_api`` at any time.
    """

    def __init__(
        self,
        *,
        auth: Literal["basic", "bearer"] | None = None,
        anonymous: bool = False,
        referrers_api: bool = True,
        page_size: int = 1000,
    ) -> None:
        self.auth = auth
        self.anonymous = anonymous
        self.referrers_api = referrers_api
        self.page_size = page_size
        self.blobs: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self._tokens: dict[str, str] = {}
        self._rules: list[_Applied] = []
        self._lock = threading.Lock()
        self._server = HttpServer(self._answer, self._rule_of)
        self.requests: list[Request] = self._server.requests

    @property
    def host(self) -> str:
        """Host and port."""
        return self._server.host

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://{self.host}"

    def push(self, builder: LayoutBuilder, *repositories: str) -> None:
        """Take in all that a builder has: its tags go to each of the repositories (``app``)."""
        self.blobs.update(builder.blobs)
        for digest, content in builder.blobs.items():
            kind = _manifest_type(content)
            if kind is not None:
                self.types.setdefault(digest, kind)
        for repository in repositories or ("app",):
            tags = self.tags.setdefault(repository, {})
            for entry in builder.entries:
                name = entry.get("annotations", {}).get("org.opencontainers.image.ref.name")
                if name is not None:
                    tags[name] = entry["digest"]

    def misbehave(self, pattern: str, rule: Rule, *, method: str | None = None) -> None:
        """Apply *rule* to requests whose path (with the query) has *pattern* in it."""
        with self._lock:
            self._rules.append(_Applied(re.compile(pattern), method, rule, rule.times))

    def behave(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._rules.clear()

    def seen(self, method: str | None = None, pattern: str = "") -> list[Request]:
        """Return the requests of a method and a path (a regular expression), in the order they came."""
        return [
            request
            for request in list(self.requests)
            if method in (None, request.method) and re.search(pattern, request.path)
        ]

    def count(self, method: str | None = None, pattern: str = "") -> int:
        """Return how many such requests came."""
        return len(self.seen(method, pattern))

    def close(self) -> None:
        """Close all connections and wait for what serves them."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- answers ------------------------------------------------------------------------------

    def _rule_of(self, request: Request) -> Rule | None:
        with self._lock:
            for item in self._rules:
                if item.left == 0 or item.method not in (None, request.method):
                    continue
                if item.pattern.search(request.path):
                    if item.left is not None:
                        item.left -= 1
                    return item.rule
        return None

    def _answer(self, request: Request) -> Answer:
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/token":
            return self._token(request, query)
        matches = (pattern.fullmatch(parts.path) for pattern in (_MANIFEST, _BLOB, _TAGS, _REFERRERS))
        found = next((match for match in matches if match), None)
        refused = self._refused(request, None if found is None else found["name"])
        if refused is not None:
            return refused
        if parts.path in ("/v2/", "/v2"):
            return _json({})
        if parts.path == "/v2/_catalog":
            return self._page("repositories", list(self.tags), parts.path, query)
        if found is None:
            return Answer(404, b"404 page not found\n", {"Content-Type": "text/plain"})
        if found["name"] not in self.tags:
            return _error(404, "NAME_UNKNOWN")
        if found.re is _TAGS:
            return self._page("tags", list(self.tags[found["name"]]), parts.path, query)
        if found.re is _REFERRERS:
            return self._referrers(found["of"], parts.path, query)
        if found.re is _BLOB:
            return self._blob(found["of"], request)
        return self._manifest(found["name"], found["of"])

    def _manifest(self, repository: str, reference: str) -> Answer:
        digest = self.tags[repository].get(reference, reference)
        content = self.blobs.get(digest)
        if content is None or digest not in self.types:
            return _error(404, "MANIFEST_UNKNOWN")
        return Answer(200, content, {"Content-Type": self.types[digest], "Docker-Content-Digest": digest})

    def _blob(self, digest: str, request: Request) -> Answer:
        content = self.blobs.get(digest)
        if content is None or digest in self.types:
            return _error(404, "BLOB_UNKNOWN")
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        wanted = _RANGE.fullmatch(request.headers.get("Range", ""))
        if wanted is None:
            return Answer(200, content, headers)
        first = int(wanted[1])
        if first >= len(content):
            return Answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return Answer(206, content[first:], headers)

    def _referrers(self, digest: str, path: str, query: Mapping[str, str]) -> Answer:
        if not self.referrers_api:
            return Answer(404, b"404 page not found\n", {"Content-Type": "text/plain"})
        found = list(self._referrers_of(digest))
        first = int(query.get("from", 0))
        chosen = found[first : first + self.page_size]
        headers = {"Content-Type": media_types.OCI_INDEX}
        if first + len(chosen) < len(found):
            headers["Link"] = f'<{path}?from={first + len(chosen)}>; rel="next"'
        index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": chosen}
        return Answer(200, dumps(index), headers)

    def _referrers_of(self, digest: str) -> Iterator[Json]:
        for own, kind in list(self.types.items()):
            document = json.loads(self.blobs.get(own, b"{}"))
            if (document.get("subject") or {}).get("digest") == digest:
                artifact_type = document.get("artifactType") or document.get("config", {}).get("mediaType")
                found = {"mediaType": kind, "digest": own, "size": len(self.blobs[own])}
                yield {**found, **({"artifactType": artifact_type} if artifact_type else {})}

    def _page(self, key: str, names: list[str], path: str, query: Mapping[str, str]) -> Answer:
        size = min(int(query.get("n", self.page_size)), self.page_size)
        ordered = sorted(name for name in names if name > query.get("last", ""))
        chosen = ordered[:size]
        headers = {}
        if len(chosen) < len(ordered):
            headers["Link"] = f'<{path}?{urlencode({"last": chosen[-1], "n": size})}>; rel="next"'
        return _json({key: chosen}, headers)

    # --- who asks -----------------------------------------------------------------------------

    def _refused(self, request: Request, repository: str | None) -> Answer | None:
        kind, _, value = request.headers.get("Authorization", "").partition(" ")
        if self.auth is None or (self.auth == "basic" and kind == "Basic" and _is_user(value)):
            return None
        if self.auth == "basic":
            return _error(401, "UNAUTHORIZED", {"WWW-Authenticate": 'Basic realm="bad"'})
        catalog = urlsplit(request.path).path == "/v2/_catalog"
        scope = "registry:catalog:*" if catalog else f"repository:{repository}:pull" if repository else ""
        granted = self._tokens.get(value) if kind == "Bearer" else None
        if granted is not None and (not scope or scope in granted.split()):
            return None
        asked = f',scope="{scope}"' if scope else ""
        challenge = f'Bearer realm="{self.url}/token",service="{quote("bad registry")}"{asked}'
        return _error(401, "UNAUTHORIZED", {"WWW-Authenticate": challenge})

    def _token(self, request: Request, query: Mapping[str, str]) -> Answer:
        kind, _, value = request.headers.get("Authorization", "").partition(" ")
        if not ((kind == "Basic" and _is_user(value)) or (self.anonymous and not kind)):
            return _error(401, "UNAUTHORIZED", {"WWW-Authenticate": 'Basic realm="bad"'})
        token = secrets.token_urlsafe(16)
        self._tokens[token] = query.get("scope", "")
        return _json({"token": token, "expires_in": 300})


def _is_user(value: str) -> bool:
    return b64decode(value) == f"{USERNAME}:{PASSWORD}".encode()


def _json(value: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(200, dumps(value), {"Content-Type": "application/json", **(headers or {})})


def _error(status: int, code: str, headers: Mapping[str, str] | None = None) -> Answer:
    body = dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]})
    return Answer(status, body, {"Content-Type": "application/json", **(headers or {})})


def _manifest_type(content: bytes) -> str | None:
    """Return the media type of what looks like a manifest."""
    try:
        document = json.loads(content)
    except ValueError:
        return None
    if not isinstance(document, dict) or not {"manifests", "layers", "config"} & document.keys():
        return None
    if "schemaVersion" not in document:
        return None
    guess = media_types.OCI_INDEX if "manifests" in document else media_types.OCI_MANIFEST
    return str(document.get("mediaType", guess))
