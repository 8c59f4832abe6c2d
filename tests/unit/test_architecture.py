"""Rules of the house that no other tool checks; ``.importlinter`` has those about imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main
from alembic.script import ScriptDirectory

from regmeta.cli.root import app
from regmeta.db import SCHEMA_HEAD

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "regmeta"
MODULES: Final = sorted(PACKAGE.rglob("*.py"))
LONGEST_MODULE: Final = 500  # [lines]

OPENERS: Final = ("store/", "sources/", "app/", "settings/", "cli/")
"""Who may open files."""

COMMITTERS: Final = {
    ("db.py", "connection"): "Database.transaction(), the one place that commits and rolls back",
    ("postgresql.py", "super()"): "what Database.transaction() calls: answers and COMMIT in one round trip",
    ("ingest/batch.py", "self._unit"): "UnitOfWork.commit(): it calls Database.transaction()",
    ("ingest/heal.py", "unit"): "the same",
    ("maintain/roles.py", "connection"): "apply_roles(): rights, not rows; all or nothing, as a revision",
}
"""Each (module, receiver) that has commit(), rollback() or begin() called on it, and why that is right."""

Offence = tuple[int, str]
Rule = Callable[[str, ast.AST], Iterator[Offence]]


def test_only_those_who_may_open_files() -> None:
    """Built-in open() escapes the contracts on imports."""
    assert offences(opens_files) == []


def test_one_place_commits_and_rolls_back() -> None:
    """Everything else says what to do within a transaction."""
    assert offences(commits) == []


def test_every_exception_to_one_place_commits_is_used() -> None:
    """A call that is gone takes its exception with it."""
    found = {
        (module, receiver)
        for module, tree in parsed()
        for _, _, receiver in transaction_calls(tree)
        if (module, receiver) in COMMITTERS
    }

    assert found == COMMITTERS.keys()


def test_nothing_prints() -> None:
    """Data goes through the renderer of the command line, talk through a logger."""
    assert offences(prints) == []


def test_no_error_is_dropped_in_silence() -> None:
    """``contextlib.suppress`` with a named error says the same and says what."""
    assert offences(drops_errors) == []


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ("opens_files", "open('x')"),
        ("opens_files", "import io\nio.open('x')"),
        ("opens_files", "from io import open as o\n"),
        ("commits", "connection.commit()"),
        ("commits", "self.unit.connection.rollback()"),
        ("commits", "with engine.begin(): pass"),
        ("commits", "connection.exec_driver_sql('COMMIT')"),
        ("commits", "connection.execute(sa.text('rollback;'))"),
        ("prints", "print(1)"),
        ("drops_errors", "try: f()\nexcept: pass"),
        ("drops_errors", "try: f()\nexcept OSError: ..."),
        ("drops_errors", "with suppress(Exception): f()"),
    ],
)
def test_each_rule_catches_what_it_is_for(rule: str, source: str) -> None:
    """A rule that finds nothing anywhere would pass as well."""
    assert list(RULES[rule]("query/planted.py", ast.parse(source)))


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ("opens_files", "source.open(digest)"),
        ("commits", "committed(ingest)\n'''COMMIT'''"),
        ("prints", "renderer.print(1)"),
        ("drops_errors", "try: f()\nexcept OSError as error: raise Bad from error"),
        ("drops_errors", "with suppress(FileNotFoundError): f()"),
    ],
)
def test_no_rule_catches_what_is_allowed(rule: str, source: str) -> None:
    """Methods of ours may have the names of what is forbidden."""
    assert not list(RULES[rule]("query/planted.py", ast.parse(source)))


def test_no_module_is_too_long() -> None:
    """A module that grows past the limit does two things."""
    lines = {named(path): len(path.read_text("utf-8").splitlines()) for path in MODULES}

    assert {name: count for name, count in lines.items() if count > LONGEST_MODULE} == {}


def test_no_module_is_named_after_nothing() -> None:
    """A drawer for everything collects everything."""
    names = {part for path in MODULES for part in Path(named(path)).with_suffix("").parts}

    assert names & {"util", "utils", "helper", "helpers", "common", "misc"} == set()


def test_every_command_has_help() -> None:
    """``--help`` says what each command and each option is for."""
    assert [name for name, command in commands() if not command.help] == []
    assert [
        f"{name} {'/'.join(option.opts)}"
        for name, command in commands()
        for option in command.params
        if option.param_type_name == "option" and not option.hidden and not option.help
    ] == []


def test_schema_head_is_the_last_migration() -> None:
    """The program refuses a database of any other revision, so the two change together."""
    assert ScriptDirectory(str(ROOT / "migrations")).get_heads() == [SCHEMA_HEAD]


def test_wheel_has_all_that_is_needed_to_run(tmp_path: Path) -> None:
    """An installed package makes and upgrades databases without a checkout."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=120,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())

    wanted = {f"regmeta/{named(path)}" for path in MODULES}
    wanted |= {f"regmeta/migrations/versions/{path.name}" for path in migrations()}
    wanted |= {"regmeta/py.typed", "regmeta/alembic.ini"}
    wanted |= {"regmeta/migrations/env.py", "regmeta/migrations/script.py.mako"}
    assert wanted - packed == set()
    assert [name for name in packed if not re.match(r"regmeta(-[^/]*\.dist-info)?/", name)] == []
    assert [name for name in packed if "__pycache__" in name] == []


def opens_files(module: str, tree: ast.AST) -> Iterator[Offence]:
    """Find built-in open(), io.open() and their imports under another name."""
    if module.startswith(OPENERS):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"open", "io.open", "builtins.open"}:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.module in {"io", "builtins"}:
            yield from ((node.lineno, ast.unparse(node)) for alias in node.names if alias.name == "open")


def commits(module: str, tree: ast.AST) -> Iterator[Offence]:
    """Find calls that end a transaction, or begin one that ends itself, and SQL that does."""
    for line, text, receiver in transaction_calls(tree):
        if (module, receiver) not in COMMITTERS:
            yield line, text
    if module == "db.py":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and re.fullmatch(
                    r"(?i)\s*(begin|commit|rollback|end)\b[\w\s]*;?\s*", str(argument.value)
                ):
                    yield node.lineno, ast.unparse(node)


def transaction_calls(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Find the calls by name; gives the line, the call and what it is called on."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"commit", "rollback", "begin"}
        ):
            yield node.lineno, ast.unparse(node), ast.unparse(node.func.value)


def prints(_module: str, tree: ast.AST) -> Iterator[Offence]:
    """Find the built-in print()."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "builtins.print"}:
            yield node.lineno, ast.unparse(node)


def drops_errors(_module: str, tree: ast.AST) -> Iterator[Offence]:
    """Find handlers that do nothing, and the suppression of all errors."""
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(body=body) if all(map(does_nothing, body)):
                yield node.lineno, ast.unparse(node)
            case ast.Call(func=func, args=errors) if ast.unparse(func) in {"suppress", "contextlib.suppress"}:
                if {"Exception", "BaseException"} & set(map(ast.unparse, errors)):
                    yield node.lineno, ast.unparse(node)


def does_nothing(statement: ast.stmt) -> bool:
    """Tell ``pass`` and a lone constant from other statements."""
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


RULES: Final[dict[str, Rule]] = {rule.__name__: rule for rule in (opens_files, commits, prints, drops_errors)}


def offences(rule: Rule) -> list[str]:
    """Apply a rule to every module."""
    return [f"{module}:{line}: {text}" for module, tree in parsed() for line, text in rule(module, tree)]


def parsed() -> Iterator[tuple[str, ast.Module]]:
    """Give each module of the package, by its path in it."""
    for path in MODULES:
        yield named(path), ast.parse(path.read_text("utf-8"))


def named(path: Path) -> str:
    """Give a module's path in the package."""
    return path.relative_to(PACKAGE).as_posix()


def migrations() -> list[Path]:
    """Give the revisions."""
    found = sorted((ROOT / "migrations" / "versions").glob("*.py"))
    assert found
    return found


def commands() -> list[tuple[str, Any]]:
    """Give every command that the command line has, and each group, by its full name."""
    return list(below("regmeta", typer.main.get_command(app)))


def below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Walk the tree of commands."""
    yield name, command
    for key, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from below(f"{name} {key}", child)
