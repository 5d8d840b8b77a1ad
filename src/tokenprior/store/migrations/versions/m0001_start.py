"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    )
    op.create_index("ix_runs_name", "runs", ["name"])
    op.create_table(
        "calls",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("request_hash", sa.String(20), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("reply", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("cached_tokens", sa.Integer, nullable=False),
        sa.Column("cost_usd", sa.Float),
        sa.Column("latency_s", sa.Float),
        sa.Column("sent_at", sa.Float, nullable=False),
        sa.UniqueConstraint("run", "key", "request_hash", "attempt"),
    )
    op.create_index("ix_calls_replay", "calls", ["name", "key", "request_hash", "state"])
    op.create_table(
        "rollouts",
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("task", sa.String(255), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("input_hash", sa.String(20), nullable=False),
        sa.Column("rollout", sa.Text, nullable=False),
        sa.Column("verifier", sa.String(20)),
        sa.Column("reward", sa.Text),
        sa.PrimaryKeyConstraint("run", "phase", "step", "task", "attempt", "input_hash"),
    )
    op.create_index("ix_rollouts_replay", "rollouts", ["name", "phase", "step", "task", "attempt", "input_hash"])
    op.create_table(
        "advantages",
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("task", sa.String(255), nullable=False),
        sa.Column("advantage", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "step", "task"),
    )
    op.create_table(
        "steps",
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("library_version", sa.String(12), nullable=False),
        sa.Column("library", sa.Text, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "step"),
    )
    op.create_table(
        "operations",
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(8), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "step", "sequence"),
    )
    op.create_table(
        "evaluations",
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("arm", sa.String(64), nullable=False),
        sa.Column("library_version", sa.String(12), nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "arm"),
    )
