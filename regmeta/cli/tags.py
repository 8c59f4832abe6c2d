"""``regmeta tag``."""

from __future__ import annotations

from typing import Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Json, Limit, settings

app = typer.Typer(help="Tags, and their history.", no_args_is_help=True, rich_markup_mode=None)

Tagged = Annotated[str, typer.Argument(metavar="REPOSITORY:TAG", help="The tag.")]


@app.command()
def ls(
    ctx: typer.Context,
    repository: Annotated[str, typer.Argument(help="Name of the repository.")],
    after: Annotated[str, typer.Option(help="Start behind this tag.")] = "",
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List the tags of a repository, by name.

    \b
    Example:
      regmeta tag ls hello
    """
    from regmeta import app
    from regmeta.oci.names import repository_name
    from regmeta.query import catalog

    with app.open_for_reading(settings(ctx)) as registry:
        found = catalog.tags(registry.database, repository_name(repository), after=after, limit=limit)
    if as_json:
        render.json(found)
        return
    render.table(
        ["tag", "digest", "kind", "platform", "size", "since"],
        [(t.name, t.digest, t.kind, t.platform, render.size(t.size_bytes), t.started_at) for t in found],
    )
    render.more_follow(len(found), limit)


@app.command()
def show(ctx: typer.Context, reference: Tagged, as_json: Json = False) -> None:
    """Show a tag: where it points now, and where it pointed before.

    \b
    Example:
      regmeta tag show hello:1.0
    """
    from regmeta import app
    from regmeta.query import catalog

    repository, tag = _parse(reference)
    with app.open_for_reading(settings(ctx)) as registry:
        found = catalog.tag(registry.database, repository, tag)
    if as_json:
        render.json(found)
        return
    render.fields([("tag", f"{found.repository}:{found.name}"), ("digest", found.digest or "(removed)")])
    typer.echo()
    render.table(
        ["from", "until", "digest", "by"],
        [(item.started_at, item.ended_at or "now", item.digest, item.started_by) for item in found.history],
    )


@app.command("set")
def set_(
    ctx: typer.Context,
    reference: Tagged,
    target: Annotated[str, typer.Argument(help="A digest, or another tag, of the same repository.")],
) -> None:
    """Point a tag at a manifest that its repository holds. The old digest still resolves.

    \b
    Examples:
      regmeta tag set hello:stable 1.0
      regmeta tag set hello:stable sha256:...
    """
    from regmeta import app
    from regmeta.ingest.tags import set_tag
    from regmeta.oci.names import Reference
    from regmeta.query import catalog

    repository, tag = _parse(reference)
    separator = "@" if ":" in target else ":"
    wanted = Reference.parse(f"{repository}{separator}{target}")
    with app.open_for_writing(settings(ctx)) as registry:
        digest = catalog.resolve(registry.database, wanted)
        result = set_tag(registry.writer, repository, tag, digest)
    for change in result.tags_changed:
        was = f" (was {change.previous})" if change.previous else ""
        render.say(f"{repository}:{tag} is {change.digest}{was}")
    if not result.tags_changed:
        render.say(f"{repository}:{tag} is {digest} already")


@app.command()
def rm(ctx: typer.Context, reference: Tagged) -> None:
    """Remove a tag. Its image stays, reachable by digest, until it is collected.

    \b
    Example:
      regmeta tag rm hello:1.0
    """
    from regmeta import app
    from regmeta.ingest.tags import remove_tag

    repository, tag = _parse(reference)
    with app.open_for_writing(settings(ctx)) as registry:
        result = remove_tag(registry.writer, repository, tag)
    for change in result.tags_changed:
        render.say(f"{repository}:{tag} is removed (was {change.previous})")


def _parse(text: str) -> tuple[str, str]:
    from regmeta.errors import InvalidName
    from regmeta.oci.names import Reference

    reference = Reference.parse(text)
    if reference.tag is None or reference.digest is not None:
        raise InvalidName(f"{text}: write REPOSITORY:TAG")
    return reference.repository, reference.tag
