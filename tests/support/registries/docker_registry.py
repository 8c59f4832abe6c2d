"""Debian's ``docker-registry`` on a free port of 127.0.0.1, and a pusher that puts layouts into it.

    with DockerRegistry(folder) as registry:
        registry.push(layout, "some/repository")

Needs no pytest: benchmarks use it too.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from regmeta.oci import media_types
from regmeta.oci.descriptor import REF_NAME
from tests.builders import Json, LayoutBuilder

PROGRAM: Final = "docker-registry"
START_S: Final = 30.0
_CONFIG: Final = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {root}, maxthreads: 100}}
  cache: {{blobdescriptor: inmemory}}
  delete: {{enabled: true}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http: {{addr: "127.0.0.1:{port}"}}
validation: {{manifests: {{urls: {{allow: ["^https?://"]}}}}}}
"""


def is_installed() -> bool:
    """Tell whether the program is on this machine."""
    return shutil.which(PROGRAM) is not None


class DockerRegistry:
    """One running registry, its content in a folder. Started at once, stopped by :meth:`close`.

    Configuration and log are in *folder*; so is the content, if *content* does not say another place.
    """

    def __init__(self, folder: Path, *, content: Path | None = None) -> None:
        self.folder = folder
        self.content = folder / "content" if content is None else content
        self.content.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        for tries_left in (2, 1, 0):  # another process may take the port first
            self.host = f"127.0.0.1:{_free_port()}"
            self.url = f"http://{self.host}"
            self._process = self._start()
            try:
                self._wait()
                return
            except BaseException as error:
                self.close()
                if tries_left == 0 or not isinstance(error, RuntimeError):
                    raise

    def unique_name(self, prefix: str = "app") -> str:
        """Return the name of a repository that nobody else uses."""
        return f"{prefix}-{uuid.uuid4().hex[:12]}"

    def push(self, content: Path | LayoutBuilder, repository: str) -> None:
        """Push what a layout lists: under its names, or by digest what has none. Children go first."""
        if isinstance(content, LayoutBuilder):
            layout = self.folder / f"layout-{uuid.uuid4().hex}"
            content.write(layout)
            try:
                push_layout(self.url, layout, repository)
            finally:
                shutil.rmtree(layout)
        else:
            push_layout(self.url, content, repository)

    def close(self) -> None:
        """Stop the registry; its content stays."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        config = self.folder / "config.yml"
        port = self.host.partition(":")[2]
        config.write_text(_CONFIG.format(root=json.dumps(str(self.content)), port=port))
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [PROGRAM, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _wait(self) -> None:
        deadline_s = time.monotonic() + START_S
        while True:
            connection = http.client.HTTPConnection(self.host, timeout=5)
            try:
                connection.request("GET", "/v2/")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError(f"{PROGRAM} did not start: {self._log.read_text()[-2000:]}") from None
                time.sleep(0.02)
            finally:
                connection.close()


def push_layout(url: str, layout: Path, repository: str) -> None:
    """Push all that a layout lists to a registry that asks for no credentials."""
    with _Pusher(url, layout, repository) as pusher:
        for entry in json.loads((layout / "index.json").read_bytes())["manifests"]:
            pusher.manifest(entry, entry.get("annotations", {}).get(REF_NAME, entry["digest"]))


class _Pusher:
    """Puts the content of a layout into one repository, each blob once."""

    def __init__(self, url: str, layout: Path, repository: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._layout = layout
        self._base = f"/v2/{repository}"
        self._done: set[str] = set()

    def manifest(self, descriptor: Json, reference: str) -> None:
        """Put what a manifest names, then itself."""
        content = self._path(descriptor).read_bytes()
        document = json.loads(content)
        for child in document.get("manifests", []):
            if child["digest"] not in self._done and self._path(child).exists():
                self.manifest(child, child["digest"])
        for blob in [document.get("config"), *document.get("layers", [])]:
            if blob is not None and blob["mediaType"] not in media_types.NON_DISTRIBUTABLE:
                self._blob(blob)
        kind = {"Content-Type": descriptor["mediaType"], "Content-Length": str(len(content))}
        self._call("PUT", f"{self._base}/manifests/{reference}", 201, content, kind)
        self._done.add(descriptor["digest"])

    def _blob(self, descriptor: Json) -> None:
        digest = str(descriptor["digest"])
        if digest in self._done:
            return
        answer = self._call("POST", f"{self._base}/blobs/uploads/", 202)
        target = urlsplit(answer["Location"])
        joint = "&" if target.query else ""
        path = self._path(descriptor)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
        with path.open("rb") as content:
            self._call("PUT", f"{target.path}?{target.query}{joint}digest={digest}", 201, content, headers)
        self._done.add(digest)

    def _path(self, descriptor: Json) -> Path:
        return self._layout / "blobs" / str(descriptor["digest"]).replace(":", "/")

    def _call(
        self, method: str, path: str, status: int, body: Any = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPMessage:
        sent = headers if body is not None and headers is not None else {"Content-Length": "0"}
        self._connection.request(method, path, body, sent)
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status != status:
            raise RuntimeError(f"{method} {path}: {answer.status} {said[:1000]!r}")
        return answer.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
