"""Compare regmeta's import of a layout with the physical floor and with skopeo.

Rounds are interleaved (every case once, then every case again), each case writes to a fresh folder,
and nothing is deleted before the end: deleting thousands of files makes ext4 create files slowly
for seconds. The ratios pair the measurements of one round.

Usage: python -m benchmarks.import_layout --set S --set M --set L --rounds 3 --work DIR
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import adapter, floor
from benchmarks.generate import REF_NAME, SETS, generate
from benchmarks.processes import Sample, measure, total
from benchmarks.report import MIB, Target, paired_ratio, print_table, print_targets

REPOSITORY: Final = "bench"
FLOOR_LIMITS: Final = {"S": 1.5, "M": 1.5, "L": 1.25}  # times the floor
AGAIN_LIMIT_PERCENT: Final = 5.0
MEMORY_LIMIT_MIB: Final = 150.0

BEST_FLOOR: Final = "floor, faster one"
IN_PROCESS: Final = "regmeta in process"
AGAIN: Final = "regmeta again, in process"
COMMAND: Final = "regmeta command"
SKOPEO: Final = "skopeo, a process a tag"


@dataclass(frozen=True)
class Options:
    """What to run: the regmeta command (None: none), skopeo or not, seconds of rest."""

    command: str | None
    skopeo: bool
    settle_s: float


def _in_process(work: Callable[[], float]) -> Sample:
    start_s = time.process_time()
    wall_s = work()
    return Sample(wall_s, time.process_time() - start_s)


def _floor(layout: Path, dest: Path, threads: int) -> Sample:
    return _in_process(lambda: floor.run(layout, dest, threads).seconds)


def _import(layout: Path, home: Path) -> Sample:
    return _in_process(lambda: adapter.import_in_process(layout, home, REPOSITORY))


def _command(command: str, layout: Path, home: Path) -> Sample:
    environment = adapter.cli_environment(home)
    measure(adapter.cli_init(command), environment)
    os.sync()
    return measure(adapter.cli_import(command, layout, REPOSITORY), environment)


def _skopeo(layout: Path, dest: Path) -> Sample:
    entries = json.loads((layout / "index.json").read_bytes())["manifests"]
    tags = [entry["annotations"][REF_NAME] for entry in entries]
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--all"]
    return total([measure([*argv, f"oci:{layout}:{tag}", f"oci:{dest}:{tag}"]) for tag in tags])


def one_round(layout: Path, folder: Path, options: Options) -> dict[str, Sample]:
    """Measure every case once, each in a new folder below `folder`."""
    floors = {
        f"floor, {threads} thread{'s' if threads > 1 else ''}": partial(
            _floor, layout, folder / f"floor-{threads}", threads
        )
        for threads in floor.THREAD_COUNTS
    }
    work: dict[str, Callable[[], Sample]] = {**floors}
    if options.command is not None:
        work[IN_PROCESS] = work[AGAIN] = partial(_import, layout, folder / "home")
        work[COMMAND] = partial(_command, options.command, layout, folder / "command-home")
    if options.skopeo:
        work[SKOPEO] = partial(_skopeo, layout, folder / "skopeo")
    samples: dict[str, Sample] = {}
    for name, measure_case in work.items():
        os.sync()
        time.sleep(options.settle_s)
        samples[name] = measure_case()
    samples[BEST_FLOOR] = min((samples[name] for name in floors), key=lambda one: one.wall_s)
    return samples


def targets_of(name: str, cases: dict[str, list[Sample]]) -> list[Target]:
    """Return the targets of the set `name` with their measured values."""
    if IN_PROCESS not in cases:
        return []
    again = 100 * paired_ratio(cases[AGAIN], cases[IN_PROCESS])
    peak = max(sample.peak_rss_bytes for sample in cases[COMMAND]) / MIB
    ratio = paired_ratio(cases[IN_PROCESS], cases[BEST_FLOOR])
    return [
        Target(f"{name} import", ratio, FLOOR_LIMITS[name], "x floor"),
        Target(f"{name} import again", again, AGAIN_LIMIT_PERCENT, "% of first"),
        Target(f"{name} peak RSS of the command", peak, MEMORY_LIMIT_MIB, "MiB"),
    ]


def run(sets: list[str], rounds: int, work: Path, options: Options) -> int:
    """Measure the sets in interleaved rounds below `work`, print tables and targets.

    Returns the exit code: 1 if a target was missed.
    """
    layouts = {name: work / f"layout-{name}" for name in sets}
    for name, layout in layouts.items():
        print(f"{name}: {generate(name, layout)}", flush=True)
    cases: dict[str, dict[str, list[Sample]]] = {name: defaultdict(list) for name in sets}
    for number in range(rounds):
        for name, layout in layouts.items():
            folder = work / f"round-{number}-{name}"
            folder.mkdir()
            for case, sample in one_round(layout, folder, options).items():
                cases[name][case].append(sample)
            wall_s = statistics.median(one.wall_s for one in cases[name][BEST_FLOOR])
            print(f"round {number + 1} of {name} done, floor {wall_s:.3f} s", flush=True)
    targets = []
    for name in sets:
        title = f"{name}: wall seconds of {rounds} rounds"
        print_table(title, cases[name], BEST_FLOOR, "floor")
        targets += targets_of(name, cases[name])
    print()
    return print_targets(targets)


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Time the import of layouts.")
    parser.add_argument("--set", dest="sets", action="append", choices=sorted(SETS), required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True, help="a folder on the disk to measure")
    parser.add_argument("--command", default="regmeta", help="the regmeta command")
    parser.add_argument("--skip-regmeta", action="store_true", help="floor and peer only")
    parser.add_argument("--skip-skopeo", action="store_true")
    parser.add_argument("--settle-s", type=float, default=2.0, help="rest after sync, each case")
    parser.add_argument("--keep", action="store_true", help="leave the folders in --work")
    arguments = parser.parse_args()
    skopeo = not arguments.skip_skopeo and shutil.which("skopeo") is not None
    command = None if arguments.skip_regmeta else arguments.command
    options = Options(command, skopeo, arguments.settle_s)
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="import-", dir=arguments.work.resolve()))
    try:
        return run(list(dict.fromkeys(arguments.sets)), arguments.rounds, work, options)
    finally:
        if not arguments.keep:
            shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
