"""``regmeta search``, and ``regmeta db rebuild-search``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import render
from regmeta.cli.context import Csv, Json, settings
from regmeta.cli.listing import Column, of_bytes, show
from regmeta.errors import FINDINGS

if TYPE_CHECKING:
    from regmeta.query.search import Found, TextHit

_COLUMNS = {
    "repositories": [Column("repository", lambda h: h.name), Column("match", lambda h: h.match)],
    "tags": [
        Column("repository", lambda h: h.repository),
        Column("tag", lambda h: h.tag),
        Column("digest", lambda h: h.digest),
        Column("match", lambda h: h.match),
    ],
    "digests": [
        Column("digest", lambda h: h.digest),
        Column("kind", lambda h: h.kind),
        of_bytes("size", lambda h: h.size_bytes),
        Column("repositories", lambda h: h.repositories),
        Column("tags", lambda h: h.tags),
    ],
    "texts": [
        Column("image", lambda h: _image(h)),
        Column("label", lambda h: h.label),
        Column("text", lambda h: h.snippet),
        Column("match", lambda h: h.match),
    ],
}


def search(
    ctx: typer.Context,
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="What to look for.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only this kind: repositories, tags, digests or texts; may be repeated."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many hits of each kind at most.")] = 20,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Find repositories, tags, digests, and what labels say. Upper and lower case are the same.

    NAME finds repositories and texts of labels, REPO:TAG and :TAG find tags that start so, and the start of a
    digest finds manifests and blobs. CSV is of one kind.

    \b
    Examples:
      regmeta search nginx
      regmeta search nginx:1.2
      regmeta search :latest --limit 100
      regmeta search sha256:ab12
      regmeta search web server --kind texts
    """
    from regmeta.app import replicas
    from regmeta.errors import UsageError
    from regmeta.query import search as query

    kinds = tuple(kind or query.KINDS)
    if as_csv and len(kinds) != 1:
        raise UsageError("--csv: the kinds have different columns, name one of them with --kind")
    with replicas.open_for_queries(settings(ctx)) as registry:
        found = query.search(registry.database, " ".join(text), limit=limit, kinds=kinds)  # type: ignore[arg-type]
    if as_json and not as_csv:
        render.json(found)
        return
    is_first = True
    for name in query.KINDS:
        hits: Found[object] = getattr(found, name)
        if as_csv and name in kinds:
            show(hits.items, _COLUMNS[name], as_json=as_json, as_csv=True)
        elif hits.items:
            if not is_first:
                typer.echo()
            show(hits.items, _COLUMNS[name])
            is_first = False
        if hits.more:
            render.say(f"({name}: the first {limit}; --limit shows more)")
        if hits.cut:
            render.say(f"({name}: too many fit to rank them all; a longer text finds the best)")
    if is_first and not as_csv:
        render.say("nothing found")


def rebuild_search(
    ctx: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is not in step; exit code 1 if something is.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put right what search looks through, and drop names and texts that nothing says any more.

    Needed only if another program has changed rows: every command that writes keeps search in step.

    \b
    Examples:
      regmeta db rebuild-search --check
      regmeta db rebuild-search
    """
    from dataclasses import asdict

    from regmeta import app
    from regmeta.maintain import search as upkeep
    from regmeta.maintain.progress import NoProgress

    if check:
        with app.open_for_reading(settings(ctx)) as registry:
            found = list(upkeep.check_search(registry.database, NoProgress()))
        if as_json:
            render.json(found)
        for finding in [] if as_json else found:
            typer.echo(render.printable(f"{finding.kind}: {finding.subject}: {finding.detail}"))
        if found:
            raise typer.Exit(FINDINGS)
        render.say("search is in step")
        return
    with app.open_for_writing(settings(ctx)) as writing:
        report = upkeep.rebuild_search(writing.database, NoProgress())
    if as_json:
        render.json(report)
    elif report.is_unchanged:
        render.say("search was in step")
    else:
        render.fields([(name.replace("_", " "), count) for name, count in asdict(report).items()])


def _image(hit: TextHit) -> str:
    return f"{hit.repository}:{hit.tag}" if hit.tag is not None else f"{hit.repository}@{hit.digest}"
