"""Filters and orders of lists on the command line, and how what they say is read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regmeta.cli import moments

if TYPE_CHECKING:
    from datetime import datetime

    from regmeta.db import Database

# --- orders and pages -------------------------------------------------------------------------

After = Annotated[
    str | None,
    typer.Option(metavar="CURSOR", help="Go on behind a page: what it said at its end.", show_default=False),
]
Descending = Annotated[bool, typer.Option("--desc", help="The other way round.")]
Total = Annotated[bool, typer.Option("--total", help="Count how many there are on all pages.")]

# --- names ------------------------------------------------------------------------------------

Name = Annotated[
    str | None,
    typer.Option(metavar="PATTERN", help="Whose whole name this matches, as 'team/*'.", show_default=False),
]
Contains = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Whose name has this in it.", show_default=False)
]
Begins = Annotated[str | None, typer.Option(metavar="TEXT", help="Whose name begins so.", show_default=False)]

# --- images -----------------------------------------------------------------------------------

MediaType = Annotated[
    str | None, typer.Option(metavar="TYPE", help="Of this media type.", show_default=False)
]
ArtifactType = Annotated[
    str | None, typer.Option(metavar="TYPE", help="Of this artifact type.", show_default=False)
]
Os = Annotated[str | None, typer.Option(help="For this system, as linux.", show_default=False)]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch", help="For this architecture, as arm64; an index if an image of its is.", show_default=False
    ),
]
Variant = Annotated[str | None, typer.Option(help="For this variant of it, as v8.", show_default=False)]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAME[=VALUE]",
        help="With this label or annotation; can be repeated.",
        show_default=False,
    ),
]
Signed = Annotated[
    bool | None,
    typer.Option("--signed/--unsigned", help="That something signs, or nothing.", show_default=False),
]
DigestIs = Annotated[
    str | None, typer.Option("--digest", metavar="DIGEST", help="That is this image.", show_default=False)
]
Larger = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Of this size or more, as 10MiB.", show_default=False)
]
Smaller = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Of this size or less.", show_default=False)
]
Pulled = Annotated[
    bool | None,
    typer.Option("--pulled/--never-pulled", help="That was ever pulled, or never.", show_default=False),
]


def _time(help_: str) -> Any:
    return typer.Option(metavar="TIME", help=help_, show_default=False)


CreatedAfter = Annotated[
    str | None, _time("That says it was made then or later: a time, or as 7d for so long ago.")
]
CreatedBefore = Annotated[str | None, _time("That says it was made before then.")]
PushedAfter = Annotated[str | None, _time("That came then or later.")]
PushedBefore = Annotated[str | None, _time("That came before then.")]
PulledAfter = Annotated[str | None, _time("That was pulled last then or later.")]
PulledBefore = Annotated[str | None, _time("That was pulled, and not since then.")]
TaggedAfter = Annotated[str | None, _time("That points where it does since then or later.")]
TaggedBefore = Annotated[str | None, _time("That points where it does since before then.")]
UpdatedAfter = Annotated[str | None, _time("That changed last then or later.")]
UpdatedBefore = Annotated[str | None, _time("That did not change since then.")]
StoredAfter = Annotated[str | None, _time("That was made then or later: a time, or as 7d for so long ago.")]
StoredBefore = Annotated[str | None, _time("That was made before then.")]

# --- reading them -----------------------------------------------------------------------------

_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,6}))?\s?([KMGTP]?)(i?)B?", re.IGNORECASE | re.ASCII)


def size(text: str | None) -> int | None:
    """Read a number of bytes as ``4096``, ``10MiB``, ``1.5GiB`` or ``10MB``; None if nothing was said.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    from regmeta.errors import UsageError

    found = _SIZE.fullmatch(text)
    if found is None or (found[4] and not found[3]):
        raise UsageError(f"{text[:80]!r} is no size: write 4096, 10MiB, 1.5GiB or 10MB")
    factor: int = (1024 if found[4] else 1000) ** " KMGTP".index(found[3].upper() or " ")
    whole, part = int(found[1]) * factor, int(found[2] or 0) * factor // 10 ** len(found[2] or "")
    number: int = min(whole + part, 2**63 - 1)
    return number


def time(database: Database, text: str | None) -> datetime | None:
    """Read a time, or a length of time ago; None if nothing was said."""
    return moments.resolved(database, moments.parse(text))


def labels(texts: list[str] | None) -> tuple[tuple[str, str | None], ...]:
    """Read ``NAME`` and ``NAME=VALUE``.

    Raises:
        UsageError: one has no name.
    """
    from regmeta.errors import UsageError

    found: list[tuple[str, str | None]] = []
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--label {text[:80]!r}: write NAME or NAME=VALUE")
        found.append((name, value if equals else None))
    return tuple(found)


def of_images(database: Database, **said: Any) -> dict[str, Any]:
    """Return the fields of an image filter from the options that tags and manifests share."""
    from regmeta.oci.digest import Digest

    times = {
        f"{kind}_{end}": time(database, said[f"{kind}_{word}"])
        for kind in ("created", "pushed", "pulled")
        for end, word in (("from", "after"), ("until", "before"))
    }
    return {
        **{name: said[name] for name in ("media_type", "artifact_type", "os", "variant", "signed", "pulled")},
        "architecture": said["arch"],
        "labels": labels(said["label"]),
        "digest": None if said["digest"] is None else Digest.parse(said["digest"]),
        "min_bytes": size(said["larger"]),
        "max_bytes": size(said["smaller"]),
        **times,
    }


def refuse_with(option: str, said: dict[str, Any]) -> None:
    """Refuse filters and orders where a list of another kind was asked for.

    Raises:
        UsageError: names the first.
    """
    from regmeta.errors import UsageError

    for name, value in said.items():
        if value not in (None, False, [], ()):
            raise UsageError(f"{option} and --{name.replace('_', '-')}: use one of them")
