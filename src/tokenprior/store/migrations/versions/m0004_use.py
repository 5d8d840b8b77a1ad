"""Requests served with and without a library, edits by hand, and what a run took without reading its texts."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index(
        "ix_calls_spent", "calls", ["run", "state", "input_tokens", "output_tokens", "cached_tokens", "cost_usd"]
    )
    op.create_table(
        "edits",
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("author", sa.String(80), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("operations", sa.Text, nullable=False),
        sa.Column("before_version", sa.String(12), nullable=False),
        sa.Column("edited_version", sa.String(12), nullable=False),
        sa.Column("edited", sa.Text, nullable=False),
        sa.Column("edited_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("run", "sequence"),
    )
    op.create_table(
        "served",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("reply_id", sa.String(255), index=True),
        sa.Column("library", sa.String(64), nullable=False),
        sa.Column("version", sa.String(12), nullable=False),
        sa.Column("held_out", sa.Integer, nullable=False),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("unit", sa.String(40), nullable=False),
        sa.Column("source", sa.String(8), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("latency_s", sa.Float, nullable=False),
        sa.Column("served_at", sa.Float, nullable=False),
        sa.Column("task", sa.String(255)),
        sa.Column("exchange", sa.Text),
        sa.Column("reward", sa.Text),
        sa.Column("rewarded_at", sa.Float),
    )
    op.create_index("ix_served_effect", "served", ["library", "version", "held_out"])
