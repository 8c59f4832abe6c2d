"""What was taken over from the storage of other registries, how far each repository is, and what was wrong.

``adoptions`` has a row for each source, ``adoption_repositories`` one for each repository of it, with the
fingerprint that it had when it was last taken over; ``adoption_defects`` is what could not be, and why.
``v_pulls`` shows no day for what another registry has counted. A count of that kind is lost on the way back.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
PULLS = {
    "sqlite": (
        (
            "SELECT r.name AS repository, (CASE hex(substr(p.digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN "
            "'02' THEN 'sha512:' END || lower(hex(substr(p.digest, 2)))) AS digest, nullif(p.tag, '') AS "
            "tag, (date(p.day * 86400, 'unixepoch')) AS day, p.pulls AS pulls, "
            "(strftime('%Y-%m-%dT%H:%M:%S', p.last_pulled_at / 1000000, 'unixepoch') || printf('.%06dZ', "
            "p.last_pulled_at % 1000000)) AS last_pulled_at FROM pull_stats p JOIN repositories r ON r.id = "
            "p.repository_id WHERE r.state = 'active'"
        ),
        (
            "SELECT r.name AS repository, (CASE hex(substr(p.digest, 1, 1)) WHEN '01' THEN 'sha256:' WHEN "
            "'02' THEN 'sha512:' END || lower(hex(substr(p.digest, 2)))) AS digest, nullif(p.tag, '') AS "
            "tag, CASE WHEN p.day >= 0 THEN (date(p.day * 86400, 'unixepoch')) END AS day, p.pulls AS pulls,"
            " (strftime('%Y-%m-%dT%H:%M:%S', p.last_pulled_at / 1000000, 'unixepoch') || printf('.%06dZ', "
            "p.last_pulled_at % 1000000)) AS last_pulled_at FROM pull_stats p JOIN repositories r ON r.id = "
            "p.repository_id WHERE r.state = 'active'"
        ),
    ),
    "postgresql": (
        (
            "SELECT r.name AS repository, (CASE get_byte(p.digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN "
            "'sha512:' END || encode(substr(p.digest, 2), 'hex')) AS digest, nullif(p.tag, '') AS tag, (date"
            " 'epoch' + p.day) AS day, p.pulls AS pulls, (timestamptz 'epoch' + p.last_pulled_at * interval "
            "'1 microsecond') AS last_pulled_at FROM pull_stats p JOIN repositories r ON r.id = "
            "p.repository_id WHERE r.state = 'active'"
        ),
        (
            "SELECT r.name AS repository, (CASE get_byte(p.digest, 0) WHEN 1 THEN 'sha256:' WHEN 2 THEN "
            "'sha512:' END || encode(substr(p.digest, 2), 'hex')) AS digest, nullif(p.tag, '') AS tag, CASE "
            "WHEN p.day >= 0 THEN (date 'epoch' + p.day) END AS day, p.pulls AS pulls, (timestamptz 'epoch' "
            "+ p.last_pulled_at * interval '1 microsecond') AS last_pulled_at FROM pull_stats p JOIN "
            "repositories r ON r.id = p.repository_id WHERE r.state = 'active'"
        ),
    ),
}
"""The view of pulls, before and after: a count of no day has none."""


def upgrade() -> None:
    _show_pulls(1)
    op.create_table(
        "adoptions",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("location", NAME, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("prefix", NAME, nullable=False, server_default=""),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("finalized_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("kind IN ('docker', 'layouts')", name=op.f("ck_adoptions_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adoptions")),
        sa.UniqueConstraint("location", name=op.f("uq_adoptions_location")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "adoption_repositories",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("adoption_id", BIG_ID, nullable=False),
        sa.Column("source", NAME, nullable=False),
        sa.Column("destination", NAME, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("cursor", NAME, nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("passes", sa.BigInteger(), nullable=False, server_default="1"),
        sa.Column("tags", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("manifests", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("checked_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('partial', 'done')", name=op.f("ck_adoption_repositories_state")),
        sa.ForeignKeyConstraint(
            ["adoption_id"], ["adoptions.id"], name=op.f("fk_adoption_repositories_adoption_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adoption_repositories")),
        sa.UniqueConstraint(
            "adoption_id", "source", name=op.f("uq_adoption_repositories_adoption_id_source")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_adoption_repositories_destination",
        "adoption_repositories",
        ["destination"],
        unique=True,
        sqlite_where=sa.text("destination <> ''"),
        postgresql_where=sa.text("destination <> ''"),
    )
    op.create_table(
        "adoption_defects",
        sa.Column("repository_id", BIG_ID, nullable=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("image", NAME, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("seen_in", sa.BigInteger(), nullable=False),
        sa.Column("found_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("outcome IN ('brought', 'left out')", name=op.f("ck_adoption_defects_outcome")),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["adoption_repositories.id"],
            name=op.f("fk_adoption_defects_repository_id"),
        ),
        sa.PrimaryKeyConstraint(
            "repository_id", "kind", "subject", "image", name=op.f("pk_adoption_defects")
        ),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("adoption_defects")
    op.drop_index("uq_adoption_repositories_destination", table_name="adoption_repositories")
    op.drop_table("adoption_repositories")
    op.drop_table("adoptions")
    _show_pulls(0)
    op.execute("DELETE FROM pull_stats WHERE day < 0")


def _show_pulls(number: int) -> None:
    dialect = op.get_bind().dialect.name
    create = f"VIEW v_pulls AS {PULLS[dialect][number]}".replace(":", "\\:")
    if dialect == "postgresql":  # who may read it stays
        op.execute(sa.text(f"CREATE OR REPLACE {create}"))
        return
    op.execute("DROP VIEW v_pulls")
    op.execute(sa.text(f"CREATE {create}"))
