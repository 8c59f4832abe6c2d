"""Logs, metrics, probes and signals, as those who run regmeta as a service meet them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import sqlalchemy as sa

from regmeta import metrics, tracing
from regmeta.app.metrics import Exposure, Rows
from regmeta.cli import logs
from regmeta.cli.interrupts import Interrupts
from regmeta.db import Database
from regmeta.errors import Unavailable, UsageError
from regmeta.settings import Settings, load_settings
from tests.builders import LayoutBuilder
from tests.cli.conftest import Command

ROOT: Final = Path(__file__).parents[2]
PASSWORD: Final = "hunter2-and-more"
DEADLINE_S: Final = 60


def arguments(home: Path, *words: object) -> list[str]:
    return [sys.executable, "-m", "regmeta", "--home", str(home), *map(str, words)]


def run(home: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments(home, *words),
        env={**os.environ, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def samples(text: str) -> dict[str, float]:
    """Read Prometheus's text; every line must be one of the format."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP \w+ .+|TYPE \w+ (counter|gauge|histogram))", line), line
            continue
        match = re.fullmatch(r'(\w+(?:\{\w+="[^"]*"(?:,\w+="[^"]*")*\})?) (\S+)', line)
        assert match, line
        found[match[1]] = float(match[2])
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to that point"
        time.sleep(0.02)


@pytest.fixture
def hello(regmeta: Command, layout: Path) -> Path:
    """A registry with an image, and the layout that it came from."""
    builder = LayoutBuilder()
    builder.tag(builder.image(), "v1")
    builder.write(layout)
    assert regmeta("import", layout, "hello").code == 0
    return layout


# --- logs -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hello")
def test_each_line_on_stderr_is_json_and_says_which_run_it_is_of(home: Path, hello: Path) -> None:
    done = run(home, "--log-format", "json", "--request-id", "deploy-7", "import", hello, "other")
    [line] = lines_of(done.stderr)

    assert done.returncode == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line.pop("message").startswith("1 image imported")
    assert line == {
        "level": "info",
        "logger": "regmeta.cli",
        "request_id": "deploy-7",
        "command": "import",
    }


@pytest.mark.usefixtures("hello")
def test_an_error_is_a_line_with_its_exit_code(home: Path) -> None:
    variables = {"REGMETA_LOG_FORMAT": "json", "REGMETA_REQUEST_ID": "r1"}
    done = run(home, "tag", "show", "nope:1", **variables)
    [line] = lines_of(done.stderr)

    assert done.returncode == line["exit_code"] == 3
    assert (line["level"], line["request_id"], line["command"]) == ("error", "r1", "tag show")
    assert line["message"] == "nope: no such repository"
    with_traceback = run(home, "--debug", "tag", "show", "nope:1", **variables).stderr
    last = lines_of(with_traceback)[-1]
    assert (last["error"], "Traceback" in last["traceback"]) == ("NotFound", True)


@pytest.mark.usefixtures("hello")
def test_a_run_without_an_id_gets_one(home: Path) -> None:
    ids = {
        lines_of(run(home, "--log-format", "json", "repo", "show", "nope").stderr)[0]["request_id"]
        for _ in range(2)
    }
    assert len(ids) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in ids)


def test_an_id_that_could_be_taken_for_something_else_is_refused(regmeta: Command) -> None:
    for bad in ("a b", "x\ny", "é", "r" * 129):
        found = regmeta("--request-id", bad, "repo", "ls")
        assert (found.code, "--request-id" in found.err) == (2, True)


def test_what_an_ingest_leaves_is_logged_with_its_ingest_and_repository(home: Path, hello: Path) -> None:
    variables = {"REGMETA_FAILPOINT": "outbox.committing=raise:EIO", "REGMETA_TESTING": "1"}
    done = run(home, "--log-format", "json", "--log-level", "debug", "import", hello, "other", **variables)
    found = [line for line in lines_of(done.stderr) if "repository" in line]

    if done.returncode == 0:  # the snapshot was put off
        assert found
        assert {line["repository"] for line in found} == {"other"}
        assert all(re.fullmatch(r"[0-9a-f-]{36}", line["ingest"]) for line in found)
    else:
        assert lines_of(done.stderr)[-1]["exit_code"] == done.returncode


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgresql://me:{PASSWORD}@host/db: refused", "postgresql://me:***@host/db: refused"),
        (f"https://:{PASSWORD}@host", "https://:***@host"),
        (f"postgresql://me:a@{PASSWORD}@host", "postgresql://me:***@host"),
        (f"host=h password={PASSWORD} dbname=d", "host=h password=*** dbname=d"),
        (f"{{'password': '{PASSWORD}', 'user': 'me'}}", "{'password': '***', 'user': 'me'}"),
        (f'{{"token": "{PASSWORD}"}}', '{"token": "***"}'),
        (f"Authorization: Basic {PASSWORD}", "Authorization: Basic ***"),
        (f"'Authorization': 'Bearer {PASSWORD}'", "'Authorization': 'Bearer ***'"),
        (f"Bearer {PASSWORD}", "Bearer ***"),
        (f"GET /k?X-Amz-Signature={PASSWORD}&a=b", "GET /k?X-Amz-Signature=***&a=b"),
        (f"aws_secret_access_key={PASSWORD}", "aws_secret_access_key=***"),
    ],
)
def test_passwords_and_tokens_are_masked(text: str, shown: str) -> None:
    assert logs.redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://localhost:5000/app@sha256:00: no such manifest",
        "docker.io/library/alpine@sha256:00",
        "no token was given: 401",
        "the password is missing",
        "postgresql://me@host:5432/db",
        "basic authentication is not offered",
    ],
)
def test_what_is_no_secret_is_not_masked(text: str) -> None:
    assert logs.redacted(text) == text


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_shows_the_password_of_the_database(home: Path, form: str) -> None:
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:1/none"
    done = run(home, "--log-format", form, "--debug", "status", REGMETA_DATABASE=url)

    assert done.returncode == 5
    assert "127.0.0.1" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_postgresql_shows_which_run_a_connection_is_of(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has no sessions")
    with tracing.bound(command="gc run", request_id="r1"), database.read() as connection:
        asked = connection.exec_driver_sql("SELECT current_setting('application_name')").scalar()
    url = database.url.update_query_dict({"application_name": "mine"}).render_as_string(False)
    with closing(Database(url)) as named, named.read() as connection:
        given = connection.exec_driver_sql("SELECT current_setting('application_name')").scalar()

    assert (asked, given) == ("regmeta gc run r1", "mine")


# --- metrics ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("hello")
def test_metrics_shows_the_queues(regmeta: Command, home: Path) -> None:
    found = samples(regmeta("metrics").out)
    assert found['regmeta_queue_age_seconds{queue="tasks"}'] == 0
    assert found["regmeta_database_up"] == 1
    assert found["regmeta_last_event_id"] > 0
    assert not [name for name in found if name.startswith("regmeta_commits")]
    path = home / "regmeta.prom"
    assert regmeta("metrics", "--output", path).out == ""
    assert samples(path.read_text()).keys() == found.keys()
    assert [name for name in os.listdir(home) if name.endswith(".new")] == []


def test_metrics_of_a_database_that_is_away_say_so(home: Path, bare: Command) -> None:
    found = bare("--home", home, "metrics")
    assert (found.code, samples(found.out)["regmeta_database_up"]) == (6, 0)


@pytest.mark.slow
def test_a_run_leaves_its_metrics_in_a_file(home: Path, hello: Path, tmp_path: Path) -> None:
    path = tmp_path / "import.prom"
    assert run(home, "--metrics-file", path, "import", hello, "other").returncode == 0
    found = samples(path.read_text())
    assert found['regmeta_commits_total{transaction="ingest"}'] == 1
    assert found['regmeta_images_total{outcome="imported"}'] == 1
    assert found['regmeta_lock_wait_seconds_count{lock="repository"}'] == 1
    assert found["regmeta_commit_seconds_count"] >= 2
    assert found['regmeta_command_exit_code{command="import"}'] == 0

    failed = run(home, "import", hello, "BAD", REGMETA_METRICS_FILE=str(path))
    assert samples(path.read_text())['regmeta_command_exit_code{command="import"}'] == failed.returncode == 3


def test_bytes_and_objects_of_an_import_are_counted(regmeta: Command, layout: Path, tmp_path: Path) -> None:
    builder = LayoutBuilder()
    builder.tag(builder.image(), "v1")
    builder.write(layout)
    metrics.reset()
    path = tmp_path / "import.prom"
    assert regmeta("--metrics-file", path, "import", layout, "new").code == 0
    found = samples(path.read_text())
    size_bytes = sum(len(content) for content in builder.blobs.values())
    assert found["regmeta_staged_bytes_total"] == found["regmeta_published_bytes_total"] == size_bytes
    assert found["regmeta_published_objects_total"] == len(builder.blobs)


def test_a_place_where_metrics_cannot_go_is_said_at_once(regmeta: Command, tmp_path: Path) -> None:
    found = regmeta("--metrics-file", tmp_path / "none" / "x.prom", "repo", "ls")
    assert (found.code, "No such file" in found.err) == (2, True)
    for bad in ("nowhere", "127.0.0.1", "example.com:80", "127.0.0.1:99999"):
        assert regmeta("--metrics-listen", bad, "repo", "ls").code == 2, bad


def settings_of(home: Path) -> Settings:
    return load_settings(home=str(home))


@contextmanager
def exposed(home: Path) -> Iterator[str]:
    exposure = Exposure(lambda: settings_of(home), file=None, listen="127.0.0.1:0")
    try:
        assert exposure.address is not None
        yield exposure.address
    finally:
        exposure.close()


def get(url: str) -> tuple[int, str]:
    try:
        with urlopen(url, timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.usefixtures("regmeta")
def test_a_port_answers_metrics_health_and_live(home: Path) -> None:
    with exposed(home) as address:
        status, text = get(f"{address}/metrics")
        assert (status, samples(text)["regmeta_database_up"]) == (200, 1)
        assert "regmeta_staged_bytes_total" in samples(text)
        status, text = get(f"{address}/health")
        assert (status, json.loads(text)["status"]) == (200, "ok")
        assert get(f"{address}/live")[0] == 200
        assert get(f"{address}/else")[0] == 404

        (home / "store" / "store.json").rename(home / "store" / "away.json")
        status, text = get(f"{address}/health")
        assert (status, json.loads(text)["status"]) == (503, "down")
        assert get(f"{address}/live")[0] == 200


def test_a_port_answers_where_there_is_no_registry(home: Path) -> None:
    with exposed(home) as address:
        assert samples(get(f"{address}/metrics")[1])["regmeta_database_up"] == 0
        assert get(f"{address}/health")[0] == 503


@pytest.mark.usefixtures("regmeta")
def test_a_port_that_is_taken_is_said(home: Path) -> None:
    with exposed(home) as address, pytest.raises(Unavailable, match="in use"):
        Exposure(lambda: settings_of(home), file=None, listen=address.removeprefix("http://"))


@pytest.mark.usefixtures("regmeta")
def test_who_asks_often_does_not_load_the_database(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(lambda: settings_of(home))
    try:
        found = [rows.ask() for _ in range(3)]
        monkeypatch.setattr("regmeta.app.metrics.KEPT_FOR_S", -1.0)
        again = rows.ask()
    finally:
        rows.close()
    assert found[0] is found[1] is found[2]
    assert again is not found[0]


def test_a_watch_answers_until_it_is_stopped(home: Path, hello: Path) -> None:
    del hello
    command = arguments(home, "--metrics-listen", "127.0.0.1:0", "gc", "run", "--watch")
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        try:
            match = re.fullmatch(r"metrics: (http://127\.0\.0\.1:\d+/metrics)\n", line)
            assert match, line
            # Once it is at work it ends by itself; before, a signal ends it as any command.
            until(lambda: os.listdir(home / "store" / "staging"))
            assert samples(get(match[1])[1])["regmeta_database_up"] == 1
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def test_opentelemetry_gets_spans_and_metrics(regmeta: Command, layout: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from regmeta.app.telemetry import OpenTelemetry, observing

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    meter_provider = MeterProvider([reader])
    builder = LayoutBuilder()
    builder.tag(builder.image(), "v1")
    builder.write(layout)
    try:
        with observing(OpenTelemetry(tracer_provider, meter_provider)):
            assert regmeta("--request-id", "r1", "import", layout, "hello").code == 0
            assert regmeta("tag", "show", "hello:none").code == 3
        spans = {span.name: span for span in exporter.get_finished_spans()}
        data = reader.get_metrics_data()
    finally:
        tracer_provider.shutdown()
        meter_provider.shutdown()

    command, commit, inner = (
        spans[name] for name in ("regmeta import", "ingest.commit", "transaction ingest")
    )
    assert command.attributes is not None
    assert command.attributes["regmeta.request_id"] == "r1"
    assert command.status.is_ok
    assert commit.parent is not None
    assert commit.parent.span_id == command.context.span_id
    assert inner.parent is not None
    assert inner.parent.span_id == commit.context.span_id
    assert inner.attributes is not None
    assert len(str(inner.attributes["regmeta.ingest"])) == 36
    failed = spans["regmeta tag show"]
    assert (failed.status.is_ok, failed.status.description) == (False, "NotFound")
    assert data is not None
    found = {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert (found["regmeta_commits"].unit, found["regmeta_commit_seconds"].unit) == ("1", "s")
    assert found["regmeta_staged_bytes"].unit == "By"


# --- health -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("hello")
def test_health_of_a_sound_registry_is_ok(regmeta: Command) -> None:
    found = regmeta("health", "--json")
    assert (found.code, found.json["status"]) == (0, "ok")
    assert found.json["database"]["latency_s"] > 0
    assert found.json["store"]["latency_s"] > 0
    assert regmeta("health").out.splitlines()[0].split() == ["status", "ok"]


@contextmanager
def changed(home: Path) -> Iterator[sa.Connection]:
    """Change rows as no command would."""
    url = f"sqlite:///{home / 'regmeta.db'}"
    with closing(Database(url)) as database, database.transaction("test") as connection:
        yield connection


@pytest.mark.usefixtures("hello")
def test_health_tells_a_queue_that_is_late(regmeta: Command, home: Path) -> None:
    with changed(home) as connection:
        connection.exec_driver_sql(
            "INSERT INTO gc_tasks (kind, target_id, reason, created_at, not_before) VALUES ('blob', 999,"
            " 'test', 0, CAST((julianday('now') - 2440587.5) * 86400 AS INTEGER) * 1000000 - 7200000000)"
        )
    assert regmeta("health").code == 0
    assert regmeta("health", "--max-age", "3h").code == 0
    found = regmeta("health", "--max-age", "1h", "--json")
    assert (found.code, found.json["status"], found.json["late"]) == (1, "late", ["tasks"])
    assert 7199 < found.json["queues"][0]["age_s"] < 7300
    assert regmeta("health", "--max-age", "soon").code == 2


def test_health_where_there_is_nothing_is_down_and_makes_nothing(bare: Command, home: Path) -> None:
    found = bare("--home", home, "health", "--json")
    assert (found.code, found.json["status"]) == (5, "down")
    assert not home.exists()


def test_health_tells_a_store_that_is_not_mounted(regmeta: Command, home: Path) -> None:
    (home / "store").rename(home / "away")
    found = regmeta("health", "--json")
    assert (found.code, found.json["database"]["is_ok"], found.json["store"]["is_ok"]) == (5, True, False)
    (home / "store").mkdir()
    found = regmeta("health", "--json")
    assert (found.code, found.json["identity"]["is_ok"]) == (5, False)


def test_health_tells_a_store_of_another_database(regmeta: Command, bare: Command, home: Path) -> None:
    other = home.parent / "other"
    assert bare("--home", other, "init").code == 0
    (home / "store" / "store.json").unlink()
    (other / "store" / "store.json").rename(home / "store" / "store.json")
    found = regmeta("health", "--json")
    assert (found.code, found.json["status"]) == (5, "down")
    assert "do not belong together" in found.json["identity"]["error"]


def test_health_tells_another_schema(regmeta: Command, home: Path) -> None:
    with changed(home) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    found = regmeta("health", "--json")
    assert (found.code, found.json["database"]["is_ok"], found.json["schema"]["is_ok"]) == (5, True, False)
    assert "9999" in found.json["schema"]["error"]


def test_health_of_a_server_that_is_down_shows_no_password(
    bare: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGMETA_DATABASE", f"postgresql://me:{PASSWORD}@127.0.0.1:1/none")
    found = bare("--home", home, "health")
    assert found.code == 5
    assert PASSWORD not in found.out + found.err


@pytest.mark.usefixtures("hello")
def test_health_changes_no_file(regmeta: Command, home: Path) -> None:
    def files() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(home.rglob("*"))
            if path.is_file() and not path.name.endswith((".lock", "-shm", "-wal"))
        }

    before = files()
    assert regmeta("health").code == 0
    assert regmeta("metrics").code == 0
    assert files() == before


# --- signals ----------------------------------------------------------------------------------


def stopped_at(home: Path, point: str, *words: object) -> subprocess.Popen[str]:
    """Start a command and return when it stands still at a failpoint."""
    process = subprocess.Popen(
        arguments(home, *words),
        env={**os.environ, "REGMETA_TESTING": "1", "REGMETA_FAILPOINT": f"{point}=stop"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: process.poll() is not None or state_of(process.pid) == "T")
    assert process.poll() is None, process.communicate()
    return process


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("number", "point", "tags"),
    [
        (signal.SIGTERM, "reserve.committed", 0),
        (signal.SIGTERM, "publish.renamed", 0),
        (signal.SIGTERM, "ingest.committing", 0),
        (signal.SIGTERM, "ingest.committed", 1),
        (signal.SIGINT, "publish.renamed", 0),
    ],
)
@pytest.mark.slow
def test_a_signal_ends_an_import_with_nothing_half(
    regmeta: Command, home: Path, layout: Path, point: str, tags: int, number: signal.Signals
) -> None:
    builder = LayoutBuilder()
    builder.tag(builder.image(), "v1")
    builder.write(layout)
    with stopped_at(home, point, "--metrics-file", home / "m.prom", "import", layout, "hello") as process:
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 128 + number, said
    assert "interrupted" in said
    assert "Traceback" not in said
    code = samples((home / "m.prom").read_text())['regmeta_command_exit_code{command="import"}']
    assert code == process.returncode
    staging = home / "store" / "staging"
    assert [name for _, _, files in os.walk(staging) for name in files if name != "lock"] == []
    found = regmeta("status", "--json").json
    assert (found["tags"], found["open_ingests"]) == (tags, [])
    assert regmeta("recover", "--json").json["intents_taken_back"] == 0
    assert regmeta("verify").code == 0
    assert regmeta("import", layout, "hello").code == 0


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGTERM)
        assert not interrupts.were_seen
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_signal_breaks_off_what_the_first_began() -> None:
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert (interrupts.were_seen, interrupts.exit_code) == (True, 143)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_outside_the_main_thread_no_handler_is_set() -> None:
    found: list[object] = []

    def look() -> None:
        with Interrupts():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def test_listening_for_all_is_said_to_be_so(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    Exposure(lambda: settings_of(home), file=None, listen="0.0.0.0:0").close()
    assert "whoever reaches it" in caplog.text
    with pytest.raises(UsageError):
        Exposure(lambda: settings_of(home), file=None, listen="")
