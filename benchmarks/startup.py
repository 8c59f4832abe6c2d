"""Compare the start of the regmeta command with the imports that it cannot do without.

Processes run interleaved. The regmeta command must be an installed one of the Python that runs this
benchmark, otherwise its start is compared with another interpreter's. The first round warms the
page cache and the bytecode cache, and is not counted.

Usage: python -m benchmarks.startup --rounds 15 --work DIR
"""

import argparse
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks import adapter
from benchmarks.generate import generate
from benchmarks.processes import Sample, measure
from benchmarks.report import Target, paired_ratio, print_table, print_targets

BARE: Final = "python -c pass"
TYPER: Final = "python -c 'import typer'"
ORM: Final = "python -c 'import typer, sqlalchemy.orm'"
HELP: Final = "regmeta --help"
SHOW: Final = "regmeta tag show"
HELP_LIMIT: Final = 3.0  # times TYPER
SHOW_LIMIT: Final = 1.5  # times ORM
REFERENCE: Final = "bench:img-000"


def run(command: str, home: Path, reference: str, rounds: int) -> int:
    """Time the processes on the prepared `home`; return 1 if a target was missed."""
    environment = adapter.cli_environment(home)
    commands = {
        BARE: [sys.executable, "-c", "pass"],
        TYPER: [sys.executable, "-c", "import typer"],
        ORM: [sys.executable, "-c", "import typer, sqlalchemy.orm"],
        HELP: [*shlex.split(command), "--help"],
        SHOW: adapter.cli_show_tag(command, reference),
    }
    cases: dict[str, list[Sample]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, argv in commands.items():
            sample = measure(argv, environment)
            if number:
                cases[name].append(sample)
    print_table(f"wall seconds of {rounds} rounds", cases, TYPER, "typer")
    print()
    help_ratio = paired_ratio(cases[HELP], cases[TYPER])
    show_ratio = paired_ratio(cases[SHOW], cases[ORM])
    return print_targets(
        [
            Target(HELP, help_ratio, HELP_LIMIT, "x import typer"),
            Target(SHOW, show_ratio, SHOW_LIMIT, "x import typer, sqlalchemy.orm"),
        ]
    )


def prepare_home(command: str, work: Path) -> Path:
    """Import the set S into a new home below `work` and return the home."""
    generate("S", work / "layout")
    home = work / "home"
    environment = adapter.cli_environment(home)
    measure(adapter.cli_init(command), environment)
    measure(adapter.cli_import(command, work / "layout", "bench"), environment)
    return home


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Time the start of the regmeta command.")
    parser.add_argument("--command", default="regmeta", help="the regmeta command")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--home", type=Path, help="a prepared home; default: a new one with set S")
    parser.add_argument("--reference", default=REFERENCE, help="a tag of the home")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="startup-", dir=arguments.work.resolve()))
    try:
        home = arguments.home or prepare_home(arguments.command, work)
        return run(arguments.command, home, arguments.reference, arguments.rounds)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
