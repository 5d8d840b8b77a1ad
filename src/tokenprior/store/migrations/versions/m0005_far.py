"""A store on a server for several drivers at once."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

TABLES = (
    *("runs", "calls", "tool_calls", "rollouts", "advantages", "steps", "trials", "pins", "operations"),
    *("evaluations", "comparisons", "edits", "served"),
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _as_sqlite_has_it()
    op.create_table(
        "writers",
        sa.Column("id", _text(40), primary_key=True),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("commits", sa.Integer, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
    )
    op.create_table(
        "holders",
        sa.Column("run", _text(80), primary_key=True),
        sa.Column("writer", _text(40), nullable=False),
    )
    op.create_table(
        "batches",
        sa.Column("run", _text(80), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("model", _text(255), nullable=False),
        sa.Column("by_program", sa.Integer, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
        sa.Column("file", _text(255), nullable=False),
        sa.Column("batch", _text(255), nullable=False),
        sa.Column("calls", sa.Text, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.PrimaryKeyConstraint("run", "number"),
    )


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.Text(collation="C"), "postgresql")


def _as_sqlite_has_it() -> None:
    """Short texts of any length, ordered by their bytes, and numbers of tokens of any size."""
    inspected = sa.inspect(op.get_bind())
    for table in TABLES:
        short = [c["name"] for c in inspected.get_columns(table) if isinstance(c["type"], sa.VARCHAR)]
        changes = ", ".join(f'ALTER COLUMN "{name}" TYPE TEXT COLLATE "C"' for name in short)
        op.execute(f"ALTER TABLE {table} {changes}")
    for table, counts in (("calls", ("input", "output", "cached")), ("served", ("input", "output"))):
        changes = ", ".join(f"ALTER COLUMN {count}_tokens TYPE BIGINT" for count in counts)
        op.execute(f"ALTER TABLE {table} {changes}")
