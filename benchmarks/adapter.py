"""How the benchmarks reach regmeta: the one module that knows its API and its commands."""

import shlex
import time
from contextlib import nullcontext
from pathlib import Path

from benchmarks.processes import child_environment
from regmeta import app
from regmeta.app import rebuilding
from regmeta.ingest.selection import select_images
from regmeta.maintain.rebuild.report import NoProgress
from regmeta.oci.names import Reference
from regmeta.settings import load_settings
from regmeta.sources.open import open_source


def import_in_process(layout: Path, home: Path, repository: str) -> float:
    """Import every tag of `layout` into `repository` of the home folder `home`, made if missing.

    Returns the seconds from opening the source to the cleared outbox.
    """
    settings = load_settings(home=str(home))
    if not home.exists():
        app.initialise(settings)
    with app.open_for_writing(settings) as registry:
        start = time.perf_counter()
        source = open_source(str(layout))
        chosen = select_images(source, Reference(repository))
        outcomes = list(registry.registry.import_images(chosen.requests))
        registry.writer.snapshots.flush_postponed()
        seconds = time.perf_counter() - start
        source.close()
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise SystemExit(f"{failed[0].image}: {failed[0].error}")
    return seconds


def initialise(home: Path) -> None:
    """Make an empty registry in the home folder `home`."""
    app.initialise(load_settings(home=str(home)))


def rebuild_in_process(home: Path, manifests: int) -> None:
    """Rebuild the lost database of `home`, without layouts; it must bring back so many manifests."""
    settings = load_settings(home=str(home), layouts="none")
    report = rebuilding.rebuild_lost_database(settings, lambda: nullcontext(NoProgress()))
    if report.problems or report.manifests != manifests:
        raise SystemExit(f"{report.manifests} manifests came back; {report.problems[:1]}")


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
