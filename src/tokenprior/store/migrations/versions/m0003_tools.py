"""Calls of tools, written down before they are made and after."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "tool_calls",
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("place", sa.String(320), nullable=False),
        sa.Column("made_of", sa.String(20), nullable=False),
        sa.Column("tool", sa.String(64), nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("sent_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("run", "place", "made_of"),
    )
