"""T11: the S3 server dies, or stands still, in the middle of what a use case asks of it.

Right after a point in a bucket was reached the server is sent a signal, a moment later, so that the next
requests meet it: between two PUTs, between the parts of an upload, before it is finished, in a deletion. The
command must end as it should or with "unavailable" (exit code 5), in time; then the server comes back, and
the registry is judged as after a crash.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from unittest.mock import patch

from msgspec.structs import replace as changed

from regmeta.failpoints import Handler
from tests.crash.harness.children import run_child
from tests.crash.harness.judge import judge
from tests.crash.harness.places import Arena, Place, arena
from tests.crash.harness.recordings import Recording, record
from tests.crash.harness.report import Failure, Result, measured
from tests.crash.harness.use_cases import use_case
from tests.support.seaweed import Buckets, reaching
from tests.support.seaweed_server import Seaweed

NAME: Final = "S3 faults"
CASES: Final = ("import in parts", "import", "collect", "sweep")
FAULTS: Final = 48
QUICK_FAULTS: Final = 4
IN_TIME_S: Final = 100.0
_RETRY: Final = {"retry_for": "2s", "read_timeout": "2s"}


@dataclass(frozen=True, slots=True)
class _Fault:
    signal: signal.Signals
    after_s: float  # after its point
    for_s: float = 0.0  # how long it stands still


_KINDS: Final = (
    _Fault(signal.SIGKILL, 0.0),
    _Fault(signal.SIGSTOP, 0.0, 1.0),  # shorter than the client has patience
    _Fault(signal.SIGKILL, 0.003),
    _Fault(signal.SIGSTOP, 0.002, 30.0),  # longer
)


def run(found: Arena, *, quick: bool = False, backends: tuple[str, ...] = (), every: int = 1) -> Result:
    """Make each kind of fault at points that are spread over the use cases. *quick* takes a few."""
    with measured(NAME) as result, _server() as server:
        postgres = found.postgres() if found.socket_folder is not None else None
        with arena(postgres, Buckets(server.endpoint)) as registries:
            names = backends or tuple(registries.bucket_backends)
            total = (QUICK_FAULTS if quick else FAULTS) // every
            for number in range(total):
                backend = names[number % len(names)]
                recording = record(registries, backend, use_case(CASES[(number // 2) % len(CASES)]))
                points = [i for i, name in enumerate(recording.points) if name.startswith("bucket.")]
                index = points[(number * 7919) % len(points)]
                fault = _KINDS[(number // len(CASES) + number) % len(_KINDS)]
                where = f"{backend} {recording.case.name} {fault.signal.name} {recording.label(index)}"
                with registries.copy(recording.case.prepared(registries, backend)) as place:
                    failures = list(_broken(server, place, recording, index, fault, where))
                result.add(where, killed=True, failures=failures)
    return result


def _broken(
    server: Seaweed, place: Place, recording: Recording, index: int, fault: _Fault, where: str
) -> Iterator[Failure]:
    assert server.process is not None
    settings = place.settings
    impatient = replace(
        place, settings=changed(settings, object_store=changed(settings.object_store, **_RETRY))
    )
    began_s = time.monotonic()
    outcome = run_child(
        lambda acknowledge: recording.case.run(impatient, acknowledge),
        handler=_signalling(server.process.pid, index, fault),
    )
    took_s = time.monotonic() - began_s
    if fault.signal is signal.SIGKILL:
        server.kill()
        server.start()
    else:
        server.process.send_signal(signal.SIGCONT)
    if not outcome.is_clean:
        yield Failure("error", where, f"ended with {outcome.error}")
    if took_s > IN_TIME_S:
        yield Failure("error", where, f"took {took_s:.0f} s to give up")
    yield from judge(place, recording, outcome.facts, where)


def _signalling(pid: int, index: int, fault: _Fault) -> Handler:
    left = index

    def strike() -> None:
        time.sleep(fault.after_s)
        os.kill(pid, fault.signal)
        if fault.signal is signal.SIGSTOP:
            time.sleep(fault.for_s)
            os.kill(pid, signal.SIGCONT)

    def handler(name: str) -> None:
        nonlocal left
        if left == 0:
            if fault.after_s:
                threading.Thread(target=strike, daemon=True).start()
            else:
                os.kill(pid, fault.signal)
                if fault.signal is signal.SIGSTOP:
                    threading.Thread(target=_go_on, args=(pid, fault.for_s), daemon=True).start()
        left -= 1

    return handler


def _go_on(pid: int, after_s: float) -> None:
    time.sleep(after_s)
    os.kill(pid, signal.SIGCONT)


@contextmanager
def _server() -> Iterator[Seaweed]:
    """Run a server that nobody else uses."""
    with tempfile.TemporaryDirectory(prefix="regmeta-s3-") as folder:
        server = Seaweed(Path(folder, "server"))
        try:
            server.start()
            with patch.dict(os.environ, reaching(server.endpoint)):
                yield server
        finally:
            if server.process is not None:
                server.process.send_signal(signal.SIGCONT)
            server.remove()
