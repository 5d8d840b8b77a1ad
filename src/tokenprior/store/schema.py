"""Schema: the tables as they stand after the newest migration. A test holds the two against each other.

Natural keys make every write repeatable; operations are only ever appended, so that a library is a fold over them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData()


def _text(length: int) -> TypeEngine[str]:
    """A short text. A server holds it to no length, and orders and compares it by its bytes, as SQLite does."""
    return String(length).with_variant(Text(collation="C"), "postgresql")


def _large() -> TypeEngine[int]:
    """A number that somebody else says: a server would refuse one of more than 32 bits."""
    return Integer().with_variant(BigInteger(), "postgresql")


runs = Table(
    "runs",
    metadata,
    Column("id", _text(80), primary_key=True),
    Column("name", _text(64), nullable=False, index=True),
    Column("kind", _text(16), nullable=False),
    Column("config", Text, nullable=False),
    Column("state", _text(16), nullable=False),
    Column("detail", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("start", Text),  # the library that it began with, unless that was empty
    Column("progress", Text),  # the last snapshot, while it runs
)

calls = Table(
    "calls",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run", _text(80), nullable=False),
    Column("name", _text(64), nullable=False),
    Column("key", _text(255), nullable=False),
    Column("request_hash", _text(20), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("model", _text(255), nullable=False),
    Column("state", _text(8), nullable=False),  # sent, done, failed, unknown
    Column("request", Text, nullable=False),
    Column("reply", Text),
    Column("error", Text),
    Column("input_tokens", _large(), nullable=False),
    Column("output_tokens", _large(), nullable=False),
    Column("cached_tokens", _large(), nullable=False),
    Column("cost_usd", Float),
    Column("latency_s", Float),
    Column("sent_at", Float, nullable=False),
    Column("phase", _text(16), nullable=False, server_default=""),  # as in the key
    Column("step", Integer, nullable=False, server_default="0"),
    UniqueConstraint("run", "key", "request_hash", "attempt"),
    Index("ix_calls_replay", "name", "key", "request_hash", "state"),
    Index("ix_calls_order", "run", "id"),
    Index("ix_calls_model", "run", "model", "id"),
    # What a run took, added up without reading prompts and replies.
    Index(
        "ix_calls_spent", "run", "phase", "step", "state", "input_tokens", "output_tokens", "cached_tokens", "cost_usd"
    ),
)

# Calls that were sent together, to be answered within hours.
batches = Table(
    "batches",
    metadata,
    Column("run", _text(80), nullable=False),
    Column("number", Integer, nullable=False),
    Column("model", _text(255), nullable=False),
    Column("by_program", Integer, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("file", _text(255), nullable=False),  # as the provider calls it; empty before it was there
    Column("batch", _text(255), nullable=False),
    Column("calls", Text, nullable=False),  # their ids
    Column("ended_at", Float),
    PrimaryKeyConstraint("run", "number"),
)

tool_calls = Table(
    "tool_calls",
    metadata,
    Column("run", _text(80), nullable=False),
    Column("place", _text(320), nullable=False),  # the call of the model that asked for it, and its number there
    Column("made_of", _text(20), nullable=False),
    Column("tool", _text(64), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("state", _text(8), nullable=False),  # sent, done
    Column("result", Text),
    Column("sent_at", Float, nullable=False),
    PrimaryKeyConstraint("run", "place", "made_of"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("run", _text(80), nullable=False),
    Column("name", _text(64), nullable=False),
    Column("phase", _text(16), nullable=False),
    Column("step", Integer, nullable=False),
    Column("task", _text(255), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("input_hash", _text(20), nullable=False),
    Column("rollout", Text, nullable=False),
    Column("verifier", _text(20)),
    Column("reward", Text),
    Column("reward_value", Float),  # the number in it
    Column("trouble", _text(80)),  # why there is none: `failed: KIND` or `unscored: REASON`
    PrimaryKeyConstraint("run", "phase", "step", "task", "attempt", "input_hash"),
    Index("ix_rollouts_replay", "name", "phase", "step", "task", "attempt", "input_hash"),
    # Attempts counted and averaged without reading their texts.
    Index("ix_rollouts_figures", "run", "phase", "step", "task", "attempt", "reward_value", "trouble"),
)

advantages = Table(
    "advantages",
    metadata,
    Column("run", _text(80), nullable=False),
    Column("step", Integer, nullable=False),
    Column("task", _text(255), nullable=False),
    Column("advantage", Text, nullable=False),
    PrimaryKeyConstraint("run", "step", "task"),
)

steps = Table(
    "steps",
    metadata,
    Column("run", _text(80), nullable=False),
    Column("step", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("library_version", _text(12), nullable=False),
    Column("library", Text, nullable=False),  # what learning goes on from
    Column("report", Text, nullable=False),
    Column("shipped_version", _text(12)),
    Column("shipped", Text),  # what is used
    Column("observations", Text),  # rewards of attempts that saw different parts of the library
    PrimaryKeyConstraint("run", "step"),
)

trials = Table(
    "trials",
    metadata,
    Column("run", _text(80), nullable=False),
    Column("step", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("candidate_version", _text(12), nullable=False),
    Column("candidate", Text, nullable=False),
    Column("figures", Text, nullable=False),
    PrimaryKeyConstraint("run", "step", "sequence"),
)

pins = Table(
    "pins",
    metadata,
    Column("run", _text(80), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("version", _text(12)),  # empty: no longer pinned
    Column("reason", Text, nullable=False),
    Column("pinned_at", Float, nullable=False),
    PrimaryKeyConstraint("run", "sequence"),
)

operations = Table(
    "operations",
    metadata,
    Column("run", _text(80), nullable=False),
    Column("step", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("operation", Text, nullable=False),
    Column("outcome", _text(8), nullable=False),  # done, refused
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("run", "step", "sequence"),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("run", _text(80), nullable=False),
    Column("arm", _text(64), nullable=False),
    Column("library_version", _text(12), nullable=False),
    Column("report", Text, nullable=False),
    PrimaryKeyConstraint("run", "arm"),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("run", _text(80), primary_key=True),
    Column("comparison", Text, nullable=False),  # all of it but the arms, whose reports stand in `evaluations`
)

edits = Table(
    "edits",
    metadata,
    Column("run", _text(80), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("step", Integer, nullable=False),  # the last that was finished then; -1 for none
    Column("author", _text(80), nullable=False),
    Column("reason", Text, nullable=False),
    Column("operations", Text, nullable=False),  # each with the words that it was made on
    Column("before_version", _text(12), nullable=False),
    Column("edited_version", _text(12), nullable=False),
    Column("edited", Text, nullable=False),  # the library that came of it
    Column("edited_at", Float, nullable=False),
    PrimaryKeyConstraint("run", "sequence"),
)

# Requests of the world outside that a library stood before, or was held back from.
served = Table(
    "served",
    metadata,
    Column("id", _text(40), primary_key=True),
    Column("reply_id", _text(255), index=True),  # as the endpoint called its reply
    Column("library", _text(64), nullable=False),  # the name that it is served under
    Column("version", _text(12), nullable=False),  # of a request held out: what it would have seen
    Column("held_out", Integer, nullable=False),
    Column("share", Float, nullable=False),  # of the requests that were held out at that time
    Column("unit", _text(40), nullable=False),  # what was drawn by lot: the request, or the user it came from
    Column("source", _text(8), nullable=False),  # proxy, mcp
    Column("model", _text(255), nullable=False),
    Column("status", Integer, nullable=False),
    Column("input_tokens", _large(), nullable=False),
    Column("output_tokens", _large(), nullable=False),
    Column("latency_s", Float, nullable=False),
    Column("served_at", Float, nullable=False),
    Column("task", _text(255)),
    Column("exchange", Text),  # messages and output, where that was allowed
    Column("reward", Text),
    Column("reward_value", Float),  # of the reward; empty while there is none, or it is unscored
    Column("rewarded_at", Float),
    # The live effect is added up by unit from this alone, whatever the exchanges weigh.
    Index(
        "ix_served_effect",
        *("library", "version", "share", "held_out", "unit"),
        *("reward_value", "status", "input_tokens", "output_tokens", "served_at"),
    ),
)

# Of a store on a server: who writes to it, how many commits of theirs it has, and which run each of them works on.
writers = Table(
    "writers",
    metadata,
    Column("id", _text(40), primary_key=True),
    Column("process", Text, nullable=False),  # its number and its machine
    Column("commits", Integer, nullable=False),
    Column("seen_at", Float, nullable=False),
)

holders = Table(
    "holders",
    metadata,
    Column("run", _text(80), primary_key=True),
    Column("writer", _text(40), nullable=False),
)
