"""The files of a repository's ``_manifests``, sorted by what docker's registry has them for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from regmeta.errors import InvalidDigest
from regmeta.oci import names
from regmeta.oci.digest import Digest
from regmeta.sources.registry.text import shown
from regmeta.sources.storage import Defect
from regmeta.sources.storage.trees import TreeEntry

_OF_NO_USE: Final = re.compile(r"tags/[^/]+/index|revisions/[^/]+/[^/]+/[^/]+", re.DOTALL)


@dataclass(slots=True)
class ListedFiles:
    """The links that there are: what they say is not known yet.

    *tags* have their current links, *revisions* those of manifests; what stands where a link should and is
    none is a defect.
    """

    tags: dict[str, TreeEntry] = field(default_factory=dict)
    revisions: dict[Digest, TreeEntry] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)


def is_tag_link(below: str) -> bool:
    """Tell whether a path below ``_manifests`` is that of a tag's current link."""
    return below.startswith("tags/") and below.endswith("/current/link") and below.count("/") == 3


def is_of_no_use(below: str) -> bool:
    """Tell the folders that need no look into: a tag's history, and the signatures of schema 1."""
    return _OF_NO_USE.fullmatch(below) is not None


def listed_files(files: Iterable[tuple[str, TreeEntry]]) -> ListedFiles:
    """Sort files by their paths below ``_manifests``.

    A tag that has a history and no current link is being pushed, or half deleted: the registry lists it and
    answers that it is not there. One that has neither is no tag: a bucket has not even a folder of it.

    Raises:
        InvalidSource, RemoteUnavailable: what *files* raises.
    """
    found = ListedFiles()
    with_history: set[str] = set()
    not_links: set[str] = set()
    for below, entry in files:
        parts = below.split("/")
        if _marks_folder(parts, entry):
            continue
        if parts[0] == "tags":
            _list_tag(found, with_history, not_links, parts, entry)
        elif parts[0] == "revisions" and len(parts) < 5:  # below are the signatures of schema 1
            _list_revision(found, parts, entry)
    for tag in sorted(with_history - found.tags.keys() - not_links):
        detail = f"the tag {tag} has a history and no current link: being pushed, or half deleted"
        found.defects.append(Defect("bad-link", tag, detail))
    return found


def _marks_folder(parts: list[str], entry: TreeEntry) -> bool:
    """Tell whether an object of a bucket is what some tools make there in place of a folder."""
    return not parts[-1] or (entry.mark != "" and entry.size_bytes == 0 and parts[-1] != "link")


def _list_tag(
    found: ListedFiles, with_history: set[str], not_links: set[str], parts: list[str], entry: TreeEntry
) -> None:
    if len(parts) == 1:
        found.defects.append(_not_a_folder(parts))
        return
    tag, inner = parts[1], parts[2:]
    if inner[:1] == ["index"]:
        if names.is_tag(tag):
            with_history.add(tag)
    elif not names.is_tag(tag):
        if entry.what == "other" or inner == ["current", "link"]:
            found.defects.append(Defect("bad-tag-name", tag, f"{shown(tag)}: not of the grammar of tags"))
    elif inner == ["current", "link"] and entry.what == "file":
        found.tags[tag] = entry
    elif inner in ([], ["current"], ["current", "link"]):
        not_links.add(tag)
        found.defects.append(_not_followed(tag, parts))


def _list_revision(found: ListedFiles, parts: list[str], entry: TreeEntry) -> None:
    if len(parts) < 3:
        found.defects.append(_not_a_folder(parts))
        return
    if entry.what != "other" and parts[3:] not in ([], ["link"]):
        return
    try:
        digest = Digest.parse(":".join(parts[1:3]))
    except InvalidDigest as error:
        found.defects.append(Defect("bad-link", "/".join(parts), shown(str(error))))
        return
    if parts[3:] == ["link"] and entry.what == "file":
        found.revisions[digest] = entry
    else:
        found.defects.append(_not_followed(str(digest), parts))


def _not_followed(subject: str, parts: list[str]) -> Defect:
    path = shown("/".join(parts))
    return Defect("bad-link", subject, f"{path}: neither a regular file nor a folder, or one for the other")


def _not_a_folder(parts: list[str]) -> Defect:
    path = "/".join(("_manifests", *parts))
    return Defect("unreadable", path, f"{shown(path)}: not a folder")
