"""A small client of a registry: pushes, mounts, deletes and asks over one connection that is kept.

It asks for no credentials and is for one thread. What it has put, and what the registry then says that it
has, is compared by nobody here.
"""

from __future__ import annotations

import http.client
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, urlsplit

from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from tests.builders import Json, LayoutBuilder
from tests.support.old_registries.content import Step

TIMEOUT_S: Final = 60.0
_ACCEPT: Final = ", ".join(sorted(media_types.IMAGE_MANIFESTS | media_types.INDEXES))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the registry said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Json:
        """Return the body, read as an object."""
        found: Json = json.loads(self.body)
        return found


class RegistryClient:
    """One connection to ``host:port``.

    *put* are the manifests that it was given a 201 for, by repository. It mounts a blob from the first
    repository that it put it into, where it can.
    """

    def __init__(self, host: str) -> None:
        self.put: dict[str, set[str]] = defaultdict(set)
        self._connection = http.client.HTTPConnection(host, timeout=TIMEOUT_S)
        self._has: set[tuple[str, str]] = set()
        self._where: dict[str, str] = {}

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request and read its answer, whatever its status."""
        sent = {"Content-Length": str(len(body or b"")), **(headers or {})}
        self._connection.request(method, path, body, sent)
        answer = self._connection.getresponse()
        return Answer(answer.status, dict(answer.headers.items()), answer.read())

    def expect(
        self,
        status: int,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request; another status than this one is an error that shows the answer."""
        answer = self.ask(method, path, body, headers)
        if answer.status != status:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.body[:1000]!r}")
        return answer

    # --- writing ------------------------------------------------------------------------------

    def do(self, step: Step) -> None:
        """Do one step of an old registry's content."""
        for put in step.puts:
            self.push(step.repository, step.builder, put.descriptor, put.tag)
        for digest in step.deletes:
            self.delete(step.repository, digest)

    def push(self, repository: str, builder: LayoutBuilder, descriptor: Json, tag: str | None = None) -> None:
        """Put all that a manifest names and that is not there yet, then itself: by tag, or by digest."""
        digest = str(descriptor["digest"])
        content = builder.blobs[digest]
        document = json.loads(content)
        for child in document.get("manifests", []):
            if child["digest"] not in self.put[repository]:
                self.push(repository, builder, child)
        for blob in [document.get("config"), *document.get("layers", [])]:
            if blob is not None and blob["mediaType"] not in media_types.NON_DISTRIBUTABLE:
                self.blob(repository, builder.blobs[blob["digest"]], blob["digest"])
        self.manifest(repository, content, descriptor["mediaType"], tag or digest)
        self.put[repository].add(digest)

    def manifest(self, repository: str, content: bytes, media_type: str, reference: str) -> None:
        """Put a manifest whose content is there."""
        self.expect(
            201, "PUT", f"/v2/{repository}/manifests/{reference}", content, {"Content-Type": media_type}
        )

    def blob(self, repository: str, content: bytes, digest: str) -> None:
        """Put a blob, unless this client did already."""
        if (repository, digest) in self._has:
            return
        mount = f"?mount={digest}&from={self._where[digest]}" if digest in self._where else ""
        begun = self.ask("POST", f"/v2/{repository}/blobs/uploads/{mount}")
        if begun.status != 201:
            target = urlsplit(begun.headers["Location"])
            self.expect(
                201,
                "PUT",
                f"{target.path}?{target.query}&digest={quote(digest)}",
                content,
                {"Content-Type": "application/octet-stream"},
            )
        self._has.add((repository, digest))
        self._where.setdefault(digest, repository)

    def begin_upload(self, repository: str, content: bytes) -> None:
        """Begin an upload that nobody ends."""
        target = urlsplit(self.expect(202, "POST", f"/v2/{repository}/blobs/uploads/").headers["Location"])
        kind = {"Content-Type": "application/octet-stream"}
        self.expect(202, "PATCH", f"{target.path}?{target.query}", content, kind)

    def delete(self, repository: str, digest: str) -> None:
        """Delete a manifest, and so all of its tags."""
        self.expect(202, "DELETE", f"/v2/{repository}/manifests/{digest}")

    # --- asking -------------------------------------------------------------------------------

    def repositories(self) -> list[str]:
        """Return the names of all repositories."""
        found: list[str] = []
        path = "/v2/_catalog?n=100"
        while path:
            answer = self.expect(200, "GET", path)
            found += answer.json()["repositories"]
            link = answer.headers.get("Link")
            path = link.partition("<")[2].partition(">")[0] if link else ""
        return found

    def tags(self, repository: str) -> dict[str, Digest]:
        """Return the tags that are listed and served, with what they name; none of an unknown repository."""
        answer = self.ask("GET", f"/v2/{repository}/tags/list")
        if answer.status == 404:
            return {}
        names = answer.json()["tags"] or []
        found = {name: self.digest_of(repository, name) for name in sorted(names)}
        return {name: digest for name, digest in found.items() if digest is not None}

    def digest_of(self, repository: str, reference: str) -> Digest | None:
        """Return what the registry says is the digest of a manifest; None if it has none."""
        path = f"/v2/{repository}/manifests/{quote(reference)}"
        answer = self.ask("HEAD", path, headers={"Accept": _ACCEPT})
        return Digest.parse(answer.headers["Docker-Content-Digest"]) if answer.status == 200 else None

    def get(self, repository: str, reference: str) -> Answer:
        """Ask for a manifest, of any type."""
        path = f"/v2/{repository}/manifests/{quote(reference)}"
        return self.ask("GET", path, headers={"Accept": _ACCEPT})

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
