"""A registry of random rows, kept in memory as well: what lists must answer is worked out from there."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.models import Base
from regmeta.oci.digest import Digest
from regmeta.oci.folding import folded, text_key, text_of
from regmeta.oci.signatures import NOTATION
from tests.support.seed import NOW, Row, blob, manifest, repository, tag

NAMES: Final = ("app", "team/app", "team/app/cache", "team/b", "teams", "other", "gone")
GONE: Final = len(NAMES)  # the id of the one that was deleted
DAY: Final = 19849
TYPES: Final = ("application/vnd.example.a+json", "application/vnd.example.b+json")
TAGS: Final = ("v1", "v2", "V1", "v10", "latest", "dev-1", "dev_2", "a.b", "A", "v1.0-alpine")


@dataclass
class Rows:
    """All rows by table, and quick ways to them."""

    tables: dict[str, list[Row]] = field(default_factory=dict)

    def __getattr__(self, name: str) -> list[Row]:
        return self.tables[name]

    def named(self, repository_id: int) -> str:
        """Return a repository's name."""
        return NAMES[repository_id - 1]

    def manifest(self, number: int) -> Row:
        """Return a manifest."""
        return self.tables["manifests"][number - 1]

    def here(self) -> list[Row]:
        """Return the manifests that can be read."""
        return [m for m in self.manifests if m["deleted_at"] is None and m["repository_id"] != GONE]

    def live(self) -> list[Row]:
        """Return the tags that can be read."""
        return [t for t in self.tags if t["ended_at"] is None and t["repository_id"] != GONE]

    def pulled(self, of: Row, name: str | None = None) -> Any:
        """Return when a manifest was pulled last, by one tag or by any name."""
        times = [
            pull["last_pulled_at"]
            for pull in self.pull_stats
            if (pull["repository_id"], pull["digest"]) == (of["repository_id"], of["digest"])
            and name in (None, pull["tag"])
        ]
        return max(times, default=None)


def _minutes(chance: random.Random, most: int = 30) -> Any:
    return NOW + timedelta(minutes=chance.randrange(most))


def random_rows(seed: int, each: int = 14) -> Rows:
    """Return rows of all repositories, *each* with so many manifests; many share times and sizes."""
    chance = random.Random(seed)
    blobs: list[Row] = []
    manifests: list[Row] = []
    tags: list[Row] = []
    links, members, labels, pulls = [], [], [], []
    for repository_id in range(1, len(NAMES) + 1):
        mine: list[Row] = []
        for turn in range(each):
            number = len(manifests) + 1
            digest = Digest.of(b"%d %d" % (seed, number))
            kind = "index" if turn % 5 == 4 else "image"
            earlier = [m for m in mine if m["kind"] == "image" and m["deleted_at"] is None]
            subject = chance.choice(mine)["digest"] if mine and chance.random() < 0.2 else None
            row = manifest(
                number,
                digest,
                kind,
                repository_id=repository_id,
                blob_id=number,
                media_type=chance.choice(TYPES),
                artifact_type=chance.choice([*TYPES, NOTATION, None]),
                subject_digest=subject,
                os=chance.choice([None, "linux", "windows"]),
                architecture=chance.choice([None, "amd64", "arm64"]),
                variant=chance.choice([None, "v8"]),
                image_created_at=chance.choice([None, _minutes(chance), _minutes(chance)]),
                total_size_bytes=None if kind == "index" else chance.randrange(6) * 1000,
                pushed_at=_minutes(chance),
                deleted_at=NOW if chance.random() < 0.1 and kind == "image" else None,
            )
            manifests.append(row)
            mine.append(row)
            blobs.append({**blob(number, digest), "size_bytes": chance.randrange(9), "state": "live"})
            blobs[-1]["created_at"] = _minutes(chance)
            blobs[-1]["state"] = chance.choice(["live", "live", "damaged"])
            if chance.random() < 0.9:
                links.append({"repository_id": repository_id, "blob_id": number, "linked_at": NOW})
            if kind == "index":
                for position, child in enumerate(chance.sample(earlier, min(2, len(earlier)))):
                    members.append(_member(chance, number, position, child))
            for label in chance.sample(["vendor", "team", "org.example"], chance.randrange(3)):
                value = chance.choice(["ACME", "acme", "x=y", ""])
                for origin in chance.sample(["annotation", "config"], chance.randrange(1, 3)):
                    labels.append(_label(number, origin, label, value))
            for by in chance.sample(["", *TAGS], chance.randrange(3)):
                day = DAY - chance.choice([0, 1, 29, 30, 200])
                pulls.append(_pull(chance, row, by, day))
        for name in chance.sample(TAGS, 8):
            target = chance.choice([m for m in mine if m["deleted_at"] is None])
            number = len(tags) + 1
            ended = (
                {"ended_at": NOW + timedelta(days=1), "ended_by": "seed"} if chance.random() < 0.15 else {}
            )
            started = _minutes(chance)
            where = {"repository_id": repository_id, "manifest_id": target["id"], "started_at": started}
            tags.append(tag(number, name, manifest_digest=target["digest"], **where, **ended))
    return Rows(
        {
            "repositories": _repositories(chance),
            "blobs": blobs,
            "repository_blobs": links,
            "manifests": manifests,
            "index_manifests": members,
            "tags": tags,
            "tag_names": [{"name": name, "folded": folded(name)} for name in TAGS],
            "labels": labels,
            "pull_stats": pulls,
            "favorites": [
                {"user_name": user, "kind": kind, "repository_id": number, "created_at": NOW}
                for user in ("ann", "bob", "eve")
                for kind in ("star", "bookmark")
                for number in chance.sample(range(1, GONE + 1), 3)
            ],
            "usage_samples": [
                _sample(chance, number, day)
                for day in (DAY - 1, DAY)
                for number in chance.sample(range(1, GONE + 1), 5)
            ],
        }
    )


def _repositories(chance: random.Random) -> list[Row]:
    found = [repository(number, name) for number, name in enumerate(NAMES, 1)]
    for row in found:
        row.update(created_at=_minutes(chance, 4), updated_at=_minutes(chance, 4))
        row.update(state="active", deleted_at=None)
    found[-1].update(state="deleted", deleted_at=NOW)
    return found


def _member(chance: random.Random, index_id: int, position: int, child: Row) -> Row:
    says = chance.random() < 0.7
    return {
        "index_id": index_id,
        "position": position,
        "child_digest": child["digest"],
        "child_id": child["id"],
        "blob_id": None,
        "absence": None,
        "media_type": child["media_type"],
        "size_bytes": 5,
        "os": "linux" if says else None,
        "architecture": chance.choice(["amd64", "arm64"]) if says else None,
        "variant": None,
    }


def _label(manifest_id: int, origin: str, name: str, value: str) -> Row:
    said = {"manifest_id": manifest_id, "origin": origin, "name": name, "value": value}
    return {**said, "text_key": text_key(text_of(value))}


def _pull(chance: random.Random, of: Row, by: str, day: int) -> Row:
    return {
        "repository_id": of["repository_id"],
        "digest": of["digest"],
        "tag": by,
        "day": day,
        "pulls": chance.randrange(1, 4),
        "last_pulled_at": _minutes(chance),
    }


def _sample(chance: random.Random, repository_id: int, day: int) -> Row:
    sizes = {name: chance.randrange(3) for name in ("tags", "manifests", "blobs", "logical_bytes")}
    more = {"unique_bytes": chance.randrange(3), "exclusive_bytes": 0}
    return {"day": day, "repository_id": repository_id, "sampled_at": NOW, **sizes, **more}


def insert(database: Database, rows: Rows) -> None:
    """Put the rows into a database, what trigrams find included."""
    with database.transaction("test") as connection:
        for table in Base.metadata.sorted_tables:
            if rows.tables.get(table.name):
                connection.execute(sa.insert(table), rows.tables[table.name])
        if database.is_sqlite:
            for name, column in (("repositories", "name"), ("tag_names", "folded")):
                text = f"INSERT INTO {name}_fts (rowid, {column}) SELECT id, {column} FROM {name}"
                connection.execute(sa.text(text))
