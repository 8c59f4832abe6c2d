"""Compare a sync from docker-registry with a plain client, and with skopeo; then a poll where nothing is new.

Debian's docker-registry serves the sets on loopback. Rounds are interleaved as in `benchmarks.import_layout`:
every case once, each into a new folder, then every case again; the ratios pair the measurements of one round.
The registry and the clients share the machine's processors, so its own work is in every figure.

A poll asks for 2,000 tags that are here already; it prints how many requests and SQL statements that takes.

Usage: python -m benchmarks.sync --set S --set L --rounds 3 --work DIR [--poll 2000]
"""

import argparse
import http.client
import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy import event

from benchmarks import adapter, sync_floor
from benchmarks.generate import REF_NAME, generate
from benchmarks.processes import Sample, measure, total
from benchmarks.report import MIB, Target, paired_ratio, print_table, print_targets
from tests.support.registries.docker_registry import DockerRegistry

SETS: Final = ("S", "L")
LIMITS: Final = {"S": 1.5, "L": 1.3}  # times the plain client
POLL_STATEMENTS: Final = 20
BEST_FLOOR: Final = "plain client, faster one"
IN_PROCESS: Final = "regmeta in process"
COMMAND: Final = "regmeta command"
SKOPEO_SYNC: Final = "skopeo sync, to folders"
SKOPEO_COPY: Final = "skopeo copy, a process a tag"
POLL_FLOOR: Final = "plain client, a HEAD a tag"
POLL: Final = "regmeta poll, in process"
POLL_COMMAND: Final = "regmeta poll, command"


def _in_process(work: Callable[[], float]) -> Sample:
    start_s = time.process_time()
    wall_s = work()
    return Sample(wall_s, time.process_time() - start_s)


def _floor(url: str, repository: str, dest: Path, threads: int) -> Sample:
    return _in_process(lambda: sync_floor.run(url, repository, dest, threads).seconds)


def _command(home: Path) -> Sample:
    os.sync()
    return measure(["regmeta", "--home", str(home), "sync", "run"])


def _skopeo_copy(host: str, repository: str, dest: Path, tags: list[str]) -> Sample:
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--src-tls-verify=false"]
    return total(
        [measure([*argv, f"docker://{host}/{repository}:{tag}", f"oci:{dest}:{tag}"]) for tag in tags]
    )


def _skopeo_sync(host: str, repository: str, dest: Path) -> Sample:
    argv = ["skopeo", "--insecure-policy", "sync", "--all", "--src", "docker", "--dest", "dir"]
    return measure([*argv, "--src-tls-verify=false", f"{host}/{repository}", str(dest)])


def one_round(registry: DockerRegistry, repository: str, folder: Path, tags: list[str]) -> dict[str, Sample]:
    """Measure every case once, each in a new folder below `folder`."""
    url, host = registry.url, registry.host
    floors = {
        f"plain client, {threads} threads": partial(_floor, url, repository, folder / f"{threads}", threads)
        for threads in sync_floor.THREAD_COUNTS
    }
    home = adapter.make_mirror(folder / "home", url, repository)
    command_home = adapter.make_mirror(folder / "command", url, repository)
    work: dict[str, Callable[[], Sample]] = {**floors}
    work[IN_PROCESS] = partial(_in_process, lambda: adapter.sync_in_process(home)[0])
    work[COMMAND] = partial(_command, command_home)
    if shutil.which("skopeo"):
        work[SKOPEO_SYNC] = partial(_skopeo_sync, host, repository, folder / "skopeo-sync")
        work[SKOPEO_COPY] = partial(_skopeo_copy, host, repository, folder / "skopeo-copy", tags)
    samples: dict[str, Sample] = {}
    for name, measure_case in work.items():
        os.sync()
        time.sleep(1.0)
        samples[name] = measure_case()
    samples[BEST_FLOOR] = min((samples[name] for name in floors), key=lambda one: one.wall_s)
    return samples


def tag_again(url: str, repository: str, tags: list[str], wanted: int) -> None:
    """Give the manifests of `tags` more names, until there are `wanted`."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    contents = []
    for tag in tags:
        connection.request("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": sync_floor.ACCEPT})
        answer = connection.getresponse()
        contents.append((answer.headers["Content-Type"], answer.read()))
    for number in range(wanted - len(tags)):
        media_type, content = contents[number % len(contents)]
        connection.request(
            "PUT", f"/v2/{repository}/manifests/more-{number:05}", content, {"Content-Type": media_type}
        )
        answer = connection.getresponse()
        answer.read()
        if answer.status != 201:
            raise SystemExit(f"more-{number:05}: status {answer.status}")
    connection.close()


def poll(registry: DockerRegistry, repository: str, tags: int, folder: Path, rounds: int) -> list[Target]:
    """Sync `tags` tags, then measure asking again; print what it takes."""
    home = adapter.make_mirror(folder / "home", registry.url, repository)
    adapter.sync_in_process(home)
    cases: dict[str, list[Sample]] = defaultdict(list)
    report = None
    for _ in range(rounds):
        cases[POLL_FLOOR].append(
            _in_process(lambda: sync_floor.poll(registry.url, repository, threads=8).seconds)
        )
        start_s = time.process_time()
        wall_s, report = adapter.sync_in_process(home)
        cases[POLL].append(Sample(wall_s, time.process_time() - start_s))
        cases[POLL_COMMAND].append(_command(home))
    assert report is not None
    statements = _statements(home)
    print_table(f"poll of {tags} unchanged tags", cases, POLL_FLOOR, "floor")
    print(
        f"{report.counts.requests} requests for {tags} tags ({report.counts.unchanged} unchanged),"
        f" {statements} SQL statements"
    )
    return [
        Target("poll, requests that are no HEAD of a tag", report.counts.requests - tags, 10, "requests"),
        Target("poll, SQL statements in all", statements, POLL_STATEMENTS, "statements"),
    ]


def _statements(home: Path) -> int:
    """Count the statements of one poll, opening the registry included."""
    texts: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            texts.append(statement)

    event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        adapter.sync_in_process(home)
    finally:
        event.remove(sa.Engine, "before_cursor_execute", note)
    return len(texts)


def run(sets: list[str], rounds: int, work: Path, poll_tags: int) -> int:
    """Measure below `work`, print tables and targets; return the exit code: 1 if a target was missed."""
    targets = []
    with DockerRegistry(work / "registry") as registry:
        tags: dict[str, list[str]] = {}
        for name in dict.fromkeys([*sets, *(["S"] if poll_tags else [])]):
            layout = work / f"layout-{name}"
            print(f"{name}: {generate(name, layout)}", flush=True)
            registry.push(layout, f"bench/{name.lower()}")
            index = json.loads((layout / "index.json").read_bytes())
            tags[name] = [entry["annotations"][REF_NAME] for entry in index["manifests"]]
        for name in sets:
            cases: dict[str, list[Sample]] = defaultdict(list)
            for number in range(rounds):
                folder = work / f"round-{number}-{name}"
                for case, sample in one_round(registry, f"bench/{name.lower()}", folder, tags[name]).items():
                    cases[case].append(sample)
                print(f"round {number + 1} of {name} done", flush=True)
            print_table(f"{name}: wall seconds of {rounds} rounds", cases, BEST_FLOOR, "client")
            ratio = paired_ratio(cases[IN_PROCESS], cases[BEST_FLOOR])
            targets.append(Target(f"{name} sync", ratio, LIMITS[name], "x plain client"))
            peak = max(sample.peak_rss_bytes for sample in cases[COMMAND]) / MIB
            print(f"peak RSS of the command: {peak:.0f} MiB")
        if poll_tags:
            tag_again(registry.url, "bench/s", tags["S"], poll_tags)
            targets += poll(registry, "bench/s", poll_tags, work / "poll", rounds)
    print()
    return print_targets(targets)


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Time a sync from docker-registry.")
    parser.add_argument("--set", dest="sets", action="append", choices=SETS, default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--poll", type=int, default=2000, help="how many tags; 0: no poll")
    parser.add_argument("--work", type=Path, required=True, help="a folder on the disk to measure")
    parser.add_argument("--keep", action="store_true", help="leave the folders in --work")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="sync-", dir=arguments.work.resolve()))
    try:
        return run(list(dict.fromkeys(arguments.sets)), arguments.rounds, work, arguments.poll)
    finally:
        if not arguments.keep:
            shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
