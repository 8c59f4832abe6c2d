"""The settings of mirroring: other registries, and what is wanted of them (docs/configuration.md)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from regmeta.errors import InvalidName, UsageError
from regmeta.settings.values import Count, check_globs, check_regexes, duration

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HOST: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_PLATFORM: Final = re.compile(r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9._-]+)?")
# What uname and distributions say, and no image does: it would match nothing.
_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "armhf": "arm",
    "armv7l": "arm",
}
_DURATIONS: Final = (
    "retry_delay",
    "max_retry_delay",
    "connect_timeout",
    "read_timeout",
    "poll",
    "check_interval",
    "image_timeout",
)
_PATHS: Final = ("credentials_file", "ca_file", "cert_dir")


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Some repositories of a registry: which of their tags are wanted, and where they go."""

    prefix: str
    destination: str = ""
    strip_prefix: bool = False
    tags: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    semver: bool = False
    versions: tuple[str, ...] = ()


class SyncRegistry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A registry that is mirrored: how it is reached, and what is wanted of it."""

    name: str
    urls: tuple[str, ...]
    """The registry, then mirrors of it that are asked where it does not answer."""
    content: tuple[Content, ...] = ()
    credentials_file: str = ""
    auth_hosts: tuple[str, ...] = ()
    redirect_hosts: tuple[str, ...] = ()
    tls_verify: bool = True
    ca_file: str = ""
    cert_dir: str = ""
    max_concurrent: Count = 6
    requests_per_s: float | None = None
    retries: Annotated[int, msgspec.Meta(ge=0)] = 3
    retry_delay: str = "1s"
    max_retry_delay: str = "30s"
    connect_timeout: str = "10s"
    read_timeout: str = "30s"
    poll: str | None = None
    on_demand: bool = False
    check_interval: str | None = None
    image_timeout: str = "3h"
    images_at_once: Count = 4
    only_signed: bool = False
    referrers: bool = True
    cosign_tags: bool = True
    platforms: tuple[str, ...] = ()
    convert: Literal["none", "oci"] = "none"
    upstream_deletes: Literal["keep", "delete"] = "keep"


class Sync(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Other registries that are mirrored here."""

    registries: tuple[SyncRegistry, ...] = ()


def resolve_paths(content: dict[str, Any], folder: Path) -> None:
    """Make the paths in a file that was read, and not checked yet, relative to its folder."""
    sync = content.get("sync")
    registries = sync.get("registries") if isinstance(sync, dict) else None
    for registry in registries if isinstance(registries, list) else ():
        for key in _PATHS:
            if isinstance(registry, dict) and isinstance(registry.get(key), str) and registry[key]:
                registry[key] = str(folder / Path(registry[key]).expanduser())


def check_sync(sync: Sync) -> None:
    """Refuse what can only be a mistake, before anything is asked of a registry.

    Raises:
        UsageError: names the registry and the key.
    """
    names = set()
    for number, registry in enumerate(sync.registries, 1):
        where = f"sync registry {registry.name or number!r}"
        if not _NAME.fullmatch(registry.name):
            raise _wrong(where, "name", "write letters, digits, . _ -")
        if registry.name in names:
            raise _wrong(where, "name", "there are two of it")
        names.add(registry.name)
        _check_place(where, registry)
        _check_numbers(where, registry)
        _check_wanted(where, registry)
        if not registry.content:
            raise _wrong(where, "content", 'there is none; prefix = "**" is every repository')
        for at, content in enumerate(registry.content, 1):
            _check_content(f"{where}, content {at}", content)


def _check_place(where: str, registry: SyncRegistry) -> None:
    if not registry.urls:
        raise _wrong(where, "urls", "there are none")
    for url in registry.urls:
        reason = _wrong_with(url)
        if reason is not None:
            raise _wrong(where, "urls", reason)
    for key in ("auth_hosts", "redirect_hosts"):
        for host in getattr(registry, key):
            if not _HOST.fullmatch(host):
                raise _wrong(where, key, f"{host[:100]!r} is no host: write auth.example.org or host:port")


def _wrong_with(url: str) -> str | None:
    """Say what is wrong with a URL. Where it may hold a password it is not repeated."""
    from regmeta.oci.remote_names import RemoteReference  # only who mirrors waits for it

    scheme, slashes, _ = url.partition("://")
    if slashes and scheme not in ("http", "https"):
        return f"{scheme[:20]!r} is not spoken: write https:// or http://"
    try:
        parts = urlsplit(url if slashes else f"https://{url}")
        _ = parts.port
    except ValueError:
        return "one is no URL: write https://registry.example.org or host:port"
    if "@" in url:
        return "one holds credentials: put them in credentials_file"
    if parts.path not in ("", "/") or "?" in url or "#" in url:
        return f"{url[:100]!r} has a path or a query: write scheme, host and port only"
    try:
        RemoteReference.parse(f"{parts.scheme}://{parts.netloc}/some/repository")
    except InvalidName:
        return f"{url[:100]!r} names no host"
    return None


def _check_numbers(where: str, registry: SyncRegistry) -> None:
    rate = registry.requests_per_s
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise _wrong(where, "requests_per_s", f"{rate} is not above 0")
    lengths = {}
    for key in _DURATIONS:
        text = getattr(registry, key)
        if text is None:
            continue
        try:
            lengths[key] = duration(text)
        except UsageError as error:
            raise _wrong(where, key, str(error)) from error
        if not lengths[key]:
            raise _wrong(where, key, f"{text!r} is not above 0")
    if lengths["max_retry_delay"] < lengths["retry_delay"]:
        raise _wrong(where, "max_retry_delay", f"is less than retry_delay, {registry.retry_delay}")


def _check_wanted(where: str, registry: SyncRegistry) -> None:
    for platform in registry.platforms:
        reason = wrong_with_platform(platform)
        if reason is not None:
            raise _wrong(where, "platforms", reason)
    if registry.only_signed and registry.convert != "none":
        raise _wrong(where, "only_signed", "a signature is of the bytes, which convert changes")
    if registry.only_signed and not registry.referrers and not registry.cosign_tags:
        raise _wrong(where, "only_signed", "without referrers and cosign_tags no signature is ever seen")


def wrong_with_platform(text: str) -> str | None:
    """Say why a text can name the platform of no image; None if it can."""
    if not _PLATFORM.fullmatch(text):
        return f"{text[:100]!r} is none: write linux/amd64 or linux/arm/v7"
    right = _ARCHITECTURES.get(text.split("/")[1])
    return None if right is None else f"{text!r}: images call this architecture {right}"


def _check_content(where: str, content: Content) -> None:
    from regmeta.oci import globs, names  # only who mirrors waits for them
    from regmeta.oci.versions import constraint

    check_globs(f"{where}: prefix", (content.prefix,))
    if not globs.has_wildcard(content.prefix) and not names.is_repository(content.prefix):
        raise _wrong(where, "prefix", f"{content.prefix[:100]!r} names no repository")
    if content.destination and not names.is_repository(content.destination):
        raise _wrong(where, "destination", f"{content.destination[:100]!r} can begin no repository's name")
    for key in ("tags", "exclude"):
        check_regexes(f"{where}: {key}", getattr(content, key))
    for text in content.versions:
        try:
            constraint(text)
        except UsageError as error:
            raise _wrong(where, "versions", str(error)) from error


def _wrong(where: str, key: str, reason: str) -> UsageError:
    return UsageError(f"settings: {where}: {key}: {reason}")
