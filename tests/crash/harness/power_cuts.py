"""T4: the power goes off at each point: what was not flushed is gone.

Database and store lie on file systems of their own, so that a flush of one does not hide a flush that the
other lacks. At each point both images are copied as they are on their disks at this moment; later each pair
is mounted, which replays the journals, and judged.
"""

from __future__ import annotations

import pickle
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.crash.harness import mounts
from tests.crash.harness.children import Acknowledge, Fact, Mutate, run_child, spread
from tests.crash.harness.judge import judge
from tests.crash.harness.places import Arena, Place
from tests.crash.harness.recordings import Recording, record
from tests.crash.harness.report import Failure, Result, measured
from tests.crash.harness.use_cases import use_case
from tests.support.registry import settings_of

NAME: Final = "power cuts"
CASES: Final = (
    "init",
    "import",
    "import bad",
    "slow import",
    "heal",
    "tag set",
    "tag rm",
    "recover",
    "collect",
)
QUICK_CASES: Final = ("tag set",)
DATABASE_MIB: Final = 24
STORE_MIB: Final = 32


@dataclass(frozen=True, slots=True)
class _Cut:
    """What was on both disks at one point, and what had been acknowledged by then."""

    recording: Recording
    point: str
    images: Path
    facts: tuple[Fact, ...]

    @property
    def where(self) -> str:
        return f"sqlite {self.recording.case.name} {self.point}"


def run(
    arena: Arena,
    *,
    quick: bool = False,
    mutate: Mutate = None,
    cases: tuple[str, ...] = CASES,
    every: int = 1,
) -> Result:
    """Cut the power at each point; *quick* of one use case only. *every* judges one cut of so many."""
    with measured(NAME) as result:
        result.skipped = mounts.unusable(loop=True)
        if result.skipped:
            return result
        recordings = [
            record(arena, "sqlite", use_case(name), mutate) for name in (QUICK_CASES if quick else cases)
        ]
        folder = arena.folder / "cuts"
        try:
            taken = spread(recordings, lambda recording: _take(arena, folder, recording, mutate))
            cuts = [
                _Cut(recording, *cut)
                for recording, some in zip(recordings, taken, strict=True)
                for cut in some
            ]
            cuts = cuts[::every]
            for cut, failures in zip(cuts, spread(cuts, lambda cut: _judged(arena, cut)), strict=True):
                result.add(cut.where, killed=True, failures=failures)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return result


def _take(
    arena: Arena, folder: Path, recording: Recording, mutate: Mutate
) -> list[tuple[str, Path, tuple[Fact, ...]]]:
    """Run a use case once, copying both disks at each point and at the end."""
    mounts.private()
    case = recording.case
    here = folder / case.name
    here.mkdir(parents=True)
    images = _made(here, case.prepared(arena, "sqlite"))
    acknowledged: list[Fact] = []
    number = 0
    with ExitStack() as stack:
        place = _mounted(stack, arena, images, here / "mounted")

        def cut(name: str) -> None:
            nonlocal number
            target = here / str(number)
            target.mkdir()
            for image in images.iterdir():
                mounts.copy_image(image, target / image.name)
            (target / "facts").write_bytes(pickle.dumps((name, acknowledged)))
            number += 1

        def body(acknowledge: Acknowledge) -> None:
            def both(*fact: str) -> None:
                acknowledged.append(fact)
                acknowledge(*fact)

            case.run(place, both)
            cut("end")

        outcome = run_child(body, handler=cut, mutate=mutate)
        if outcome.ended != "done" and mutate is None:
            raise RuntimeError(f"{case.name} does not work: {outcome.error}")
    cuts = []
    for number in range(len(outcome.points) + (outcome.ended == "done")):
        target = here / str(number)
        name, facts = pickle.loads((target / "facts").read_bytes())
        label = f"{name}#{outcome.points[: number + 1].count(name)}"
        cuts.append((label, target, tuple(facts)))
    return cuts


def _judged(arena: Arena, cut: _Cut) -> list[Failure]:
    mounts.private()
    (cut.images / "facts").unlink()
    try:
        with ExitStack() as stack:
            place = _mounted(stack, arena, cut.images, cut.images.with_suffix(".mounted"))
            return judge(place, cut.recording, cut.facts, cut.where)
    finally:
        shutil.rmtree(cut.images)


def _made(folder: Path, prepared: Place) -> Path:
    """Put a registry on two new disks."""
    images = folder / "images"
    images.mkdir()
    for name, size_mib in (("database", DATABASE_MIB), ("store", STORE_MIB)):
        mounts.make_ext4(images / name, size_mib)
    home = prepared.folder / "home"
    if home.exists():
        with ExitStack() as stack:
            place = _mounted(stack, None, images, folder / "filled")
            target = Path(place.settings.home)
            target.mkdir()
            for file in home.glob("regmeta.db*"):
                shutil.copy2(file, target)
            place.store.mkdir()
            mounts.copy_tree(home / "store", place.store)
    return images


def _mounted(stack: ExitStack, arena: Arena | None, images: Path, folder: Path) -> Place:
    """Mount both disks for as long as the stack stands."""
    folder.mkdir(exist_ok=True)
    database, store = (
        stack.enter_context(mounts.mounted_image(images / name, folder / name))
        for name in ("database", "store")
    )
    home = database / "home"
    settings = settings_of(home, f"sqlite:///{home / 'regmeta.db'}", store=str(store / "store"))
    return Place("sqlite", folder, folder if arena is None else arena.sources, settings)
