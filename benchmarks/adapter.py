"""How the benchmarks reach regmeta: the one module that knows its API and its commands."""

import importlib
import shlex
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import child_environment


def load() -> Any:
    """Return the module `regmeta.app`, so that no measurement pays for its import.

    Raises SystemExit when regmeta is not installed.
    """
    try:
        return importlib.import_module("regmeta.app")
    except ImportError as error:
        raise SystemExit("regmeta is not importable") from error


def import_in_process(layout: Path, home: Path, repository: str) -> float:
    """Import every tag of `layout` into `repository` of the home folder `home`, made if missing.

    Returns the seconds from opening the source to the cleared outbox.
    """
    application = load()
    with application.App(application.Settings(home=home)) as app:
        start = time.perf_counter()
        app.import_layout(layout, repository)
        return time.perf_counter() - start


def cli_environment(home: Path) -> dict[str, str]:
    """Return the environment that makes the command work on the home folder `home`."""
    return child_environment({"REGMETA_HOME": str(home)})


def cli_init(command: str) -> list[str]:
    """Return the command line that makes an empty home folder."""
    return [*shlex.split(command), "init"]


def cli_import(command: str, layout: Path, repository: str) -> list[str]:
    """Return the command line that imports every tag of `layout` into `repository`."""
    return [*shlex.split(command), "import", str(layout), repository]


def cli_show_tag(command: str, reference: str) -> list[str]:
    """Return the command line that reads the row of one tag, `REPOSITORY:TAG`."""
    return [*shlex.split(command), "tag", "show", reference]
