"""How the benchmarks reach regmeta: the one module that knows its API and its commands."""

import shlex
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

from benchmarks.processes import Sample, child_environment
from regmeta import app
from regmeta.app import rebuilding, retention, verification
from regmeta.app.syncing import sync_policies
from regmeta.ingest.plan import Lifetimes
from regmeta.ingest.selection import select_images
from regmeta.maintain.collect.run import collect
from regmeta.maintain.rebuild.report import NoProgress
from regmeta.oci.names import Reference
from regmeta.settings import load_settings
from regmeta.sources.open import open_source
from regmeta.sync.run import SyncReport


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


def make_mirror(folder: Path, url: str, repository: str) -> Path:
    """Make a registry in `folder` whose settings mirror one repository of the one at `url`."""
    folder.mkdir(parents=True)
    (folder / "regmeta.toml").write_text(
        f'[[sync.registries]]\nname = "upstream"\nurls = ["{url}"]\nimages_at_once = 8\nmax_concurrent = 8\n'
        f'[[sync.registries.content]]\nprefix = "{repository}"\n'
    )
    initialise(folder)
    return folder


def sync_in_process(home: Path) -> tuple[float, SyncReport]:
    """Run the mirror of `home` once; return the seconds it took, and its report."""
    settings = load_settings(home=str(home))
    start = time.perf_counter()
    (report,) = sync_policies(settings)
    seconds = time.perf_counter() - start
    if not isinstance(report, SyncReport) or report.counts.failed:
        raise SystemExit(f"the sync failed: {report}")
    return seconds, report


def rebuild_in_process(home: Path, manifests: int) -> None:
    """Rebuild the lost database of `home`, without layouts; it must bring back so many manifests."""
    settings = load_settings(home=str(home), layouts="none")
    report = rebuilding.rebuild_lost_database(settings, lambda: nullcontext(NoProgress()))
    if report.problems or report.manifests != manifests:
        raise SystemExit(f"{report.manifests} manifests came back; {report.problems[:1]}")


def plan_retention(home: Path, plan_file: Path) -> None:
    """Decide on all tags of `home` by its policies, and write the plan to a file."""
    found = retention.plan(load_settings(home=str(home)))
    retention.write_plan(found.drop_plan, str(plan_file))


def drops_in_plan(plan_file: Path) -> int:
    """Return how many tags a plan drops."""
    return sum(map(len, retention.read_plan(str(plan_file)).drops.values()))


def apply_retention(home: Path, plan_file: Path, drops: int) -> None:
    """Apply a plan in `home`, without layouts; it must drop so many tags."""
    outcomes = retention.apply(load_settings(home=str(home), layouts="none"), str(plan_file))
    if sum(len(outcome.tags) for outcome in outcomes if outcome.status == "applied") != drops:
        raise SystemExit(f"not applied: {outcomes[0].error}")


def collect_in_process(home: Path, blobs: int) -> None:
    """Collect what is due in `home`, objects too, with no window; it must be so many blobs."""
    at_once = Lifetimes(tombstone=timedelta(0))
    with app.open_for_writing(load_settings(home=str(home), layouts="none"), lifetimes=at_once) as registry:
        report = collect(registry.writer, registry.store)
    if report.blobs != blobs or report.objects.deleted != blobs:
        raise SystemExit(f"{report.blobs} blobs were collected, {report.objects.deleted} objects deleted")


class _Passes:
    """Notes when the bytes began to be read: wall and CPU seconds."""

    began_s = (0.0, 0.0)

    def began(self, what: str, total: int | None) -> None:
        if what == "bytes":
            self.began_s = (time.perf_counter(), time.process_time())

    def advanced(self, steps: int) -> None: ...


def verify_in_process(home: Path, blobs: int, jobs: int) -> Sample:
    """Verify every byte of `home` with so many threads; it must read so many blobs and find nothing.

    Returns what reading the bytes took, which comes last.
    """
    settings, passes = load_settings(home=str(home)), _Passes()
    report = verification.verify(settings, passes, read_data="all", jobs=jobs)
    wall_s, cpu_s = time.perf_counter() - passes.began_s[0], time.process_time() - passes.began_s[1]
    if report.findings or report.objects_read != blobs:
        raise SystemExit(f"{report.objects_read} of {blobs} objects were read; {report.findings[:1]}")
    return Sample(wall_s, cpu_s)


def cli_environment(home: Path) -> dict[str, str]:
    """Return the environment that makes the command work on the home folder `home`."""
    return child_environment({"REGMETA_HOME": str(home)})


def cli_init(command: str) -> list[str]:
    """Return the command line that makes an empty home folder."""
    return [*shlex.split(command), "init"]


def cli_import(command: str, layout: Path, repository: str) -> list[str]:
    """Return the command line that imports every tag of `layout` into `repository`."""
    return [*shlex.split(command), "import", str(layout), repository]


def cli_collect(command: str) -> list[str]:
    """Return the command line that collects what is due."""
    return [*shlex.split(command), "gc", "run"]


def cli_show_tag(command: str, reference: str) -> list[str]:
    """Return the command line that reads the row of one tag, `REPOSITORY:TAG`."""
    return [*shlex.split(command), "tag", "show", reference]
