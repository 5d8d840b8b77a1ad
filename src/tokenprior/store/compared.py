"""Compared: what comparisons found, put together again from the store without asking a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenprior.store.open import Store

Row = dict[str, Any]


def comparison_of(store: Store, run: str) -> Row | None:
    """What `Comparison.to_json` gave when a comparison ended.

    Returns:
        `None` for a run that is no comparison, is not finished, or was made before comparisons were kept whole.
    """
    kept = store.rows("comparisons", run)
    if not kept:
        return None
    reports = {row["arm"]: row["report"] for row in store.rows("evaluations", run)}
    comparison: Row = kept[0]["comparison"]
    return comparison | {"arms": [reports[arm] for arm in comparison["arms"]]}
