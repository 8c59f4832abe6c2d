"""${message}

One change a revision. Expand and contract: add first, fill in a revision of its own, remove a release later.
Say why, write the downgrade, name every constraint. Nothing that has landed is edited.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "raise RuntimeError('empty revision')"}


def downgrade() -> None:
    ${downgrades if downgrades else "raise RuntimeError('empty revision')"}
