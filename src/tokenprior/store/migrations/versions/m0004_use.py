"""Requests served with and without a library, edits by hand, and figures that are read without reading texts."""

import json

import sqlalchemy as sa
from alembic import op

from tokenprior.store.codec import figures_of

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("runs", sa.Column("progress", sa.Text))
    op.add_column("calls", sa.Column("phase", sa.String(16), nullable=False, server_default=""))
    op.add_column("calls", sa.Column("step", sa.Integer, nullable=False, server_default="0"))
    op.add_column("rollouts", sa.Column("reward_value", sa.Float))
    op.add_column("rollouts", sa.Column("trouble", sa.String(80)))
    _fill(op.get_bind())
    op.create_index("ix_calls_order", "calls", ["run", "id"])
    op.create_index("ix_calls_model", "calls", ["run", "model", "id"])
    spent = ["run", "phase", "step", "state", "input_tokens", "output_tokens", "cached_tokens", "cost_usd"]
    op.create_index("ix_calls_spent", "calls", spent)
    figures = ["run", "phase", "step", "task", "attempt", "reward_value", "trouble"]
    op.create_index("ix_rollouts_figures", "rollouts", figures)
    op.create_table(
        "comparisons",
        sa.Column("run", sa.String(80), primary_key=True),
        sa.Column("comparison", sa.Text, nullable=False),
    )
    op.create_table(
        "edits",
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
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
        sa.Column("reward_value", sa.Float),
        sa.Column("rewarded_at", sa.Float),
    )
    told = ["reward_value", "status", "input_tokens", "output_tokens", "served_at"]
    op.create_index("ix_served_effect", "served", ["library", "version", "share", "held_out", "unit", *told])


def _fill(connection: sa.Connection) -> None:
    """The new columns of what is there already."""
    calls = sa.table("calls", *map(sa.column, ("id", "key", "phase", "step")))
    last = 0
    while rows := connection.execute(
        sa.select(calls.c.id, calls.c.key).where(calls.c.id > last).order_by(calls.c.id).limit(1_000)
    ).all():
        for row in rows:
            phase, step = row.key.split("/")[:2]
            connection.execute(calls.update().where(calls.c.id == row.id).values(phase=phase, step=int(step)))
        last = rows[-1].id
    place = ("run", "phase", "step", "task", "attempt", "input_hash")
    rollouts = sa.table("rollouts", *map(sa.column, (*place, "rollout", "reward", "reward_value", "trouble")))
    groups = [rollouts.c[name] for name in place[:4]]
    for group in connection.execute(sa.select(*groups).distinct()).all():
        here = [column == value for column, value in zip(groups, group, strict=True)]
        for row in connection.execute(sa.select(rollouts).where(*here)).all():
            value, trouble = figures_of(json.loads(row.rollout), json.loads(row.reward) if row.reward else None)
            own = [rollouts.c[name] == row._mapping[name] for name in place]
            connection.execute(rollouts.update().where(*own).values(reward_value=value, trouble=trouble))
