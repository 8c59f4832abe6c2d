"""The search box: what it finds, in which order, and that both databases find the same."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from regmeta import models
from regmeta.db import Database
from regmeta.errors import UsageError
from regmeta.ingest import searchable
from regmeta.oci.digest import Digest
from regmeta.oci.folding import folded, text_key, text_of
from regmeta.query import search as box
from regmeta.query.search import patterns, repositories, search, tags, texts
from regmeta.query.visibility import UnderPrefixes
from tests.support.statements import counted

PARTS = ["nginx", "redis", "app", "web-api", "v1", "team", "x.y", "a_b", "0ad", "node_exporter"]
ODD = ["a%b", "x*yz", "q?z[1]", "w[abc]", 'quo"te', "back\\slash", "Ünï/cöde", "ﬁne"]
TAGS = ["v1", "V1", "v1.0", "v1.10", "latest", "Latest", "1.2-nginx", "RELEASE-v1", "nightly", "_x"]
TEXTS = ["MIT", "mit license", "A web server.", "100% a_b*c?[d]", "https://example.org/nginx", "İstanbul"]

Row = dict[str, Any]
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def digest(number: int) -> Digest:
    return Digest("sha256", hashlib.sha256(str(number).encode()).hexdigest())


class World:
    """Repositories with tags and labels, written as an ingest does, and kept here to be asked in Python."""

    def __init__(self, database: Database) -> None:
        self.database = database
        chosen = random.Random(7)
        names = {"/".join(chosen.choices(PARTS, k=chosen.randint(1, 3))) for _ in range(120)}
        self.names = [*sorted(names), *ODD]
        chosen.shuffle(self.names)
        self.tags: list[tuple[str, str]] = []  # repository, tag
        self.labels: list[tuple[str, int, str, str]] = []  # repository, manifest, name, value
        with database.transaction("test") as connection:
            for number, name in enumerate(self.names, 1):
                self._add(connection, number, name, chosen)

    def _add(self, connection: Any, number: int, name: str, chosen: random.Random) -> None:
        row = {
            "id": number,
            "name": name,
            "leaf": name.rpartition("/")[2],
            "created_at": NOW,
            "updated_at": NOW,
        }
        connection.execute(sa.insert(models.Repository), row)
        searchable.add_repositories(connection, {number: name})
        add_image(connection, number, number)
        chosen_tags = chosen.sample(TAGS, 3)
        add_tags(connection, number, number, chosen_tags)
        self.tags += [(name, tag) for tag in chosen_tags]
        value = chosen.choice(TEXTS)
        add_labels(connection, number, {"note": value})
        self.labels.append((name, number, "note", value))


def add_image(connection: Any, number: int, repository: int) -> None:
    of = digest(number)
    blob = {
        "id": number,
        "digest": of,
        "size_bytes": 2,
        "key": f"k{number}",
        "lease_until": NOW,
        "created_at": NOW,
    }
    connection.execute(sa.insert(models.Blob), blob)
    link = {"repository_id": repository, "blob_id": number, "linked_at": NOW}
    connection.execute(sa.insert(models.RepositoryBlob), link)
    manifest = {
        "id": number,
        "repository_id": repository,
        "digest": of,
        "kind": "image",
        "media_type": "application/vnd.oci.image.manifest.v1+json",
        "size_bytes": 2,
        "content": b"{}",
        "blob_id": number,
        "pushed_at": NOW,
        "pushed_by": "tester",
        "lease_until": NOW,
    }
    table: Any = models.Manifest.__table__
    connection.execute(sa.insert(table), manifest)


def add_tags(connection: Any, repository: int, manifest: int, names: list[str]) -> None:
    rows = [
        {
            "repository_id": repository,
            "name": name,
            "manifest_digest": digest(manifest),
            "manifest_id": manifest,
            "started_at": NOW,
            "started_by": "tester",
        }
        for name in names
    ]
    connection.execute(sa.insert(models.Tag), rows)
    searchable.add_tags(connection, names)


def add_labels(connection: Any, manifest: int, values: dict[str, str]) -> None:
    rows = [
        {
            "manifest_id": manifest,
            "origin": "config",
            "name": name,
            "value": value,
            "text_key": text_key(text_of(value)),
        }
        for name, value in values.items()
    ]
    connection.execute(sa.insert(models.Label), rows)
    searchable.add_labels(connection, rows)


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


# --- the model: what is said in docs/search.md --------------------------------------------------


def expected_repositories(names: list[str], term: str) -> list[str]:
    ranked = []
    for name in names:
        leaf = name.rpartition("/")[2]
        if name == term:
            ranked.append((0, "", name))
        elif leaf == term:
            ranked.append((1, "", name))
        elif name.startswith(term):
            ranked.append((2, "", name))
        elif leaf.startswith(term):
            ranked.append((3, leaf, name))
        elif term in name and patterns.has_trigram(term):
            ranked.append((4, "", name))
    return [
        name for _, _, name in sorted(ranked, key=lambda item: (item[0], item[1].encode(), item[2].encode()))
    ]


def rank(text: str, term: str) -> int:
    return 0 if text == term else 1 if text.startswith(term) else 2


def expected_anywhere(tags: list[tuple[str, str]], term: str) -> list[tuple[str, str]]:
    inside = patterns.has_trigram(term)
    hits = [t for t in tags if folded(t[1]).startswith(term) or (inside and term in folded(t[1]))]
    return sorted(hits, key=lambda t: (rank(folded(t[1]), term), folded(t[1]), t[1].encode(), t[0].encode()))


def expected_within(world: World, repository: str, term: str) -> list[tuple[str, str]]:
    found = []
    for name in expected_repositories(world.names, repository)[: tags.REPOSITORIES]:
        mine = [t for r, t in world.tags if r == name and folded(t).startswith(term)]
        found += [(name, t) for t in sorted(mine, key=lambda t: (folded(t) != term, folded(t), t))]
    return found


def expected_texts(labels: list[tuple[str, int, str, str]], term: str) -> list[tuple[str, str]]:
    if not patterns.has_trigram(term):
        return []
    hits = [(text_of(value), name, label) for name, _, label, value in labels if term in text_of(value)]
    hits.sort(key=lambda hit: (rank(hit[0], term), hit[0].encode(), hit[1].encode(), hit[2]))
    return [(name, label) for _, name, label in hits]


def check(world: World, text: str, limit: int = 1000) -> None:
    """Compare all that a text finds with the model."""
    found = search(world.database, text, limit=limit)
    term = folded(text.strip()).strip()
    head, colon, tag = term.rpartition(":")
    is_tag = bool(colon) and not ("/" in tag or ":" in head or " " in term)
    wanted = [] if is_tag else expected_repositories(world.names, term)
    if not found.digests.items and "@" not in text:
        assert [hit.name for hit in found.repositories.items] == wanted[:limit], text
        assert found.repositories.more == (len(wanted) > limit)
    if is_tag:
        pairs = expected_within(world, head, tag) if head else expected_anywhere(world.tags, tag)
        assert [(hit.repository, hit.tag) for hit in found.tags.items] == pairs[:limit], text
        assert found.tags.more == (len(pairs) > limit)
    else:
        said = expected_texts(world.labels, term)
        assert [(hit.repository, hit.label) for hit in found.texts.items] == said[:limit], text
        for hit in found.texts.items:
            assert hit.start == hit.end or folded(hit.snippet[hit.start : hit.end]) == term


FIXED = [
    *(
        "nginx",
        "NGINX",
        "team/app",
        "app",
        "a_b",
        "a%b",
        "x*yz",
        "q?z[1]",
        "[1]",
        "[abc",
        'quo"te',
        "back\\s",
    ),
    *(
        "ünï",
        "cöde",
        "FINE",
        "ap",
        "v",
        "/app",
        "app/",
        "---",
        "a--",
        "--a",
        ":v1",
        ":V1.",
        ":latest",
        ":nginx",
    ),
    *(":x", "app:", "app:v1", "team:V1", "nginx:n", "nosuch:v1", "mit", "MIT license", "web server", "100%"),
    *(
        "a_b*c",
        "c?[d]",
        "https://example.org/ng",
        "istanbul",
        "i̇stanbul",
        "%%%",
        "***",
        "nosuchthing",
        "app:_",
    ),
]


@pytest.mark.parametrize("limit", [1, 5, 1000])
def test_what_is_found_and_its_order_are_those_of_the_documentation(world: World, limit: int) -> None:
    for text in FIXED:
        check(world, text, limit)


_terms = st.one_of(
    st.text(st.sampled_from('anvt1/._-%*?[]:"\\Ü '), min_size=1, max_size=6),
    st.sampled_from([*PARTS, *ODD, *TAGS, *TEXTS]).flatmap(
        lambda text: st.tuples(
            st.sampled_from(["", ":", "app:", "X"]), st.integers(0, 4), st.integers(1, 9), st.booleans()
        ).map(lambda cut: cut[0] + (text.upper() if cut[3] else text)[cut[1] : cut[1] + cut[2]])
    ),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_terms)
@example("x*y")
@example(":a--")
def test_any_text_finds_what_the_model_finds(world: World, text: str) -> None:
    if folded(text.strip()).strip().strip(":"):
        check(world, text)


@pytest.mark.parametrize("way", ["bitmap", "ids"])
def test_both_ways_of_postgresql_find_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if world.database.is_sqlite:
        pytest.skip("SQLite has one way")
    for module in (repositories, tags, texts):
        monkeypatch.setattr(module, "way_to", lambda *_: way)
    for text in FIXED:
        check(world, text)


def test_trigrams_are_used_after_many_runs(world: World) -> None:
    """A plan that PostgreSQL makes once for all parameters would scan the tables."""
    with world.database.transaction("test") as connection:
        rows: list[Row] = [
            {"id": i, "name": f"n{i}", "leaf": f"n{i}", "created_at": NOW, "updated_at": NOW}
            for i in range(1000, 9000)
        ]
        connection.execute(sa.insert(models.Repository), rows)
        searchable.add_repositories(connection, {row["id"]: row["name"] for row in rows})
    if not world.database.is_sqlite:
        with world.database.transaction("test") as connection:
            connection.exec_driver_sql("ANALYZE repositories")
    sent: list[tuple[str, Any]] = []
    event = "before_cursor_execute"

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        sent.append((statement, parameters))

    sa.event.listen(world.database.engine, event, note)
    for number in range(12):
        search(world.database, f"eb-a{'p' * (number % 2)}", kinds=["repositories"])
    sa.event.remove(world.database.engine, event, note)
    asked = [pair for pair in sent if "MATCH" in pair[0] or "LIKE '%%eb-a" in pair[0]]
    asked = [pair for pair in asked if "EXPLAIN" not in pair[0]]
    assert len(asked) == 12
    how = "EXPLAIN QUERY PLAN" if world.database.is_sqlite else "EXPLAIN"
    with world.database.read() as connection:
        for text, of in asked:
            plan = str(connection.exec_driver_sql(f"{how} {text}", of).all())
            assert ("VIRTUAL TABLE INDEX" if world.database.is_sqlite else "ix_repositories_trigrams") in plan
            assert "SCAN repositories'" not in plan
            assert "Seq Scan" not in plan


# --- digests ------------------------------------------------------------------------------------


def test_digests_are_found_by_any_prefix(world: World) -> None:
    of = digest(5)
    name = world.names[4]
    mine = sorted(tag for repository, tag in world.tags if repository == name)
    for text in (str(of), of.hex, of.hex.upper(), of.hex[:7], f"SHA256:{of.hex[:9]}", f"sha256:{of.hex[:8]}"):
        [hit] = search(world.database, text).digests.items
        assert (hit.kind, hit.digest, hit.repositories) == ("image", of, (name,))
        assert sorted(hit.tags) == mine
        assert hit.match == ("exact" if of.hex == folded(text).removeprefix("sha256:") else "prefix")
    assert search(world.database, of.hex[:5]).digests.items == ()
    begin = sum(digest(number).hex.startswith("ab") for number in range(1, len(world.names) + 1))
    assert len(search(world.database, "sha256:ab", limit=1000).digests.items) == begin
    assert search(world.database, f"{world.names[5]}@{of}").digests.items == ()
    [hit] = search(world.database, f"{name}@sha256:{of.hex[:3]}").digests.items
    assert hit.digest == of
    assert search(world.database, f"nosuch@{of}").digests.items == ()
    assert search(world.database, "sha512:" + of.hex).digests.items == ()
    last = "f" * 64
    assert search(world.database, f"sha256:{last}").digests.items == ()


def test_blob_is_found_with_the_repositories_that_hold_it(world: World) -> None:
    of = digest(9999)
    blob = {"id": 9999, "digest": of, "size_bytes": 7, "key": "k", "lease_until": NOW, "created_at": NOW}
    with world.database.transaction("test") as connection:
        connection.execute(sa.insert(models.Blob), blob)
    assert search(world.database, str(of)).digests.items == (), "nobody may read it"
    holders = [2, 3]
    with world.database.transaction("test") as connection:
        links = [{"repository_id": n, "blob_id": 9999, "linked_at": NOW} for n in holders]
        connection.execute(sa.insert(models.RepositoryBlob), links)
    names = tuple(sorted(world.names[n - 1] for n in holders))
    [hit] = search(world.database, of.hex[:10]).digests.items
    assert (hit.kind, hit.digest, hit.size_bytes, hit.repositories) == ("blob", of, 7, names)
    [hit] = search(world.database, f"{world.names[1]}@{of}").digests.items
    assert hit.repositories == (world.names[1],)
    one = UnderPrefixes([world.names[2]])
    [hit] = search(world.database, str(of), visible=one).digests.items
    assert hit.repositories == (world.names[2],)
    assert search(world.database, str(of), visible=UnderPrefixes([])).digests.items == ()


def test_damaged_digest_does_not_fail_the_answer(world: World) -> None:
    if not world.database.is_sqlite:
        pytest.skip("only SQLite keeps what other programs write")
    name, tag = world.tags[0]
    with world.database.transaction("test") as connection:
        connection.exec_driver_sql("UPDATE tags SET manifest_digest = x'01ff'")
        connection.exec_driver_sql("UPDATE manifests SET digest = x'01' || substr(digest, 2, 5)")
    hits = search(world.database, f"{name}:{tag}").tags.items
    assert hits[0].digest is None
    assert search(world.database, "mit").texts.items[0].digest is None
    assert search(world.database, f"sha256:{digest(1).hex[:4]}").digests.items == ()


def test_digest_that_is_no_text_does_not_fail_the_answer(world: World) -> None:
    if not world.database.is_sqlite:
        pytest.skip("only SQLite keeps what other programs write")
    name, tag = world.tags[0]
    with world.database.transaction("test") as connection:
        for table, column in (("tags", "manifest_digest"), ("manifests", "digest"), ("blobs", "digest")):
            connection.exec_driver_sql(f"UPDATE {table} SET {column} = CAST(x'01ff' || {column} AS TEXT)")
    hits = search(world.database, f"{name}:{tag}").tags.items
    assert hits[0].digest is None
    assert search(world.database, "mit").texts.items[0].digest is None
    assert search(world.database, f"sha256:{digest(1).hex[:4]}").digests.items == ()


# --- what is left out ---------------------------------------------------------------------------


def test_what_is_left_of_a_deleted_manifest_is_no_blob(world: World) -> None:
    for prefix in (str(digest(5)), f"{world.names[4]}@{digest(5)}"):
        with world.database.transaction("test") as connection:
            connection.execute(sa.text("UPDATE manifests SET deleted_at = NULL"))
            links = sa.text("DELETE FROM repository_blobs WHERE blob_id = 5 AND repository_id = 6")
            connection.execute(links)
        [hit] = search(world.database, prefix).digests.items
        assert hit.kind == "image"
        with world.database.transaction("test") as connection:
            connection.execute(sa.text("UPDATE manifests SET deleted_at = 1 WHERE id = 5"))
        assert search(world.database, prefix).digests.items == ()
        assert search(world.database, str(digest(6))).digests.items
        with world.database.transaction("test") as connection:
            link = {"repository_id": 6, "blob_id": 5, "linked_at": NOW}
            connection.execute(sa.insert(models.RepositoryBlob), link)
        found = search(world.database, prefix).digests.items
        assert [hit.repositories for hit in found] == ([] if "@" in prefix else [(world.names[5],)])


def test_deleted_things_are_not_found(world: World) -> None:
    repository = world.names.index("nginx") + 1 if "nginx" in world.names else 1
    name = world.names[repository - 1]
    assert name in [hit.name for hit in search(world.database, name).repositories.items]
    of = digest(repository)
    with world.database.transaction("test") as connection:
        connection.execute(
            sa.text("UPDATE repositories SET state = 'deleted' WHERE id = :id"), {"id": repository}
        )
    found = search(world.database, name, limit=1000)
    assert name not in [hit.name for hit in found.repositories.items]
    assert all(hit.repository != name for hit in search(world.database, f"{name}:", limit=1000).tags.items)
    assert all(hit.repository != name for hit in search(world.database, ":v1", limit=1000).tags.items)
    assert search(world.database, str(of)).digests.items == ()
    with world.database.transaction("test") as connection:
        connection.execute(
            sa.text("UPDATE repositories SET state = 'active' WHERE id = :id"), {"id": repository}
        )
        connection.execute(
            sa.text("UPDATE tags SET ended_at = started_at + 1 WHERE repository_id = :id"), {"id": repository}
        )
        connection.execute(sa.text("UPDATE manifests SET deleted_at = 1 WHERE id = :id"), {"id": repository})
    assert all(hit.repository != name for hit in search(world.database, f"{name}:", limit=1000).tags.items)
    assert all(hit.kind == "blob" for hit in search(world.database, str(of)).digests.items)
    for term in ("mit", "server", "100%"):
        assert name not in [hit.repository for hit in search(world.database, term, limit=1000).texts.items]


def test_what_is_not_visible_is_answered_as_if_it_were_not_there(world: World) -> None:
    asked = [*FIXED, *(f"sha256:{number:02x}" for number in range(0, 256, 8)), "nginx@sha256:1a"]
    prefixes = ("team", "nginx")
    seen = [search(world.database, t, limit=1000, visible=UnderPrefixes(prefixes)) for t in asked]
    hidden = [n for n in world.names if not any(n == p or n.startswith(f"{p}/") for p in prefixes)]
    with world.database.transaction("test") as connection:
        statement = sa.text("UPDATE repositories SET state = 'purging' WHERE name = :name")
        connection.execute(statement, [{"name": name} for name in hidden])
    for text, found in zip(asked, seen, strict=True):
        assert search(world.database, text, limit=1000) == found, text


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.soak_on_postgresql
def test_beyond_a_thousand_candidates_the_oldest_are_ranked_and_exact_ones_are_not_lost(
    database: Database,
) -> None:
    rows: list[Row]
    names = [f"z{number:04}/inside-x" for number in range(1200, 0, -1)] + ["inside"]
    with database.transaction("test") as connection:
        rows = [
            {"id": i, "name": n, "leaf": n.rpartition("/")[2], "created_at": NOW, "updated_at": NOW}
            for i, n in enumerate(names, 1)
        ]
        connection.execute(sa.insert(models.Repository), rows)
        searchable.add_repositories(connection, {row["id"]: row["name"] for row in rows})
        for row in rows:
            add_image(connection, row["id"], row["id"])
            add_tags(connection, row["id"], row["id"], ["latest"])
            add_labels(connection, row["id"], {"note": f"the same {row['id']}"})
        add_labels(connection, 1, {"exactly": "same"})
    found = search(database, "nside-x", limit=3).repositories
    assert (found.more, found.cut) == (True, True)
    assert [hit.name for hit in found.items] == ["z0201/inside-x", "z0202/inside-x", "z0203/inside-x"]
    best = search(database, "inside", limit=2).repositories
    assert [hit.match for hit in best.items] == ["exact", "prefix"]
    assert not best.cut
    latest = search(database, ":latest", limit=2).tags
    assert (latest.more, latest.cut) == (True, True)
    # Of tags ten times the limit is ranked, 200 at least.
    assert [hit.repository for hit in latest.items] == ["z1001/inside-x", "z1002/inside-x"]
    latest = search(database, ":latest", limit=100).tags
    assert [hit.repository for hit in latest.items[:2]] == ["z0201/inside-x", "z0202/inside-x"]
    said = search(database, "same", limit=1000).texts
    assert said.cut
    assert (said.items[0].label, said.items[0].match) == ("exactly", "exact")
    with counted(database.engine) as sent:
        search(database, "same")
    assert len(sent) <= 17, str(sent)


@pytest.mark.parametrize(
    "text",
    [*("", "  ", ":", "x" * 513, "a\0b", "\udcff"), *("sha256:", "SHA512:a", "app@sha256:", "app@sha256:f")],
)
def test_text_that_asks_for_nothing_is_refused(database: Database, text: str) -> None:
    with pytest.raises(UsageError):
        search(database, text)


def test_limits_and_kinds_are_checked(database: Database) -> None:
    for wrong in (0, -1, box.MAX_LIMIT + 1):
        with pytest.raises(UsageError, match="limit"):
            search(database, "app", limit=wrong)
    for kinds in ([], ["images"]):
        with pytest.raises(UsageError, match="kind"):
            search(database, "app", kinds=kinds)  # type: ignore[arg-type]


def add_repository(connection: Any, number: int, name: str) -> None:
    row = {"id": number, "name": name, "leaf": name.rpartition("/")[2], "created_at": NOW, "updated_at": NOW}
    connection.execute(sa.insert(models.Repository), row)
    searchable.add_repositories(connection, {number: name})
    add_image(connection, number, number)


def test_what_is_hidden_or_dead_takes_no_place_among_the_candidates(database: Database) -> None:
    many = range(box.MAX_LIMIT + 100)
    with database.transaction("test") as connection:
        add_repository(connection, 1, "secret/a")
        add_repository(connection, 2, "open/b")
        add_tags(connection, 1, 1, [f"rel-{number:05}" for number in many])
        add_tags(connection, 2, 2, ["rel-z", "xrel-9"])
        for number in many:
            add_labels(connection, 1, {f"note{number}": f"hello {number:05} world"})
        add_labels(connection, 2, {"note": "hello there", "other": "say hello"})

    def asked(**options: Any) -> None:
        said = search(database, "hello", **options).texts
        assert ([hit.label for hit in said.items], said.more, said.cut) == (["note", "other"], False, False)
        for text, names in (
            (":rel", ["rel-z", "xrel-9"]),
            (":rel-z", ["rel-z"]),
            (":el-", ["rel-z", "xrel-9"]),
        ):
            found = search(database, text, **options).tags
            assert [(hit.repository, hit.tag) for hit in found.items] == [("open/b", name) for name in names]
            assert (found.more, found.cut) == (False, False)

    asked(visible=UnderPrefixes(["open"]))
    with database.transaction("test") as connection:
        connection.execute(sa.text("UPDATE manifests SET deleted_at = 1 WHERE id = 1"))
        end = "UPDATE tags SET ended_at = started_at + 1, ended_by = 'x', manifest_id = NULL"
        connection.execute(sa.text(f"{end} WHERE repository_id = 1"))
    asked()
    asked(limit=1000)
    asked(visible=UnderPrefixes(["open", "secret"]))


@pytest.mark.parametrize("way", ["bitmap", "ids"])
def test_hidden_and_dead_ones_take_no_place_either_way_of_postgresql(
    database: Database, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one way")
    for module in (tags, texts):
        monkeypatch.setattr(module, "way_to", lambda *_: way)
    test_what_is_hidden_or_dead_takes_no_place_among_the_candidates(database)


# --- texts --------------------------------------------------------------------------------------


def test_text_that_annotation_and_label_say_is_shown_as_annotation(database: Database) -> None:
    with database.transaction("test") as connection:
        add_repository(connection, 1, "app")
        add_labels(connection, 1, {"note": "a web server"})
        both = sa.text(
            "INSERT INTO labels (manifest_id, origin, name, value, text_key)"
            " SELECT manifest_id, 'annotation', name, value, text_key FROM labels"
        )
        connection.execute(both)
    [hit] = search(database, "web server").texts.items
    assert hit.origin == "annotation"


def test_text_is_shown_with_the_newest_image_that_says_it_and_its_tag(database: Database) -> None:
    with database.transaction("test") as connection:
        row = {"id": 1, "name": "app", "leaf": "app", "created_at": NOW, "updated_at": NOW}
        connection.execute(sa.insert(models.Repository), row)
        for number in (1, 2, 3):
            add_image(connection, number, 1)
            add_labels(connection, number, {"description": f"{'x ' * 60}A Web SERVER for all{' y' * 60}"})
        add_tags(connection, 1, 2, ["old"])
        member = {
            "index_id": 1,
            "position": 0,
            "child_digest": digest(3),
            "child_id": 3,
            "blob_id": None,
            "absence": None,
            "media_type": "m",
            "size_bytes": 2,
        }
        connection.execute(sa.insert(models.IndexMember), member)
        add_tags(connection, 1, 1, ["multi"])
    [hit] = search(database, "web server").texts.items
    assert (hit.repository, hit.digest, hit.tag, hit.label) == ("app", digest(3), "multi", "description")
    assert hit.snippet[hit.start : hit.end] == "Web SERVER"
    assert hit.snippet.startswith("…")
    assert hit.snippet.endswith("…")
    assert len(hit.snippet) <= 2 * texts.AROUND + len("web server") + 2


def test_a_colon_is_part_of_the_text_if_only_texts_are_asked_for(world: World) -> None:
    assert search(world.database, "https:", kinds=["texts"]).texts.items
    assert search(world.database, "https:").texts.items == ()
