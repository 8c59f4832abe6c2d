"""Fixtures: databases made from a template, registries, and a check of each registry after its test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import hypothesis
import pytest

from regmeta.app import Writing, initialise, open_for_writing
from regmeta.db import Database
from regmeta.maintain.setup import make_identity
from regmeta.settings import Settings
from tests.builders import LayoutBuilder
from tests.support.compiled import share_compiled
from tests.support.consistency import assert_consistent
from tests.support.postgres import Postgres, shared_postgres
from tests.support.registry import open_parts, settings_of
from tests.support.seaweed import Buckets, shared_buckets

BACKENDS = ["sqlite", "postgresql"]


MEMORY: Final = Path("/dev/shm")
ROOM_BYTES: Final = 6 * 1024**3


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--in-memory", action="store_true", help="keep what tests write in memory, where there is room"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("in_memory"):
        _work_in_memory()
    share_compiled()
    # How long an example takes depends on what else the machine does.
    hypothesis.settings.register_profile("regmeta", deadline=None)
    hypothesis.settings.load_profile("regmeta")
    config.addinivalue_line(
        "markers", "inconsistent: leaves its registry damaged on purpose, so it is not checked afterwards"
    )
    config.addinivalue_line(
        "markers", "soak_on_postgresql: fast enough on SQLite only; on PostgreSQL it is one of the long tests"
    )
    config.addinivalue_line("markers", "long_on_postgresql: on PostgreSQL it waits for a release")


def _work_in_memory() -> None:
    """Let registries of tests lie in memory: flushing a disk is most of what they wait for."""
    if "PYTEST_DEBUG_TEMPROOT" in os.environ or not MEMORY.is_dir():
        return
    room = os.statvfs(MEMORY)
    if room.f_bavail * room.f_frsize >= ROOM_BYTES and os.access(MEMORY, os.W_OK):
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)


SERVERS: Final = {"postgres", "buckets"}  # fixtures
PROGRAMS: Final = tuple(Path(__file__).parent / folder for folder in ("crash", "interop"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count what needs a server or many processes among the slow tests, and some of it as long."""
    for item in items:
        of = getattr(getattr(item, "callspec", None), "params", {}).get("backend")
        needs_server = not SERVERS.isdisjoint(getattr(item, "fixturenames", ()))
        says_so = any(server in item.nodeid for server in ("postgres", "bucket"))  # or a parameter
        if needs_server or says_so or any(item.path.is_relative_to(folder) for folder in PROGRAMS):
            item.add_marker(pytest.mark.slow)
        if of == "postgresql" and item.get_closest_marker("soak_on_postgresql") is not None:
            item.add_marker(pytest.mark.soak)
        if of == "postgresql" and item.get_closest_marker("long_on_postgresql") is not None:
            item.add_marker(pytest.mark.long)


# --- databases --------------------------------------------------------------------------------


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """A folder on a disk, also where others are in memory."""
    with tempfile.TemporaryDirectory(prefix="regmeta-", dir="/var/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The one PostgreSQL of this test run, shared by all workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with shared_postgres(folder / "postgres") as server:
        yield server


@pytest.fixture(scope="session")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buckets]:
    """The one S3 server of this test run, shared by all workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with shared_buckets(folder / "seaweed") as found:
        yield found


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, closed, to be copied."""
    home = tmp_path_factory.mktemp("template")
    initialise(settings_of(home, f"sqlite:///{home / 'regmeta.db'}"))
    path = home / "regmeta.db"
    database = Database(f"sqlite:///{path}")
    with database.transaction("test") as connection:
        connection.exec_driver_sql("DELETE FROM store_identity")
    database.close()
    return path


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each database that regmeta works with, in turn."""
    return str(request.param)


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new database that has the schema and no rows."""
    if backend == "sqlite":
        path = tmp_path / "home" / "regmeta.db"
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.lend()
    yield postgres.url(name)
    postgres.give_back(name)


@pytest.fixture
def empty_database_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new database without a schema."""
    if backend == "sqlite":
        path = tmp_path / "empty.db"
        path.touch()
        with closing(Database(f"sqlite:///{path}")) as database:
            database.use_write_ahead_log()
        yield f"sqlite:///{path}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create(migrated=False)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database that has the schema and no rows."""
    found = Database(database_url)
    yield found
    found.close()


# --- registries -------------------------------------------------------------------------------


@pytest.fixture
def registry_home(tmp_path: Path) -> Path:
    """The folder of a registry: its store is in it, and its database if that is a file."""
    home = tmp_path / "home"
    (home / "store").mkdir(parents=True, exist_ok=True)
    return home


@pytest.fixture
def settings(registry_home: Path, database_url: str, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """The settings of a new registry. When the test is over, its database and its store must agree."""
    found = settings_of(registry_home, database_url)
    database, store = open_parts(found)
    make_identity(database, store)
    store.close()
    database.close()
    yield found
    if request.node.get_closest_marker("inconsistent") is None:
        database, store = open_parts(found)
        try:
            assert_consistent(database, store)
        finally:
            store.close()
            database.close()


@pytest.fixture
def writing(settings: Settings) -> Iterator[Writing]:
    """A new registry that is open for writing."""
    with open_for_writing(settings) as found:
        yield found


@pytest.fixture
def other_writer(settings: Settings) -> Iterator[Callable[[], Writing]]:
    """Open the same registry once more, as another process would."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(open_for_writing(settings))


@pytest.fixture
def builder() -> LayoutBuilder:
    """An empty layout to be filled."""
    return LayoutBuilder()


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Where a test writes its layout."""
    return tmp_path / "layout"
