"""Running the catalogue of bad input: each case on both databases, through the doors that users have.

A case says how to spoil one image, and what the answer is. The image is listed as ``bad`` beside one that
is ``good``; the layout is written once, as a directory and as an archive. Each registry is asked for all of
it in one transaction, which must leave no trace, and then by the command for what can be had of it.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from typer.testing import CliRunner

from regmeta import errors
from regmeta.app import import_source
from regmeta.cli.root import app as program
from regmeta.db import Database
from regmeta.ingest.plan import ImageOutcome, NoProgress, Progress
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from tests.builders import OCI_LAYER, Json, LayoutBuilder, dumps
from tests.crash.processes import ROOT, TIMEOUT_S, environment
from tests.support.registry import dump, open_parts

Spoiled = tuple[Json, str]
"""A descriptor to be listed, and what the message must name."""
Make = Callable[[LayoutBuilder], Spoiled]

STAGED: Final = (errors.DigestMismatch, errors.SizeMismatch, errors.MissingContent)
MAX_SAID: Final = 2_000  # [characters] of a message about one image, with the paths of a test's folder
LAYER: Final = b"layer of a bad image"
ELSEWHERE: Final = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Refused:
    """A row of the catalogue that is refused. *says* is a pattern that the message must hold."""

    row: int
    name: str
    make: Make
    error: type[errors.Error]
    says: str
    code: int = 3

    def __str__(self) -> str:
        return f"{self.row}-{self.name}".replace(" ", "-")


@dataclass(frozen=True)
class Kept:
    """What a registry holds of an image that was taken in; digests as text."""

    root: str
    manifests: Mapping[str, Json]
    blobs: tuple[Json, ...]  # edges from images to their configurations and layers
    members: tuple[Json, ...]  # edges from indexes to what they list
    labels: tuple[tuple[str, str, str], ...]  # origin, name, value

    @property
    def image(self) -> Json:
        """The row of the image itself."""
        return self.manifests[self.root]


@dataclass(frozen=True)
class Accepted:
    """A row of the catalogue that is taken in; *holds* checks what is kept of it."""

    row: int
    name: str
    make: Callable[[LayoutBuilder], Json]
    holds: Callable[[Kept], None] = field(default=lambda kept: None)
    sparse: bool = False

    def __str__(self) -> str:
        return f"{self.row}-{self.name}".replace(" ", "-")


# --- documents to be spoiled ------------------------------------------------------------------------


def image(builder: LayoutBuilder, **fields: Any) -> Json:
    """Return a good image manifest with other or further fields; a field that is ``...`` is left out."""
    layer = builder.blob(LAYER, OCI_LAYER)
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": builder.config([layer]),
        "layers": [layer],
        **fields,
    }
    return {name: value for name, value in document.items() if value is not ...}


def index(children: list[Any], **fields: Any) -> Json:
    """Return an index with other or further fields; a field that is ``...`` is left out."""
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": children,
        **fields,
    }
    return {name: value for name, value in document.items() if value is not ...}


def named(entry: Json) -> Spoiled:
    """Return an entry whose own digest the message must name."""
    return entry, str(entry["digest"])


def spoil(**fields: Any) -> Make:
    """Make an image manifest with other fields than a good one."""

    def make(builder: LayoutBuilder) -> Spoiled:
        return named(builder.blob(dumps(image(builder, **fields)), media_types.OCI_MANIFEST))

    return make


def replace(old: bytes, new: bytes) -> Make:
    """Make an image manifest of which some bytes are others."""

    def make(builder: LayoutBuilder) -> Spoiled:
        content = dumps(image(builder, annotations={"note": "text"}))
        assert content.count(old) >= 1
        return named(builder.blob(content.replace(old, new, 1), media_types.OCI_MANIFEST))

    return make


def content(value: bytes, media_type: str = media_types.OCI_MANIFEST) -> Make:
    """Make a manifest of just these bytes."""
    return lambda builder: named(builder.blob(value, media_type))


def layer(**fields: Any) -> Make:
    """Make an image whose one layer has another descriptor than it should; the image is named."""

    def make(builder: LayoutBuilder) -> Spoiled:
        entry = {**builder.blob(LAYER, OCI_LAYER), **fields}
        entry = {name: value for name, value in entry.items() if value is not ...}
        return named(builder.blob(dumps(image(builder, layers=[entry])), media_types.OCI_MANIFEST))

    return make


def child(**fields: Any) -> Make:
    """Make an index whose one child has another descriptor than it should; the index is named."""

    def make(builder: LayoutBuilder) -> Spoiled:
        entry = {**builder.document(image(builder)), **fields}
        entry = {name: value for name, value in entry.items() if value is not ...}
        return named(builder.blob(dumps(index([entry])), media_types.OCI_INDEX))

    return make


def entry(**fields: Any) -> Make:
    """Make a good image whose entry in ``index.json`` is bad; its place in the list is named."""

    def make(builder: LayoutBuilder) -> Spoiled:
        made = {**builder.document(image(builder)), **fields}
        return {name: value for name, value in made.items() if value is not ...}, "index.json: manifests[0]"

    return make


# --- registries -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """All rows, and all files of the store with their sizes."""

    rows: Mapping[str, Any]
    files: Mapping[str, int]


@dataclass
class Twins:
    """One registry on each database. What is asked of one is asked of the other."""

    settings: Mapping[str, Settings]  # by the name of the database
    numbers: count[int] = field(default_factory=count)

    def new_repository(self) -> str:
        """Return the name of a repository that no other case uses."""
        return f"case/{next(self.numbers)}"

    def refuse(self, case: Refused, folder: Path) -> None:
        """Check all that is promised of bad input."""
        builder = LayoutBuilder()
        bad, culprit = case.make(builder)
        builder.tag(bad, "bad")
        good = builder.image([b"a good layer"])
        builder.tag(good, "good")
        directory, archive = builder.write(folder / "layout"), builder.write_tar(folder / "layout.tar")
        expected = Expected(case.error, case.code, culprit, case.says)
        self.refuse_written(expected, directory, good["digest"], archive=archive)

    def refuse_written(
        self, expected: Expected, directory: Path, good: str | None = None, *, archive: Path | None = None
    ) -> None:
        """The same for a layout that is written already, with an image ``bad`` and one that is *good*."""
        repository = self.new_repository()
        answers = []
        for settings in self.settings.values():
            before = state(settings)
            raised = import_atomically(settings, directory, repository)
            expected.check(type(raised), str(raised))
            if expected.error in STAGED:  # found when bytes were already in a staging folder
                alone = ask(settings, "import", str(directory), repository, "--tag", "bad")
                assert alone.code == expected.code, alone
                expected.check_said(alone.err)
            assert state(settings) == before
            rest = ask(settings, "import", str(archive or directory), repository, "--json")
            assert rest.code == expected.code, rest
            expected.check_said(rest.err)
            statuses = {item["image"].rpartition(":")[2]: item["status"] for item in json.loads(rest.out)}
            assert statuses == {"bad": "failed", **({"good": "imported"} if good else {})}
            if good:
                assert tags_of(settings, repository) == {"good": good}
            answers.append((str(raised), rest))
        assert all(answer == answers[0] for answer in answers)

    def refuse_source(self, expected: Expected, source: Path) -> None:
        """Check what is promised of a layout that is bad as a whole."""
        answers = []
        for settings in self.settings.values():
            before = state(settings)
            raised = import_atomically(settings, source, self.new_repository())
            expected.check(type(raised), str(raised))
            done = ask(settings, "import", str(source), "app")
            assert (done.code, done.out) == (expected.code, ""), done
            expected.check_said(done.err)
            assert state(settings) == before
            answers.append((str(raised), done))
        assert all(answer == answers[0] for answer in answers)

    def accept(self, case: Accepted, folder: Path) -> None:
        """Check that an image is kept, byte for byte, and as the case says."""
        builder = LayoutBuilder()
        root = case.make(builder)
        builder.tag(root, "v1")
        directory, archive = builder.write(folder / "layout"), builder.write_tar(folder / "layout.tar")
        repository = self.new_repository()
        found = []
        for settings in self.settings.values():
            [outcome] = import_all(settings, directory, repository, sparse=case.sparse)
            assert outcome.status == "imported", outcome.error
            # From the archive it is the same image, so it is here already.
            [again] = import_all(settings, archive, repository, sparse=case.sparse)
            assert again.status == "skipped", again
            kept = kept_of(settings, repository, root["digest"])
            for digest, row in kept.manifests.items():
                assert row["content"] == builder.blobs[digest]
            assert tags_of(settings, repository) == {"v1": root["digest"]}
            case.holds(kept)
            shown = ask(settings, "manifest", "show", f"{repository}:v1")
            assert shown.code == 0
            check_printed(shown.out + shown.err)
            found.append(kept)
        assert all(kept == found[0] for kept in found)


@dataclass(frozen=True)
class Expected:
    """The answer to bad input."""

    error: type[errors.Error]
    code: int
    culprit: str
    says: str

    def check(self, found: type[errors.Error], message: str) -> None:
        """Check an error that was raised."""
        assert found is self.error, message
        assert found.exit_code == self.code
        assert self.culprit in message
        assert re.search(self.says, message), message

    def check_said(self, said: str) -> None:
        """Check what a command wrote to stderr."""
        assert self.culprit in said
        assert re.search(self.says, said), said
        assert len(said) < MAX_SAID, said
        check_printed(said)


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


def check_printed(text: str) -> None:
    """Check that nothing in a text steers a terminal, and that it is no traceback."""
    assert all(character.isprintable() or character == "\n" for character in text), repr(text)
    assert "Traceback" not in text
    assert "internal error" not in text


def ask(settings: Settings, *arguments: str) -> Said:
    """Run a command in this process."""
    done = CliRunner().invoke(program, list(arguments), env=environment(settings))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Said(done.exit_code, done.stdout, done.stderr)


def _silent(images: int) -> AbstractContextManager[Progress]:
    return nullcontext(NoProgress())


def import_all(
    settings: Settings, source: Path, repository: str, *, sparse: bool = False
) -> list[ImageOutcome]:
    """Import what can be had of a source."""
    with closing(import_source(settings, str(source), repository, sparse=sparse, progress=_silent)) as found:
        return list(found)


def import_atomically(settings: Settings, source: Path, repository: str) -> errors.Error:
    """Import a source in one transaction; return the error that it must end with."""
    try:
        with closing(
            import_source(settings, str(source), repository, atomic=True, progress=_silent)
        ) as found:
            outcomes = list(found)
    except errors.Error as error:
        return error
    raise AssertionError(f"it was taken in: {outcomes}")


def state(settings: Settings) -> State:
    """Look at all rows and files; nothing may be left in a staging folder."""
    database, store = open_parts(settings)
    store.close()
    try:
        rows = dump(database)
    finally:
        database.close()
    root = Path(settings.store)
    files = {
        str(path.relative_to(root)): path.lstat().st_size for path in root.rglob("*") if not path.is_dir()
    }
    assert not [name for name in files if name.startswith("staging/")]
    assert not list(root.glob("staging/*"))
    return State(rows, files)


_MANIFESTS = (
    "SELECT m.id, m.digest, m.kind, m.media_type, m.content, m.size_bytes, m.artifact_type,"
    " m.config_media_type, m.subject_digest, m.os, m.architecture, m.variant, m.image_created_at,"
    " m.layer_count, m.total_size_bytes FROM manifests m"
    " JOIN repositories r ON r.id = m.repository_id WHERE r.name = :of"
)
_BLOBS = (
    "SELECT m.digest AS manifest, e.position, e.role, b.digest AS blob, b.size_bytes, e.absent_digest"
    " FROM manifest_blobs e JOIN manifests m ON m.id = e.manifest_id"
    " JOIN repositories r ON r.id = m.repository_id LEFT JOIN blobs b ON b.id = e.blob_id"
    " WHERE r.name = :of ORDER BY m.id, e.position"
)
_MEMBERS = (
    'SELECT m.digest AS "index", e.position, e.child_digest, c.digest AS child, b.digest AS blob, e.absence,'
    " e.media_type, e.os, e.architecture, e.variant FROM index_manifests e"
    " JOIN manifests m ON m.id = e.index_id JOIN repositories r ON r.id = m.repository_id"
    " LEFT JOIN manifests c ON c.id = e.child_id LEFT JOIN blobs b ON b.id = e.blob_id"
    " WHERE r.name = :of ORDER BY m.id, e.position"
)
_LABELS = (
    "SELECT l.origin, l.name, l.value FROM labels l JOIN manifests m ON m.id = l.manifest_id"
    " JOIN repositories r ON r.id = m.repository_id WHERE r.name = :of"
)
_TAGS = (
    "SELECT t.name, t.manifest_digest FROM tags t JOIN repositories r ON r.id = t.repository_id"
    " WHERE r.name = :of AND t.ended_at IS NULL"
)


def kept_of(settings: Settings, repository: str, root: str) -> Kept:
    """Return what a registry holds of a repository."""
    with closing(Database(settings.database)) as database:
        manifests = _select(database, _MANIFESTS, repository)
        return Kept(
            root,
            {row["digest"]: {k: v for k, v in row.items() if k != "id"} for row in manifests},
            tuple(_select(database, _BLOBS, repository)),
            tuple(_select(database, _MEMBERS, repository)),
            tuple(sorted(tuple(row.values()) for row in _select(database, _LABELS, repository))),
        )


def tags_of(settings: Settings, repository: str) -> dict[str, str]:
    """Return the live tags of a repository."""
    with closing(Database(settings.database)) as database:
        return {row["name"]: row["manifest_digest"] for row in _select(database, _TAGS, repository)}


def _select(database: Database, statement: str, repository: str) -> list[Json]:
    with database.read() as connection:
        found = connection.execute(sa.text(statement), {"of": repository}).mappings()
        return [{name: _plain(name, value) for name, value in row.items()} for row in found]


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, (bytes, memoryview)):
        return bytes(value) if name == "content" else str(Digest.from_bytes(bytes(value)))
    return value


# --- tar files --------------------------------------------------------------------------------------

BLOCK: Final = tarfile.BLOCKSIZE
END: Final = bytes(2 * BLOCK)


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """Return a header and its padded data."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK)


def members_of(builder: LayoutBuilder) -> bytes:
    """Return the members of a layout, without the end of the archive."""
    return b"".join(member(name, data) for name, data in builder.files().items())


# --- processes --------------------------------------------------------------------------------------

# The kernel starts the peak of a process that was forked with that of its parent, and getrusage keeps it over
# exec. VmHWM counts from exec.
_MEASURED: Final = """
import atexit, sys
target = sys.argv.pop()
sys.argv[0] = "regmeta"
def report():
    with open("/proc/self/status") as status:
        [line] = [line for line in status if line.startswith("VmHWM")]
    with open(target, "w") as file:
        file.write(line.split()[1])
atexit.register(report)
from regmeta.cli import main
main()
"""


@dataclass(frozen=True)
class Measured(Said):
    """How a process ended, with the most memory that it had at a time."""

    peak_bytes: int


def measured(settings: Settings, folder: Path, *arguments: str) -> Measured:
    """Run a command in a process of its own; nothing may be printed that steers a terminal."""
    target = folder / "peak"
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *arguments, str(target)],
        env=environment(settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Measured(done.returncode, done.stdout, done.stderr, int(target.read_text()) * 1024)


def sparse_file(path: Path, size_bytes: int) -> None:
    """Make a file of zeros that takes no place."""
    with io.FileIO(path, "w") as file:
        os.truncate(file.fileno(), size_bytes)
