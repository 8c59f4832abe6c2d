"""Verification finds each kind of damage, exactly, on both databases, and nothing where nothing is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from regmeta.maintain.setup import make_identity
from regmeta.maintain.verify import snapshots
from regmeta.maintain.verify.findings import Kind
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from regmeta.store import new_key
from tests.support.consistency import assert_consistent
from tests.support.copies import forget_index
from tests.support.postgres import Postgres
from tests.support.registry import dump, open_parts, rows, scalar, settings_of
from tests.support.verified import Damaged, Rich, files_of, fill, kinds, spoil, verified

FAR_US = 4_000_000_000_000_000  # [us] the year 2096
Found = set[tuple[str, str]]
Damage = Callable[[Damaged], Found]


@pytest.fixture(scope="module")
def originals(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], tuple[Settings, Rich]]]:
    """A rich registry on each database, made when it is first asked for."""
    made: dict[str, tuple[Settings, Rich]] = {}

    def original(backend: str) -> tuple[Settings, Rich]:
        if backend not in made:
            home = tmp_path_factory.mktemp(f"rich-{backend}") / "home"
            (home / "store").mkdir(parents=True)
            if backend == "sqlite":
                shutil.copyfile(sqlite_template, home / "regmeta.db")
                url = f"sqlite:///{home / 'regmeta.db'}"
            else:
                postgres: Postgres = request.getfixturevalue("postgres")
                url = postgres.url(postgres.create())
            settings = settings_of(home, url)
            database, store = open_parts(settings)
            with closing(store), closing(database):
                make_identity(database, store)
                rich = fill(settings, home.parent)
                assert_consistent(database, store)
            made[backend] = (settings, rich)
        return made[backend]

    yield original
    if "postgresql" in made:
        request.getfixturevalue("postgres").drop(_name(made["postgresql"][0].database))


@pytest.fixture
def registry(
    originals: Callable[[str], tuple[Settings, Rich]],
    backend: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Damaged]:
    """A copy of the rich registry that can be damaged, hard links and all."""
    settings, rich = originals(backend)
    home = tmp_path / "home"
    subprocess.run(["cp", "-a", settings.home, str(home)], check=True)
    url = f"sqlite:///{home / 'regmeta.db'}"
    if backend == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.url(postgres.create(copy_of=_name(settings.database)))
    copied = settings_of(home, url)
    database, store = open_parts(copied)
    yield Damaged(copied, database, store, rich)
    store.close()
    database.close()
    if backend == "postgresql":
        postgres.drop(_name(url))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else works on these registries, so nothing is waited for."""
    monkeypatch.setattr(snapshots, "SETTLING_S", 0.0)


def _name(url: str) -> str:
    return str(sa.make_url(url).database)


# --- nothing is wrong -------------------------------------------------------------------------


def test_sound_registry_has_no_finding(registry: Damaged) -> None:
    report = verified(registry.database, registry.store, host=os.uname().nodename)
    assert report.findings == []
    assert report.objects_read == report.blobs > 20
    assert report.manifests > 15
    assert report.repositories == 5
    assert report.bytes_read == scalar(registry.database, "SELECT sum(size_bytes) FROM blobs")


# --- each kind --------------------------------------------------------------------------------


def object_missing(at: Damaged) -> Found:
    at.path(at.rich["app"]).unlink()
    return {("object-missing", at.rich["app"])}


def object_cut(at: Damaged) -> Found:
    spoil(at.path(at.rich["app"]), b"ap")
    return {("object-size", at.rich["app"])}


def object_grown(at: Damaged) -> Found:
    spoil(at.path(at.rich["app"]), b"apple")
    return {("object-size", at.rich["app"])}


def layer_rotten(at: Damaged) -> Found:
    spoil(at.path(at.rich["app"]), b"apq")
    return {("object-corrupt", at.rich["app"])}


def config_rotten(at: Damaged) -> Found:
    path = at.path(at.rich["config"])
    spoil(path, path.read_bytes().replace(b'"linux"', b'"plan9"'))
    return {("object-corrupt", at.rich["config"])}


def manifest_rotten(at: Damaged) -> Found:
    path = at.path(at.rich["plain"])
    spoil(path, b" " * path.stat().st_size)
    return {("object-corrupt", at.rich["plain"])}


def blob_damaged(at: Damaged) -> Found:
    at.sql("UPDATE blobs SET state = 'damaged' WHERE digest = :of", of=raw(at.rich["app"]))
    return {("blob-damaged", at.rich["app"])}


def object_unknown(at: Damaged) -> Found:
    key = new_key(Digest.parse(at.rich["app"]))
    (at.root / "blobs" / key).write_bytes(b"app")
    return {("object-unknown", key)}


def intent(at: Damaged, host: str, expires_at_us: int) -> str:
    key = new_key(Digest.of(b"new"))
    at.sql(
        "INSERT INTO intents (key, digest, owner, host, created_at, expires_at)"
        " VALUES (:key, :digest, :owner, :host, 1, :until)",
        key=key,
        digest=Digest.of(b"new").to_bytes(),
        owner=uuid4().hex if at.database.is_sqlite else uuid4(),
        host=host,
        until=expires_at_us,
    )
    return key


def intent_of_an_ended_process(at: Damaged) -> Found:
    intent(at, "elsewhere", FAR_US)  # cannot be seen from here
    return {("intent-stale", intent(at, "here", FAR_US))}


def intent_expired(at: Damaged) -> Found:
    return {("intent-stale", intent(at, "elsewhere", 2))}


def tombstone_failing(at: Damaged) -> Found:
    at.sql("UPDATE tombstones SET attempts = 3, last_error = 'EIO' WHERE key = :of", of=at.rich.dead)
    return {("tombstone-stuck", at.rich.dead)}


def tombstone_overdue(at: Damaged) -> Found:
    at.sql("UPDATE tombstones SET not_before = 1 WHERE key = :of", of=at.rich.dead)
    return {("tombstone-stuck", at.rich.dead)}


def manifest_bytes_rotten(at: Damaged) -> Found:
    at.sql("UPDATE manifests SET content = :to WHERE digest = :of", to=b"{}", of=raw(at.rich["nested"]))
    return {("manifest-content", f"team/app@{at.rich['nested']}")}


def manifest_bytes_no_manifest(at: Damaged) -> Found:
    """Bytes and digest that fit together and are no manifest."""
    junk = Digest.of(b"[]")
    at.sql(
        "UPDATE manifests SET content = :to, digest = :as WHERE digest = :of",
        **{"to": b"[]", "as": junk.to_bytes(), "of": raw(at.rich["nested"])},
    )
    return {
        ("manifest-content", f"team/app@{junk}"),
        ("snapshot-drift", "team/app"),
        ("layout-drift", "team/app"),
        ("tag-drift", "team/app:v1"),  # of the interval that has ended
    }


def column_wrong(column: str, value: object) -> Damage:
    def damage(at: Damaged) -> Found:
        at.sql(f"UPDATE manifests SET {column} = :to WHERE digest = :of", to=value, of=raw(at.rich["nested"]))
        return {("manifest-drift", f"team/app@{at.rich['nested']}")}

    return damage


def blob_of_manifest_is_another(at: Damaged) -> Found:
    at.sql(
        "UPDATE manifests SET blob_id = (SELECT id FROM blobs WHERE digest = :to) WHERE digest = :of",
        to=raw(at.rich["app"]),
        of=raw(at.rich["nested"]),
    )
    return {("manifest-drift", f"team/app@{at.rich['nested']}")}


def platform_wrong(at: Damaged) -> Found:
    at.sql("UPDATE manifests SET os = 'plan9' WHERE digest = :of", of=raw(at.rich["docker"]))
    return {("manifest-drift", f"docker@{at.rich['docker']}")}


def edge_missing(at: Damaged) -> Found:
    at.sql(f"DELETE FROM manifest_blobs WHERE position = 1 AND manifest_id = {PLAIN}")
    return {("edge-drift", f"team/app@{at.rich['plain']}")}


PLAIN = (
    "(SELECT t.manifest_id FROM tags t JOIN repositories r ON r.id = t.repository_id"
    " WHERE r.name = 'team/app' AND t.name = 'v2' AND t.ended_at IS NULL)"
)


def edge_elsewhere(at: Damaged) -> Found:
    at.sql(
        "UPDATE manifest_blobs SET blob_id = (SELECT id FROM blobs WHERE digest = :to)"
        f" WHERE position = 1 AND manifest_id = {PLAIN}",
        to=raw(at.rich["app"]),
    )
    return {("edge-drift", f"team/app@{at.rich['plain']}")}


def chain_wrong(at: Damaged) -> Found:
    at.sql(
        f"UPDATE manifest_blobs SET chain_digest = :to WHERE position = 1 AND manifest_id = {PLAIN}", to=b"?"
    )
    return {("edge-drift", f"team/app@{at.rich['plain']}")}


def member_missing(at: Damaged) -> Found:
    at.sql(
        "DELETE FROM index_manifests WHERE position = 1"
        " AND index_id = (SELECT id FROM manifests WHERE digest = :of)",
        of=raw(at.rich["docker"]),
    )
    return {("edge-drift", f"docker@{at.rich['docker']}")}


def member_not_filled_in(at: Damaged) -> Found:
    at.sql(
        "UPDATE index_manifests SET child_id = NULL, absence = 'sparse' WHERE position = 1"
        " AND index_id = (SELECT id FROM manifests WHERE digest = :of)",
        of=raw(at.rich["docker"]),
    )
    return {("edge-drift", f"docker@{at.rich['docker']}")}


def label_wrong(at: Damaged) -> Found:
    at.sql("UPDATE labels SET value = 'no' WHERE name = 'deep'")
    return {("edge-drift", f"team/app@{at.rich['nested']}")}


def link_missing(at: Damaged) -> Found:
    at.sql(
        "DELETE FROM repository_blobs WHERE blob_id = (SELECT id FROM blobs WHERE digest = :of)"
        " AND repository_id = (SELECT id FROM repositories WHERE name = 'team/app')",
        of=raw(at.rich["arm"]),
    )
    return {("link-missing", f"team/app@{at.rich['other']}"), ("layout-drift", "team/app")}


def tag_elsewhere(at: Damaged) -> Found:
    at.sql(
        "UPDATE tags SET manifest_digest = :to WHERE name = 'v2' AND ended_at IS NULL",
        to=raw(at.rich["index"]),
    )
    return {("tag-drift", "team/app:v2")}


def tag_of_another_repository(at: Damaged) -> Found:
    at.sql(
        "UPDATE tags SET repository_id = (SELECT id FROM repositories WHERE name = 'long')"
        " WHERE name = 'a' AND ended_at IS NULL"
    )
    at.sql("UPDATE manifests SET lease_until = 1")
    return {
        ("tag-drift", "long:a"),
        ("snapshot-drift", "team/app/more"),
        ("layout-drift", "team/app/more"),
    }


def intervals_overlap(at: Damaged) -> Found:
    at.sql(
        "UPDATE tags SET ended_at = ended_at + 86400000000 WHERE name = 'v1' AND ended_at IS NOT NULL",
    )
    return {("tag-drift", "team/app:v1")}


def interval_backwards(at: Damaged) -> Found:
    at.sql("UPDATE tags SET ended_at = started_at - 1 WHERE name = 'v1' AND ended_at IS NOT NULL")
    found = {("tag-drift", "team/app:v1")}
    # SQLite's own check looks at CHECK constraints as well.
    return found | {("database-corrupt", at.database.location)} if at.database.is_sqlite else found


def foreign_key(at: Damaged) -> Found:
    at.sql("INSERT INTO repository_blobs (repository_id, blob_id, linked_at) VALUES (1, 999999, 1)")
    return {("foreign-key", "repository_blobs.blob_id = 999999")}


def database_corrupt(at: Damaged) -> Found:
    if at.database.is_sqlite:
        at.database.close()
        forget_index(Path(at.settings.database.removeprefix("sqlite:///")))
        return {("database-corrupt", at.database.location)}
    at.sql("ALTER TABLE tags ADD CONSTRAINT late CHECK (id > 0) NOT VALID")
    return {("database-corrupt", "late")}


def manifest_task_missing(at: Damaged) -> Found:
    at.sql("UPDATE manifests SET lease_until = 1")
    at.sql("DELETE FROM gc_tasks WHERE kind = 'manifest'")
    return {
        ("task-missing", f"team/app@{at.rich['nested']}"),
        ("task-missing", f"team/app/more@{at.rich['plain']}"),
    }


def blob_task_missing(at: Damaged) -> Found:
    lost = Digest.of(b"lost")
    key = new_key(lost)
    path = at.root / "blobs" / key
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"lost")
    at.sql(
        "INSERT INTO blobs (digest, size_bytes, key, state, created_at, lease_until)"
        " VALUES (:digest, 4, :key, 'live', 1, 1)",
        digest=lost.to_bytes(),
        key=key,
    )
    return {("task-missing", str(lost))}


def repository_task_missing(at: Damaged) -> Found:
    at.sql("UPDATE repositories SET state = 'deleted', deleted_at = 1 WHERE name = 'docker'")
    of = scalar(at.database, "SELECT id FROM repositories WHERE name = 'docker'")
    at.sql("UPDATE tags SET ended_at = started_at + 1 WHERE repository_id = :of", of=of)
    return {("task-missing", "docker"), ("snapshot-drift", "docker"), ("layout-drift", "docker")}


def tagged_manifest_deleted(at: Damaged) -> Found:
    number = scalar(at.database, "SELECT manifest_id FROM tags WHERE name = 'v1' AND ended_at IS NULL")
    [(digest, name)] = rows(
        at.database,
        "SELECT m.digest, r.name FROM manifests m JOIN repositories r ON r.id = m.repository_id"
        " WHERE m.id = :of",
        of=number,
    )
    at.sql("UPDATE manifests SET deleted_at = 1 WHERE id = :of", of=number)
    return {("deleted-in-use", f"{name}@{Digest.from_bytes(bytes(digest))}")}


def listed_manifest_deleted(at: Damaged) -> Found:
    [(number, digest, name)] = rows(
        at.database,
        "SELECT m.id, m.digest, r.name FROM manifests m JOIN repositories r ON r.id = m.repository_id"
        " WHERE m.id = (SELECT min(child_id) FROM index_manifests)",
    )
    child = Digest.from_bytes(bytes(digest))
    at.sql("UPDATE manifests SET deleted_at = 1 WHERE id = :of", of=number)
    return {("deleted-in-use", f"{name}@{child}"), ("snapshot-drift", name), ("layout-drift", name)}


def deleted_repository_with_tags(at: Damaged) -> Found:
    at.sql("UPDATE repositories SET state = 'deleted' WHERE name = 'docker'")
    return {("repository-state", "docker"), ("snapshot-drift", "docker"), ("layout-drift", "docker")}


def snapshot_missing(at: Damaged) -> Found:
    shutil.rmtree(at.root / "layouts" / "docker")
    return {("snapshot-drift", "docker")}


def snapshot_behind(at: Damaged) -> Found:
    at.sql("UPDATE repositories SET revision = revision + 1 WHERE name = 'docker'")
    return {("snapshot-drift", "docker"), ("layout-drift", "docker")}


def snapshot_ahead(at: Damaged) -> Found:
    """As after an old copy of the database was put back by hand."""
    at.sql("UPDATE repositories SET revision = revision - 1 WHERE name = 'team/app'")
    return {("snapshot-drift", "team/app"), ("layout-drift", "team/app")}


def snapshot_says_something_else(at: Damaged) -> Found:
    [path] = (at.root / "layouts" / "docker").iterdir()
    path.write_bytes(path.read_bytes().replace(b'"l"', b'"m"'))
    return {("snapshot-drift", "docker")}


def snapshot_torn(at: Damaged) -> Found:
    [path] = (at.root / "layouts" / "docker").iterdir()
    path.write_bytes(path.read_bytes()[:40])
    return {("snapshot-drift", "docker")}


def layout_lacks_a_link(at: Damaged) -> Found:
    next((at.root / "repositories/docker/_layout/blobs/sha256").iterdir()).unlink()
    return {("layout-drift", "docker")}


def layout_misstates(at: Damaged) -> Found:
    (at.root / "repositories/docker/_layout/index.json").write_bytes(b"{}")
    return {("layout-drift", "docker")}


def layout_gone(at: Damaged) -> Found:
    shutil.rmtree(at.root / "repositories/docker/_layout")
    return {("layout-drift", "docker")}


def name_invalid(at: Damaged) -> Found:
    number = scalar(at.database, "SELECT id FROM repositories WHERE name = 'long'")
    at.sql("UPDATE repositories SET name = 'NOT/../a name' WHERE id = :of", of=number)
    return {("row-invalid", f"repository {number}")}


def tag_name_invalid(at: Damaged) -> Found:
    number = scalar(at.database, "SELECT id FROM tags WHERE name = 'gone' ORDER BY id DESC LIMIT 1")
    at.sql("UPDATE tags SET name = '../x' WHERE id = :of", of=number)
    return {("row-invalid", f"tag {number}")}


CASES: dict[Kind, list[Damage]] = {
    Kind.OBJECT_MISSING: [object_missing],
    Kind.OBJECT_SIZE: [object_cut, object_grown],
    Kind.OBJECT_CORRUPT: [layer_rotten, config_rotten, manifest_rotten],
    Kind.BLOB_DAMAGED: [blob_damaged],
    Kind.OBJECT_UNKNOWN: [object_unknown],
    Kind.INTENT_STALE: [intent_of_an_ended_process, intent_expired],
    Kind.TOMBSTONE_STUCK: [tombstone_failing, tombstone_overdue],
    Kind.MANIFEST_CONTENT: [manifest_bytes_rotten, manifest_bytes_no_manifest],
    Kind.MANIFEST_DRIFT: [
        column_wrong("kind", "image"),
        column_wrong("layer_count", 7),
        column_wrong("subject_digest", b"\1"),
        column_wrong("config_media_type", "a/b"),
        blob_of_manifest_is_another,
        platform_wrong,
    ],
    Kind.EDGE_DRIFT: [
        edge_missing,
        edge_elsewhere,
        chain_wrong,
        member_missing,
        member_not_filled_in,
        label_wrong,
    ],
    Kind.LINK_MISSING: [link_missing],
    Kind.TAG_DRIFT: [tag_elsewhere, tag_of_another_repository, intervals_overlap, interval_backwards],
    Kind.FOREIGN_KEY: [foreign_key],
    Kind.ROW_INVALID: [name_invalid, tag_name_invalid],
    Kind.DATABASE_CORRUPT: [database_corrupt],
    Kind.TASK_MISSING: [manifest_task_missing, blob_task_missing, repository_task_missing],
    Kind.DELETED_IN_USE: [tagged_manifest_deleted, listed_manifest_deleted],
    Kind.REPOSITORY_STATE: [deleted_repository_with_tags],
    Kind.SNAPSHOT_DRIFT: [
        snapshot_missing,
        snapshot_behind,
        snapshot_ahead,
        snapshot_says_something_else,
        snapshot_torn,
    ],
    Kind.LAYOUT_DRIFT: [layout_lacks_a_link, layout_misstates, layout_gone],
}
ALL = [
    pytest.param(kind, damage, id=f"{kind}-{number}")
    for kind, damages in CASES.items()
    for number, damage in enumerate(damages)
]


def raw(digest: str) -> bytes:
    return Digest.parse(digest).to_bytes()


def test_each_kind_has_a_case() -> None:
    # A disk that cannot be read is made in test_verify_data.
    assert set(CASES) | {Kind.OBJECT_UNREADABLE} == set(Kind)


@pytest.mark.soak_on_postgresql
@pytest.mark.parametrize(("kind", "damage"), ALL)
@pytest.mark.slow
def test_damage_is_found_and_nothing_else(registry: Damaged, kind: Kind, damage: Damage) -> None:
    expected = damage(registry)
    assert kind in {found for found, _ in expected}
    assert registry.kinds() == expected


def test_damage_of_many_kinds_is_found_at_once(registry: Damaged) -> None:
    expected: Found = set()
    for damage in (object_missing, manifest_rotten, intent_expired, tombstone_failing, label_wrong):
        expected |= damage(registry)
    for damage in (foreign_key, layout_misstates, tag_elsewhere, object_unknown, name_invalid):
        expected |= damage(registry)
    assert registry.kinds() == expected


def test_finding_names_the_images_that_need_the_blob(registry: Damaged) -> None:
    object_missing(registry)
    [finding] = verified(registry.database, registry.store).findings
    assert finding.used_by == ("sparse:s", "team/app:v1", "team/app/more:a")
    assert finding.row_id == scalar(
        registry.database, "SELECT id FROM blobs WHERE digest = :of", of=raw(registry.rich["app"])
    )
    assert finding.key == registry.key(registry.rich["app"])


def test_blob_of_an_untagged_manifest_is_used_by_its_digest(registry: Damaged) -> None:
    registry.path(registry.rich["nested"]).unlink()
    [finding] = verified(registry.database, registry.store).findings
    assert finding.used_by == (f"team/app@{registry.rich['nested']}",)


def test_row_whose_layouts_are_off_has_no_layout_finding(registry: Damaged) -> None:
    shutil.rmtree(registry.root / "repositories")
    assert registry.kinds(layouts=False) == set()


def test_what_needs_no_hashing_is_found_without_it(registry: Damaged) -> None:
    expected = object_missing(registry) | label_wrong(registry)
    manifest_rotten(registry)
    report = verified(registry.database, registry.store, read_data=None)
    assert kinds(report) == expected
    assert report.objects_read == report.bytes_read == 0


def test_nothing_is_written(registry: Damaged) -> None:
    for damage in (object_missing, manifest_rotten, intent_expired, label_wrong, layout_misstates):
        damage(registry)
    before, files = dump(registry.database), files_of(registry.root)
    assert len(registry.kinds()) == 5
    assert dump(registry.database) == before
    assert files_of(registry.root) == files
