"""``regmeta tag lock``, ``unlock`` and ``locks``: tags that may not be changed."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, settings

Repository = Annotated[str, typer.Argument(help="Name of the repository.")]
Pattern = Annotated[str, typer.Argument(help="A tag, or a glob of tags as 'v*' or '{1,2}.*'.")]


def lock(ctx: typer.Context, repository: Repository, pattern: Pattern) -> None:
    """Make tags immutable: one that is there can be neither moved nor removed, by nobody, until unlocked.

    New tags can still be made, and a push of the image that a tag has already is fine.

    \b
    Examples:
      regmeta tag lock hello 1.0
      regmeta tag lock hello 'v*'
    """
    from regmeta import app
    from regmeta.ingest.tag_locks import lock_tags
    from regmeta.oci.globs import check

    check(pattern)
    with app.open_for_writing(settings(ctx)) as registry:
        lock_tags(registry.writer, repository, pattern)
    render.say(f"{repository}: tags that match {pattern} are locked")


def unlock(ctx: typer.Context, repository: Repository, pattern: Pattern) -> None:
    """Take a lock on tags away. Rules of the settings still hold.

    \b
    Example:
      regmeta tag unlock hello 'v*'
    """
    from regmeta import app
    from regmeta.ingest.tag_locks import unlock_tags

    with app.open_for_writing(settings(ctx)) as registry:
        unlock_tags(registry.writer, repository, pattern)
    render.say(f"{repository}: the lock {pattern} is gone")


def locks(ctx: typer.Context, repository: Repository, as_json: Json = False) -> None:
    """List what makes tags of a repository immutable: its locks, and the rules of the settings.

    \b
    Example:
      regmeta tag locks hello
    """
    from regmeta import app
    from regmeta.oci.globs import matches
    from regmeta.oci.names import repository_name
    from regmeta.query import history
    from regmeta.query.results import TagLock

    chosen = settings(ctx)
    with app.open_for_reading(chosen) as registry:
        found = history.locks(registry.database, repository_name(repository))
    found += [
        TagLock(pattern, "settings", None, None)
        for rule in chosen.immutable
        if matches(rule.repositories, repository)
        for pattern in rule.tags
    ]
    if as_json:
        render.json(found)
        return
    render.table(
        ["pattern", "from", "since", "by"],
        [(each.pattern, each.source, each.created_at, each.created_by) for each in found],
    )
