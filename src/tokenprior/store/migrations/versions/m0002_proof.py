"""What ships beside what learning goes on from, the trials behind it, and the versions that a person chose."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("runs", sa.Column("start", sa.Text))
    op.add_column("steps", sa.Column("shipped_version", sa.String(12)))
    op.add_column("steps", sa.Column("shipped", sa.Text))
    op.add_column("steps", sa.Column("observations", sa.Text))
    # Until now every library shipped.
    op.execute("UPDATE steps SET shipped_version = library_version, shipped = library, observations = '[]'")
    op.create_table(
        "trials",
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("candidate_version", sa.String(12), nullable=False),
        sa.Column("candidate", sa.Text, nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "step", "sequence"),
    )
    op.create_table(
        "pins",
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("version", sa.String(12)),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("pinned_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("run", "sequence"),
    )
