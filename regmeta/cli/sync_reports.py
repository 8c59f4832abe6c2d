"""How runs of ``regmeta sync`` are shown, and the exit code that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from regmeta.cli import render
from regmeta.errors import Refused
from regmeta.oci.names import image_name

if TYPE_CHECKING:
    from regmeta.app.syncing import FailedRun
    from regmeta.query.mirrored import FailingImage, MirrorStatus
    from regmeta.sync.records import ItemOutcome
    from regmeta.sync.run import SyncReport

SHOWN = 50  # items of a run that are shown one by one; the status shows more


def show(reports: Sequence[SyncReport], as_json: bool, failed: Sequence[FailedRun] = ()) -> None:
    """Show how runs ended, and end with the exit code of the worst that happened."""
    if as_json:
        render.json([*map(document, reports), *map(_failed_document, failed)])
    else:
        _table(sorted((item for report in reports for item in report.items), key=_name_of))
    for report in reports:
        say(report)
    for each in failed:
        render.say(f"regmeta: {each.policy}: {each.error}")
    code = max((_exit_code(each) for each in reports), default=0)
    code = max([code, *(each.error.exit_code for each in failed)])
    if code:
        raise typer.Exit(code)


def _table(items: Sequence[ItemOutcome]) -> None:
    if not items:
        return
    render.table(
        ["image", "here", "outcome", "digest", "copied"],
        [
            (_name_of(item), _place_of(item), item.outcome, item.digest, render.size(item.copied_bytes))
            for item in items[:SHOWN]
        ],
    )
    if len(items) > SHOWN:
        render.say(f"and {len(items) - SHOWN} more: --json shows all")


def say(report: SyncReport) -> None:
    """Say in a few lines what was done, and why what was not done was not."""
    said = [item for item in report.items if item.outcome in ("failed", "left out")]
    for item in sorted(said, key=_name_of)[:SHOWN]:
        render.say(f"regmeta: {report.policy}: {_reason_of(item)}")
    if len(said) > SHOWN:
        render.say(f"regmeta: {report.policy}: and {len(said) - SHOWN} more: --json shows all")
    counts = report.counts
    words = [
        f"{render.count(counts.copied, 'image')} copied ({render.size(counts.copied_bytes)})",
        f"{counts.unchanged} here already",
    ]
    for number, what in (
        (counts.left_out, "left out"),
        (counts.removed, "removed"),
        (counts.failed, "failed"),
    ):
        if number:
            words.append(f"{number} {what}")
    stopped = "; stopped before its end" if report.outcome == "stopped" else ""
    render.say(f"{report.policy}: {', '.join(words)}, {render.count(counts.requests, 'request')}{stopped}")


def show_status(found: Sequence[MirrorStatus], watched: Sequence[str]) -> None:
    """Show how registries stand. Only what the settings name, *watched*, is tried again by itself."""
    if not found:
        render.say("nothing was brought yet, and the settings name no registry: see docs/sync.md")
        return
    render.table(
        ["registry", "last run", "outcome", "images", "left out", "failing", "next try"],
        [
            (
                each.policy,
                None if each.last_run is None else each.last_run.started_at,
                _outcome_of(each),
                sum(each.images.get(outcome, 0) for outcome in ("copied", "unchanged")),
                each.images.get("left out", 0),
                each.images.get("failed", 0),
                each.next_try_at if each.policy in watched else None,
            )
            for each in found
        ],
    )
    failing = [(each.policy, image) for each in found for image in each.failing]
    if failing:
        typer.echo()
        render.table(
            ["registry", "image", "attempts", "next try", "error", "why"],
            [
                (
                    policy,
                    _name_of(image),
                    image.attempts,
                    image.next_try_at if policy in watched else None,
                    image.error_class,
                    image.reason,
                )
                for policy, image in failing
            ],
        )
    for each in found:
        run = each.last_run
        if run is not None and run.error is not None:
            render.say(f"regmeta: {each.policy}: {run.error}")


def is_bad(status: MirrorStatus) -> bool:
    """Tell whether somebody has to look at a registry of the settings."""
    return bool(status.failing) or (status.last_run is not None and status.last_run.outcome == "failed")


def document(report: SyncReport) -> dict[str, object]:
    """Return a run as it is written for machines."""
    return {
        "policy": report.policy,
        "run": report.run_id,
        "outcome": report.outcome,
        "counts": report.counts,
        "error": None,
        "reason": None,
        "items": [_item(item) for item in report.items],
    }


def _failed_document(failed: FailedRun) -> dict[str, object]:
    return {
        "policy": failed.policy,
        "run": None,
        "outcome": "failed",
        "counts": None,
        "error": type(failed.error).__name__,
        "reason": str(failed.error),
        "items": [],
    }


def _item(item: ItemOutcome) -> dict[str, object]:
    return {
        "source": item.source,
        "reference": item.reference,
        "destination": item.destination,
        "outcome": item.outcome,
        "digest": item.digest,
        "upstream_digest": item.upstream_digest,
        "copied_bytes": item.copied_bytes,
        "error": item.error_class,
        "reason": item.reason,
    }


def _name_of(image: ItemOutcome | FailingImage) -> str:
    """Return what the upstream calls an image."""
    return image_name(image.source, image.reference)


def _place_of(item: ItemOutcome) -> str:
    """Return what it is called here; what was asked for by its digest has no tag."""
    if ":" in item.destination or item.reference == "*" or ":" in item.reference:
        return item.destination
    return f"{item.destination}:{item.reference}"


def _reason_of(item: ItemOutcome) -> str:
    """Return why, with the image's name once."""
    name, reason = _name_of(item), item.reason or item.outcome
    return reason if reason.startswith(f"{name}: ") else f"{name}: {reason}"


def _outcome_of(status: MirrorStatus) -> str | None:
    if status.last_run is None:
        return None
    return status.last_run.outcome or "running"


def _exit_code(report: SyncReport) -> int:
    """Return the code of the worst; an image that was asked for by name and left out counts as refused.

    Only such an item has an error of its own with its outcome "left out". A failure without an error is that
    of removing what an upstream says is gone: refused, until somebody says that it is right.
    """
    codes = [
        Refused.exit_code if item.outcome == "left out" else item.error.exit_code
        for item in report.items
        if item.error is not None
    ]
    if report.counts.failed > sum(
        item.outcome == "failed" for item in report.items if item.error is not None
    ):
        codes.append(Refused.exit_code)
    return max(codes, default=0)
