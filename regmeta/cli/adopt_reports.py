"""What ``regmeta adopt`` says: plans, runs, comparisons, defects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from regmeta.cli import render

if TYPE_CHECKING:
    from regmeta.adopt.comparison import ComparedRepository
    from regmeta.adopt.plan import AdoptPlan
    from regmeta.adopt.records.defects import KnownDefect
    from regmeta.adopt.terms import AdoptReport
    from regmeta.app.adopting import AdoptionStatus
    from regmeta.errors import Error
    from regmeta.ingest.adopted_statistics import StatisticsReport
    from regmeta.sources.storage import DefectKind


def show_plan(plan: AdoptPlan, as_json: bool) -> None:
    """Show what there is."""
    if as_json:
        render.json(
            {
                "location": plan.location,
                "kind": plan.kind,
                "repositories": plan.repositories,
                "images": plan.images,
                "left_out": plan.left_out,
                "blobs": plan.blobs,
                "size_bytes": plan.size_bytes,
                "estimate_s": round(plan.estimate_s, 1),
                "defects": [
                    {
                        "repository": name,
                        "class": found.defect.kind,
                        "image": found.image or None,
                        "subject": found.defect.subject,
                        "detail": found.defect.detail,
                        "outcome": "brought" if found.is_brought else "left out",
                    }
                    for name, found in plan.defects
                ],
                "failures": _failures(plan.failures),
            }
        )
        return
    render.table(
        ["repository", "goes to", "tags", "manifests", "images", "size", "defects"],
        [
            (
                each.source,
                each.destination or "-",
                each.tags,
                each.manifests,
                each.images,
                render.size(each.size_bytes),
                each.defects,
            )
            for each in plan.repositories
        ],
    )
    _say_classes(Counter((f.defect.kind, "brought" if f.is_brought else "left out") for _, f in plan.defects))
    _say_failures(plan.failures)
    render.say(
        f"{plan.location} ({plan.kind}):"
        f" {render.count(len(plan.repositories), 'repository', 'repositories')},"
        f" {render.count(plan.images, 'image')}, {render.count(plan.blobs, 'blob')},"
        f" {render.size(plan.size_bytes)}; {plan.left_out} cannot be brought; takes about"
        f" {_duration(plan.estimate_s)} (a guess from what looking took)"
    )


def show_run(report: AdoptReport, as_json: bool) -> None:
    """Show what a run has done."""
    if as_json:
        render.json(
            {
                "location": report.adoption.location,
                "kind": report.adoption.kind,
                "repositories": report.repositories,
                "unchanged": report.unchanged,
                "brought": report.brought,
                "here_already": report.here_already,
                "left_out": report.left_out,
                "removed_tags": report.removed_tags,
                "new_bytes": report.copied_bytes,
                "linked_bytes": report.linked_bytes,
                "defects": [
                    {"class": kind, "outcome": outcome, "count": number}
                    for (kind, outcome), number in sorted(report.defects.items())
                ],
                "failures": _failures(report.failures),
            }
        )
        return
    _say_classes(report.defects)
    _say_failures(report.failures)
    linked = f", {render.size(report.linked_bytes)} of them linked" if report.linked_bytes else ""
    render.say(
        f"{render.count(report.repositories, 'repository', 'repositories')}, {report.unchanged} unchanged:"
        f" {render.count(report.brought, 'image')} brought ({render.size(report.copied_bytes)}{linked}),"
        f" {report.here_already} here already, {report.left_out} left out,"
        f" {render.count(report.removed_tags, 'tag')} removed"
    )
    if any(outcome == "left out" for _, outcome in report.defects):
        render.say(f"what is wrong with what: regmeta adopt defects {report.adoption.location}")


def show_comparison(found: Sequence[ComparedRepository], as_json: bool) -> None:
    """Show what is the same, and what is not."""
    equal = all(each.is_equal for each in found)
    if as_json:
        render.json(
            {
                "equal": equal,
                "repositories": [
                    {
                        "repository": each.source,
                        "destination": each.destination or None,
                        "equal": each.is_equal,
                        "tags": each.tags,
                        "manifests": each.manifests,
                        "blobs": each.blobs,
                        "differences": each.differences,
                        "failure": None if each.failure is None else str(each.failure),
                    }
                    for each in found
                ],
            }
        )
        return
    render.table(
        ["repository", "here", "tags", "manifests", "blobs", "result"],
        [
            (each.source, each.destination or "-", each.tags, each.manifests, each.blobs, _result(each))
            for each in found
        ],
    )
    rows = [
        (each.source, item.kind, item.subject, item.detail, item.explained_by or "NOT EXPLAINED")
        for each in found
        for item in each.differences
    ]
    if rows:
        render.say("")
        render.table(["repository", "difference", "subject", "detail", "class"], rows)
    _say_failures({each.source: each.failure for each in found if each.failure is not None})
    total = {name: sum(getattr(each, name) for each in found) for name in ("tags", "manifests", "blobs")}
    explained = sum(bool(item.explained_by) for each in found for item in each.differences)
    verdict = "equal" if equal else "NOT EQUAL"
    but = f", but for {render.count(explained, 'difference')} that a class explains" if explained else ""
    render.say(
        f"{verdict}{but}: {render.count(len(found), 'repository', 'repositories')},"
        f" {render.count(total['tags'], 'tag')}, {render.count(total['manifests'], 'manifest')},"
        f" {render.count(total['blobs'], 'blob')} are the same"
    )


def show_status(found: Sequence[AdoptionStatus], as_json: bool) -> None:
    """Show how adoptions stand."""
    if as_json:
        render.json(found)
        return
    if not found:
        render.say("nothing was adopted here")
        return
    render.table(
        [
            "source",
            "kind",
            "prefix",
            "started",
            "complete",
            "finalized",
            "repositories",
            "tags",
            "unfinished",
            "left out",
            "odd",
        ],
        [
            (
                each.adoption.location,
                each.adoption.kind,
                each.adoption.prefix or "-",
                each.adoption.started_at,
                each.adoption.completed_at,
                each.adoption.finalized_at,
                each.repositories,
                each.tags,
                len(each.unfinished),
                sum(number for _, outcome, number in each.defects if outcome == "left out"),
                sum(number for _, outcome, number in each.defects if outcome == "brought"),
            )
            for each in found
        ],
    )


def show_defects(found: Sequence[KnownDefect], as_json: bool, limit: int) -> None:
    """Show what was wrong with a source."""
    if as_json:
        render.json(found)
        return
    render.table(
        ["repository", "class", "image", "subject", "outcome", "detail"],
        [
            (each.repository, each.kind, each.image or "-", each.subject, each.outcome, each.detail)
            for each in found
        ],
    )
    if len(found) >= limit:
        render.say(f"(there may be more: --limit {2 * limit})")


def show_statistics(report: StatisticsReport, as_json: bool) -> None:
    """Show what of an old registry's statistics is kept."""
    if as_json:
        render.json(report)
        return
    for problem in report.problems:
        render.say(f"regmeta: {problem.repository}: {problem.what}")
    render.say(
        f"{render.count(report.repositories, 'repository', 'repositories')},"
        f" {render.count(report.manifests, 'manifest')}, {render.count(report.pulls, 'pull')} in sum:"
        f" {render.count(report.changed, 'row')} changed"
    )
    left = (
        (report.undated, "manifests whose pulls have no time: not kept"),
        (report.absent, "manifests that are not here"),
        (report.absent_repositories, "repositories that are not here"),
        (report.unnamed_stars, "stars that nobody says whose they are: not kept"),
    )
    for number, what in left:
        if number:
            render.say(f"{number:>7} {what}")


def _result(each: ComparedRepository) -> str:
    if each.failure is not None:
        return "not compared"
    if not each.differences:
        return "equal"
    explained = sum(bool(item.explained_by) for item in each.differences)
    if each.is_equal:
        return f"equal but for {explained}"
    return f"{len(each.differences) - explained} not explained"


def _say_classes(counts: Mapping[tuple[str, str], int]) -> None:
    from regmeta.adopt.defects import MEANINGS

    for (kind, outcome), number in sorted(counts.items()):
        meaning = MEANINGS[cast("DefectKind", kind)]
        render.say(f"{number:>7} {kind} ({outcome}): {meaning}")


def _say_failures(failures: Mapping[str, Error]) -> None:
    for name, error in failures.items():
        render.say(f"regmeta: {name}: {error}")


def _failures(failures: Mapping[str, Error]) -> Iterable[dict[str, str]]:
    return [{"repository": name, "error": str(error)} for name, error in failures.items()]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
