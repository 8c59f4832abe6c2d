"""Lists say what the rows say: every filter, every order, page by page, on both databases."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, get_args

import pytest
import sqlalchemy as sa

from regmeta import errors
from regmeta.db import Database
from regmeta.models import Repository
from regmeta.oci import globs
from regmeta.oci.signatures import NOTATION
from regmeta.query.lists import every
from regmeta.query.lists.blobs import BlobFilter, BlobSort, blobs
from regmeta.query.lists.manifests import ManifestFilter, ManifestSort, manifests
from regmeta.query.lists.repositories import RepositoryFilter, RepositorySort, repositories
from regmeta.query.lists.tags import TagFilter, TagSort, tags
from regmeta.query.visibility import UnderPrefixes
from tests.contract.query.lists_rows import DAY, GONE, NAMES, TYPES, Rows, insert, random_rows
from tests.support.clock import let_pass
from tests.support.registry import change
from tests.support.seed import NOW, Row

TIME, LATER = NOW + timedelta(minutes=8), NOW + timedelta(minutes=20)
TEAM = UnderPrefixes(["team"])
SCOPES = ("team/app", None)

Key = Callable[[Any], Any]


@pytest.fixture
def rows(database: Database) -> Rows:
    made = random_rows(7)
    insert(database, made)
    return made


def ordered(items: Iterable[Any], value: Key, ties: Key, descending: bool) -> list[Any]:
    """Sort as lists are: what has no value comes last, whichever the direction."""
    found = list(items)
    with_value = sorted(
        (i for i in found if value(i) is not None), key=lambda i: (value(i), ties(i)), reverse=descending
    )
    return with_value + sorted((i for i in found if value(i) is None), key=ties, reverse=descending)


def walked(page: Callable[..., Any], *arguments: Any, limit: int = 7, **options: Any) -> list[Any]:
    """Read a whole list in small pages."""
    return list(every(lambda after: page(*arguments, after=after, limit=limit, **options)))


# --- what filters mean ------------------------------------------------------------------------


def platforms(rows: Rows, of: Row) -> list[tuple[Any, Any, Any]]:
    found = [(of["os"], of["architecture"], of["variant"])]
    if of["kind"] == "index":
        for member in rows.index_manifests:
            if member["index_id"] == of["id"]:
                child = rows.manifest(member["child_id"])
                said = (member[n] or child[n] for n in ("os", "architecture", "variant"))
                os, architecture, variant = said
                found.append((os, architecture, variant))
    return found


def runs_on(rows: Rows, of: Row, *wanted: str | None) -> bool:
    return any(
        all(want in (None, has) for want, has in zip(wanted, each, strict=True))
        for each in platforms(rows, of)
    )


def labels(rows: Rows, of: Row) -> set[tuple[str, str]]:
    return {(each["name"], each["value"]) for each in rows.labels if each["manifest_id"] == of["id"]}


def referrers(rows: Rows, of: Row) -> list[Row]:
    return [
        m
        for m in rows.here()
        if m["repository_id"] == of["repository_id"] and m["subject_digest"] == of["digest"]
    ]


def signed(rows: Rows, of: Row) -> bool:
    return any(m["artifact_type"] == NOTATION for m in referrers(rows, of))


def within(value: Any, start: Any, end: Any) -> bool:
    return value is not None and start <= value < end


def image_cases(rows: Rows) -> list[tuple[dict[str, Any], Callable[[Row, Any], bool]]]:
    """Return filters that tags and manifests share, and what each means of a manifest and its last pull."""
    some = rows.manifest(20)["digest"]
    return [
        ({"media_type": TYPES[0]}, lambda m, _: m["media_type"] == TYPES[0]),
        ({"artifact_type": TYPES[1]}, lambda m, _: m["artifact_type"] == TYPES[1]),
        ({"os": "linux"}, lambda m, _: runs_on(rows, m, "linux", None, None)),
        ({"architecture": "arm64"}, lambda m, _: runs_on(rows, m, None, "arm64", None)),
        (
            {"os": "linux", "architecture": "arm64", "variant": "v8"},
            lambda m, _: runs_on(rows, m, "linux", "arm64", "v8"),
        ),
        ({"labels": (("vendor", "ACME"),)}, lambda m, _: ("vendor", "ACME") in labels(rows, m)),
        ({"labels": (("team", ""),)}, lambda m, _: ("team", "") in labels(rows, m)),
        ({"labels": (("team", None),)}, lambda m, _: "team" in dict(labels(rows, m))),
        (
            {"labels": (("team", None), ("vendor", "x=y"))},
            lambda m, _: "team" in dict(labels(rows, m)) and ("vendor", "x=y") in labels(rows, m),
        ),
        ({"signed": True}, lambda m, _: signed(rows, m)),
        ({"signed": False}, lambda m, _: not signed(rows, m)),
        ({"digest": some}, lambda m, _: m["digest"] == some),
        (
            {"min_bytes": 1000, "max_bytes": 3000},
            lambda m, _: within(m["total_size_bytes"], 1000, 3001),
        ),
        (
            {"created_from": TIME, "created_until": LATER},
            lambda m, _: within(m["image_created_at"], TIME, LATER),
        ),
        ({"pushed_from": TIME, "pushed_until": LATER}, lambda m, _: within(m["pushed_at"], TIME, LATER)),
        ({"pulled": True}, lambda _, pulled: pulled is not None),
        ({"pulled": False}, lambda _, pulled: pulled is None),
        ({"pulled_from": TIME, "pulled_until": LATER}, lambda _, pulled: within(pulled, TIME, LATER)),
        (
            {"architecture": "amd64", "signed": False, "pushed_from": TIME},
            lambda m, _: (
                runs_on(rows, m, None, "amd64", None) and not signed(rows, m) and m["pushed_at"] >= TIME
            ),
        ),
    ]


# --- tags -------------------------------------------------------------------------------------

TAG_NAMES: list[tuple[dict[str, Any], Callable[[str], bool]]] = [
    *(
        ({"name": pattern}, lambda name, pattern=pattern: globs.matches((pattern,), name))
        for pattern in ("v1", "v1*", "*", "v?", "[vV]1", "{v1,dev*}", "*-*", "dev_*", "[!a]*", "v{1..2}")
    ),
    ({"contains": "v1"}, lambda name: "v1" in name.lower()),
    ({"contains": "DEV"}, lambda name: "dev" in name),
    ({"contains": "_2"}, lambda name: "_2" in name),
    ({"contains": "v_2"}, lambda name: "v_2" in name),
    ({"contains": "[v1]*?"}, lambda _: False),
    ({"begins": "v1"}, lambda name: name.startswith("v1")),
    ({"begins": "v1", "name": "*0*"}, lambda name: name.startswith("v1") and "0" in name),
]


def tag_models(rows: Rows, repository: str | None) -> list[Row]:
    return [t for t in rows.live() if repository in (None, rows.named(t["repository_id"]))]


def same_tags(rows: Rows, found: Iterable[Any], wanted: Iterable[Row]) -> None:
    expected = [(rows.named(t["repository_id"]), t["name"], t["manifest_digest"]) for t in wanted]
    assert [(t.repository, t.name, t.digest) for t in found] == expected


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_every_filter_of_tags_lets_through_what_the_rows_say(
    database: Database, rows: Rows, scope: str | None
) -> None:
    cases: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
        ({"tagged_from": TIME}, lambda t: t["started_at"] >= TIME),
        ({"tagged_until": TIME}, lambda t: t["started_at"] < TIME),
    ]
    cases += [(said, lambda t, m=means: m(t["name"])) for said, means in TAG_NAMES]  # type: ignore[misc]
    for said, means in image_cases(rows):

        def of_its_image(t: Row, means: Any = means) -> bool:
            m = rows.manifest(t["manifest_id"])
            return bool(means(m, rows.pulled(m, t["name"])))

        cases.append((said, of_its_image))
    for said, holds in cases:
        wanted = [t for t in tag_models(rows, scope) if holds(t)]
        wanted.sort(key=lambda t: (t["name"], t["repository_id"]))
        found = tags(database, scope, TagFilter(**said), total=True)
        same_tags(rows, found.items, wanted)
        assert (found.total, found.next) == (len(wanted), None), said


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_every_order_of_tags_is_that_of_its_keys_through_all_pages(
    database: Database, rows: Rows, scope: str | None, descending: bool
) -> None:
    def of(name: str) -> Key:
        return lambda t: rows.manifest(t["manifest_id"])[name]

    keys: dict[str, Key] = {
        "name": lambda t: t["name"],
        "tagged": lambda t: t["started_at"],
        "pushed": of("pushed_at"),
        "created": of("image_created_at"),
        "size": of("total_size_bytes"),
        "pulled": lambda t: rows.pulled(rows.manifest(t["manifest_id"]), t["name"]),
    }
    assert set(keys) == set(get_args(TagSort))
    for sort, value in keys.items():
        ties: Key = lambda t: (t["name"], t["repository_id"])  # noqa: E731
        wanted = ordered(tag_models(rows, scope), value, ties, descending)
        for limit in (1, 3, 7) if scope else (7,):
            found = walked(tags, database, scope, sort=sort, descending=descending, limit=limit)
            same_tags(rows, found, wanted)
        only = TagFilter(name="*1*")
        kept = [t for t in wanted if "1" in t["name"]]
        same_tags(rows, walked(tags, database, scope, only, sort=sort, descending=descending, limit=3), kept)


def test_tag_says_what_its_image_is(database: Database, rows: Rows) -> None:
    for item in tags(database, "app").items:
        row = next(t for t in rows.live() if (t["repository_id"], t["name"]) == (1, item.name))
        image = rows.manifest(row["manifest_id"])
        assert (item.kind, item.media_type, item.artifact_type, item.size_bytes) == (
            image["kind"],
            image["media_type"],
            image["artifact_type"],
            image["total_size_bytes"],
        )
        assert (item.created_at, item.pushed_at) == (image["image_created_at"], image["pushed_at"])
        assert item.pulled_at == rows.pulled(image, item.name)
        assert (item.started_at, item.started_by, item.is_here) == (row["started_at"], "seed", True)


# --- manifests --------------------------------------------------------------------------------


def same_manifests(rows: Rows, found: Iterable[Any], wanted: Iterable[Row]) -> None:
    expected = [(rows.named(m["repository_id"]), m["id"], m["digest"]) for m in wanted]
    assert [(m.repository, m.id, m.digest) for m in found] == expected


def manifest_models(rows: Rows, repository: str | None) -> list[Row]:
    return [m for m in rows.here() if repository in (None, rows.named(m["repository_id"]))]


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_every_filter_of_manifests_lets_through_what_the_rows_say(
    database: Database, rows: Rows, scope: str | None
) -> None:
    tagged = {t["manifest_id"] for t in rows.live()}
    listed = {member["child_id"] for member in rows.index_manifests}
    subject = next(m["subject_digest"] for m in manifest_models(rows, "team/app") if m["subject_digest"])
    cases: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
        ({"kind": "index"}, lambda m: m["kind"] == "index"),
        ({"tagged": True}, lambda m: m["id"] in tagged),
        ({"tagged": False}, lambda m: m["id"] not in tagged),
        ({"subject": subject}, lambda m: m["subject_digest"] == subject),
        ({"has_referrers": True}, lambda m: bool(referrers(rows, m))),
        ({"has_referrers": False}, lambda m: not referrers(rows, m)),
        ({"in_index": True}, lambda m: m["id"] in listed),
        ({"in_index": False, "tagged": False}, lambda m: m["id"] not in listed | tagged),
    ]
    for said, means in image_cases(rows):
        cases.append((said, lambda m, means=means: means(m, rows.pulled(m))))  # type: ignore[misc]
    for said, holds in cases:
        wanted = [m for m in manifest_models(rows, scope) if holds(m)]
        wanted.sort(key=lambda m: (m["pushed_at"], m["id"]))
        found = manifests(database, scope, ManifestFilter(**said), total=True)
        same_manifests(rows, found.items, wanted)
        assert (found.total, found.next) == (len(wanted), None), said


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_every_order_of_manifests_is_that_of_its_keys_through_all_pages(
    database: Database, rows: Rows, scope: str | None, descending: bool
) -> None:
    keys: dict[str, Key] = {
        "pushed": lambda m: m["pushed_at"],
        "id": lambda m: m["id"],
        "created": lambda m: m["image_created_at"],
        "size": lambda m: m["total_size_bytes"],
        "pulled": rows.pulled,
    }
    assert set(keys) == set(get_args(ManifestSort))
    for sort, value in keys.items():
        wanted = ordered(manifest_models(rows, scope), value, lambda m: m["id"], descending)
        found = walked(manifests, database, scope, sort=sort, descending=descending)
        same_manifests(rows, found, wanted)
    names = {m.id: m.tags for m in found}
    for number, tags_of in names.items():
        live = sorted(t["name"] for t in rows.live() if t["manifest_id"] == number)
        assert list(tags_of) == live


# --- blobs ------------------------------------------------------------------------------------


def blob_models(rows: Rows, repository: str | None) -> list[Row]:
    linked = {b["blob_id"] for b in rows.repository_blobs if rows.named(b["repository_id"]) == repository}
    return [b for b in rows.blobs if repository is None or b["id"] in linked]


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_every_filter_and_order_of_blobs_is_as_the_rows_say(
    database: Database, rows: Rows, scope: str | None
) -> None:
    used = {b["blob_id"] for b in rows.repository_blobs}
    cases: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
        ({"min_bytes": 2, "max_bytes": 5}, lambda b: 2 <= b["size_bytes"] <= 5),
        ({"created_from": TIME, "created_until": LATER}, lambda b: within(b["created_at"], TIME, LATER)),
        ({"state": "damaged"}, lambda b: b["state"] == "damaged"),
        ({"used": True}, lambda b: b["id"] in used),
        ({"used": False}, lambda b: b["id"] not in used),
    ]
    for said, holds in cases:
        wanted = [b["digest"] for b in blob_models(rows, scope) if holds(b)]
        found = blobs(database, scope, BlobFilter(**said), total=True)
        assert [b.digest for b in found.items] == sorted(wanted, key=lambda d: d.to_bytes())
        assert (found.total, found.next) == (len(wanted), None), said
    keys: dict[str, Key] = {
        "digest": lambda b: b["digest"].to_bytes(),
        "size": lambda b: b["size_bytes"],
        "created": lambda b: b["created_at"],
    }
    assert set(keys) == set(get_args(BlobSort))
    for sort, value in keys.items():
        for descending in (False, True):
            wanted = ordered(blob_models(rows, scope), value, lambda b: b["id"], descending)
            found_all = walked(blobs, database, scope, sort=sort, descending=descending)
            assert [(b.digest, b.is_used) for b in found_all] == [
                (b["digest"], b["id"] in used) for b in wanted
            ]


# --- repositories -----------------------------------------------------------------------------


def test_every_filter_of_repositories_lets_through_what_the_rows_say(database: Database, rows: Rows) -> None:
    def has(user: str, kind: str) -> Callable[[Row], bool]:
        ids = {f["repository_id"] for f in rows.favorites if (f["user_name"], f["kind"]) == (user, kind)}
        return lambda r: r["id"] in ids

    tagged = {t["repository_id"] for t in rows.live() if t["name"] == "v1"}
    early, late = NOW + timedelta(minutes=1), NOW + timedelta(minutes=3)
    cases: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
        ({"contains": "team"}, lambda r: "team" in r["name"]),
        ({"contains": "ap"}, lambda r: "ap" in r["name"]),
        ({"contains": "APP"}, lambda r: "app" in r["name"]),
        ({"under": "team"}, lambda r: f"{r['name']}/".startswith("team/")),
        ({"under": "team/app"}, lambda r: f"{r['name']}/".startswith("team/app/")),
        ({"has_tag": "v1"}, lambda r: r["id"] in tagged),
        ({"created_from": early, "created_until": late}, lambda r: within(r["created_at"], early, late)),
        ({"updated_from": early, "updated_until": late}, lambda r: within(r["updated_at"], early, late)),
        ({"starred_by": "ann"}, has("ann", "star")),
        ({"bookmarked_by": "bob"}, has("bob", "bookmark")),
        ({"starred_by": "nobody"}, lambda _: False),
    ]
    for pattern in (
        "team/*",
        "team/**",
        "**/app",
        "**/cache",
        "*",
        "**",
        "{app,team/b}",
        "te*",
        "t*/?",
        "app",
    ):
        cases.append(({"name": pattern}, lambda r, p=pattern: globs.matches((p,), r["name"])))  # type: ignore[misc]
    for said, holds in cases:
        wanted = sorted(r["name"] for r in rows.repositories if r["state"] == "active" and holds(r))
        found = repositories(database, RepositoryFilter(**said), total=True)
        assert [r.name for r in found.items] == wanted, said
        assert (found.total, found.next) == (len(wanted), None), said


@pytest.mark.parametrize("descending", [False, True])
def test_every_order_of_repositories_is_that_of_its_keys_through_all_pages(
    database: Database, rows: Rows, descending: bool
) -> None:
    today = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    # The rows are of that day, and by the database's clock it is now.
    from regmeta import db

    with database.read() as connection:
        days = (db.clock(connection) - today) // timedelta(days=1)
    change(database, f"UPDATE pull_stats SET day = day + {days}")

    def sampled(name: str) -> Key:
        newest = {s["repository_id"]: s[name] for s in rows.usage_samples if s["day"] == DAY}
        return lambda r: newest.get(r["id"])

    def pulls(row: Row) -> int:
        return sum(
            p["pulls"]
            for p in rows.pull_stats
            if p["repository_id"] == row["id"] and DAY - 30 < p["day"] <= DAY
        )

    def stars(row: Row) -> int:
        return sum((f["repository_id"], f["kind"]) == (row["id"], "star") for f in rows.favorites)

    keys: dict[str, Key] = {
        "name": lambda r: r["name"],
        "created": lambda r: r["created_at"],
        "updated": lambda r: r["updated_at"],
        "size": sampled("unique_bytes"),
        "tags": sampled("tags"),
        "manifests": sampled("manifests"),
        "pulls": pulls,
        "stars": stars,
    }
    assert set(keys) == set(get_args(RepositorySort))
    active = [r for r in rows.repositories if r["state"] == "active"]
    for sort, value in keys.items():
        wanted = ordered(active, value, lambda r: r["id"], descending)
        for limit in (1, 2, 100):
            found = walked(repositories, database, sort=sort, descending=descending, limit=limit)
            assert [r.name for r in found] == [r["name"] for r in wanted], sort
    for item in found:
        row = next(r for r in active if r["name"] == item.name)
        live = [t for t in rows.live() if t["repository_id"] == row["id"]]
        here = [m for m in rows.here() if m["repository_id"] == row["id"]]
        assert (item.tags, item.manifests, item.stars) == (len(live), len(here), stars(row))
        assert item.size_bytes == sampled("unique_bytes")(row)


def test_pages_by_size_are_about_the_day_of_the_first(database: Database, rows: Rows) -> None:
    first = repositories(database, sort="size", limit=2)
    before = [r.name for r in repositories(database, sort="size").items]
    change(
        database,
        "INSERT INTO usage_samples SELECT day + 1, repository_id, sampled_at, tags, manifests, blobs,"
        " logical_bytes, 100 - unique_bytes, exclusive_bytes FROM usage_samples WHERE day = :day",
        day=DAY,
    )
    rest = repositories(database, sort="size", after=first.next)
    assert [r.name for r in (*first.items, *rest.items)] == before
    assert [r.name for r in repositories(database, sort="size").items] != before


# --- who sees what ----------------------------------------------------------------------------


def test_what_is_not_visible_is_in_no_list_and_in_no_total(database: Database, rows: Rows) -> None:
    seen = {name for name in NAMES if name == "team" or name.startswith("team/")}
    assert seen == {"team/app", "team/app/cache", "team/b"}
    for sort in get_args(RepositorySort):
        found = repositories(database, sort=sort, total=True, visible=TEAM)
        assert ({r.name for r in found.items}, found.total) == (seen, 3)
    for sort in get_args(TagSort):
        some = tags(database, sort=sort, total=True, visible=TEAM)
        wanted = [t for t in rows.live() if rows.named(t["repository_id"]) in seen]
        assert ({t.repository for t in some.items}, some.total) == (seen, len(wanted))
        assert len(some.items) == len(wanted)
    for of in get_args(ManifestSort):
        images = manifests(database, sort=of, total=True, visible=TEAM)
        expected = [m for m in rows.here() if rows.named(m["repository_id"]) in seen]
        assert ({m.repository for m in images.items}, images.total) == (seen, len(expected))
    readable = {b["blob_id"] for b in rows.repository_blobs if rows.named(b["repository_id"]) in seen}
    assert blobs(database, total=True, visible=TEAM).total == len(readable)
    assert blobs(database, where=BlobFilter(used=False), total=True, visible=TEAM).total == 0
    only_glob = tags(database, where=TagFilter(name="v*"), total=True, visible=TEAM)
    assert only_glob.total == len(only_glob.items)
    nobody = UnderPrefixes([])
    for page in (repositories(database, visible=nobody), tags(database, visible=nobody)):
        assert page.items == ()


def test_one_repository_that_is_not_visible_is_as_if_it_did_not_exist(database: Database, rows: Rows) -> None:
    for read in (tags, manifests, blobs):
        read(database, "team/app", visible=TEAM)
        said = []
        for name in ("app", "none"):
            with pytest.raises(errors.NotFound) as error:
                read(database, name, visible=TEAM)
            said.append(str(error.value).replace(name, "X"))
        assert said[0] == said[1]
    assert rows.named(GONE) == "gone"
    with pytest.raises(errors.NotFound, match="gone"):
        tags(database, "gone")


# --- cursors ----------------------------------------------------------------------------------


def test_cursor_of_another_list_order_or_filter_is_refused(database: Database, rows: Rows) -> None:
    cursor = tags(database, "app", limit=2).next
    assert cursor is not None
    asked: list[Callable[[], Any]] = [
        lambda: tags(database, "team/app", after=cursor),
        lambda: tags(database, after=cursor),
        lambda: tags(database, "app", sort="tagged", after=cursor),
        lambda: tags(database, "app", descending=True, after=cursor),
        lambda: tags(database, "app", TagFilter(os="linux"), after=cursor),
        lambda: manifests(database, "app", after=cursor),
        lambda: repositories(database, after=cursor),
        lambda: blobs(database, after=cursor),
        lambda: tags(database, "app", after=cursor[:-3]),
        lambda: tags(database, "app", after="v1"),
        lambda: tags(database, "app", after=""),
    ]
    for ask in asked:
        with pytest.raises(errors.UsageError, match="--after"):
            ask()


def test_cursor_holds_while_a_length_of_time_ago_goes_on(database: Database, rows: Rows) -> None:
    where = TagFilter(tagged_from=NOW - timedelta(days=1))
    later = TagFilter(tagged_from=NOW - timedelta(days=1, seconds=-5))
    first = tags(database, "app", where, limit=3)
    rest = tags(database, "app", later, after=first.next)
    assert [t.name for t in (*first.items, *rest.items)] == [t.name for t in tags(database, "app").items]


@pytest.mark.parametrize("sort", get_args(TagSort))
def test_no_stable_tag_is_missed_or_repeated_while_others_come_and_go(
    database: Database, rows: Rows, sort: TagSort
) -> None:
    chance, number = random.Random(3), 10_000
    for descending in (False, True):
        doomed = {t["id"] for t in tag_models(rows, "team/app") if t["id"] % 3 == 0}
        stable = {t["name"] for t in tag_models(rows, "team/app") if t["id"] not in doomed}
        found: list[str] = []
        after = None
        while True:
            page = tags(database, "team/app", sort=sort, descending=descending, after=after, limit=2)
            found += [t.name for t in page.items]
            if page.next is None:
                break
            after = page.next
            if doomed:
                change(database, f"DELETE FROM tags WHERE id = {doomed.pop()}")
            number += 1
            change(
                database,
                "INSERT INTO tags"
                " (id, repository_id, name, manifest_digest, manifest_id, started_at, started_by)"
                " SELECT :id, repository_id, :name, digest, id, :at, 'x' FROM manifests WHERE id = :of",
                id=number,
                name=chance.choice("aAmzv") + f"{number}",
                at=1714979289123456 + chance.randrange(1_800_000_000),
                of=chance.choice([m["id"] for m in manifest_models(rows, "team/app")]),
            )
        assert sorted(name for name in found if name in stable) == sorted(stable)
        change(database, "DELETE FROM tags WHERE id >= 10000")
        gone = {t["id"] for t in tag_models(rows, "team/app") if t["id"] % 3 == 0} - doomed
        rows.tables["tags"] = [t for t in rows.tags if t["id"] not in gone]


# --- bad questions and damaged rows -----------------------------------------------------------


def test_bad_questions_are_refused(database: Database, rows: Rows) -> None:
    asked: list[Callable[[], Any]] = [
        lambda: tags(database, "app", sort="colour"),  # type: ignore[arg-type]
        lambda: tags(database, "app", limit=0),
        lambda: tags(database, "app", TagFilter(name="[")),
        lambda: tags(database, "app", TagFilter(contains="")),
        lambda: tags(database, "app", TagFilter(contains="\udc80")),
        lambda: tags(database, "app", TagFilter(labels=(("a\0", "b"),))),
        lambda: tags(database, "app", TagFilter(labels=(("a", "b"),) * 99)),
        lambda: tags(database, "app", TagFilter(min_bytes=2**63)),
        lambda: tags(database, "app", TagFilter(pushed_from=NOW.replace(tzinfo=None))),
        lambda: tags(database, "app", sort="size", at=NOW),
        lambda: tags(database, "app", TagFilter(os="linux"), at=NOW),
        lambda: tags(database, at=NOW),
        lambda: manifests(database, "app", ManifestFilter(kind="image"), at=NOW),
        lambda: manifests(database, "app", ManifestFilter(kind="x")),  # type: ignore[arg-type]
        lambda: blobs(database, where=BlobFilter(state="x")),  # type: ignore[arg-type]
    ]
    for ask in asked:
        with pytest.raises(errors.UsageError):
            ask()


def test_damaged_row_fails_no_page(database: Database, rows: Rows) -> None:
    let_pass(database, timedelta())
    one = next(t for t in tag_models(rows, "app"))
    change(database, f"UPDATE tags SET manifest_digest = :bad WHERE id = {one['id']}", bad=b"\x09bad")
    change(database, "UPDATE manifests SET pushed_at = 9000000000000000000")
    found = {t.name: t for t in tags(database, "app").items}
    assert (found[one["name"]].digest, found[one["name"]].pushed_at) == (None, None)
    assert len(found) == len(tag_models(rows, "app"))
    assert all(m.pushed_at is None for m in manifests(database, "app").items)


def test_digests_that_are_no_text_fail_no_page(database: Database, rows: Rows) -> None:
    if not database.is_sqlite:
        pytest.skip("only SQLite keeps what other programs write")
    let_pass(database, timedelta())
    for table, column in (("tags", "manifest_digest"), ("manifests", "digest"), ("blobs", "digest")):
        change(database, f"UPDATE {table} SET {column} = CAST(x'01ff' || {column} AS TEXT)")
    pages = (tags(database), tags(database, "app"), manifests(database), blobs(database))
    for page in pages:
        assert page.items
        assert all(item.digest is None for item in page.items)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("{**,a}/*", "a-b"), ("{[,]}a[ab]", "b"), ("x/{**,a}/y", "x/y"), ("{b/**,a}/c", "b/c")],
)
def test_pattern_in_braces_finds_what_it_matches(database: Database, pattern: str, name: str) -> None:
    assert globs.matches((pattern,), name)
    row = {"name": name, "leaf": name.rpartition("/")[2], "created_at": NOW, "updated_at": NOW}
    with database.transaction("test") as connection:
        connection.execute(sa.insert(Repository), row)
    found = repositories(database, where=RepositoryFilter(name=pattern))
    assert [item.name for item in found.items] == [name]
