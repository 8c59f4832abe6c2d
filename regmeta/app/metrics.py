"""Where metrics go: a text of what the rows say, a file that is written again and again, an open port."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any, Final

from regmeta import __version__, metrics
from regmeta.app.probe import open_briefly, probe
from regmeta.db import Database
from regmeta.errors import Error, Unavailable, UsageError
from regmeta.metrics import Gauge, Metric
from regmeta.query.queues import Queues, queues
from regmeta.settings import Settings

WRITE_EVERY_S: Final = 15.0
KEPT_FOR_S: Final = 1.0  # [s] an answer is given again for so long: who asks often does not load the database
REQUEST_TIMEOUT_S: Final = 10.0
LOOPBACK: Final = "127.0.0.1"

_log = logging.getLogger(__name__)


def gauges(found: Queues | None) -> list[Metric]:
    """Return what the rows say as metrics; None is a database that does not answer."""
    build = Gauge("regmeta_build_info", "The release.", ("version",))
    build.set(1, __version__)
    is_up = Gauge("regmeta_database_up", "Whether the database answered.")
    is_up.set(0 if found is None else 1)
    if found is None:
        return [build, is_up]
    schema = Gauge("regmeta_schema_info", "The revision of the schema.", ("revision",))
    schema.set(1, found.schema)
    age = Gauge("regmeta_queue_age_seconds", "For how long the oldest has been due.", ("queue",))
    due = Gauge("regmeta_queue_due", "How many are due.", ("queue",))
    queued = Gauge("regmeta_queue_length", "How many wait, due or not.", ("queue",))
    dead = Gauge("regmeta_dead_letters", "What failed too often to be tried again by itself.", ("queue",))
    for each in found.queues:
        age.set(each.age_s or 0, each.name)
        due.set(each.due, each.name)
        queued.set(each.queued, each.name)
        dead.set(each.dead_letters, each.name)
    held = Gauge("regmeta_collection_held", "Whether nothing may be collected until a verification.")
    held.set(found.is_held)
    paused = Gauge("regmeta_collection_paused", "Whether collectors wait, since the store gave errors.")
    paused.set(found.is_paused)
    commit = Gauge("regmeta_last_ingest_age_seconds", "How long ago images were committed last.")
    commit.set(found.last_commit_age_s)
    event = Gauge("regmeta_last_event_id", "The newest event of the feed.")
    event.set(found.last_event_id)
    lag = Gauge("regmeta_replica_lag_seconds", "How far a standby is behind its primary.")
    lag.set(None if found.replica is None else found.replica.lag_s)
    return [build, is_up, schema, age, due, queued, dead, held, paused, commit, event, lag]


def scrape(settings: Settings) -> str:
    """Return what the rows say, as text.

    Raises:
        SchemaMismatch: there is no database, or of another schema.
        Unavailable: it does not answer.
    """
    watched = Rows(lambda: settings)
    try:
        return metrics.text(more=gauges(watched.ask()), counted=False)
    finally:
        watched.close()


def down() -> str:
    """Return the text of a registry whose database does not answer."""
    return metrics.text(more=gauges(None), counted=False)


def write_file(path: str, content: str) -> None:
    """Put a file in place at once: who reads it sees the old one or the new one.

    Raises:
        UsageError: its folder is not there, or may not be written to.
    """
    # Not a name that node_exporter reads.
    new = f"{path}.{os.getpid()}.new"
    try:
        with open(new, "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(new, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(new)
        raise UsageError(f"{path}: {error.strerror}") from error


class Rows:
    """Asks the rows, at most once a second, on a connection that stays open. Safe to use from any thread."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._found: Queues | None = None
        self._asked_s = float("-inf")

    def ask(self) -> Queues:
        """Return what the rows say.

        Raises:
            Error: the database does not answer, or is none of ours.
        """
        with self._lock:
            if self._found is None or time.monotonic() - self._asked_s > KEPT_FOR_S:
                self._found = None
                if self._database is None:
                    self._database = open_briefly(self._settings())
                self._found = queues(self._database)
                self._asked_s = time.monotonic()
            return self._found

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None


class Exposure:
    """Shows the metrics of this process while it runs: by a file, by HTTP, or both."""

    def __init__(self, settings: Callable[[], Settings], *, file: str | None, listen: str | None) -> None:
        """Begin to.

        Raises:
            UsageError: the file cannot be written, or the address is none.
            Unavailable: nobody can listen there.
        """
        self._settings = settings
        self._rows = Rows(settings)
        self._file = file
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server: ThreadingHTTPServer | None = None
        self.address: str | None = None
        """Where it listens, as ``http://host:port``."""
        if file is not None:
            write_file(file, metrics.text())
            self._start(self._write_again)
        if listen is not None:
            self._server = _listen(listen, self)
            host, port = self._server.server_address[:2]
            shown = f"[{host!s}]" if ":" in str(host) else str(host)
            self.address = f"http://{shown}:{port}"
            self._start(self._server.serve_forever)

    def close(self, last: Sequence[Metric] = ()) -> None:
        """Stop, and write the file for the last time, with what is only known at the end."""
        self._ended.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        for thread in self._threads:
            thread.join()
        self._rows.close()
        if self._file is not None:
            self._write(last)

    def text(self) -> str:
        """Return what was counted, and what the rows say."""
        try:
            found = self._rows.ask()
        except Error as error:
            _log.debug("the rows were not asked: %s", error)
            found = None
        return metrics.text(more=gauges(found))

    def health(self) -> tuple[int, str]:
        """Return the status and the body that a probe gets."""
        try:
            found = probe(self._settings())
        except Error as error:
            return 503, json.dumps({"status": "down", "error": str(error)})
        return (503 if found.status == "down" else 200), json.dumps(asdict(found))

    def _start(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name="metrics", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _write_again(self) -> None:
        while not self._ended.wait(WRITE_EVERY_S):
            self._write()

    def _write(self, last: Sequence[Metric] = ()) -> None:
        assert self._file is not None
        try:
            write_file(self._file, metrics.text(more=last))
        except UsageError as error:
            _log.warning("metrics were not written: %s", error)


def _listen(listen: str, exposure: Exposure) -> ThreadingHTTPServer:
    host, port = _address(listen)
    if not ip_address(host).is_loopback:
        _log.warning("metrics: %s is not only for this host: whoever reaches it can read them", listen)

    class Server(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in host else AF_INET
        daemon_threads = True
        block_on_close = False

    try:
        return Server((host, port), _handler(exposure))
    except OSError as error:
        raise Unavailable(f"metrics: nobody can listen at {listen}: {error.strerror}") from error


def _address(listen: str) -> tuple[str, int]:
    """Return host and port of ``9400``, ``127.0.0.1:9400`` or ``[::1]:9400``.

    Raises:
        UsageError: it is none of them.
    """
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or LOOPBACK
    try:
        if not 0 <= int(port) < 65536:
            raise ValueError
        return str(ip_address(LOOPBACK if host == "localhost" else host)), int(port)
    except ValueError as error:
        raise UsageError(f"metrics: {listen!r} is no address: write 127.0.0.1:9400") from error


def _handler(exposure: Exposure) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S
        server_version = "regmeta"
        sys_version = ""

        def do_GET(self) -> None:
            """Answer /metrics, /health (does the registry answer?) and /live (does this process?)."""
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, metrics.CONTENT_TYPE, exposure.text())
            elif path == "/health":
                self._answer(*_with_type(exposure.health()))
            elif path == "/live":
                self._answer(200, "text/plain; charset=utf-8", "alive\n")
            else:
                self._answer(404, "text/plain; charset=utf-8", "there are /metrics, /health and /live\n")

        def log_message(self, format: str, *args: Any) -> None:
            """Log a request where one looks for such."""
            _log.debug(format, *args)

        def _answer(self, status: int, media_type: str, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


def _with_type(answer: tuple[int, str]) -> tuple[int, str, str]:
    status, body = answer
    return status, "application/json", body
