"""Another registry's storage, as it is before and after a day of its work, and what brings it here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from regmeta.adopt.terms import AdoptReport, Options
from regmeta.app import adopting
from regmeta.sync.pipeline import NoProgress
from regmeta.sync.records import ItemOutcome
from tests.crash.harness import images
from tests.crash.harness.children import Acknowledge
from tests.crash.harness.images import REPOSITORY
from tests.crash.harness.places import Place
from tests.support.old_registries.docker_tree import DockerTree
from tests.support.old_registries.growing import set_times

BEFORE: Final[Mapping[str, str]] = {
    "kept": "old",
    "moving": "old",
    "one": "new",
    "multi": "new",
    "rotten": "bad",
}
AFTER: Final[Mapping[str, str]] = {
    "kept": "old",
    "moving": "new",
    "slow": "slow",
    "multi": "new",
    "rotten": "bad",
}
"""In which layout the image of each tag is. What a tag named before, and names no more, stays without one."""


def write(folder: Path, state: Mapping[str, str]) -> Path:
    """Write the storage in one of its states, once, and return it."""
    if folder.exists():
        return folder
    tree = DockerTree(folder)
    for tags in (BEFORE, state):
        for tag, layout in tags.items():
            builder = images.layouts()[layout]
            [entry] = [entry for entry in builder.entries if tag in entry.get("annotations", {}).values()]
            tree.image(REPOSITORY, builder, entry, tag if tags is state else None)
    new = images.layouts()["new"]
    tree.image(REPOSITORY, new, new.entries[-1], None)  # a signature, which has no tag
    set_times(tree, REPOSITORY)
    return folder


def adopt_from(place: Place, acknowledge: Acknowledge, source: Path, *, links: bool) -> AdoptReport:
    """Bring what is new there; each image is told when it is final."""
    return adopting.run(
        place.settings,
        str(source),
        links=links,
        options=Options(images_at_once=1),
        progress=_Telling(acknowledge),
    )


class _Telling(NoProgress):
    def __init__(self, acknowledge: Acknowledge) -> None:
        self._acknowledge = acknowledge

    def done(self, outcomes: Iterable[ItemOutcome]) -> None:
        """Images are done; what has no tag goes by its digest."""
        for item in outcomes:
            if ":" in item.reference:
                self._acknowledge("manifest", REPOSITORY, item.reference)
            elif item.outcome == "copied":
                self._acknowledge("tag", REPOSITORY, item.reference, str(item.digest))
                self._acknowledge("status", f"{REPOSITORY}:{item.reference}", "imported")
