"""A docker-registry's folder that gets more and more images, of the same bytes and times in every run."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from tests.support.old_registries.content import Step, steps
from tests.support.old_registries.docker_tree import FIRST_PUSH, DockerTree


class GrowingFolder:
    """Writes one step of its content after the other; no registry is at work meanwhile."""

    def __init__(self, root: Path, images: int, *, seed: int = 0) -> None:
        self.root = root
        self.tree = DockerTree(root)
        self.shown = 0
        self._steps: Iterator[Step] = steps(images, seed=seed)

    def show(self, number: int) -> None:
        """Let the first *number* steps have been done; all of them, if there are no more."""
        while self.shown < number and (step := next(self._steps, None)) is not None:
            self._do(step)
            self.shown += 1

    def show_all(self) -> None:
        """Let all steps have been done."""
        for step in self._steps:
            self._do(step)
            self.shown += 1

    def _do(self, step: Step) -> None:
        for put in step.puts:
            self.tree.image(step.repository, step.builder, put.descriptor, put.tag)
        for digest in step.deletes:
            # As the registry does it: its link goes, and so do the tags that name it now.
            self.tree.revision_link(step.repository, digest).unlink()
            for name, named in self.tree.tags(step.repository).items():
                if str(named) == digest:
                    shutil.rmtree(self.tree.tag_folder(step.repository, name))
        set_times(self.tree, step.repository)


def set_times(tree: DockerTree, repository: str) -> None:
    """Give each link of a repository a time that only its path and its content decide."""
    folder = tree.folder(repository) / "_manifests"
    for link in folder.rglob("link"):
        what = f"{repository} {link.relative_to(folder)} {link.read_text()}"
        at = FIRST_PUSH + timedelta(seconds=zlib.crc32(what.encode()) % 100_000_000)
        os.utime(link, (at.timestamp(), at.timestamp()))
