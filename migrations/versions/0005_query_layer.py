"""What the query layer stands on: search, statistics, the order of the feed, views, and indexes for lists.

``tag_names`` and ``label_texts`` hold each text that is searched once; ``labels.text_key`` and
``repositories.leaf`` lead to them, and ``manifests.chain_digest`` to images with the same layers. Trigrams
are GIN indexes on PostgreSQL (extension ``pg_trgm``, which anyone with CREATE on the database may add) and
FTS5 tables on SQLite. The columns that are derived are filled here, for the rows that there are. The way back
leaves the extension.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.engine import Connection

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
AT_ONCE = 10_000
# The names that no one searches by: a time is not a text.
NOT_TEXT = ("org.opencontainers.image.created", "org.label-schema.build-date", "build-date")

INDEXES = (
    ("ix_repositories_leaf_name", "repositories", ["leaf", "name"], None),
    ("ix_repositories_updated_at_id", "repositories", ["updated_at", "id"], None),
    ("ix_blobs_size_bytes_id", "blobs", ["size_bytes", "id"], None),
    ("ix_manifests_pushed_at_id", "manifests", ["pushed_at", "id"], None),
    (
        "ix_manifests_repository_id_pushed_at_id",
        "manifests",
        ["repository_id", "pushed_at", "id"],
        None,
    ),
    ("ix_manifests_artifact_type_id", "manifests", ["artifact_type", "id"], None),
    ("ix_manifests_chain_digest_id", "manifests", ["chain_digest", "id"], "chain_digest IS NOT NULL"),
    ("ix_tags_live_name", "tags", ["name", "repository_id"], "ended_at IS NULL"),
    ("ix_tags_live_started", "tags", ["repository_id", "started_at", "name"], "ended_at IS NULL"),
    ("ix_labels_text_key_manifest_id", "labels", ["text_key", "manifest_id"], None),
    ("ix_events_transaction_id_id", "events", ["transaction_id", "id"], "transaction_id IS NOT NULL"),
    ("ix_pull_stats_day_repository_id", "pull_stats", ["day", "repository_id"], None),
)
SEARCHED = (("repositories", "name"), ("tag_names", "folded"), ("label_texts", "folded"))


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    op.add_column("repositories", sa.Column("leaf", NAME, nullable=False, server_default=""))
    op.add_column("manifests", sa.Column("chain_digest", sa.LargeBinary(), nullable=True))
    op.add_column("labels", sa.Column("text_key", sa.BigInteger(), nullable=True))
    for name in ("feed_pruned_transaction", "feed_pruned_id"):
        op.add_column("store_identity", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    _tables()
    _fill(connection)
    for name, table, columns, where in INDEXES:
        predicate = None if where is None else sa.text(where)
        op.create_index(name, table, columns, sqlite_where=predicate, postgresql_where=predicate)
    for table, column in SEARCHED:
        for statement in _trigrams(connection.dialect.name, table, column):
            op.execute(statement)
    for name, select in VIEWS[connection.dialect.name].items():
        op.execute(sa.text(f"CREATE VIEW {name} AS {select}".replace(":", "\\:")))


def _tables() -> None:
    op.create_table(
        "tag_names",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("folded", NAME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tag_names")),
        sa.UniqueConstraint("name", name=op.f("uq_tag_names_name")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tag_names_folded_name", "tag_names", ["folded", "name"])
    op.create_table(
        "label_texts",
        sa.Column("id", BIG_ID, autoincrement=False, nullable=False),
        sa.Column("folded", NAME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_texts")),
    )
    op.create_table(
        "favorites",
        sa.Column("user_name", NAME, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("repository_id", BIG_ID, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('star', 'bookmark')", name=op.f("ck_favorites_kind")),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_favorites_repository_id")
        ),
        sa.PrimaryKeyConstraint("user_name", "kind", "repository_id", name=op.f("pk_favorites")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_favorites_repository_id_kind", "favorites", ["repository_id", "kind"])
    op.create_table(
        "usage_samples",
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("repository_id", BIG_ID, nullable=False),
        sa.Column("sampled_at", sa.BigInteger(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("tags", "manifests", "blobs", "logical_bytes", "unique_bytes", "exclusive_bytes")
        ),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_usage_samples_repository_id")
        ),
        sa.PrimaryKeyConstraint("day", "repository_id", name=op.f("pk_usage_samples")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_usage_samples_repository_id_day", "usage_samples", ["repository_id", "day"])
    op.create_index(
        "ix_usage_samples_day_unique_bytes_repository_id",
        "usage_samples",
        ["day", "unique_bytes", "repository_id"],
    )


# --- rows that there are ------------------------------------------------------------------------


def _fill(connection: Connection) -> None:
    """Derive the new columns and the texts, a page of rows at a time."""
    op.execute(
        "UPDATE manifests SET chain_digest = (SELECT e.chain_digest FROM manifest_blobs e"
        " WHERE e.manifest_id = manifests.id AND e.chain_digest IS NOT NULL"
        " ORDER BY e.position DESC LIMIT 1) WHERE kind = 'image'"
    )
    leaf = sa.text("UPDATE repositories SET leaf = :leaf WHERE id = :id")
    for page in _pages(connection, "SELECT id, name FROM repositories", ["id"]):
        connection.execute(leaf, [{"id": number, "leaf": name.rpartition("/")[2]} for number, name in page])
    names = sa.text("INSERT INTO tag_names (name, folded) VALUES (:name, :folded)")
    for page in _pages(connection, "SELECT DISTINCT name FROM tags", ["name"]):
        connection.execute(names, [{"name": name, "folded": _folded(name)} for (name,) in page])
    key = sa.text(
        "UPDATE labels SET text_key = :key"
        " WHERE manifest_id = :manifest AND origin = :origin AND name = :name"
    )
    text = sa.text("INSERT INTO label_texts (id, folded) VALUES (:id, :folded) ON CONFLICT DO NOTHING")
    select = "SELECT manifest_id, origin, name, value FROM labels"
    for page in _pages(connection, select, ["manifest_id", "origin", "name"]):
        texts = {}
        for manifest, origin, name, value in page:
            folded = _folded(value[:1024])[:1024]
            texts[manifest, origin, name] = (_key(folded), folded)
        found = {key: folded for (_, _, name), (key, folded) in texts.items() if name not in NOT_TEXT}
        if found:
            connection.execute(text, [{"id": number, "folded": folded} for number, folded in found.items()])
        connection.execute(
            key,
            [
                {"key": number, "manifest": manifest, "origin": origin, "name": name}
                for (manifest, origin, name), (number, _) in texts.items()
            ],
        )


def _pages(connection: Connection, select: str, keys: list[str]) -> Iterator[Sequence[Any]]:
    """Give all rows, a page at a time, in the order of *keys*, which are the first columns."""
    columns = ", ".join(keys)
    end = f" ORDER BY {columns} LIMIT {AT_ONCE}"
    first = sa.text(select + end)
    behind = sa.text(f"{select} WHERE ({columns}) > ({', '.join(f':{key}' for key in keys)})" + end)
    page = connection.execute(first).fetchall()
    while page:
        yield page
        after = dict(zip(keys, page[-1], strict=False))
        page = connection.execute(behind, after).fetchall()


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


# --- trigrams and views --------------------------------------------------------------------------


def _trigrams(dialect: str, table: str, column: str) -> list[str]:
    if dialect == "postgresql":
        return [
            f"CREATE INDEX ix_{table}_trigrams ON {table} USING gin ({column} gin_trgm_ops)"
            " WITH (fastupdate = off)"
        ]
    return [
        f"CREATE VIRTUAL TABLE {table}_fts USING fts5({column}, content='{table}', content_rowid='id',"
        " tokenize='trigram', detail='none', columnsize=0)",
        f"INSERT INTO {table}_fts ({table}_fts) VALUES ('rebuild')",  # noqa: S608
    ]


VIEWS: dict[str, dict[str, str]] = {
    "sqlite": {
        "v_repositories": (
            "SELECT r.name AS repository, (strftime('%Y-%m-%dT%H:%M:%S', r.created_at / 1000000, "
            "'unixepoch') || printf('.%06dZ', r.created_at % 1000000)) AS created_at, "
            "(strftime('%Y-%m-%dT%H:%M:%S', r.updated_at / 1000000, 'unixepoch') || printf('.%06dZ', "
            "r.updated_at % 1000000)) AS updated_at FROM repositories r WHERE r.state = 'active'"
        ),
        "v_tags": (
            "SELECT r.name AS repository, t.name AS tag, (CASE hex(substr(t.manifest_digest, 1, 1)) WHEN "
            "'01' THEN 'sha256:' WHEN '02' THEN 'sha512:' END || lower(hex(substr(t.manifest_digest, 2)))) "
            "AS digest, m.kind AS kind, m.media_type AS media_type, m.artifact_type AS artifact_type, m.os "
            "AS os, m.architecture AS architecture, m.variant AS variant, m.total_size_bytes AS size_bytes, "
            "(strftime('%Y-%m-%dT%H:%M:%S', m.image_created_at / 1000000, 'unixepoch') || printf('.%06dZ', "
            "m.image_created_at % 1000000)) AS created_at, (strftime('%Y-%m-%dT%H:%M:%S', m.pushed_at / "
            "1000000, 'unixepoch') || printf('.%06dZ', m.pushed_at % 1000000)) AS pushed_at, "
            "(strftime('%Y-%m-%dT%H:%M:%S', t.started_at / 1000000, 'unixepoch') || printf('.%06dZ', "
            "t.started_at % 1000000)) AS tagged_at, t.started_by AS tagged_by FROM tags t JOIN repositories "
            "r ON r.id = t.repository_id JOIN manifests m ON m.id = t.manifest_id WHERE t.ended_at IS NULL "
            "AND r.state = 'active'"
        ),
        "v_tag_history": (
            "SELECT r.name AS repository, t.name AS tag, (CASE hex(substr(t.manifest_digest, 1, 1)) WHEN "
            "'01' THEN 'sha256:' WHEN '02' THEN 'sha512:' END || lower(hex(substr(t.manifest_digest, 2)))) "
            "AS digest, (strftime('%Y-%m-%dT%H:%M:%S', t.started_at / 1000000, 'unixepoch') || "
            "printf('.%06dZ', t.started_at % 1000000)) AS started_at, t.started_by AS started_by, "
            "(strftime('%Y-%m-%dT%H:%M:%S', t.ended_at / 1000000, 'unixepoch') || printf('.%06dZ', "
            "t.ended_at % 1000000)) AS ended_at, t.ended_by AS ended_by FROM tags t JOIN repositories r ON "
            "r.id = t.repository_id WHERE r.state = 'active'"
        ),
        "v_images": (
            "SELECT r.name AS repository, (CASE hex(substr(m.digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN "
            "'02' THEN 'sha512:' END || lower(hex(substr(m.digest, 2)))) AS digest, m.kind AS kind, "
            "m.media_type AS media_type, m.artifact_type AS artifact_type, m.config_media_type AS "
            "config_media_type, (CASE hex(substr(m.subject_digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN '02' "
            "THEN 'sha512:' END || lower(hex(substr(m.subject_digest, 2)))) AS subject, m.os AS os, "
            "m.architecture AS architecture, m.variant AS variant, m.layer_count AS layers, m.size_bytes AS "
            "manifest_bytes, m.total_size_bytes AS size_bytes, (strftime('%Y-%m-%dT%H:%M:%S', "
            "m.image_created_at / 1000000, 'unixepoch') || printf('.%06dZ', m.image_created_at % 1000000)) "
            "AS created_at, (strftime('%Y-%m-%dT%H:%M:%S', m.pushed_at / 1000000, 'unixepoch') || "
            "printf('.%06dZ', m.pushed_at % 1000000)) AS pushed_at, m.pushed_by AS pushed_by FROM manifests "
            "m JOIN repositories r ON r.id = m.repository_id WHERE m.deleted_at IS NULL AND r.state = "
            "'active'"
        ),
        "v_layers": (
            "SELECT r.name AS repository, (CASE hex(substr(m.digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN "
            "'02' THEN 'sha512:' END || lower(hex(substr(m.digest, 2)))) AS image, e.position AS position, "
            "e.role AS role, coalesce((CASE hex(substr(b.digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN '02' "
            "THEN 'sha512:' END || lower(hex(substr(b.digest, 2)))), (CASE hex(substr(e.absent_digest, 1, "
            "1)) WHEN '01' THEN 'sha256:' WHEN '02' THEN 'sha512:' END || lower(hex(substr(e.absent_digest, "
            "2))))) AS digest, b.size_bytes AS size_bytes, (CASE hex(substr(e.chain_digest, 1, 1)) WHEN '01' "
            "THEN 'sha256:' WHEN '02' THEN 'sha512:' END || lower(hex(substr(e.chain_digest, 2)))) AS "
            "chain_digest FROM manifest_blobs e JOIN manifests m ON m.id = e.manifest_id JOIN repositories r "
            "ON r.id = m.repository_id LEFT JOIN blobs b ON b.id = e.blob_id WHERE m.deleted_at IS NULL AND "
            "r.state = 'active'"
        ),
        "v_index_members": (
            "SELECT r.name AS repository, (CASE hex(substr(m.digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN "
            "'02' THEN 'sha512:' END || lower(hex(substr(m.digest, 2)))) AS index_digest, i.position AS "
            "position, (CASE hex(substr(i.child_digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN '02' THEN "
            "'sha512:' END || lower(hex(substr(i.child_digest, 2)))) AS digest, i.media_type AS media_type, "
            "i.os AS os, i.architecture AS architecture, i.variant AS variant, i.absence AS absence FROM "
            "index_manifests i JOIN manifests m ON m.id = i.index_id JOIN repositories r ON r.id = "
            "m.repository_id WHERE m.deleted_at IS NULL AND r.state = 'active'"
        ),
        "v_labels": (
            "SELECT r.name AS repository, (CASE hex(substr(m.digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN "
            "'02' THEN 'sha512:' END || lower(hex(substr(m.digest, 2)))) AS digest, l.origin AS origin, "
            "l.name AS name, l.value AS value FROM labels l JOIN manifests m ON m.id = l.manifest_id JOIN "
            "repositories r ON r.id = m.repository_id WHERE m.deleted_at IS NULL AND r.state = 'active'"
        ),
        "v_blobs": (
            "SELECT (CASE hex(substr(b.digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN '02' THEN 'sha512:' END "
            "|| lower(hex(substr(b.digest, 2)))) AS digest, b.size_bytes AS size_bytes, b.state AS state, "
            "(strftime('%Y-%m-%dT%H:%M:%S', b.created_at / 1000000, 'unixepoch') || printf('.%06dZ', "
            "b.created_at % 1000000)) AS created_at, (SELECT count(*) FROM repository_blobs l WHERE "
            "l.blob_id = b.id) AS repositories FROM blobs b"
        ),
        "v_usage": (
            "SELECT r.name AS repository, (SELECT count(*) FROM tags t WHERE t.repository_id = r.id AND "
            "t.ended_at IS NULL) AS tags, (SELECT count(*) FROM manifests m WHERE m.repository_id = r.id AND "
            "m.deleted_at IS NULL) AS manifests, (SELECT count(*) FROM repository_blobs l WHERE "
            "l.repository_id = r.id) AS blobs, (SELECT coalesce(sum(m.size_bytes + "
            "coalesce(m.total_size_bytes, 0)), 0) FROM manifests m WHERE m.repository_id = r.id AND "
            "m.deleted_at IS NULL) AS logical_bytes, (SELECT coalesce(sum(b.size_bytes), 0) FROM "
            "repository_blobs l JOIN blobs b ON b.id = l.blob_id WHERE l.repository_id = r.id) AS "
            "unique_bytes, (SELECT coalesce(sum(b.size_bytes), 0) FROM repository_blobs l JOIN blobs b ON "
            "b.id = l.blob_id WHERE l.repository_id = r.id AND NOT EXISTS (SELECT 1 FROM repository_blobs o "
            "WHERE o.blob_id = l.blob_id AND o.repository_id <> r.id)) AS exclusive_bytes FROM repositories "
            "r WHERE r.state = 'active'"
        ),
        "v_usage_samples": (
            "SELECT r.name AS repository, (date(u.day * 86400, 'unixepoch')) AS day, "
            "(strftime('%Y-%m-%dT%H:%M:%S', u.sampled_at / 1000000, 'unixepoch') || printf('.%06dZ', "
            "u.sampled_at % 1000000)) AS sampled_at, u.tags AS tags, u.manifests AS manifests, u.blobs AS "
            "blobs, u.logical_bytes AS logical_bytes, u.unique_bytes AS unique_bytes, u.exclusive_bytes AS "
            "exclusive_bytes FROM usage_samples u JOIN repositories r ON r.id = u.repository_id WHERE "
            "r.state = 'active'"
        ),
        "v_pulls": (
            "SELECT r.name AS repository, (CASE hex(substr(p.digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN "
            "'02' THEN 'sha512:' END || lower(hex(substr(p.digest, 2)))) AS digest, nullif(p.tag, '') AS "
            "tag, (date(p.day * 86400, 'unixepoch')) AS day, p.pulls AS pulls, "
            "(strftime('%Y-%m-%dT%H:%M:%S', p.last_pulled_at / 1000000, 'unixepoch') || printf('.%06dZ', "
            "p.last_pulled_at % 1000000)) AS last_pulled_at FROM pull_stats p JOIN repositories r ON r.id = "
            "p.repository_id WHERE r.state = 'active'"
        ),
        "v_favorites": (
            "SELECT f.user_name AS user_name, f.kind AS kind, r.name AS repository, "
            "(strftime('%Y-%m-%dT%H:%M:%S', f.created_at / 1000000, 'unixepoch') || printf('.%06dZ', "
            "f.created_at % 1000000)) AS created_at FROM favorites f JOIN repositories r ON r.id = "
            "f.repository_id WHERE r.state = 'active'"
        ),
        "v_events": (
            "SELECT e.id AS id, (strftime('%Y-%m-%dT%H:%M:%S', e.occurred_at / 1000000, 'unixepoch') || "
            "printf('.%06dZ', e.occurred_at % 1000000)) AS occurred_at, e.kind AS kind, r.name AS "
            "repository, e.tag AS tag, (CASE hex(substr(e.digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN '02' "
            "THEN 'sha512:' END || lower(hex(substr(e.digest, 2)))) AS digest, (CASE "
            "hex(substr(e.previous_digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN '02' THEN 'sha512:' END || "
            "lower(hex(substr(e.previous_digest, 2)))) AS previous_digest, e.actor AS actor FROM events e "
            "JOIN repositories r ON r.id = e.repository_id"
        ),
    },
    "postgresql": {
        "v_repositories": (
            "SELECT r.name AS repository, (timestamptz 'epoch' + r.created_at * interval '1 microsecond') AS "
            "created_at, (timestamptz 'epoch' + r.updated_at * interval '1 microsecond') AS updated_at FROM "
            "repositories r WHERE r.state = 'active'"
        ),
        "v_tags": (
            "SELECT r.name AS repository, t.name AS tag, (CASE get_byte(t.manifest_digest, 0) WHEN 1 THEN "
            "'sha256:' WHEN 2 THEN 'sha512:' END || encode(substr(t.manifest_digest, 2), 'hex')) AS digest, "
            "m.kind AS kind, m.media_type AS media_type, m.artifact_type AS artifact_type, m.os AS os, "
            "m.architecture AS architecture, m.variant AS variant, m.total_size_bytes AS size_bytes, "
            "(timestamptz 'epoch' + m.image_created_at * interval '1 microsecond') AS created_at, "
            "(timestamptz 'epoch' + m.pushed_at * interval '1 microsecond') AS pushed_at, (timestamptz "
            "'epoch' + t.started_at * interval '1 microsecond') AS tagged_at, t.started_by AS tagged_by FROM "
            "tags t JOIN repositories r ON r.id = t.repository_id JOIN manifests m ON m.id = t.manifest_id "
            "WHERE t.ended_at IS NULL AND r.state = 'active'"
        ),
        "v_tag_history": (
            "SELECT r.name AS repository, t.name AS tag, (CASE get_byte(t.manifest_digest, 0) WHEN 1 THEN "
            "'sha256:' WHEN 2 THEN 'sha512:' END || encode(substr(t.manifest_digest, 2), 'hex')) AS digest, "
            "(timestamptz 'epoch' + t.started_at * interval '1 microsecond') AS started_at, t.started_by AS "
            "started_by, (timestamptz 'epoch' + t.ended_at * interval '1 microsecond') AS ended_at, "
            "t.ended_by AS ended_by FROM tags t JOIN repositories r ON r.id = t.repository_id WHERE r.state "
            "= 'active'"
        ),
        "v_images": (
            "SELECT r.name AS repository, (CASE get_byte(m.digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN "
            "'sha512:' END || encode(substr(m.digest, 2), 'hex')) AS digest, m.kind AS kind, m.media_type AS "
            "media_type, m.artifact_type AS artifact_type, m.config_media_type AS config_media_type, (CASE "
            "get_byte(m.subject_digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN 'sha512:' END || "
            "encode(substr(m.subject_digest, 2), 'hex')) AS subject, m.os AS os, m.architecture AS "
            "architecture, m.variant AS variant, m.layer_count AS layers, m.size_bytes AS manifest_bytes, "
            "m.total_size_bytes AS size_bytes, (timestamptz 'epoch' + m.image_created_at * interval '1 "
            "microsecond') AS created_at, (timestamptz 'epoch' + m.pushed_at * interval '1 microsecond') AS "
            "pushed_at, m.pushed_by AS pushed_by FROM manifests m JOIN repositories r ON r.id = "
            "m.repository_id WHERE m.deleted_at IS NULL AND r.state = 'active'"
        ),
        "v_layers": (
            "SELECT r.name AS repository, (CASE get_byte(m.digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN "
            "'sha512:' END || encode(substr(m.digest, 2), 'hex')) AS image, e.position AS position, e.role "
            "AS role, coalesce((CASE get_byte(b.digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN 'sha512:' END "
            "|| encode(substr(b.digest, 2), 'hex')), (CASE get_byte(e.absent_digest, 0) WHEN 1 THEN "
            "'sha256:' WHEN 2 THEN 'sha512:' END || encode(substr(e.absent_digest, 2), 'hex'))) AS digest, "
            "b.size_bytes AS size_bytes, (CASE get_byte(e.chain_digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN "
            "'sha512:' END || encode(substr(e.chain_digest, 2), 'hex')) AS chain_digest FROM manifest_blobs "
            "e JOIN manifests m ON m.id = e.manifest_id JOIN repositories r ON r.id = m.repository_id LEFT "
            "JOIN blobs b ON b.id = e.blob_id WHERE m.deleted_at IS NULL AND r.state = 'active'"
        ),
        "v_index_members": (
            "SELECT r.name AS repository, (CASE get_byte(m.digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN "
            "'sha512:' END || encode(substr(m.digest, 2), 'hex')) AS index_digest, i.position AS position, "
            "(CASE get_byte(i.child_digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN 'sha512:' END || "
            "encode(substr(i.child_digest, 2), 'hex')) AS digest, i.media_type AS media_type, i.os AS os, "
            "i.architecture AS architecture, i.variant AS variant, i.absence AS absence FROM index_manifests "
            "i JOIN manifests m ON m.id = i.index_id JOIN repositories r ON r.id = m.repository_id WHERE "
            "m.deleted_at IS NULL AND r.state = 'active'"
        ),
        "v_labels": (
            "SELECT r.name AS repository, (CASE get_byte(m.digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN "
            "'sha512:' END || encode(substr(m.digest, 2), 'hex')) AS digest, l.origin AS origin, l.name AS "
            "name, l.value AS value FROM labels l JOIN manifests m ON m.id = l.manifest_id JOIN repositories "
            "r ON r.id = m.repository_id WHERE m.deleted_at IS NULL AND r.state = 'active'"
        ),
        "v_blobs": (
            "SELECT (CASE get_byte(b.digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN 'sha512:' END || "
            "encode(substr(b.digest, 2), 'hex')) AS digest, b.size_bytes AS size_bytes, b.state AS state, "
            "(timestamptz 'epoch' + b.created_at * interval '1 microsecond') AS created_at, (SELECT count(*) "
            "FROM repository_blobs l WHERE l.blob_id = b.id) AS repositories FROM blobs b"
        ),
        "v_usage": (
            "SELECT r.name AS repository, (SELECT count(*) FROM tags t WHERE t.repository_id = r.id AND "
            "t.ended_at IS NULL) AS tags, (SELECT count(*) FROM manifests m WHERE m.repository_id = r.id AND "
            "m.deleted_at IS NULL) AS manifests, (SELECT count(*) FROM repository_blobs l WHERE "
            "l.repository_id = r.id) AS blobs, (SELECT coalesce(sum(m.size_bytes + "
            "coalesce(m.total_size_bytes, 0)), 0) FROM manifests m WHERE m.repository_id = r.id AND "
            "m.deleted_at IS NULL) AS logical_bytes, (SELECT coalesce(sum(b.size_bytes), 0) FROM "
            "repository_blobs l JOIN blobs b ON b.id = l.blob_id WHERE l.repository_id = r.id) AS "
            "unique_bytes, (SELECT coalesce(sum(b.size_bytes), 0) FROM repository_blobs l JOIN blobs b ON "
            "b.id = l.blob_id WHERE l.repository_id = r.id AND NOT EXISTS (SELECT 1 FROM repository_blobs o "
            "WHERE o.blob_id = l.blob_id AND o.repository_id <> r.id)) AS exclusive_bytes FROM repositories "
            "r WHERE r.state = 'active'"
        ),
        "v_usage_samples": (
            "SELECT r.name AS repository, (date 'epoch' + u.day) AS day, (timestamptz 'epoch' + u.sampled_at "
            "* interval '1 microsecond') AS sampled_at, u.tags AS tags, u.manifests AS manifests, u.blobs AS "
            "blobs, u.logical_bytes AS logical_bytes, u.unique_bytes AS unique_bytes, u.exclusive_bytes AS "
            "exclusive_bytes FROM usage_samples u JOIN repositories r ON r.id = u.repository_id WHERE "
            "r.state = 'active'"
        ),
        "v_pulls": (
            "SELECT r.name AS repository, (CASE get_byte(p.digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN "
            "'sha512:' END || encode(substr(p.digest, 2), 'hex')) AS digest, nullif(p.tag, '') AS tag, (date "
            "'epoch' + p.day) AS day, p.pulls AS pulls, (timestamptz 'epoch' + p.last_pulled_at * interval "
            "'1 microsecond') AS last_pulled_at FROM pull_stats p JOIN repositories r ON r.id = "
            "p.repository_id WHERE r.state = 'active'"
        ),
        "v_favorites": (
            "SELECT f.user_name AS user_name, f.kind AS kind, r.name AS repository, (timestamptz 'epoch' + "
            "f.created_at * interval '1 microsecond') AS created_at FROM favorites f JOIN repositories r ON "
            "r.id = f.repository_id WHERE r.state = 'active'"
        ),
        "v_events": (
            "SELECT e.id AS id, (timestamptz 'epoch' + e.occurred_at * interval '1 microsecond') AS "
            "occurred_at, e.kind AS kind, r.name AS repository, e.tag AS tag, (CASE get_byte(e.digest, 0) "
            "WHEN 1 THEN 'sha256:' WHEN 2 THEN 'sha512:' END || encode(substr(e.digest, 2), 'hex')) AS "
            "digest, (CASE get_byte(e.previous_digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN 'sha512:' END || "
            "encode(substr(e.previous_digest, 2), 'hex')) AS previous_digest, e.actor AS actor FROM events e "
            "JOIN repositories r ON r.id = e.repository_id"
        ),
    },
}


def downgrade() -> None:
    for name in reversed(VIEWS["sqlite"]):
        op.execute(f"DROP VIEW {name}")
    if op.get_bind().dialect.name == "sqlite":
        for table, _ in SEARCHED:
            op.execute(f"DROP TABLE {table}_fts")
    else:
        op.execute("DROP INDEX ix_repositories_trigrams")
    for name in ("usage_samples", "favorites", "label_texts", "tag_names"):
        op.drop_table(name)
    for name, table, _, _ in reversed(INDEXES):
        op.drop_index(name, table)
    for name in ("feed_pruned_id", "feed_pruned_transaction"):
        op.drop_column("store_identity", name)
    op.drop_column("labels", "text_key")
    op.drop_column("manifests", "chain_digest")
    op.drop_column("repositories", "leaf")
