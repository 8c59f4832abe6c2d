"""What tests of ``regmeta sync`` have in common: settings that mirror the registries of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from regmeta.app import syncing
from regmeta.settings import CONFIG_NAME, Content, Settings, Sync, SyncRegistry
from regmeta.sync.run import SyncReport

NAME: Final = "up"
QUICK: Final[dict[str, Any]] = {"retries": 0, "connect_timeout": "5s", "read_timeout": "5s"}
"""Clients that give up soon, so that a failure costs no time."""


def mirroring(settings: Settings, *urls: str, **others: Any) -> Settings:
    """Return *settings* in which all of one registry is mirrored; more *urls* are mirrors of it."""
    values: dict[str, Any] = {"name": NAME, "content": (Content(prefix="**"),), **QUICK, **others}
    return replace(settings, sync=Sync(registries=(SyncRegistry(urls=urls, **values),)))


def write_config(settings: Settings, url: str, *lines: str) -> None:
    """Write the same into the settings of a registry, for commands that run in processes of their own."""
    said = [
        "[[sync.registries]]",
        f'name = "{NAME}"',
        f'urls = ["{url}"]',
        'content = [{ prefix = "**" }]',
        "retries = 0",
        *lines,
    ]
    Path(settings.home, CONFIG_NAME).write_text("\n".join(said) + "\n")


def run_once(settings: Settings, **options: Any) -> SyncReport:
    """Run the one policy of *settings* to its end; an upstream that cannot be asked raises."""
    [report] = syncing.sync_policies(settings, **options)
    if isinstance(report, syncing.FailedRun):
        raise report.error
    return report
