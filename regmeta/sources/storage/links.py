"""The link files of docker's registry: each holds the digest of what it is a name of, and nothing else.

Facts of distribution 2.x: the paths are those of its ``registry/storage/paths.go``; a link is written without
a line's end, in one piece, but by a file system that may keep its name and lose its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from regmeta.errors import InvalidDigest, InvalidSource
from regmeta.oci.digest import Digest
from regmeta.sources.registry.text import shown
from regmeta.sources.storage import Defect
from regmeta.sources.storage.trees import Tree

LONGEST_LINK: Final = 256  # [bytes] the longest digest has 135


@dataclass(frozen=True, slots=True)
class Link:
    """What a link file says: a digest, or what is wrong with it; neither where there is none."""

    digest: Digest | None = None
    defect: Defect | None = None


def read_link(tree: Tree, path: str, subject: str) -> Link:
    """Read the link file at *path*; *subject* is what a defect is about.

    Raises:
        RemoteUnavailable: the bucket did not answer.
    """
    try:
        content = tree.read(path, LONGEST_LINK)
    except InvalidSource as error:
        return Link(defect=Defect("unreadable", subject, str(error)))
    if content is None:
        return Link()
    text = content.removesuffix(b"\n")
    if not text:
        return Link(defect=Defect("empty-link", subject, f"{shown(path)} is empty"))
    if len(content) > LONGEST_LINK:
        return Link(defect=Defect("bad-link", subject, f"{shown(path)} has more than {LONGEST_LINK} bytes"))
    try:
        return Link(Digest.parse(text.decode("ascii", "backslashreplace")))
    except InvalidDigest as error:
        return Link(defect=Defect("bad-link", subject, f"{shown(path)}: {shown(str(error))}"))
