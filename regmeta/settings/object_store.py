"""The settings of a store that lies in a bucket."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from regmeta.errors import UsageError
from regmeta.settings.values import Count, duration

SCHEMES: Final = ("s3", "gs", "az")
_URL: Final = re.compile(
    r"(?P<scheme>[a-z0-9]+)://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]*)(?:/(?P<prefix>.*))?"
)
_PREFIX: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class ObjectStore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a bucket is reached. Keys and tokens are never here: they come from the environment."""

    endpoint: str = ""
    """The server's URL, where it is not the provider's own."""
    region: str = ""
    virtual_hosted: bool = False
    """Whether the bucket is part of the host name."""
    part_mib: Annotated[int, msgspec.Meta(ge=5, le=1024)] = 8
    """[MiB] of one part of an upload; larger where a blob would have too many."""
    parts_at_once: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Of all uploads of a process. Each takes the memory of a part."""
    requests_at_once: Count = 8
    retry_for: str = "60s"
    """How long a request is tried again that got no answer, or an error of the server's own."""
    read_timeout: str = "30s"
    """How long nothing may come before a request is tried again."""
    conditional_put: bool = True
    """Whether the server refuses to overwrite when it is asked to. Not needed for safety."""
    checksums: bool = True
    """Whether the server is sent a SHA-256 of each part, to be compared."""
    scratch: str = ""
    """A folder on this machine: locks of its processes, temporary files. Default: ``scratch`` in home."""


def is_bucket(store: str) -> bool:
    """Tell whether the setting ``store`` is a URL and not a folder."""
    return "://" in store


def check_object_store(store: str, settings: ObjectStore) -> None:
    """Refuse a URL of no bucket, and times that are none.

    Raises:
        UsageError: says which, and what is wrong with it.
    """
    for key in ("retry_for", "read_timeout"):
        try:
            duration(getattr(settings, key))
        except UsageError as error:
            raise UsageError(f"settings: object_store.{key}: {error}") from error
    if not duration(settings.read_timeout):
        raise UsageError("settings: object_store.read_timeout: no answer comes in no time")
    if settings.endpoint:
        from regmeta.object_storage.reach import is_endpoint  # only who has one waits for it

        if not is_endpoint(settings.endpoint):
            raise UsageError(
                f"settings: object_store.endpoint: {settings.endpoint[:200]!r} is no http(s) URL of a server"
            )
    if not is_bucket(store):
        return
    match = _URL.fullmatch(store)
    if match is None or match["scheme"] not in SCHEMES:
        raise UsageError(
            f"settings: store: {store[:200]!r}: write a folder, or s3://bucket/prefix (or gs, az)"
        )
    if match["prefix"] and not _PREFIX.fullmatch(match["prefix"].rstrip("/")):
        raise UsageError(f"settings: store: {store[:200]!r}: the prefix has other parts than plain names")
