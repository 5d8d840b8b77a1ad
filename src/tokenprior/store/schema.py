"""Schema: the tables as they stand after the newest migration. A test holds the two against each other.

Natural keys make every write repeatable; operations are only ever appended, so that a library is a fold over them.
"""

from __future__ import annotations

from sqlalchemy import (
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

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("name", String(64), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("config", Text, nullable=False),
    Column("state", String(16), nullable=False),
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
    Column("run", String(80), nullable=False),
    Column("name", String(64), nullable=False),
    Column("key", String(255), nullable=False),
    Column("request_hash", String(20), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("model", String(255), nullable=False),
    Column("state", String(8), nullable=False),  # sent, done, failed, unknown
    Column("request", Text, nullable=False),
    Column("reply", Text),
    Column("error", Text),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("cost_usd", Float),
    Column("latency_s", Float),
    Column("sent_at", Float, nullable=False),
    Column("phase", String(16), nullable=False, server_default=""),  # as in the key
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

tool_calls = Table(
    "tool_calls",
    metadata,
    Column("run", String(80), nullable=False),
    Column("place", String(320), nullable=False),  # the call of the model that asked for it, and its number there
    Column("made_of", String(20), nullable=False),
    Column("tool", String(64), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("state", String(8), nullable=False),  # sent, done
    Column("result", Text),
    Column("sent_at", Float, nullable=False),
    PrimaryKeyConstraint("run", "place", "made_of"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("run", String(80), nullable=False),
    Column("name", String(64), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("step", Integer, nullable=False),
    Column("task", String(255), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("input_hash", String(20), nullable=False),
    Column("rollout", Text, nullable=False),
    Column("verifier", String(20)),
    Column("reward", Text),
    Column("reward_value", Float),  # the number in it
    Column("trouble", String(80)),  # why there is none: `failed: KIND` or `unscored: REASON`
    PrimaryKeyConstraint("run", "phase", "step", "task", "attempt", "input_hash"),
    Index("ix_rollouts_replay", "name", "phase", "step", "task", "attempt", "input_hash"),
    # Attempts counted and averaged without reading their texts.
    Index("ix_rollouts_figures", "run", "phase", "step", "task", "attempt", "reward_value", "trouble"),
)

advantages = Table(
    "advantages",
    metadata,
    Column("run", String(80), nullable=False),
    Column("step", Integer, nullable=False),
    Column("task", String(255), nullable=False),
    Column("advantage", Text, nullable=False),
    PrimaryKeyConstraint("run", "step", "task"),
)

steps = Table(
    "steps",
    metadata,
    Column("run", String(80), nullable=False),
    Column("step", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("library_version", String(12), nullable=False),
    Column("library", Text, nullable=False),  # what learning goes on from
    Column("report", Text, nullable=False),
    Column("shipped_version", String(12)),
    Column("shipped", Text),  # what is used
    Column("observations", Text),  # rewards of attempts that saw different parts of the library
    PrimaryKeyConstraint("run", "step"),
)

trials = Table(
    "trials",
    metadata,
    Column("run", String(80), nullable=False),
    Column("step", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("candidate_version", String(12), nullable=False),
    Column("candidate", Text, nullable=False),
    Column("figures", Text, nullable=False),
    PrimaryKeyConstraint("run", "step", "sequence"),
)

pins = Table(
    "pins",
    metadata,
    Column("run", String(80), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("version", String(12)),  # empty: no longer pinned
    Column("reason", Text, nullable=False),
    Column("pinned_at", Float, nullable=False),
    PrimaryKeyConstraint("run", "sequence"),
)

operations = Table(
    "operations",
    metadata,
    Column("run", String(80), nullable=False),
    Column("step", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("operation", Text, nullable=False),
    Column("outcome", String(8), nullable=False),  # done, refused
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("run", "step", "sequence"),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("run", String(80), nullable=False),
    Column("arm", String(64), nullable=False),
    Column("library_version", String(12), nullable=False),
    Column("report", Text, nullable=False),
    PrimaryKeyConstraint("run", "arm"),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("run", String(80), primary_key=True),
    Column("comparison", Text, nullable=False),  # all of it but the arms, whose reports stand in `evaluations`
)

edits = Table(
    "edits",
    metadata,
    Column("run", String(80), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("step", Integer, nullable=False),  # the last that was finished then; -1 for none
    Column("author", String(80), nullable=False),
    Column("reason", Text, nullable=False),
    Column("operations", Text, nullable=False),  # each with the words that it was made on
    Column("before_version", String(12), nullable=False),
    Column("edited_version", String(12), nullable=False),
    Column("edited", Text, nullable=False),  # the library that came of it
    Column("edited_at", Float, nullable=False),
    PrimaryKeyConstraint("run", "sequence"),
)

# Requests of the world outside that a library stood before, or was held back from.
served = Table(
    "served",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("reply_id", String(255), index=True),  # as the endpoint called its reply
    Column("library", String(64), nullable=False),  # the name that it is served under
    Column("version", String(12), nullable=False),  # of a request held out: what it would have seen
    Column("held_out", Integer, nullable=False),
    Column("share", Float, nullable=False),  # of the requests that were held out at that time
    Column("unit", String(40), nullable=False),  # what was drawn by lot: the request, or the user it came from
    Column("source", String(8), nullable=False),  # proxy, mcp
    Column("model", String(255), nullable=False),
    Column("status", Integer, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("latency_s", Float, nullable=False),
    Column("served_at", Float, nullable=False),
    Column("task", String(255)),
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
