"""Which images of a source are wanted, and under which names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from regmeta.errors import Error, UsageError, without_frames
from regmeta.ingest.plan import ImageOutcome, ImageRequest
from regmeta.oci import names
from regmeta.oci.names import Reference
from regmeta.sources import Source, SourceEntry


@dataclass(frozen=True, slots=True)
class Selection:
    """What is to be imported, and the entries that cannot even be asked for."""

    requests: tuple[ImageRequest, ...]
    rejected: tuple[ImageOutcome, ...]


def select_images(
    source: Source,
    destination: Reference,
    *,
    only_tags: Collection[str] = (),
    with_untagged: bool = False,
) -> Selection:
    """Choose images of *source*.

    Into a repository go all its named images under their own tags, or those of *only_tags*; and,
    *with_untagged*, what has no name, reachable by digest. Into ``repository:tag`` goes the one image that is
    chosen. A source whose images have no names gives the one that it has.

    Raises:
        UsageError: nothing was found to import, or not exactly one image where one is needed.
        InvalidSource: the source cannot be listed.
    """
    if destination.digest is not None:
        raise UsageError(f"{destination}: an image is imported under a tag, its digest is its own")
    chosen = _chosen(list(source.entries()), only_tags, with_untagged)
    missing = set(only_tags) - {entry.ref_name for entry in chosen if entry.ref_name is not None}
    if missing:
        raise UsageError(f"{source.location}: has no image named {', '.join(sorted(missing))}")
    if not chosen:
        raise UsageError(f"{source.location}: has no named image (--all takes those without a name)")
    if destination.tag is not None and len(chosen) != 1:
        raise UsageError(
            f"{destination}: one image can have this tag, {source.location} has {len(chosen)}"
            " (--tag chooses one)"
        )
    requests, rejected = [], []
    for entry in chosen:
        try:
            requests.append(_request(source, entry, destination))
        except Error as error:
            name = f"{destination.repository}:{(entry.ref_name or f'entry {entry.position}')[:200]}"
            rejected.append(ImageOutcome(name, "failed", error=without_frames(error)))
    return Selection(tuple(requests), tuple(rejected))


def _chosen(entries: list[SourceEntry], only_tags: Collection[str], with_untagged: bool) -> list[SourceEntry]:
    if only_tags:
        return [entry for entry in entries if entry.ref_name in only_tags]
    if with_untagged or len(entries) == 1:
        return entries
    # What is broken is reported rather than left out for having no name.
    return [entry for entry in entries if entry.ref_name is not None or entry.error is not None]


def _request(source: Source, entry: SourceEntry, destination: Reference) -> ImageRequest:
    if entry.descriptor is None:
        assert entry.error is not None
        raise entry.error
    tag = destination.tag
    if tag is None and entry.ref_name is not None:
        tag = names.ref_name_tag(entry.ref_name)
    return ImageRequest(source, entry.descriptor, destination.repository, tag)
