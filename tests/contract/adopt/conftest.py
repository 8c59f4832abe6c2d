"""An old registry beside a new one, and what an adoption makes of it."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from regmeta.adopt.comparison import ComparedRepository
from regmeta.adopt.plan import AdoptPlan
from regmeta.adopt.records.adoptions import KnownAdoption
from regmeta.adopt.records.defects import KnownDefect
from regmeta.adopt.terms import AdoptReport, Options
from regmeta.app import Writing, adopting, open_for_writing
from regmeta.errors import Error
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from tests.builders import Json, LayoutBuilder, digest_of, tar_layer
from tests.support.old_registries.docker_tree import DockerTree
from tests.support.old_registries.fixtures import old_docker
from tests.support.registry import open_parts, rows, tags

__all__ = ["old_docker"]

_CAPABILITIES: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_READS_ALL: Final = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@dataclass
class Adopting:
    """The commands of an adoption of the storage at *root*, as the command line runs them."""

    settings: Settings
    root: Path

    def plan(self, *, prefix: str = "") -> AdoptPlan:
        return adopting.plan(self.settings, str(self.root), prefix=prefix, advanced=lambda *_: None)

    def run(
        self, *, prefix: str = "", links: bool = True, reopen: bool = False, **options: Any
    ) -> AdoptReport:
        return adopting.run(
            self.settings,
            str(self.root),
            prefix=prefix,
            links=links,
            reopen=reopen,
            options=Options(**options),
        )

    def verify(self, *, deep: bool = False) -> list[ComparedRepository]:
        return list(adopting.verify(self.settings, str(self.root), deep=deep, advanced=lambda _: None))

    def unexplained(self, *, deep: bool = False) -> list[tuple[str, str, str]]:
        """Return what a comparison finds and no defect explains: repository, kind, subject."""
        found = self.verify(deep=deep)
        assert [each.failure for each in found if each.failure is not None] == []
        return [
            (each.source, item.kind, item.subject)
            for each in found
            for item in each.differences
            if not item.explained_by
        ]

    def defects(self) -> list[KnownDefect]:
        return adopting.rejects(self.settings, str(self.root), 100_000)

    def kinds(self) -> set[tuple[str, str, str, str]]:
        """Return the defects without their words: repository, class, image, subject."""
        return {(each.repository, each.kind, each.image, each.subject) for each in self.defects()}

    def finalize(self, *, unchecked: bool = False) -> KnownAdoption:
        return adopting.finalize(self.settings, str(self.root), unchecked=unchecked, advanced=lambda _: None)

    def tags(self, repository: str) -> dict[str, Digest]:
        with closing(open_parts(self.settings)[0]) as database:
            return tags(database, repository)

    def manifests(self, repository: str) -> set[Digest]:
        return {digest for digest, *_ in self.manifest_rows(repository)}

    def manifest_rows(self, repository: str) -> list[tuple[Digest, Any, str]]:
        """Return digest, time and actor of the manifests of a repository."""
        found = self.rows(
            "SELECT m.digest, m.pushed_at, m.pushed_by FROM manifests m"
            " JOIN repositories r ON r.id = m.repository_id"
            " WHERE r.name = :of AND m.deleted_at IS NULL",
            of=repository,
        )
        return [(Digest.from_bytes(bytes(digest)), at, by) for digest, at, by in found]

    def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with closing(open_parts(self.settings)[0]) as database:
            return rows(database, statement, **values)

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """Open the new registry as somebody else who writes to it."""
        with open_for_writing(self.settings) as found:
            yield found


class OldDocker(DockerTree):
    """A docker-registry's storage that is written by hand, with images of content that nobody else has."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        self._random = random.Random("old docker")
        (self.v2 / "repositories").mkdir(parents=True, exist_ok=True)
        (self.v2 / "blobs").mkdir(exist_ok=True)

    def push(self, repository: str, tag: str | None = None, *layers: bytes) -> Digest:
        """Push a new image."""
        builder = LayoutBuilder()
        contents = layers or (self.layer(), self.layer())
        return self.push_made(repository, tag, builder, builder.image(contents))

    def push_made(self, repository: str, tag: str | None, builder: LayoutBuilder, image: Json) -> Digest:
        """Push an image that was made already."""
        self.image(repository, builder, image, tag)
        return digest_of(image)

    def layer(self) -> bytes:
        """Return a layer that nobody else has."""
        return tar_layer(self._random.randbytes(100))

    def untag(self, repository: str, tag: str) -> None:
        """Lose a tag, as a deletion of its manifest does."""
        for path in sorted(self.tag_folder(repository, tag).rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
        self.tag_folder(repository, tag).rmdir()


@pytest.fixture
def old(tmp_path: Path) -> OldDocker:
    """An old registry that has nothing yet."""
    return OldDocker(tmp_path / "old")


@pytest.fixture
def adopt(settings: Settings) -> Callable[[Path], Adopting]:
    """Return what adopts a storage into a new registry."""
    return lambda root: Adopting(settings, root)


@pytest.fixture
def adoption(old: OldDocker, adopt: Callable[[Path], Adopting]) -> Adopting:
    """The adoption of *old*."""
    return adopt(old.root)


def every_byte(root: Path) -> Mapping[str, tuple[int, int, bytes]]:
    """Return all of a folder: type and rights, time of the last change, and content, by path."""
    found = {}
    for path in (root, *sorted(root.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, content)
    return found


def refusal(work: Callable[[], object]) -> Error:
    """Return the error that something must end with."""
    with pytest.raises(Error) as caught:
        work()
    return caught.value


@contextmanager
def rights_matter(adoption: Adopting) -> Iterator[None]:
    """Let this thread, and those that it starts, read only what the rights of files allow; also root's."""
    if os.geteuid() != 0:
        yield
        return
    if not adoption.settings.database.startswith("sqlite:"):
        pytest.skip("the folder of the server's socket is another user's")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    before, without = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    if libc.capget(header, before) or libc.capget(header, without):
        pytest.skip("cannot look at this process's capabilities")
    without[0] &= ~_READS_ALL
    if libc.capset(header, without):
        pytest.skip("cannot give up this process's capabilities")
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0
