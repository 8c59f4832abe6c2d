"""``regmeta import`` and ``regmeta export``: images in and out."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from regmeta.cli import moments, render
from regmeta.cli.context import Json, make_default_home, settings
from regmeta.cli.moments import At

if TYPE_CHECKING:
    from regmeta.cli.progress import ImportProgress
    from regmeta.ingest.plan import ImageOutcome


def import_(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(help="OCI layout: a folder, or an uncompressed tar file.")],
    destination: Annotated[
        str | None,
        typer.Argument(metavar="[DEST]", help="REPOSITORY or REPOSITORY:TAG. Default: the source's name."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", help="Only the image of this name. May be repeated.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Also what has no name: referrers and their like, by digest.")
    ] = False,
    atomic: Annotated[
        bool, typer.Option("--atomic", help="All of it in one transaction, or nothing.")
    ] = False,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Take an index although children of it are missing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import images of an OCI layout: each whole, with its bytes and rows in one commit.

    What is here already is not copied again. A bad image is left out and reported, and the exit code is
    then 4 if its bytes are wrong, 3 if it is not valid, 6 if its tag may not be moved. Interrupted, run it
    again: it does the rest.

    \b
    Examples:
      regmeta import ./layout hello             every named image, as hello:NAME
      regmeta import ./layout hello:1.0 -t v1   one image, under another tag
      regmeta import image.tar team/app --all   an archive, referrers included
    """
    from regmeta import app

    chosen = settings(ctx)
    make_default_home(chosen)
    outcomes: list[ImageOutcome] = []
    try:
        with closing(
            app.import_source(
                chosen,
                source,
                destination,
                only_tags=tuple(tag or ()),
                with_untagged=all_,
                atomic=atomic,
                sparse=sparse,
                progress=_progress,
            )
        ) as found:
            for outcome in found:
                outcomes.append(outcome)
    except BaseException:
        # What was committed before is committed, and is said.
        if outcomes:
            _report(outcomes, as_json)
        raise
    _report(outcomes, as_json)
    failed = [item.error.exit_code for item in outcomes if item.error is not None]
    if failed:
        raise typer.Exit(max(failed))


def _progress(images: int) -> ImportProgress:
    from regmeta.cli.progress import ImportProgress

    return ImportProgress(images)


def _report(outcomes: list[ImageOutcome], as_json: bool) -> None:
    if as_json:
        render.json(
            [
                {
                    "image": item.image,
                    "digest": item.digest,
                    "status": item.status,
                    "copied_bytes": item.copied_bytes,
                    "error": None if item.error is None else str(item.error),
                }
                for item in outcomes
            ]
        )
    else:
        render.table(
            ["image", "digest", "status", "copied"],
            [(i.image, i.digest, i.status, render.size(i.copied_bytes)) for i in outcomes],
        )
    failed = [item for item in outcomes if item.error is not None]
    for item in failed:
        render.say(f"regmeta: {item.image}: {item.error}")
    done = sum(item.status == "imported" for item in outcomes)
    skipped = sum(item.status == "skipped" for item in outcomes)
    copied = render.size(sum(item.copied_bytes for item in outcomes))
    render.say(
        f"{render.count(done, 'image')} imported ({copied}), {skipped} here already, {len(failed)} failed"
    )


def export(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(help="REPOSITORY, REPOSITORY:TAG or REPOSITORY@DIGEST.")],
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A new folder, or a new file that ends in .tar.")
    ],
    at: At = None,
) -> None:
    """Export an image, or all tagged images of a repository, as an OCI layout. Every byte is verified.

    \b
    Examples:
      regmeta export hello:1.0 ./hello-layout
      regmeta export team/app app.tar
      regmeta export hello:1.0 before.tar --at 2h
    """
    from regmeta import app
    from regmeta.content.export import export as write
    from regmeta.oci.names import Reference
    from regmeta.store.exports import open_export

    wanted = Reference.parse(reference)
    when = moments.parse(at)
    with app.open_for_reading(settings(ctx), check_store=True) as registry:
        moment = moments.resolved(registry.database, when)
        done = write(registry.database, registry.store, wanted, open_export(destination), at=moment)
    render.say(
        f"{render.count(done.images, 'image')}, {render.count(done.blobs, 'blob')},"
        f" {render.size(done.size_bytes)} written to {destination}"
    )
