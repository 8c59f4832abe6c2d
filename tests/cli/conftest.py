"""Running commands in this process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regmeta.cli.root import app


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a registry is to be; nothing in the environment says something else."""
    for name in [name for name in os.environ if name.startswith("REGMETA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "registry"


@pytest.fixture
def bare(home: Path) -> Command:
    """Run a command, just as it is given."""

    def command(*arguments: object) -> Answer:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert "Traceback" not in done.output
        return Answer(done.exit_code, done.stdout, done.stderr, done.stdout_bytes)

    return command


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry as ``init`` makes it, to be copied."""
    home = tmp_path_factory.mktemp("new") / "registry"
    environment = {name: None for name in os.environ if name.startswith("REGMETA_")}
    done = CliRunner().invoke(app, ["--home", str(home), "init"], env=environment)
    assert done.exit_code == 0, done.output
    return home


@pytest.fixture
def regmeta(bare: Command, home: Path, new_home: Path) -> Command:
    """Run a command on a registry that was made."""
    shutil.copytree(new_home, home)
    return lambda *arguments: bare("--home", home, *arguments)
