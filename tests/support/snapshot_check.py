"""Does the newest snapshot of each repository say what its rows say? Read from plain files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support import derived

Row = dict[str, Any]
Entry = tuple[str | None, str, str, int]

REF_NAME = "org.opencontainers.image.ref.name"
_NAME = re.compile(r"_(\d+)-(\d+)\.[0-9a-f]{32}\.json")


def findings(
    root: Path,
    epoch: int | None,
    repositories: Mapping[int, Row],
    manifests: Mapping[int, Row],
    tags: Iterable[Row],
    outbox: Iterable[Row],
) -> Iterator[str]:
    """Give what differs. A repository that the outbox names may be behind."""
    behind = {row["repository_id"]: row["revision"] for row in outbox}
    live = [tag for tag in tags if tag["ended_at"] is None]
    for number, row in repositories.items():
        where = f"repository {row['name']}"
        if number in behind:
            if behind[number] > row["revision"]:
                yield f"{where}: the outbox knows a revision that is not there yet"
            continue
        versions = {}
        for path in (root / "layouts" / row["name"]).glob("_*.json"):
            match = _NAME.fullmatch(path.name)
            if match:
                versions[int(match[1]), int(match[2])] = path
        newest = max(versions, default=None)
        if newest is None or newest != (epoch, row["revision"]):
            yield f"{where}: newest snapshot is {newest}, the row is at {(epoch, row['revision'])}"
        elif _state(versions[newest]) != row["state"]:
            yield f"{where}: the newest snapshot says it is {_state(versions[newest])}"
        elif _listed(versions[newest]) != (
            _expected(number, manifests, live) if row["state"] == "active" else []
        ):
            yield f"{where}: the newest snapshot lists something else than the rows"


def _state(path: Path) -> str:
    return str(json.loads(path.read_bytes())["annotations"]["io.regmeta.state"])


def _listed(path: Path) -> list[Entry]:
    return [
        (entry.get("annotations", {}).get(REF_NAME), entry["digest"], entry["mediaType"], entry["size"])
        for entry in json.loads(path.read_bytes())["manifests"]
    ]


def _expected(repository_id: int, manifests: Mapping[int, Row], live: Iterable[Row]) -> list[Entry]:
    named = [(tag["name"], tag["manifest_id"]) for tag in live if tag["repository_id"] == repository_id]
    named.sort(key=lambda item: item[0].encode())
    tagged = {number for _, number in named}
    untagged = [
        (None, number)
        for number, row in sorted(manifests.items())
        if row["repository_id"] == repository_id and number not in tagged and row["deleted_at"] is None
    ]
    missing = {"digest": b"\1", "media_type": "", "size_bytes": -1}
    found = []
    for name, number in [*named, *untagged]:
        row = manifests.get(number, missing)
        found.append((name, derived.text(row["digest"]), row["media_type"], row["size_bytes"]))
    return found
