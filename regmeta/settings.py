"""Settings: defaults, then a TOML file, then ``REGMETA_*`` in the environment, then the command line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from regmeta import failpoints
from regmeta.errors import UsageError

PREFIX: Final = "REGMETA_"
CONFIG_NAME: Final = "regmeta.toml"
SQLITE: Final = "sqlite:///"
_DURATION: Final = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST_S: Final = 100 * 366 * 86400  # what is added to a time must stay one


class Lint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules that an image must keep before it is taken in."""

    mandatory_annotations: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings. A relative path in the file is relative to the file's folder."""

    home: str = ""
    """The folder that holds everything which no other setting puts elsewhere."""
    database: str = ""
    """A URL: ``sqlite:////path/regmeta.db`` or ``postgresql://user@host/name``. Default: in home."""
    store: str = ""
    """The folder of the blob store. Default: ``store`` in home."""
    layouts: Literal["all", "none"] = "all"
    """Whether repositories are shown as OCI layouts in the store."""
    actor: str = ""
    """Who changes are recorded as. Default: the operating system's user."""
    lint: Lint = Lint()
    is_default_home: bool = False
    """Whether home was chosen by nobody: then a first import makes it."""


def load_settings(config: str | None = None, **given: str | None) -> Settings:
    """Put the settings together.

    Raises:
        UsageError: the file cannot be read, or a setting is unknown or of the wrong type.
    """
    environment = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and value
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    config = config or environment.pop("config", None)
    environment.pop("config", None)
    _arm_failpoint(environment.pop("failpoint", None), environment.pop("testing", None))
    home = chosen.get("home") or environment.get("home")
    values = _read_file(config, home)
    values.update(environment)
    values.update(chosen)
    if "is_default_home" in values:
        raise UsageError("settings: is_default_home is found out, not set")
    if not values.get("home"):
        values["home"] = str(_default_home())
        values["is_default_home"] = not values.keys() & {"database", "store"}
    home_path = Path(values["home"]).expanduser().absolute()
    values["home"] = str(home_path)
    values.setdefault("database", f"sqlite:///{home_path / 'regmeta.db'}")
    values.setdefault("store", str(home_path / "store"))
    values["store"] = str(Path(values["store"]).absolute())
    values.setdefault("actor", _user())
    return _convert(values)


def duration(text: str) -> timedelta:
    """Return a length of time that is written like ``45s``, ``90m``, ``12h``, ``30d`` or ``2w``.

    Raises:
        UsageError: it is written otherwise, or longer than a hundred years.
    """
    match = _DURATION.fullmatch(text)
    length_s = _LONGEST_S + 1 if match is None else int(match[1]) * _UNITS_S[match[2]]
    if length_s <= _LONGEST_S:
        return timedelta(seconds=length_s)
    raise UsageError(f"{text!r} is no length of time: write 45s, 90m, 12h, 30d or 2w")


def _arm_failpoint(spec: str | None, testing: str | None) -> None:
    if spec is None:
        return
    if testing != "1":
        raise UsageError(f"{failpoints.VARIABLE} is for tests, and refused without {PREFIX}TESTING=1")
    failpoints.arm(spec)


def _read_file(config: str | None, home: str | None) -> dict[str, Any]:
    """Read the TOML file: the one that was named, or the one in the home folder if there is one."""
    path = Path(config) if config else Path(home or _default_home()).expanduser() / CONFIG_NAME
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        if config:
            raise UsageError(f"{path}: no such file") from error
        return {}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error
    folder = path.parent.absolute()
    for name in ("home", "store"):
        if isinstance(content.get(name), str):
            content[name] = str(folder / Path(content[name]).expanduser())
    database = content.get("database")
    if isinstance(database, str) and database.startswith(SQLITE):
        content["database"] = SQLITE + str(folder / database.removeprefix(SQLITE))
    return content


def _convert(values: Mapping[str, Any]) -> Settings:
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"settings: {error}") from error


def _default_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "regmeta"


def _user() -> str:
    name = os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"
    return name.encode("utf-8", "backslashreplace").decode()
