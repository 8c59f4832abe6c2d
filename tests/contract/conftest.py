"""A registry with something of everything, made once, and copies of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from regmeta.app import open_for_writing
from regmeta.db import Database
from regmeta.ingest.tags import set_tag
from regmeta.maintain.setup import make_identity
from regmeta.settings import Settings
from tests.builders import AMD64, ARM64, LayoutBuilder, digest_of
from tests.support.bad_input import Twins
from tests.support.consistency import assert_consistent
from tests.support.damaged import Registry
from tests.support.postgres import Postgres
from tests.support.registry import commit_one, open_parts, settings_of


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Settings:
    """A registry with something of everything."""
    home = tmp_path_factory.mktemp("sound")
    shutil.copyfile(sqlite_template, home / "regmeta.db")
    (home / "store").mkdir()
    settings = settings_of(home, f"sqlite:///{home / 'regmeta.db'}")
    database, store = open_parts(settings)
    make_identity(database, store)
    store.close()
    database.close()
    builder = LayoutBuilder()
    foreign = builder.blob(b"foreign", "application/vnd.oci.image.layer.nondistributable.v1.tar")
    del builder.blobs[foreign["digest"]]
    layers = [builder.layer(b"base"), builder.layer(b"app"), foreign]
    config = builder.config(layers, Labels={"team": "a"})
    image = builder.image(layers, config, {"note": "b"}, AMD64)
    other = builder.image(platform=ARM64)
    index = builder.index([image, other, builder.blob(b"?", "application/vnd.example.other")])
    artifact = builder.artifact(b"signed", "application/vnd.example.signature", index)
    layout = home / "layout"
    with open_for_writing(settings) as writing:
        commit_one(writing, builder, index, layout, tag="v1")
        commit_one(writing, builder, artifact, layout, tag=None)
        commit_one(writing, builder, other, layout, tag="v2")
        set_tag(writing.writer, "app", "v1", digest_of(image))
        set_tag(writing.writer, "app", "v1", digest_of(index))
        del builder.blobs[other["digest"]]
        commit_one(writing, builder, index, layout.parent / "thin", "sparse", sparse=True)
    return settings


@pytest.fixture
def registry(sound: Settings, tmp_path: Path) -> Iterator[Registry]:
    """A sound registry to be damaged."""
    shutil.copytree(sound.home, tmp_path / "home")
    settings = settings_of(tmp_path / "home", f"sqlite:///{tmp_path / 'home' / 'regmeta.db'}")
    database, store = open_parts(settings)
    yield Registry(settings, database, store)
    store.close()
    database.close()


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Database]:
    """A database without a schema."""
    with closing(Database(empty_database_url)) as database:
        yield database


@pytest.fixture(scope="session")
def twins(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, postgres: Postgres
) -> Iterator[Twins]:
    """A registry on each database, shared by all cases of bad input; at the end both must be sound."""
    homes = {name: tmp_path_factory.mktemp(f"twin-{name}") for name in ("sqlite", "postgresql")}
    shutil.copyfile(sqlite_template, homes["sqlite"] / "regmeta.db")
    name = postgres.create()
    found = Twins(
        {
            "sqlite": settings_of(homes["sqlite"], f"sqlite:///{homes['sqlite'] / 'regmeta.db'}"),
            "postgresql": settings_of(homes["postgresql"], postgres.url(name)),
        }
    )
    for settings in found.settings.values():
        Path(settings.store).mkdir()
        with closing(open_parts(settings)[0]) as database, closing(open_parts(settings)[1]) as store:
            make_identity(database, store)
    yield found
    for settings in found.settings.values():
        with closing(open_parts(settings)[0]) as database, closing(open_parts(settings)[1]) as store:
            assert_consistent(database, store)
    postgres.drop(name)


@pytest.fixture
def other_url(backend: str, postgres: Postgres, tmp_path: Path) -> Iterator[str]:
    """An empty database of the kind that the registry's is not."""
    if backend == "postgresql":
        yield f"sqlite:///{tmp_path / 'new.db'}"
        return
    name = postgres.create(migrated=False)
    yield postgres.url(name)
    postgres.drop(name)
