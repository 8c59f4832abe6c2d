"""What a registry served: the answer that an adoption of its storage is held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from regmeta.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Served:
    """Tags, and all manifests whether tagged or not, by repository. *root* is what an adoption is given.

    *gone* are the manifests that were pushed once and are served no more. A repository that serves nothing
    may be in none of them.
    """

    root: Path
    tags: Mapping[str, Mapping[str, Digest]]
    manifests: Mapping[str, frozenset[Digest]]
    gone: Mapping[str, frozenset[Digest]]

    @property
    def tag_count(self) -> int:
        """How many tags there are."""
        return sum(map(len, self.tags.values()))

    @property
    def manifest_count(self) -> int:
        """How many manifests there are, one of two repositories counted twice."""
        return sum(map(len, self.manifests.values()))

    def to_json(self) -> str:
        """Return it as text, without the root."""
        return json.dumps(
            {
                "tags": {
                    name: {tag: str(digest) for tag, digest in tags.items()}
                    for name, tags in self.tags.items()
                },
                "manifests": _texts(self.manifests),
                "gone": _texts(self.gone),
            }
        )

    @classmethod
    def from_json(cls, text: str, root: Path) -> Served:
        """Read it back, for a folder that may be another one now."""
        found = json.loads(text)
        return cls(
            root,
            {
                name: {tag: Digest.parse(digest) for tag, digest in tags.items()}
                for name, tags in found["tags"].items()
            },
            _digests(found["manifests"]),
            _digests(found["gone"]),
        )


def _texts(sets: Mapping[str, frozenset[Digest]]) -> dict[str, list[str]]:
    return {name: sorted(map(str, digests)) for name, digests in sets.items()}


def _digests(lists: Mapping[str, list[str]]) -> dict[str, frozenset[Digest]]:
    return {name: frozenset(map(Digest.parse, digests)) for name, digests in lists.items()}
