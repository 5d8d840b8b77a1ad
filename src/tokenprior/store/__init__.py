"""The store: what happened, kept for good in one SQLite file or any database that SQLAlchemy reaches."""

from tokenprior.store.open import Store, open_store
from tokenprior.store.record import RunRecord, RunStore
from tokenprior.store.versions import LibraryVersion

__all__ = ["LibraryVersion", "RunRecord", "RunStore", "Store", "open_store"]
