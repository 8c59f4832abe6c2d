"""What a hostile source makes the program open: nothing but the store, the database and the source itself.

The program runs under strace. The kernel says which file each successful open has led to, so that links and
relative names count for what they are. An import of a good layout shows what the program opens anyway.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from regmeta.oci.layout import blob_path
from regmeta.settings import Settings
from tests.builders import OCI_LAYER, Json, LayoutBuilder, digest_of, make_layout
from tests.crash.harness.strace import unusable
from tests.crash.processes import ROOT, TIMEOUT_S, environment
from tests.support.bad_input import END, check_printed, member, members_of

CANARY = b"what only its owner may read"
# With -y a descriptor is followed by the path that it leads to.
OPENED = re.compile(r"^\d+ +(?:open|openat|openat2|creat)\((.*)\) = \d+<(.+)>$")
CONNECTED = re.compile(r"^\d+ +connect\(.*sa_family=AF_INET6?\b.*$")
TEMPORARY = re.compile(r"/etilqs_[0-9a-zA-Z]+(?: \(deleted\))?$")  # SQLite's, in the system's own folder

pytestmark = [
    pytest.mark.skipif(bool(unusable()), reason=unusable() or "strace can be used"),
    pytest.mark.soak_on_postgresql,
]


@dataclass(frozen=True)
class Traced:
    """One run of the program: its end, the files that it opened for their content, and where it connected."""

    code: int
    said: str
    opened: frozenset[str]
    connected: tuple[str, ...]


def traced(settings: Settings, folder: Path, *arguments: str) -> Traced:
    """Run one command under strace."""
    log = folder / "strace.log"
    command = ["strace", "-f", "-y", "-qqq", "-s", "4096", "-e", "trace=open,openat,openat2,creat,connect"]
    done = subprocess.run(
        [*command, "-o", str(log), sys.executable, "-m", "regmeta", *arguments],
        env=environment(settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    lines = list(_whole(log.read_text(errors="replace").splitlines()))
    matches = [match for line in lines if (match := OPENED.match(line))]
    opened = {match[2] for match in matches if not re.search(r"O_DIRECTORY|O_PATH", match[1])}
    assert any("/regmeta/" in path for path in opened), lines[:20]
    return Traced(
        done.returncode,
        done.stdout + done.stderr,
        frozenset(opened),
        tuple(line for line in lines if CONNECTED.match(line)),
    )


def _whole(lines: list[str]) -> Iterator[str]:
    """Join calls that strace shows in two parts, as another thread's came in between."""
    begun: dict[tuple[str, str], str] = {}
    for line in lines:
        if unfinished := re.match(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$", line):
            begun[unfinished[1], unfinished[2]] = unfinished[3]
        elif resumed := re.match(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$", line):
            start = begun.pop((resumed[1], resumed[2]), "")
            yield f"{resumed[1]} {resumed[2]}({start}{resumed[3]}"
        else:
            yield line


def is_code(path: str) -> bool:
    """Tell whether a file is of Python, or of what is installed beside it."""
    homes = {sys.prefix, sys.base_prefix, str(ROOT / "regmeta"), str(ROOT / "migrations")}
    return any(path.startswith(f"{home}/") for home in homes) or path.endswith((".so", ".pyc"))


# --- hostile sources ------------------------------------------------------------------------------------


def links_everywhere(path: Path, outside: Path, port: int) -> None:
    """A layout whose blobs are links to the canary, and whose documents name it in every way there is."""
    builder = LayoutBuilder()
    spoiled: list[Json] = []
    for number in range(3):
        layers = [builder.layer(b"layer %d" % number)]
        config = builder.config(layers, Labels={"number": str(number)})
        made = builder.image(layers, config)
        builder.tag(made, f"bad{number}")
        spoiled.append([layers[0], config, made][number])
    good = builder.image([b"a good layer"])
    for number, digest in enumerate(
        (f"sha256:../../../../..{outside}/canary", f"sha256:{outside}/canary", "sha256:../../outside/canary")
    ):
        builder.tag({**good, "digest": digest}, f"traversal{number}")
    urls = [f"file://{outside}/canary", f"http://127.0.0.1:{port}/", "http://169.254.169.254/"]
    foreign = {
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "digest": "sha256:" + "1" * 64,
        "size": len(CANARY),
        "urls": urls,
    }
    builder.tag(builder.image([foreign, builder.blob(b"here", OCI_LAYER, urls=urls)]), "foreign")
    elsewhere = builder.layer(b"elsewhere")
    del builder.blobs[elsewhere["digest"]]
    builder.tag(builder.image([{**elsewhere, "urls": urls}]), "bad3")
    builder.tag(good, "good")
    builder.write(path)
    for descriptor in spoiled:
        file = path / blob_path(digest_of(descriptor))
        file.unlink()
        file.symlink_to(outside / "canary")


def linked_folder(path: Path, outside: Path, port: int) -> None:
    """A layout whose folder of blobs is elsewhere; what lies there is right."""
    make_layout(path, 1)
    (path / "blobs").rename(outside / "blobs")
    (path / "blobs").symlink_to(outside / "blobs")


def linked_index(path: Path, outside: Path, port: int) -> None:
    """A layout whose index.json is elsewhere."""
    make_layout(path, 1)
    (path / "index.json").rename(outside / "index.json")
    (path / "index.json").symlink_to(outside / "index.json")


def archive_with_escapes(path: Path, outside: Path, port: int) -> None:
    """An archive of a good layout among members that lead out of it."""
    builder = LayoutBuilder()
    builder.tag(builder.image(), "good")
    canary = str(outside / "canary")
    extra = (
        member("../outside/canary", b"overwritten")
        + member(canary, b"overwritten")
        + member("link", kind=tarfile.SYMTYPE, link=str(outside))
        + member("link/canary", b"overwritten")
        + member("hard", kind=tarfile.LNKTYPE, link=canary)
        + member("blobs/sha256/../../../outside/canary", b"overwritten")
    )
    path.write_bytes(extra + members_of(builder) + extra + END)


def archive_with_linked_blob(path: Path, outside: Path, port: int) -> None:
    """An archive whose layer is a link to the canary."""
    builder = LayoutBuilder()
    layer = builder.blob(CANARY, OCI_LAYER)
    builder.tag(builder.image([layer]), "bad")
    del builder.blobs[layer["digest"]]
    link = member(blob_path(digest_of(layer)), kind=tarfile.SYMTYPE, link=str(outside / "canary"))
    path.write_bytes(members_of(builder) + link + END)


SOURCES: list[tuple[Callable[[Path, Path, int], None], int]] = [
    (links_everywhere, 3),
    (linked_folder, 3),
    (linked_index, 3),
    (archive_with_escapes, 0),
    (archive_with_linked_blob, 3),
]


@pytest.mark.timeout(200)
def test_hostile_sources_open_nothing_outside_store_and_source(settings: Settings, tmp_path: Path) -> None:
    make_layout(tmp_path / "plain", 1)
    plain = traced(settings, tmp_path, "import", str(tmp_path / "plain"), "plain")
    assert plain.code == 0, plain.said
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_bytes(CANARY)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        for write, code in SOURCES:
            source = tmp_path / "sources" / write.__name__
            source.parent.mkdir(exist_ok=True)
            write(source, outside, listener.getsockname()[1])
            done = traced(settings, tmp_path, "import", str(source), "app")
            assert done.code == code, done.said
            check_printed(done.said)
            assert not [path for path in done.opened if path.startswith(str(outside))]
            inside = (f"{settings.home}/", f"{source}/", f"{settings.store}/")
            others = {path for path in done.opened - plain.opened if not path.startswith(inside)}
            others = {path for path in others if not is_code(path) and not TEMPORARY.search(path)}
            assert others <= {str(source)}
            assert done.connected == ()
            # It was looked at, and this test would see it.
            assert any(path.startswith(str(source)) for path in done.opened)
    assert (outside / "canary").read_bytes() == CANARY
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("home", "strace.log")) == [
        "outside",
        "plain",
        "sources",
    ]


def test_trace_shows_a_file_that_is_opened_through_a_link_and_a_connection(
    settings: Settings, tmp_path: Path
) -> None:
    """The check of the checks: a source named by a link, and an address as the database."""
    make_layout(tmp_path / "real", 1)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    done = traced(settings, tmp_path, "import", str(tmp_path / "link"), "app")
    assert str(tmp_path / "real" / "index.json") in done.opened
    # Nobody answers at port 1: being refused costs no time.
    address = "postgresql://nobody@127.0.0.1:1/none?connect_timeout=2"
    away = settings.__class__(home=settings.home, database=address, store=settings.store, actor="tester")
    assert traced(away, tmp_path, "status").connected
