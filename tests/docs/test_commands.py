"""README and docs are run: what they show is what happens.

A block fenced as ``sh`` is run and must succeed. A block fenced as ``console`` is run too: what follows a
line ``$ command`` (continued with ``> ``) is what the command writes, in which ``...`` stands for anything.
Such a command may fail if the page shows what it says then. All blocks of a page are run in one shell, in a
copy of the checkout, with an empty home folder.

A comment before a block changes that:

``<!-- docs: needs PROGRAM ... -->``   without that program the page is skipped
``<!-- docs: not run: REASON -->``     the block is only shown

Where a page says ``localhost:8333`` there is an S3 server.

Where a page says ``localhost:5000`` there is a registry that speaks plain HTTP, for that page alone. It has
the examples: ``team/hello`` (the signed sample, and its tag ``latest``) and ``team/old`` (Docker's formats).
Where it has a socket in ``/run/postgresql`` there is a PostgreSQL, and a replica of it in ``/run/replica``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pytest
import typer.main

from regmeta.cli.root import app
from tests.support.copies import use_client_programs
from tests.support.registries.bad_registry import BadRegistry
from tests.support.replica import streaming
from tests.support.seaweed import Buckets

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
PAGES: Final = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PAGE_TIMEOUT_S: Final = 420
INSTALL_TIMEOUT_S: Final = 600

REGISTRY: Final = "localhost:5000"
"""What pages call a remote registry; the one that stands in for it has another port."""

SERVER: Final = "/run/postgresql"
FOLLOWER: Final = "/run/replica"
"""Where pages have the sockets of a PostgreSQL and its replica."""

EXAMPLES: Final = {"sample": "team/hello", "sample-artifacts": "team/hello", "sample-docker": "team/old"}

OBJECT_STORAGE: Final = "localhost:8333"
"""What pages call an S3 server."""

SET_UP_BLOCKS: Final = 2
"""README begins with this many blocks that install regmeta: to use it, and to test it."""

FENCE: Final = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>\w*)")
COMMENT: Final = re.compile(r" *<!-- docs: (?P<verb>needs|not run:) (?P<rest>.+) -->")
LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")

VARYING: Final = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(Z|UTC|[+-]\d\d:?\d\d))?"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s|seconds?)\b"), "<duration>"),
    (re.compile(r"\b\d+(\.\d+)? ?[KMG]i?B/s"), "<rate>"),
)
"""What differs from run to run; digests of the examples do not."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    line: int
    language: str
    text: str
    needs: tuple[str, ...] = ()
    is_run: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """Something to run, and what it shows; an sh block shows nothing that is compared."""

    line: int
    command: str
    shown: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What came of the steps of a page."""

    output: list[str] = field(default_factory=list)
    status: list[int] = field(default_factory=list)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the checkout as a clone would have it: what is committed and what could be."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout: nothing says which files belong to it")
    target = tmp_path / "regmeta"
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


@pytest.mark.docs
@pytest.mark.timeout(INSTALL_TIMEOUT_S)
def test_readme_first_block_installs_and_shows_an_image(copy: Path, tmp_path: Path) -> None:
    """The first thing that a reader pastes into a fresh clone works."""
    output = run_block(set_up_blocks()[0], copy, environment(tmp_path))

    assert "sha256:" in output


@pytest.mark.docs
@pytest.mark.timeout(INSTALL_TIMEOUT_S)
def test_readme_second_block_installs_and_tests(copy: Path, tmp_path: Path) -> None:
    """The second thing works: what it installs is real, of the tests it runs a few."""
    few = {"REGMETA_DOCS_TEST": "1", "PYTEST_ADDOPTS": "-k test_digest"}

    output = run_block(set_up_blocks()[1], copy, environment(tmp_path) | few)

    assert re.search(r"\d+ passed", output), output


def test_ci_runs_the_test_command_of_readme() -> None:
    """There is one command that tests; README shows it, CI runs it."""
    shown = subprocess.run(
        ["bash", ".ci/run", "--show-test-command"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert shown.strip() == set_up_blocks()[1].text.strip()


@pytest.mark.docs
@pytest.mark.timeout(PAGE_TIMEOUT_S + 30)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_a_page_do_what_it_shows(
    page: Path,
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Every command that a reader can paste works, and says what the page says that it says."""
    shown = [block for block in runnable(page) if block.is_run]
    if page == README:
        shown = shown[SET_UP_BLOCKS:]
    if not shown:
        pytest.skip("no commands")
    absent = {name for block in shown for name in block.needs if shutil.which(name) is None}
    if absent:
        pytest.skip(f"needs {', '.join(sorted(absent))}")
    steps = [step for block in shown for step in steps_of(block)]

    with ExitStack() as stack:
        places = {REGISTRY: stack.enter_context(remote_registry())}
        if any(OBJECT_STORAGE in step.command for step in steps):
            buckets: Buckets = request.getfixturevalue("buckets")
            places[OBJECT_STORAGE] = buckets.endpoint.removeprefix("http://")
        if any(SERVER in step.command for step in steps):
            use_client_programs(monkeypatch)
            servers = stack.enter_context(streaming(durable=True))
            places[SERVER] = str(servers.primary.socket_folder)
            places[FOLLOWER] = str(servers.standby.socket_folder)
        result = run_steps(steps, copy, tmp_path, places)

    for step, output, status in zip(steps, result.output, result.status, strict=False):
        told = f"{page.name}:{step.line}: {step.command}\nstatus {status}, it wrote:\n{output}"
        if step.shown is None:
            assert status == 0, told
        else:
            assert matches(step.shown, output), f"{told}\nthe page shows:\n{step.shown}"
            assert status == 0 or step.shown.strip(". \n"), told
    assert len(result.status) == len(steps), f"{page.name}: the shell ended too soon"


def test_every_command_is_documented() -> None:
    """A command that docs/cli.md does not name is found by nobody."""
    page = ROOT / "docs" / "cli.md"
    text = page.read_text("utf-8")

    assert [name for name in leaves("regmeta", typer.main.get_command(app)) if not names(text, name)] == []


def test_index_has_every_page() -> None:
    """docs/README.md leads to all pages."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target in links(index)}

    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in {README, index, *linked}] == []


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md"))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of this repository has that file at its end."""
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    ("shown", "output"),
    [
        ("a\nb", "a  \nb\n"),
        ("a ... d", "a b\nc d"),
        ("...", ""),
        ("took 0.3 s", "took 12.25 s"),
        ("at 2024-01-02T03:04:05Z", "at 2031-11-12T13:14:15.123456+00:00"),
    ],
)
def test_output_that_differs_in_what_varies_matches(shown: str, output: str) -> None:
    """Pages need not be changed when a clock goes on."""
    assert matches(shown, output)


@pytest.mark.parametrize(("shown", "output"), [("a", "a b"), ("a ...", "b"), ("", "a"), ("a\nb", "a b")])
def test_other_output_does_not_match(shown: str, output: str) -> None:
    """Only what varies and ``...`` is let through."""
    assert not matches(shown, output)


def test_steps_of_a_page_share_a_shell(copy: Path, tmp_path: Path) -> None:
    """A page goes on where its last block ended; a command that fails does not end it."""
    text = "$ cd docs\n$ A=1 && \\\n> B=2\n$ ls nothing\nls: ...\n$ echo $A$B $(basename $PWD)\n12 docs\n"
    steps = list(steps_of(Block(1, "console", text)))

    result = run_steps(steps, copy, tmp_path)

    assert [step.line for step in steps] == [2, 3, 5, 7]
    assert [matches(step.shown or "", out) for step, out in zip(steps, result.output, strict=True)] == [
        True
    ] * 4
    assert [status == 0 for status in result.status] == [True, True, False, True]


def test_block_that_fails_ends_its_page(copy: Path, tmp_path: Path) -> None:
    """What comes after a failure in an sh block would only confuse."""
    steps = [Step(1, "true\nfalse\ntrue"), Step(2, "echo not reached")]

    result = run_steps(steps, copy, tmp_path)

    assert result.status == [1]


def runnable(page: Path) -> list[Block]:
    """Give the blocks that show commands."""
    return [block for block in blocks(page.read_text("utf-8")) if block.language in {"sh", "console"}]


def blocks(text: str) -> Iterator[Block]:
    """Parse the fenced blocks of a page, with the comment in the line before each."""
    numbered = iter(enumerate(text.splitlines(), start=1))
    comment = None
    for line, content in numbered:
        opened = FENCE.match(content)
        if opened is None:
            if content.strip():
                comment = COMMENT.fullmatch(content)
            continue
        inside = []
        for _, content in numbered:
            if content.strip() == opened["fence"]:
                break
            inside.append(content.removeprefix(opened["indent"]))
        needs = comment is not None and comment["verb"] == "needs"
        yield Block(
            line,
            opened["language"],
            "".join(f"{content}\n" for content in inside),
            tuple(comment["rest"].split()) if comment and needs else (),
            comment is None or needs,
        )
        comment = None


def steps_of(block: Block) -> Iterator[Step]:
    """Take a block apart into what is run at once."""
    if block.language == "sh":
        yield Step(block.line, block.text)
        return
    line, command, shown = 0, "", ""
    for number, content in enumerate(block.text.splitlines(), start=block.line + 1):
        if content.startswith("$ "):
            if command:
                yield Step(line, command, shown)
            line, command, shown = number, content.removeprefix("$ "), ""
        elif content.startswith("> ") and command.endswith("\\") and not shown:
            command += "\n" + content.removeprefix("> ")
        else:
            assert command, f"line {number}: a console block starts with '$ command'"
            shown += f"{content}\n"
    yield Step(line, command, shown)


@contextmanager
def remote_registry() -> Iterator[str]:
    """Serve the examples on a free port; gives the address to reach it by."""
    with BadRegistry() as registry:
        for example, repository in EXAMPLES.items():
            layout = ROOT / "examples" / example
            for path in (layout / "blobs").glob("*/*"):
                registry.blobs[f"{path.parent.name}:{path.name}"] = path.read_bytes()
            pending = json.loads((layout / "index.json").read_bytes())["manifests"]
            for entry in pending:
                registry.types[entry["digest"]] = entry["mediaType"]
                pending += json.loads(registry.blobs[entry["digest"]]).get("manifests", [])
                name = entry.get("annotations", {}).get("org.opencontainers.image.ref.name")
                if name is not None:
                    registry.tags.setdefault(repository, {})[name] = entry["digest"]
        yield f"localhost:{registry.host.rpartition(':')[2]}"


def run_steps(
    steps: list[Step], copy: Path, tmp_path: Path, places: Mapping[str, str] = MappingProxyType({})
) -> Run:
    """Run steps in one shell; stops where one that must succeed does not. Others stand in for *places*."""
    work = tmp_path / "steps"
    work.mkdir()
    script = ["set -euo pipefail"]
    for number, step in enumerate(steps):
        path = work / str(number)
        command = step.command
        for shown, real in places.items():
            command = command.replace(shown, real)
        path.write_text(command + "\n")
        # An exit status that is looked at switches `set -e` off, also inside of what is sourced.
        goes_on = "" if step.shown is None else f' && echo 0 >"{path}.status" || echo $? >"{path}.status"'
        script.append(f'echo 1 >"{path}.status"')
        script.append(f'source "{path}" >"{path}.out" 2>&1{goes_on}')
        if step.shown is None:
            script.append(f'echo 0 >"{path}.status"')
    (work / "script").write_text("\n".join(script) + "\n")
    ran = bash([str(work / "script")], copy, environment(tmp_path), PAGE_TIMEOUT_S)
    result = Run()
    for number in range(len(steps)):
        status = work / f"{number}.status"
        if status.exists():
            output = (work / f"{number}.out").read_text("utf-8", "replace")
            for shown, real in {"~": str(tmp_path / "home"), **places}.items():
                output = output.replace(real, shown)
            result.output.append(output)
            result.status.append(int(status.read_text()))
    assert result.status, ran.stdout
    return result


def run_block(block: Block, copy: Path, variables: dict[str, str]) -> str:
    """Run a block that must succeed; gives what it wrote."""
    ran = bash(["-euo", "pipefail", "-c", block.text], copy, variables, INSTALL_TIMEOUT_S)
    assert ran.returncode == 0, f"{block.text}\n{ran.stdout}"
    return ran.stdout


def bash(
    arguments: list[str], cwd: Path, variables: dict[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run bash without a terminal."""
    return subprocess.run(
        ["bash", *arguments],
        cwd=cwd,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def environment(tmp_path: Path) -> dict[str, str]:
    """Give the variables of a user who has just come: this regmeta on PATH, an empty home, plain output."""
    own = ("REGMETA_", "XDG_", "PYTEST_", "VIRTUAL_ENV", "PYTHONPATH", "COLUMNS", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    (programs / "regmeta").write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from regmeta.cli import main\nsys.exit(main())\n"
    )
    (programs / "regmeta").chmod(0o755)
    # What pip has fetched for the real user it need not fetch again.
    cache = os.environ.get("XDG_CACHE_HOME") or f"{Path.home()}/.cache"
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    defaults = {"PIP_CACHE_DIR": f"{cache}/pip", "USER": "user"}
    plain = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "110"}
    return defaults | kept | plain | {"HOME": str(home), "PATH": path}


def matches(shown: str, output: str) -> bool:
    """Compare as doctest does with ELLIPSIS, and without what varies."""
    pattern = ".*".join(re.escape(part) for part in settled(shown).split("..."))
    return re.fullmatch(pattern, settled(output), re.DOTALL) is not None


def settled(text: str) -> str:
    """Replace what varies, and take space off the ends."""
    for varying, word in VARYING:
        text = varying.sub(word, text)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def set_up_blocks() -> list[Block]:
    """Give the blocks of README that install."""
    found = [block for block in blocks(README.read_text("utf-8")) if block.language == "sh"]
    assert len(found) >= SET_UP_BLOCKS
    return found[:SET_UP_BLOCKS]


def links(page: Path) -> Iterator[str]:
    """Give the links of a page to files, without the part of the file."""
    text = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1|`[^`\n]+`", "", page.read_text("utf-8"))
    for link in LINK.finditer(text):
        target = link["target"].partition("#")[0]
        if target and not re.match(r"[a-z+]+:", target):
            yield target


def leaves(name: str, command: Any) -> Iterator[str]:
    """Give the full name of each command that is not a group."""
    children = getattr(command, "commands", None)
    if children is None:
        yield name
        return
    for key, child in children.items():
        if not child.hidden:
            yield from leaves(f"{name} {key}", child)


def names(text: str, command: str) -> bool:
    """Tell whether a text has a command's whole name in it."""
    return re.search(rf"(?<![\w-]){re.escape(command)}(?![\w-])", text) is not None
