"""How ``regmeta image`` shows what it found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from regmeta.cli import render

if TYPE_CHECKING:
    from regmeta.content.configs import Comparison, ConfigDiff, ImageHistory, ImageView, ReadConfig
    from regmeta.oci.digest import Digest
    from regmeta.query.images.results import Change, Entry, ImageDiff, ImageSummary, PairDiff
    from regmeta.query.results import Image, Layer, Node

_SHORT = 12  # [hex digits] of a digest; enough for people, and to find it again
_WIDEST = 72  # [characters] of a command in a history


def _short(digest: Digest | None) -> str:
    return "-" if digest is None else f"{digest.algorithm}:{digest.hex[:_SHORT]}"


# --- show -------------------------------------------------------------------------------------


def show(view: ImageView) -> None:
    """Write all that there is to say of an image."""
    image, about = view.summary, view.summary.described
    said = [(name, getattr(about, name)) for name in _ABOUT]
    render.fields(
        [
            ("image", f"{image.repository}@{image.digest}"),
            ("tags", image.tags),
            ("type", image.artifact_type or image.media_type),
            ("platforms", image.platforms),
            ("size", f"{render.size(image.size_bytes)} (its manifest {render.size(image.manifest_bytes)})"),
            ("created", image.created_at),
            ("pushed", f"{render.moment(image.pushed_at)} by {image.pushed_by}"),
            ("tagged", image.tagged_at),
            ("pulls", _pulls(image)),
            ("signatures", _counts(image.signatures) or "none"),
            ("referrers", _counts(image.referrers) or "none"),
            *([("refers to", image.subject)] if image.subject else []),
            *((name, text) for name, text in said if text is not None),
        ]
    )
    if image.kind == "index":
        typer.echo()
        _entries(image.images)
    for heading, pairs in (("annotations", image.annotations), ("labels", image.labels)):
        if pairs:
            typer.echo(f"\n{heading}")
            render.fields((f"  {name}", text) for name, text in pairs.items())
    if view.config is not None and image.artifact_type is None:
        _config(view.config)


_ABOUT = (
    "title",
    "description",
    "version",
    "revision",
    "licenses",
    "vendor",
    "authors",
    "url",
    "source",
    "documentation",
)


def _pulls(image: ImageSummary) -> str:
    if image.last_pulled_at is None:
        return "none"
    return f"{image.pulls}, the last one {render.moment(image.last_pulled_at)}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name or 'of no type'}" for name, count in counts.items())


def _entries(entries: Sequence[Entry]) -> None:
    render.table(
        ["platform", "digest", "size", "layers", "created", "pulls", "signed"],
        [
            (
                f"{entry.platform or '-'}{f' {entry.os_version}' if entry.os_version else ''}",
                _short(entry.digest),
                render.size(entry.size_bytes) if entry.absence is None else f"not here ({entry.absence})",
                entry.layers,
                entry.created_at,
                entry.pulls or None,
                "yes" if entry.signatures else None,
            )
            for entry in entries
        ],
    )


def _config(config: ReadConfig) -> None:
    from regmeta.oci.image_config import setting_lines

    typer.echo("\nconfiguration")
    if config.details is None:
        typer.echo(f"  {render.cell(config.problem)}")
        return
    lines = [
        (f"  {name}" if not number else "", line)
        for name, value in sorted(config.details.settings.items())
        for number, line in enumerate(setting_lines(value))
    ]
    if lines:
        render.fields(lines)


# --- tree -------------------------------------------------------------------------------------


def tree(image: Image) -> Iterator[str]:
    """Return an image drawn as a tree, line by line."""
    yield f"{image.repository}  {', '.join(image.tags) or 'untagged'}"
    yield from _branch(image.tree, "", set())
    yield f"{render.size(image.unique_bytes)}, each blob counted once"


def _branch(node: Node, indent: str, seen: set[Digest]) -> Iterator[str]:
    from regmeta.query.results import Layer

    shown = [render.cell(node.platform)] if node.platform else []
    if node.absence is not None:
        yield f"{indent}{'  '.join([*shown, _short(node.digest)])}  not here ({node.absence})"
        return
    shown += [node.kind, _short(node.digest)]
    if node.artifact_type:
        shown.append(render.cell(node.artifact_type))
    shown.append(render.size(node.total_bytes))
    yield indent + "  ".join(shown)
    below = indent.replace("├─", "│ ").replace("└─", "  ")
    parts: list[Node | Layer] = [*node.layers, *node.children]
    for number, part in enumerate(parts, 1):
        branch = f"{below}{'└─' if number == len(parts) else '├─'} "
        if isinstance(part, Layer):
            yield branch + _layer(part, seen)
        else:
            yield from _branch(part, branch, seen)


def _layer(layer: Layer, seen: set[Digest]) -> str:
    mark = "  (absent)" if layer.is_absent else "  (shared)" if layer.digest in seen else ""
    seen.add(layer.digest)
    return f"layer  {_short(layer.digest)}  {render.size(layer.size_bytes)}{mark}"


# --- history ----------------------------------------------------------------------------------


def history(found: ImageHistory, wide: bool) -> None:
    """Write the steps in which an image was made; *wide* with whole digests and commands."""
    rows = []
    for step in found.aligned.steps:
        entry, layer = step.entry, step.layer
        made_by = None if entry is None else _command(entry.created_by or entry.comment, wide)
        digest = None if layer is None else layer.digest
        rows.append(
            (
                None if entry is None else entry.created_at,
                digest if wide else _short(digest),
                None if layer is None else render.size(layer.size_bytes),
                made_by,
            )
        )
    render.table(["created", "layer", "size", "made by"], rows)
    if found.config.problem is not None:
        render.say(f"no history: {found.config.problem}")
    if found.aligned.problem is not None:
        render.say(f"which step made which layer is not known: {found.aligned.problem}")


def _command(text: str | None, wide: bool) -> str | None:
    """Return a command as people wrote it: without what the builder put around it, and cut."""
    if text is None or wide:
        return text
    for prefix in ("/bin/sh -c #(nop) ", "/bin/sh -c "):
        text = text.removeprefix(prefix)
    text = " ".join(text.split())
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


# --- diff -------------------------------------------------------------------------------------


def diff(found: Comparison) -> None:
    """Write what differs between two images."""
    images = found.images
    render.table(
        ["", "first", "second"],
        [
            (name, *(value(side) for side in (images.first, images.second)))
            for name, value in (
                ("image", lambda side: side.reference),
                ("digest", lambda side: _short(side.digest)),
                ("size", lambda side: render.size(side.size_bytes)),
                ("created", lambda side: side.created_at),
                ("pushed", lambda side: side.pushed_at),
                ("platforms", lambda side: side.platforms),
            )
        ],
    )
    typer.echo()
    if images.is_same:
        typer.echo("the same bytes")
        return
    _sizes(images)
    for heading, names in (
        ("only in the first", images.platforms_removed),
        ("only in the second", images.platforms_added),
    ):
        if names:
            typer.echo(f"{heading}: {render.cell(names)}")
    _changes("annotations", images.annotations)
    for pair, config in zip(images.pairs, found.configs, strict=True):
        _pair(pair, config)


def _sizes(images: ImageDiff) -> None:
    both, first, second = map(
        render.size, (images.shared_bytes, images.only_first_bytes, images.only_second_bytes)
    )
    typer.echo(f"{both} in both, {first} only in the first, {second} only in the second")


def _pair(pair: PairDiff, config: ConfigDiff) -> None:
    typer.echo()
    shown = pair.platform or "the images"
    if pair.first == pair.second:
        typer.echo(f"{shown}: the same image")
        return
    base = render.count(pair.common_base, "layer")
    typer.echo(f"{shown}: a common base of {base}, {len(pair.common)} in both")
    for sign, layers in (("-", pair.removed), ("+", pair.added)):
        for layer in layers:
            typer.echo(
                f"  {sign} layer {layer.position}  {_short(layer.digest)}  {render.size(layer.size_bytes)}"
            )
    _changes("labels", pair.labels)
    _changes("configuration", config.changes)
    for problem in config.problems:
        render.say(problem)


def _changes(heading: str, changes: Sequence[Change]) -> None:
    if not changes:
        return
    typer.echo(f"  {heading}")
    for change in changes:
        for sign, text in (("-", change.first), ("+", change.second)):
            if text is not None:
                typer.echo(f"  {sign} {render.cell(change.name)}  {render.cell(text)}".rstrip())
