"""The first schema: content, tags, and the machinery that keeps rows and objects in step.

It is one revision since none of it is of use without the rest. Types are frozen here: a digest is bytes
(one for the algorithm, then the hash), a time is microseconds since 1970 UTC.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("key", NAME, nullable=False),
        sa.Column("state", sa.Text(), server_default="live", nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('live', 'damaged')", name=op.f("ck_blobs_state")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_blobs_size_bytes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blobs")),
        sa.UniqueConstraint("digest", name=op.f("uq_blobs_digest")),
        sa.UniqueConstraint("key", name=op.f("uq_blobs_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_blobs_damaged",
        "blobs",
        ["id"],
        unique=False,
        sqlite_where=sa.text("state = 'damaged'"),
        postgresql_where=sa.text("state = 'damaged'"),
    )
    op.create_table(
        "ingests",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("committed_at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingests")),
    )
    op.create_index(op.f("ix_ingests_committed_at"), "ingests", ["committed_at"], unique=False)
    op.create_table(
        "intents",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("key", NAME, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("owner", sa.Uuid(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intents")),
        sa.UniqueConstraint("key", name=op.f("uq_intents_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_intents_expires_at"), "intents", ["expires_at"], unique=False)
    op.create_index(op.f("ix_intents_owner"), "intents", ["owner"], unique=False)
    op.create_table(
        "repositories",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('active', 'deleted', 'purging')", name=op.f("ck_repositories_state")),
        sa.CheckConstraint("revision >= 0", name=op.f("ck_repositories_revision")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_repositories")),
        sa.UniqueConstraint("name", name=op.f("uq_repositories_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "store_identity",
        sa.Column("id", BIG_ID, autoincrement=False, nullable=False),
        sa.Column("store_id", sa.Uuid(), nullable=False),
        sa.Column("database_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_store_identity_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_store_identity")),
    )
    op.create_table(
        "tombstones",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("key", NAME, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("drop_after", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_tombstones_attempts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tombstones")),
        sa.UniqueConstraint("key", name=op.f("uq_tombstones_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_tombstones_not_before"), "tombstones", ["not_before"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("transaction_id", sa.BigInteger(), nullable=True),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("repository_id", BIG_ID, nullable=False),
        sa.Column("tag", NAME, nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.Column("previous_digest", sa.LargeBinary(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("ingest_id", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(["repository_id"], ["repositories.id"], name=op.f("fk_events_repository_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_events_occurred_at"), "events", ["occurred_at"], unique=False)
    op.create_index(op.f("ix_events_repository_id_id"), "events", ["repository_id", "id"], unique=False)
    op.create_table(
        "gc_tasks",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("target_id", sa.BigInteger(), nullable=False),
        sa.Column("repository_id", BIG_ID, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('repository', 'manifest', 'blob')", name=op.f("ck_gc_tasks_kind")),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_gc_tasks_attempts")),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_gc_tasks_repository_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gc_tasks")),
        sa.UniqueConstraint("kind", "target_id", name=op.f("uq_gc_tasks_kind_target_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_gc_tasks_not_before"), "gc_tasks", ["not_before"], unique=False)
    op.create_index(op.f("ix_gc_tasks_repository_id"), "gc_tasks", ["repository_id"], unique=False)
    op.create_table(
        "layout_outbox",
        sa.Column("repository_id", BIG_ID, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_layout_outbox_repository_id")
        ),
        sa.PrimaryKeyConstraint("repository_id", name=op.f("pk_layout_outbox")),
    )
    op.create_table(
        "manifests",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("repository_id", BIG_ID, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("blob_id", BIG_ID, nullable=False),
        sa.Column("artifact_type", sa.Text(), nullable=True),
        sa.Column("config_media_type", sa.Text(), nullable=True),
        sa.Column("subject_digest", sa.LargeBinary(), nullable=True),
        sa.Column("os", sa.Text(), nullable=True),
        sa.Column("architecture", sa.Text(), nullable=True),
        sa.Column("variant", sa.Text(), nullable=True),
        sa.Column("image_created_at", sa.BigInteger(), nullable=True),
        sa.Column("layer_count", sa.Integer(), nullable=True),
        sa.Column("total_size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("pushed_at", sa.BigInteger(), nullable=False),
        sa.Column("pushed_by", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('image', 'index')", name=op.f("ck_manifests_kind")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_manifests_size_bytes")),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_manifests_blob_id")),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_manifests_repository_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_manifests")),
        sa.UniqueConstraint("repository_id", "digest", name=op.f("uq_manifests_repository_id_digest")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_manifests_blob_id"), "manifests", ["blob_id"], unique=False)
    op.create_index(op.f("ix_manifests_digest"), "manifests", ["digest"], unique=False)
    op.create_index(
        op.f("ix_manifests_repository_id_subject_digest_artifact_type"),
        "manifests",
        ["repository_id", "subject_digest", "artifact_type"],
        unique=False,
        sqlite_where=sa.text("subject_digest IS NOT NULL"),
        postgresql_where=sa.text("subject_digest IS NOT NULL"),
    )
    op.create_table(
        "pull_stats",
        sa.Column("repository_id", BIG_ID, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("tag", NAME, nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("pulls", sa.BigInteger(), nullable=False),
        sa.Column("last_pulled_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("pulls > 0", name=op.f("ck_pull_stats_pulls")),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_pull_stats_repository_id")
        ),
        sa.PrimaryKeyConstraint("repository_id", "digest", "tag", "day", name=op.f("pk_pull_stats")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "repository_blobs",
        sa.Column("repository_id", BIG_ID, nullable=False),
        sa.Column("blob_id", BIG_ID, nullable=False),
        sa.Column("linked_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_repository_blobs_blob_id")),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_repository_blobs_repository_id")
        ),
        sa.PrimaryKeyConstraint("repository_id", "blob_id", name=op.f("pk_repository_blobs")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_repository_blobs_blob_id_repository_id"),
        "repository_blobs",
        ["blob_id", "repository_id"],
        unique=False,
    )
    op.create_table(
        "index_manifests",
        sa.Column("index_id", BIG_ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("child_digest", sa.LargeBinary(), nullable=False),
        sa.Column("child_id", BIG_ID, nullable=True),
        sa.Column("blob_id", BIG_ID, nullable=True),
        sa.Column("absence", sa.Text(), nullable=True),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("os", sa.Text(), nullable=True),
        sa.Column("architecture", sa.Text(), nullable=True),
        sa.Column("variant", sa.Text(), nullable=True),
        sa.Column("os_version", sa.Text(), nullable=True),
        sa.CheckConstraint("absence IN ('sparse', 'policy')", name=op.f("ck_index_manifests_absence")),
        sa.CheckConstraint(
            "(child_id IS NOT NULL AND blob_id IS NULL AND absence IS NULL)"
            " OR (child_id IS NULL AND blob_id IS NOT NULL AND absence IS NULL)"
            " OR (child_id IS NULL AND blob_id IS NULL AND absence IS NOT NULL)",
            name=op.f("ck_index_manifests_child"),
        ),
        sa.CheckConstraint("child_id <> index_id", name=op.f("ck_index_manifests_not_itself")),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_index_manifests_blob_id")),
        sa.ForeignKeyConstraint(["child_id"], ["manifests.id"], name=op.f("fk_index_manifests_child_id")),
        sa.ForeignKeyConstraint(["index_id"], ["manifests.id"], name=op.f("fk_index_manifests_index_id")),
        sa.PrimaryKeyConstraint("index_id", "position", name=op.f("pk_index_manifests")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_index_manifests_absent",
        "index_manifests",
        ["child_digest", "index_id"],
        unique=False,
        sqlite_where=sa.text("absence IS NOT NULL"),
        postgresql_where=sa.text("absence IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_index_manifests_blob_id_index_id"), "index_manifests", ["blob_id", "index_id"], unique=False
    )
    op.create_index(
        op.f("ix_index_manifests_child_id_index_id"),
        "index_manifests",
        ["child_id", "index_id"],
        unique=False,
    )
    op.create_table(
        "labels",
        sa.Column("manifest_id", BIG_ID, nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.CheckConstraint("origin IN ('annotation', 'config')", name=op.f("ck_labels_origin")),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifests.id"], name=op.f("fk_labels_manifest_id")),
        sa.PrimaryKeyConstraint("manifest_id", "origin", "name", name=op.f("pk_labels")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_labels_name_manifest_id"), "labels", ["name", "manifest_id"], unique=False)
    op.create_table(
        "manifest_blobs",
        sa.Column("manifest_id", BIG_ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("blob_id", BIG_ID, nullable=True),
        sa.Column("absent_digest", sa.LargeBinary(), nullable=True),
        sa.Column("chain_digest", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("role IN ('config', 'layer')", name=op.f("ck_manifest_blobs_role")),
        sa.CheckConstraint(
            "(blob_id IS NULL) = (absent_digest IS NOT NULL)", name=op.f("ck_manifest_blobs_absent")
        ),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_manifest_blobs_blob_id")),
        sa.ForeignKeyConstraint(
            ["manifest_id"], ["manifests.id"], name=op.f("fk_manifest_blobs_manifest_id")
        ),
        sa.PrimaryKeyConstraint("manifest_id", "position", name=op.f("pk_manifest_blobs")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_manifest_blobs_blob_id_manifest_id"),
        "manifest_blobs",
        ["blob_id", "manifest_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_manifest_blobs_chain_digest_manifest_id"),
        "manifest_blobs",
        ["chain_digest", "manifest_id"],
        unique=False,
        sqlite_where=sa.text("chain_digest IS NOT NULL"),
        postgresql_where=sa.text("chain_digest IS NOT NULL"),
    )
    op.create_table(
        "tags",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("repository_id", BIG_ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("manifest_digest", sa.LargeBinary(), nullable=False),
        sa.Column("manifest_id", BIG_ID, nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("started_by", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=True),
        sa.CheckConstraint("ended_at > started_at", name=op.f("ck_tags_interval")),
        sa.CheckConstraint("ended_at IS NOT NULL OR manifest_id IS NOT NULL", name=op.f("ck_tags_live")),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifests.id"], name=op.f("fk_tags_manifest_id")),
        sa.ForeignKeyConstraint(["repository_id"], ["repositories.id"], name=op.f("fk_tags_repository_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tags")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_tags_ended",
        "tags",
        ["ended_at"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NOT NULL"),
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.create_index(op.f("ix_tags_manifest_id_ended_at"), "tags", ["manifest_id", "ended_at"], unique=False)
    op.create_index(
        op.f("ix_tags_repository_id_name_started_at"),
        "tags",
        ["repository_id", "name", "started_at"],
        unique=False,
    )
    op.create_index(
        "uq_tags_live",
        "tags",
        ["repository_id", "name"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("tags")
    op.drop_table("manifest_blobs")
    op.drop_table("labels")
    op.drop_table("index_manifests")
    op.drop_table("repository_blobs")
    op.drop_table("pull_stats")
    op.drop_table("manifests")
    op.drop_table("layout_outbox")
    op.drop_table("gc_tasks")
    op.drop_table("events")
    op.drop_table("tombstones")
    op.drop_table("store_identity")
    op.drop_table("repositories")
    op.drop_table("intents")
    op.drop_table("ingests")
    op.drop_table("blobs")
