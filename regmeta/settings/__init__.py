"""Settings: defaults, then a TOML file, then ``REGMETA_*`` in the environment, then the command line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from regmeta import failpoints
from regmeta.errors import UsageError
from regmeta.settings.object_store import ObjectStore, check_object_store, is_bucket
from regmeta.settings.postgresql import PostgreSql, check_postgresql
from regmeta.settings.retention import (
    KeepRule,
    KeepUntagged,
    Retention,
    RetentionPolicy,
    check_retention,
)
from regmeta.settings.source_bucket import VARIABLES as OF_A_SOURCE
from regmeta.settings.sync import Content, Sync, SyncRegistry, check_sync, resolve_paths
from regmeta.settings.upkeep import (
    SHORTEST_TOMBSTONE,
    SHORTEST_UPLOAD,
    Collection,
    Immutable,
    Lint,
    check_collection,
    check_immutable,
)
from regmeta.settings.values import duration

__all__ = [
    "SHORTEST_TOMBSTONE",
    "SHORTEST_UPLOAD",
    "Collection",
    "Content",
    "Immutable",
    "KeepRule",
    "KeepUntagged",
    "Lint",
    "ObjectStore",
    "PostgreSql",
    "Retention",
    "RetentionPolicy",
    "Settings",
    "Sync",
    "SyncRegistry",
    "duration",
    "load_settings",
]

PREFIX: Final = "REGMETA_"
OF_THE_PROGRAM: Final = ("log_format", "log_level", "request_id", "metrics_file", "metrics_listen", "otel")
"""Variables of global options of the command line, which are about one process and no settings."""
CONFIG_NAME: Final = "regmeta.toml"
SQLITE: Final = "sqlite:///"
_NAMED: Final = {
    "policy": re.compile(r"\$\.(retention)\.(policies)\[(\d+)\]"),
    "registry": re.compile(r"\$\.(sync)\.(registries)\[(\d+)\]"),
}
"""Parts of a message that say where in a list a mistake is; the entry's name says more."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings. A relative path in the file is relative to the file's folder."""

    home: str = ""
    """The folder that holds everything which no other setting puts elsewhere."""
    database: str = ""
    """A URL: ``sqlite:////path/regmeta.db`` or ``postgresql://user@host/name``. Default: in home."""
    store: str = ""
    """The blob store: a folder, or a bucket as ``s3://bucket/prefix``. Default: ``store`` in home."""
    object_store: ObjectStore = ObjectStore()
    layouts: Literal["all", "none"] = "all"
    """Whether repositories are shown as OCI layouts in the store."""
    actor: str = ""
    """Who changes are recorded as. Default: the operating system's user."""
    lint: Lint = Lint()
    immutable: tuple[Immutable, ...] = ()
    collection: Collection = Collection()
    postgresql: PostgreSql = PostgreSql()
    retention: Retention = Retention()
    sync: Sync = Sync()
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
        if name.startswith(PREFIX) and name not in OF_A_SOURCE and value
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    config = config or environment.pop("config", None)
    environment.pop("config", None)
    for name in OF_THE_PROGRAM:
        environment.pop(name, None)
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
    if not is_bucket(values["store"]):
        values["store"] = str(Path(values["store"]).absolute())
    values.setdefault("actor", _user())
    return _convert(values)


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
        if isinstance(content.get(name), str) and not is_bucket(content[name]):
            content[name] = str(folder / Path(content[name]).expanduser())
    buckets = content.get("object_store")
    if isinstance(buckets, dict) and isinstance(buckets.get("scratch"), str) and buckets["scratch"]:
        buckets["scratch"] = str(folder / Path(buckets["scratch"]).expanduser())
    database = content.get("database")
    if isinstance(database, str) and database.startswith(SQLITE):
        content["database"] = SQLITE + str(folder / database.removeprefix(SQLITE))
    resolve_paths(content, folder)
    return content


def _convert(values: Mapping[str, Any]) -> Settings:
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"settings: {error}{_name_in(str(error), values)}") from error
    check_object_store(settings.store, settings.object_store)
    check_immutable(settings.immutable)
    check_collection(settings.collection)
    check_postgresql(settings.postgresql)
    check_retention(settings.retention)
    check_sync(settings.sync)
    return settings


def _name_in(message: str, values: Mapping[str, Any]) -> str:
    """Return the name of the policy or the registry that a message is about, to be put behind it."""
    for kind, place in _NAMED.items():
        found = place.search(message)
        if found is not None:
            entry = values[found[1]][found[2]][int(found[3])]
            name = entry.get("name") if isinstance(entry, dict) else None
            return f" ({kind} {name!r})" if isinstance(name, str) else ""
    return ""


def _default_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "regmeta"


def _user() -> str:
    name = os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"
    return name.encode("utf-8", "backslashreplace").decode()
