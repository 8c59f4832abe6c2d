"""Compare an adoption of docker-registry's storage with hashing its bytes once, and with `skopeo sync`.

A real docker-registry is filled with images of many repositories (multi-platform, schema 2, referrers, shared
layers). Each round adopts its folder into a new registry on the same file system, where hard links are made;
hashes every blob file once, read from first to last; and lets skopeo fetch everything from the registry that
serves the folder. `--copy` adopts once more without links. The ratios pair the measurements of one round.

Usage: python -m benchmarks.adopt --images 300 --layer-kib 4096 --rounds 3 --work DIR
"""

import argparse
import hashlib
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.processes import Sample, measure
from benchmarks.report import MIB, Target, paired_ratio, print_table, print_targets
from tests.support.old_registries.docker import docker_folder, running
from tests.support.old_registries.served import Served

HASH: Final = "hash once, 1 thread"
HASH_ALL: Final = "hash once, all processors"
ADOPT: Final = "regmeta adopt"
ADOPT_COPY: Final = "regmeta adopt --copy"
AGAIN: Final = "regmeta adopt, nothing new"
VERIFY: Final = "regmeta adopt verify"
SKOPEO: Final = "skopeo sync, all repositories"
HASH_LIMIT: Final = 1.5  # times hashing the bytes once
SKOPEO_LIMIT: Final = 0.1  # of the time of skopeo sync


def _hash(path: Path) -> None:
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(MIB))
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            hasher.update(buffer[:got])
    assert hasher.hexdigest() == path.parent.name


def _hash_all(files: list[Path], threads: int) -> Sample:
    start_s, cpu_s = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_hash, files))
    return Sample(time.perf_counter() - start_s, time.process_time() - cpu_s)


def _regmeta(home: Path, *arguments: str) -> Sample:
    # Findings are an answer: the folder has something of everything in it.
    command = shlex.join(["regmeta", "--home", str(home), "adopt", *arguments])
    return measure(["sh", "-c", f"{command} || test $? = 1"])


def _skopeo(served: Served, dest: Path) -> Sample:
    with running(served.root) as registry:
        sync = (
            "skopeo --insecure-policy sync --all --keep-going --src docker --dest dir --src-tls-verify=false"
        )
        names = " ".join(name for name, tags in served.tags.items() if tags)
        # Some images lack a child that was deleted: skopeo says so and goes on.
        script = f"for name in {names}; do {sync} --scoped {registry.host}/$name {dest} >&2 || true; done"
        return measure(["sh", "-c", script])


def one_round(served: Served, files: list[Path], folder: Path) -> dict[str, Sample]:
    """Measure every case once, into new folders below *folder*."""
    homes = [folder / name for name in ("linked", "copied")]
    for home in homes:
        measure(["regmeta", "--home", str(home), "init"])
    linked, copied = homes
    root = str(served.root)
    work: dict[str, Callable[[], Sample]] = {
        HASH: partial(_hash_all, files, 1),
        HASH_ALL: partial(_hash_all, files, os.cpu_count() or 1),
        ADOPT: partial(_regmeta, linked, root),
        AGAIN: partial(_regmeta, linked, root),
        VERIFY: partial(_regmeta, linked, "verify", root),
        ADOPT_COPY: partial(_regmeta, copied, "run", "--copy", root),
    }
    if shutil.which("skopeo"):
        work[SKOPEO] = partial(_skopeo, served, folder / "skopeo")
    samples = {}
    for name, measure_case in work.items():
        os.sync()
        time.sleep(1.0)
        samples[name] = measure_case()
    return samples


def run(images: int, layer_bytes: int, rounds: int, work: Path) -> int:
    """Fill a registry, measure all rounds, and print."""
    served = docker_folder(work / "old", images, layer_bytes=layer_bytes)
    files = sorted((served.root / "docker/registry/v2/blobs").rglob("data"))
    total_bytes = sum(file.stat().st_size for file in files)
    cases: defaultdict[str, list[Sample]] = defaultdict(list)
    for number in range(rounds):
        folder = work / f"round-{number}"
        folder.mkdir()
        for name, sample in one_round(served, files, folder).items():
            cases[name].append(sample)
        shutil.rmtree(folder)
    title = f"{served.tag_count} tags, {len(files)} blobs, {total_bytes / MIB:.0f} MiB"
    print_table(title, dict(cases), HASH, "hash")
    best = [min(pair, key=lambda one: one.wall_s) for pair in zip(cases[HASH], cases[HASH_ALL], strict=True)]
    targets = [
        Target("adopt to hashing once", paired_ratio(cases[ADOPT], cases[HASH]), HASH_LIMIT, "x"),
        Target("adopt to hashing on all processors", paired_ratio(cases[ADOPT], best), HASH_LIMIT, "x"),
    ]
    if SKOPEO in cases:
        ratio = paired_ratio(cases[ADOPT], cases[SKOPEO])
        targets.append(Target("adopt to skopeo sync", ratio, SKOPEO_LIMIT, "x"))
    return print_targets(targets)


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Time an adoption of docker-registry's storage.")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--layer-kib", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True, help="a folder on the disk to measure")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="adopt-", dir=arguments.work.resolve()))
    try:
        return run(arguments.images, arguments.layer_kib * 1024, arguments.rounds, work)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
