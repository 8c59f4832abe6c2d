"""A hold on collection: after a restore or a rebuild nothing is deleted until the registry was verified.

A NULL means that there is none, which is what every database of the first schema has.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("store_identity", sa.Column("hold_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("store_identity", "hold_reason")
