"""``regmeta tag``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from regmeta.cli import filters, moments, render, tag_locks
from regmeta.cli.context import Csv, Json, Limit, Wide, settings
from regmeta.cli.listing import Column, of_bytes
from regmeta.cli.listing import show as show_list
from regmeta.cli.moments import At

if TYPE_CHECKING:
    from regmeta.query.lists.tags import TagSort
    from regmeta.query.results import TagValue

app = typer.Typer(help="Tags, and their history.", no_args_is_help=True, rich_markup_mode=None)

app.command("lock")(tag_locks.lock)
app.command("unlock")(tag_locks.unlock)
app.command("locks")(tag_locks.locks)

Tagged = Annotated[str, typer.Argument(metavar="REPOSITORY:TAG", help="The tag.")]


@app.command()
def ls(
    ctx: typer.Context,
    repository: Annotated[
        str | None, typer.Argument(help="Name of the repository; all if not said.", show_default=False)
    ] = None,
    name: filters.Name = None,
    contains: filters.Contains = None,
    begins: filters.Begins = None,
    media_type: filters.MediaType = None,
    artifact_type: filters.ArtifactType = None,
    os: filters.Os = None,
    arch: filters.Arch = None,
    variant: filters.Variant = None,
    label: filters.Labels = None,
    signed: filters.Signed = None,
    digest: filters.DigestIs = None,
    larger: filters.Larger = None,
    smaller: filters.Smaller = None,
    created_after: filters.CreatedAfter = None,
    created_before: filters.CreatedBefore = None,
    pushed_after: filters.PushedAfter = None,
    pushed_before: filters.PushedBefore = None,
    pulled: filters.Pulled = None,
    pulled_after: filters.PulledAfter = None,
    pulled_before: filters.PulledBefore = None,
    tagged_after: filters.TaggedAfter = None,
    tagged_before: filters.TaggedBefore = None,
    sort: Annotated[str, typer.Option(help="name, tagged, pushed, created, size or pulled.")] = "name",
    descending: filters.Descending = False,
    after: filters.After = None,
    limit: Limit = 100,
    total: filters.Total = False,
    at: At = None,
    as_json: Json = False,
    as_csv: Csv = False,
    wide: Wide = False,
) -> None:
    """List tags, by name or in another order, all or those that filters let through.

    With --at those of a repository that were live then.

    \b
    Examples:
      regmeta tag ls hello
      regmeta tag ls hello --sort pushed --desc --limit 10
      regmeta tag ls --label org.opencontainers.image.vendor=ACME --arch arm64 --unsigned
      regmeta tag ls hello --at 2h
    """
    from regmeta.app import replicas
    from regmeta.oci.names import repository_name
    from regmeta.query.lists.tags import TagFilter, tags

    images: dict[str, Any] = {
        "media_type": media_type,
        "artifact_type": artifact_type,
        "os": os,
        "arch": arch,
        "variant": variant,
        "label": label,
        "signed": signed,
        "digest": digest,
        "larger": larger,
        "smaller": smaller,
        "created_after": created_after,
        "created_before": created_before,
        "pushed_after": pushed_after,
        "pushed_before": pushed_before,
        "pulled": pulled,
        "pulled_after": pulled_after,
        "pulled_before": pulled_before,
    }
    of = None if repository is None else repository_name(repository)
    with replicas.open_for_queries(settings(ctx)) as registry:
        where = TagFilter(
            name=name,
            contains=contains,
            begins=begins,
            tagged_from=filters.time(registry.database, tagged_after),
            tagged_until=filters.time(registry.database, tagged_before),
            **filters.of_images(registry.database, **images),
        )
        found = tags(
            registry.database,
            of,
            where,
            sort=cast("TagSort", sort),
            descending=descending,
            after=after,
            limit=limit,
            total=total,
            at=filters.time(registry.database, at),
        )
    columns = [
        Column("repository", lambda item: item.repository, is_wide=of is not None),
        Column("tag", lambda item: item.name),
        Column("digest", lambda item: item.digest),
        Column("kind", lambda item: item.kind if item.is_here else "collected"),
        Column("platform", lambda item: item.platform),
        Column("media type", lambda item: item.media_type, is_wide=True),
        Column("artifact type", lambda item: item.artifact_type, is_wide=True),
        of_bytes("size", lambda item: item.size_bytes),
        Column("created", lambda item: item.created_at, is_wide=sort != "created"),
        Column("pushed", lambda item: item.pushed_at, is_wide=sort != "pushed"),
        Column("pulled", lambda item: item.pulled_at, is_wide=sort != "pulled"),
        Column("since", lambda item: item.started_at),
        Column("by", lambda item: item.started_by, is_wide=True),
    ]
    show_list(found, columns, as_json=as_json, as_csv=as_csv, wide=wide)


@app.command()
def show(ctx: typer.Context, reference: Tagged, at: At = None, as_json: Json = False) -> None:
    """Show a tag: where it points now, and where it pointed before.

    \b
    Examples:
      regmeta tag show hello:1.0
      regmeta tag show hello:1.0 --at 2026-11-24T08:00:00Z
    """
    from regmeta.app import replicas
    from regmeta.query import catalog

    repository, tag = _parse(reference)
    when = moments.parse(at)
    with replicas.open_for_queries(settings(ctx)) as registry:
        found = catalog.tag(registry.database, repository, tag, moments.resolved(registry.database, when))
    if as_json:
        render.json(found)
        return
    then = "now" if when is None else "then"
    render.fields([("tag", f"{found.repository}:{found.name}"), ("digest", found.digest or "(removed)")])
    typer.echo()
    render.table(
        ["from", "until", "digest", "by"],
        [(item.started_at, item.ended_at or then, item.digest, item.started_by) for item in found.history],
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
    from regmeta.oci.names import Reference, image_name
    from regmeta.query import catalog

    repository, tag = _parse(reference)
    wanted = Reference.parse(image_name(repository, target))
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


@app.command()
def history(
    ctx: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="REPOSITORY[:TAG]", help="A tag, or a repository for all its tags.")
    ],
    after: Annotated[
        str | None, typer.Option(help="Start behind the line of this key (--json shows it).")
    ] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Show all that a tag was, by whom, and for how long its images are kept; or all changes of all tags.

    The newest comes first. An image that is still here can be brought back: see 'regmeta tag restore'.

    \b
    Examples:
      regmeta tag history hello:1.0
      regmeta tag history hello --limit 20
    """
    from regmeta.app import replicas
    from regmeta.app.writers import lifetimes_of
    from regmeta.oci.names import Reference
    from regmeta.query import history as past

    wanted = Reference.parse(reference)
    chosen = settings(ctx)
    if wanted.tag is None and wanted.digest is None:
        with replicas.open_for_queries(chosen) as registry:
            changes = past.changes(registry.database, wanted.repository, after=after, limit=limit)
        if as_json:
            render.json(changes)
            return
        render.table(
            ["at", "tag", "change", "digest", "was", "by"],
            [(each.at, each.tag, each.change, each.digest, each.previous, each.by) for each in changes],
        )
        render.more_follow(len(changes), limit)
        return
    repository, tag = _parse(reference)
    window = lifetimes_of(chosen).history
    with replicas.open_for_queries(chosen) as registry:
        values = past.values_of(registry.database, repository, tag, window, after=after, limit=limit)
    if as_json:
        render.json(values)
        return
    render.table(
        ["from", "until", "digest", "by", "ended by", "image"],
        [
            (
                each.started_at,
                each.ended_at or "now",
                each.digest,
                each.started_by,
                each.ended_by,
                _image(each),
            )
            for each in values
        ],
    )
    render.more_follow(len(values), limit)


def _image(value: TagValue) -> str:
    """Say what has become of an image."""
    if value.kept_until is None:
        return value.image
    return f"{value.image}, kept until {render.moment(value.kept_until)}"


@app.command()
def restore(
    ctx: typer.Context,
    reference: Tagged,
    at: At = None,
    to: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="To this value of its history.", show_default=False)
    ] = None,
) -> None:
    """Put a tag back to what it was: before its last change, at a time, or to a digest it once had.

    A tag that was removed comes back. So does its image, if it was deleted and is not collected yet. Without
    --at and --to, a second run goes back to where the first one came from.

    \b
    Examples:
      regmeta tag restore hello:1.0
      regmeta tag restore hello:1.0 --at 2h
      regmeta tag restore hello:1.0 --to sha256:...
    """
    from regmeta import app
    from regmeta.errors import UsageError
    from regmeta.ingest.tag_restore import Wanted, restore_tag
    from regmeta.oci.digest import Digest
    from regmeta.query import catalog

    repository, tag = _parse(reference)
    if at is not None and to is not None:
        raise UsageError("--at and --to: use one of them")
    when = moments.parse(at)
    digest = None if to is None else Digest.parse(to)
    with app.open_for_writing(settings(ctx)) as registry:
        wanted = Wanted(moments.resolved(registry.database, when), digest)
        result = restore_tag(registry.writer, repository, tag, wanted)
        if not result.tags_changed:
            now = catalog.tag(registry.database, repository, tag).digest
            render.say(f"{repository}:{tag} is {now} already")
    for change in result.tags_changed:
        was = f" (was {change.previous})" if change.previous else ""
        render.say(f"{repository}:{tag} is {change.digest} again{was}")


def _parse(text: str) -> tuple[str, str]:
    from regmeta.errors import InvalidName
    from regmeta.oci.names import Reference

    reference = Reference.parse(text)
    if reference.tag is None or reference.digest is not None:
        raise InvalidName(f"{text}: write REPOSITORY:TAG")
    return reference.repository, reference.tag
