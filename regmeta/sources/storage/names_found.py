"""The repositories of a tree of folders, by their paths, in the order of their names."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from regmeta.errors import InvalidSource
from regmeta.oci.names import MAX_REPOSITORY_LENGTH
from regmeta.sources.storage.trees import Tree, TreeEntry


def names_in_order(
    tree: Tree,
    root: str,
    is_repository: Callable[[list[TreeEntry]], bool],
    is_part_of_name: Callable[[TreeEntry], bool],
) -> Iterator[str]:
    """Walk the folders below *root*, and name those that *is_repository* says are one by what they list.

    The root itself is none. What cannot be looked into is named as well, so that somebody asks for it and is
    told why: a link, a folder that may not be read, a name longer than any repository's, which is not
    followed further down. Other files than folders are no repositories and not named.

    Raises:
        InvalidSource: the root cannot be listed.
        RemoteUnavailable: the bucket did not answer.
    """
    # The least path that is left: "a-b" comes before "a/b", though "a" was looked into before both.
    left: list[tuple[str, bool]] = []
    for entry in tree.entries(root) or ():
        _add(left, "", entry, is_part_of_name)
    while left:
        name, is_looked_into = heapq.heappop(left)
        if not is_looked_into:
            yield name
            continue
        try:
            found = tree.entries(f"{root}/{name}" if root else name)
        except InvalidSource:
            yield name
            continue
        if found is None:
            continue
        if is_repository(found):
            yield name
        for entry in found:
            _add(left, f"{name}/", entry, is_part_of_name)


def _add(
    left: list[tuple[str, bool]],
    above: str,
    entry: TreeEntry,
    is_part_of_name: Callable[[TreeEntry], bool],
) -> None:
    if entry.what != "file" and is_part_of_name(entry):
        name = above + entry.name
        is_looked_into = entry.what == "folder" and len(name) <= MAX_REPOSITORY_LENGTH
        heapq.heappush(left, (name, is_looked_into))
