"""Numbered migrations; `env.py` is what Alembic calls for each of them."""
