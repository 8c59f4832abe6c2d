"""Settings: defaults, then a TOML file, then ``REGMETA_*`` in the environment, then the command line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from regmeta import failpoints
from regmeta.errors import UsageError

PREFIX: Final = "REGMETA_"
CONFIG_NAME: Final = "regmeta.toml"
SQLITE: Final = "sqlite:///"
_DURATION: Final = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_POLICY_AT: Final = re.compile(r"\$\.retention\.policies\[(\d+)\]")
_PLATFORM: Final = re.compile(r"[^/\s]+(/[^/\s]+){0,2}")
_LONGEST_S: Final = 100 * 366 * 86400  # what is added to a time must stay one

SHORTEST_TOMBSTONE: Final = timedelta(minutes=1)
SHORTEST_UPLOAD: Final = timedelta(hours=1)  # what an intent lasts before it is renewed

Count = Annotated[int, msgspec.Meta(ge=1)]


class Lint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules that an image must keep before it is taken in."""

    mandatory_annotations: tuple[str, ...] = ()


class Immutable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule: which tags, in which repositories, may be made and then neither moved nor removed."""

    repositories: tuple[str, ...]
    tags: tuple[str, ...]


class Collection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long things are left alone before they are collected; see ``Lifetimes``."""

    history: str = "7d"
    garbage: str = "1h"
    tombstone: str = "1h"
    lease: str = "24h"
    max_upload: str = "24h"


class KeepRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule of retention: it keeps the tags for which all that it says holds."""

    name: str = ""
    tags: tuple[str, ...] = ()
    tags_regex: tuple[str, ...] = ()
    except_tags: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    newest_pushed: Count | None = None
    newest_pulled: Count | None = None
    newest_versions: Count | None = None
    pushed_within: str | None = None
    pulled_within: str | None = None
    has_referrers: bool | None = None
    has_subject: bool | None = None


class KeepUntagged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which manifests without a tag stay: none or all, or those for which any of the rest holds."""

    keep: Literal["none", "all"] | None = None
    newest_pushed: Count | None = None
    newest_pulled: Count | None = None
    pushed_within: str | None = None
    pulled_within: str | None = None


class RetentionPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept in some repositories."""

    name: str = ""
    repositories: tuple[str, ...] = ()
    referrers: Literal["follow", "keep"] = "follow"
    untagged: KeepUntagged = KeepUntagged(keep="none")
    keep: tuple[KeepRule, ...] = ()


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which tags stay; of several policies the first that is for a repository counts."""

    policies: tuple[RetentionPolicy, ...] = ()


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
    immutable: tuple[Immutable, ...] = ()
    collection: Collection = Collection()
    retention: Retention = Retention()
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
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"settings: {error}{_policy_in(str(error), values)}") from error
    _check_immutable(settings.immutable)
    _check_collection(settings.collection)
    _check_retention(settings.retention)
    return settings


def _check_immutable(rules: Sequence[Immutable]) -> None:
    """Refuse a rule that protects nothing."""
    for number, rule in enumerate(rules, 1):
        for key, patterns in (("repositories", rule.repositories), ("tags", rule.tags)):
            where = f"immutable rule {number}: {key}"
            if not patterns:
                raise UsageError(f"settings: {where}: there are none")
            _check_globs(where, patterns, tags=key == "tags")


def _check_collection(collection: Collection) -> None:
    """Refuse times with which a collector takes away what somebody is just using."""
    times = {}
    for key in Collection.__struct_fields__:
        try:
            times[key] = duration(getattr(collection, key))
        except UsageError as error:
            raise UsageError(f"settings: collection.{key}: {error}") from error
    for key, shortest, why in (
        ("tombstone", SHORTEST_TOMBSTONE, "reads that have begun would find their objects gone"),
        ("max_upload", SHORTEST_UPLOAD, "intents last as long"),
        ("lease", times["max_upload"], "an import as long as collection.max_upload would lose what it found"),
    ):
        if times[key] < shortest:
            minutes = int(shortest.total_seconds()) // 60
            raise UsageError(
                f"settings: collection.{key}: {getattr(collection, key)!r} is too short, {minutes}m is the"
                f" least: {why}"
            )


def _policy_in(message: str, values: Mapping[str, Any]) -> str:
    """Return the name of the policy that a message is about, to be put behind it."""
    found = _POLICY_AT.search(message)
    if found is None:
        return ""
    policy = values["retention"]["policies"][int(found[1])]
    name = policy.get("name") if isinstance(policy, dict) else None
    return f" (policy {name!r})" if isinstance(name, str) else ""


def _check_retention(retention: Retention) -> None:
    """Refuse what can only be a mistake: it would keep, or drop, other tags than its author thinks."""
    names = set()
    for number, policy in enumerate(retention.policies, 1):
        where = f"retention policy {policy.name or number!r}"
        if policy.name and policy.name in names:
            raise UsageError(f"settings: {where}: name: there are two of it")
        names.add(policy.name)
        if not policy.repositories:
            raise UsageError(f"settings: {where}: repositories: there are none")
        _check_globs(f"{where}: repositories", policy.repositories)
        _check_untagged(f"{where}: untagged", policy.untagged)
        rule_names = set()
        for at, rule in enumerate(policy.keep, 1):
            if rule.name and rule.name in rule_names:
                raise UsageError(f"settings: {where}: keep: there are two rules {rule.name!r}")
            rule_names.add(rule.name)
            _check_rule(f"{where}, rule {rule.name or at!r}", rule)


def _check_rule(where: str, rule: KeepRule) -> None:
    if rule == KeepRule(name=rule.name):
        raise UsageError(f'settings: {where}: says nothing of what it keeps; tags = ["*"] is every tag')
    for key in ("tags", "except_tags"):
        _check_globs(f"{where}: {key}", getattr(rule, key), tags=True)
    for regex in rule.tags_regex:
        try:
            re.compile(regex)
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(f"settings: {where}: tags_regex: {regex[:100]!r}: {error}") from error
    for platform in rule.platforms:
        if not _PLATFORM.fullmatch(platform):
            raise UsageError(f"settings: {where}: platforms: {platform!r} is none: write linux/amd64")
    _check_durations(where, rule)


def _check_untagged(where: str, untagged: KeepUntagged) -> None:
    if untagged == KeepUntagged():
        raise UsageError(f'settings: {where}: says nothing; keep = "none" is the default')
    if untagged.keep is not None and untagged != KeepUntagged(keep=untagged.keep):
        raise UsageError(f"settings: {where}: keep = {untagged.keep!r} leaves nothing to other rules")
    _check_durations(where, untagged)


def _check_globs(where: str, patterns: tuple[str, ...], *, tags: bool = False) -> None:
    from regmeta.oci import globs  # only who has patterns waits for it

    for pattern in patterns:
        try:
            globs.check(pattern)
        except UsageError as error:
            raise UsageError(f"settings: {where}: {error}") from error
        if tags and "/" in pattern:
            raise UsageError(f"settings: {where}: {pattern!r}: no tag has a slash")


def _check_durations(where: str, of: KeepRule | KeepUntagged) -> None:
    for key in ("pushed_within", "pulled_within"):
        text = getattr(of, key)
        try:
            if text is not None:
                duration(text)
        except UsageError as error:
            raise UsageError(f"settings: {where}: {key}: {error}") from error


def _default_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "regmeta"


def _user() -> str:
    name = os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"
    return name.encode("utf-8", "backslashreplace").decode()
