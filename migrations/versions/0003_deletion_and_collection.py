"""What can be undone, what may not change, and when a collector waits.

``manifests.deleted_at`` and ``repositories.deleted_at`` say that something was deleted on purpose and can be
brought back; NULL is everything that a database of before has. ``tag_locks`` are the tags of a repository
that may only be made, not moved or removed. The columns of ``store_identity`` are the pause after errors of
the store, that all collectors keep.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("repositories", sa.Column("deleted_at", sa.BigInteger(), nullable=True))
    op.add_column("manifests", sa.Column("deleted_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "tag_locks",
        sa.Column("repository_id", BIG_ID, nullable=False),
        sa.Column("pattern", NAME, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_tag_locks_repository_id")
        ),
        sa.PrimaryKeyConstraint("repository_id", "pattern", name=op.f("pk_tag_locks")),
        sqlite_with_rowid=False,
    )
    op.add_column("store_identity", sa.Column("paused_until", sa.BigInteger(), nullable=True))
    op.add_column("store_identity", sa.Column("pause_reason", sa.Text(), nullable=True))
    op.add_column("store_identity", sa.Column("pauses", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("store_identity", "pauses")
    op.drop_column("store_identity", "pause_reason")
    op.drop_column("store_identity", "paused_until")
    op.drop_table("tag_locks")
    op.drop_column("manifests", "deleted_at")
    op.drop_column("repositories", "deleted_at")
