"""What was brought from other registries: runs, the state of each image, and how far an upload has come.

``sync_items`` has one row for each image that a policy mirrors, with its last outcome and when it is tried
again; ``sync_runs`` is what each run did. ``intents.received_bytes`` grows while a blob is being received, so
that another process sees whether waiting for it makes sense.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("intents", sa.Column("received_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index("ix_intents_digest", "intents", ["digest"])
    op.create_table(
        "sync_runs",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("policy", NAME, nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("owner", sa.Uuid(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("copied", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("unchanged", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("left_out", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("failed", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("removed", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("copied_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("requests", sa.BigInteger(), nullable=False, server_default="0"),
        sa.CheckConstraint(
            "cause IN ('command', 'schedule', 'retry', 'demand')", name=op.f("ck_sync_runs_cause")
        ),
        sa.CheckConstraint(
            "outcome IN ('done', 'failed', 'stopped', 'interrupted')", name=op.f("ck_sync_runs_outcome")
        ),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name=op.f("ck_sync_runs_ended")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_runs")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_sync_runs_policy_id", "sync_runs", ["policy", "id"])
    op.create_index(
        "ix_sync_runs_running",
        "sync_runs",
        ["id"],
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "sync_items",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("policy", NAME, nullable=False),
        sa.Column("source", NAME, nullable=False),
        sa.Column("reference", NAME, nullable=False),
        sa.Column("destination", NAME, nullable=False),
        sa.Column("run_id", BIG_ID, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("terms", sa.Text(), nullable=False),
        sa.Column("upstream_digest", sa.LargeBinary(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.Column("copied_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_try_at", sa.BigInteger(), nullable=True),
        sa.Column("checked_at", sa.BigInteger(), nullable=False),
        sa.Column("copied_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('copied', 'unchanged', 'left out', 'failed', 'removed')",
            name=op.f("ck_sync_items_outcome"),
        ),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_sync_items_attempts")),
        sa.CheckConstraint(
            "(outcome = 'failed') = (error_class IS NOT NULL)", name=op.f("ck_sync_items_error")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["sync_runs.id"], name=op.f("fk_sync_items_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_items")),
        sa.UniqueConstraint(
            "policy",
            "source",
            "reference",
            "destination",
            name=op.f("uq_sync_items_policy_source_reference_destination"),
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_sync_items_destination_reference", "sync_items", ["destination", "reference"])
    op.create_index("ix_sync_items_run_id", "sync_items", ["run_id"])
    op.create_index(
        "ix_sync_items_next_try_at",
        "sync_items",
        ["next_try_at"],
        sqlite_where=sa.text("next_try_at IS NOT NULL"),
        postgresql_where=sa.text("next_try_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("sync_items")
    op.drop_table("sync_runs")
    op.drop_index("ix_intents_digest", "intents")
    op.drop_column("intents", "received_bytes")
