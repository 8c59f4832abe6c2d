"""How the databases run every public query: no large table is read from end to end.

The queries and their parameters are those of ``benchmarks.queries``; the registry is a small one of
``benchmarks.synthetic``. Plans depend on statistics: regmeta makes none in an SQLite file, and somebody else
may, so both are asked.
"""

from __future__ import annotations

import dis
import importlib
import inspect
import pkgutil
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

import regmeta.query
from benchmarks.queries.case import Case
from benchmarks.queries.cases import CASES
from benchmarks.queries.parameters import Parameters
from benchmarks.queries.plans import LARGE, full_scans, sent_by
from benchmarks.queries.raw import Raw
from benchmarks.synthetic.load import load
from benchmarks.synthetic.shape import Shape, today
from regmeta.db import Database
from regmeta.models import Base
from tests.support.postgres import Postgres

SHAPE = Shape(manifests=2_000, seed=1, today=today())
DRAWS = 4
LISTED = [case for case in CASES if not case.reports]
ADMINISTRATORS = {"collection", "deleted", "history", "mirrored", "moments", "queues", "sql", "status"}
"""Modules whose questions are those of administrators, about one repository or the machinery."""


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry in an SQLite file without statistics."""
    url = f"sqlite:///{tmp_path_factory.mktemp('synthetic') / 'plain.db'}"
    load(url, SHAPE, with_statistics=False)
    return url


@pytest.fixture(scope="session")
def analysed(plain: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same registry, with statistics."""
    path = tmp_path_factory.mktemp("synthetic") / "analysed.db"
    shutil.copyfile(plain.removeprefix("sqlite:///"), path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("ANALYZE")
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def on_postgresql(postgres: Postgres) -> Iterator[str]:
    """The same registry on PostgreSQL."""
    name = postgres.create(migrated=False)
    load(postgres.url(name), SHAPE)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(params=["plain", "analysed"])
def url(request: pytest.FixtureRequest) -> str:
    """An SQLite file, without and with statistics."""
    return str(request.getfixturevalue(request.param))


def _asked(url: str, case: Case) -> list[str]:
    """Ask a query some times; return how it reads whole tables."""
    with closing(Database(url)) as database, closing(Raw(url)) as raw:
        parameters = Parameters(raw, pool=20)
        drawn = [case.draw(parameters) for _ in range(DRAWS)]
        sent = [each for of in drawn for each in sent_by(database, partial(case.call, database, of))]
        assert sent
        return full_scans(database, sent, if_it_must=True)


@pytest.mark.parametrize("case", LISTED, ids=lambda case: case.name)
def test_no_query_reads_a_large_table_from_end_to_end(case: Case, url: str) -> None:
    assert not _asked(url, case)


@pytest.mark.parametrize("case", LISTED, ids=lambda case: case.name)
def test_an_index_serves_every_query_on_postgresql(case: Case, on_postgresql: str) -> None:
    assert not _asked(on_postgresql, case)


@pytest.mark.parametrize("case", [case for case in CASES if case.raw], ids=lambda case: case.name)
def test_the_statements_by_hand_find_something_too(case: Case, plain: str, on_postgresql: str) -> None:
    assert case.raw is not None
    counts = []
    for url in (plain, on_postgresql):
        with closing(Raw(url)) as raw:
            parameters = Parameters(raw, pool=20)
            counts.append([len(case.raw(raw, case.draw(parameters))) for _ in range(DRAWS)])
    assert counts[0] == counts[1]
    assert any(counts[0])


@pytest.mark.parametrize(
    ("index", "name"),
    [
        ("ix_manifests_chain_digest_id", "bases of an image"),
        ("ix_repositories_leaf_name", "search: a word"),
        ("ix_blobs_size_bytes_id", "largest blobs"),
        ("ix_manifests_pushed_at_id", "newest manifests of all"),
    ],
)
def test_a_lost_index_is_noticed(index: str, name: str, plain: str, tmp_path: Path) -> None:
    path = tmp_path / "lost.db"
    shutil.copyfile(plain.removeprefix("sqlite:///"), path)
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"DROP INDEX {index}")
    (case,) = [case for case in CASES if case.name == name]
    assert _asked(f"sqlite:///{path}", case)


def test_every_table_that_grows_is_looked_at() -> None:
    machinery = {"gc_tasks", "ingests", "intents", "layout_outbox", "store_identity", "tombstones"}
    others = {"sync_items", "sync_runs", "tag_locks"}
    others |= {"adoptions", "adoption_repositories", "adoption_defects"}
    assert LARGE | machinery | others == set(Base.metadata.tables)


def _public() -> Iterator[tuple[str, str]]:
    """Yield the public queries, as module and function."""
    for info in pkgutil.walk_packages(regmeta.query.__path__, "regmeta.query."):
        module = importlib.import_module(info.name)
        for name, function in vars(module).items():
            if not inspect.isfunction(function) or function.__module__ != info.name or name.startswith("_"):
                continue
            if next(iter(inspect.signature(function).parameters), "") == "database":
                yield info.name.removeprefix("regmeta.query."), name


def _called(call: Callable[..., object]) -> tuple[str, str]:
    """Return the module and the function that a case calls."""
    steps = (step for step in dis.get_instructions(call) if step.opname.startswith("LOAD_"))
    module = next(step.argval for step in steps if step.opname == "LOAD_GLOBAL")
    name = next(step.argval for step in steps)
    return call.__globals__[module].__name__.removeprefix("regmeta.query."), name


def test_every_public_query_is_a_case() -> None:
    asked = {_called(case.call) for case in CASES}
    missing = {(module, name) for module, name in _public() if module not in ADMINISTRATORS} - asked
    assert not missing
