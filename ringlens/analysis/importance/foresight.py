"""What linear probes foretold, as it was kept, beside their controls."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

PROBE = "linear"


@refuse_unknown
def foresight(store: Source, run_id: str | None = None) -> pd.DataFrame:
    """Read the results of linear probes.

    Args:
        store: The store, with results of `ringlens.probes.linear.linear_probe`.
        run_id: The run that they are kept with, the newest of those whose steps were read; None for
            all.

    Returns:
        The tables of `ringlens.probes.linear.linear_probe` one below the other, with ``target``,
        ``probed`` (the features of the whole table) and ``where`` before them, ``measure``, and
        ``steps`` and ``problems`` that each comes from. ``attrs["said"]`` is the sentence of the
        last one.

    Raises:
        StoreError: No probe was trained.
    """
    which = "" if run_id is None else " and run_id = ?"
    rows = store.sql(
        f"select key, layer, value, json from probes where probe = '{PROBE}'{which} "
        "order by run_id, key, layer nulls last",
        [] if run_id is None else [run_id],
    ).fetchall()
    if not rows:
        raise StoreError(
            "the store holds no results of linear probes; train some with `ringlens probe linear "
            f"{store.address}`."
        )
    told = [{"layer": layer, "score": value, **json.loads(text)} for _, layer, value, text in rows]
    frame = pd.DataFrame(told)
    frame["layer"] = frame["layer"].astype("Int64")
    order = (
        *("target", "probed", "where", "features", "layer", "score", "low", "high", "shuffled"),
        *("beyond_tokens", "beyond_low", "beyond_high", "measure", "steps", "problems"),
    )
    said = str(frame["said"].iloc[-1])
    frame = frame[list(order)].copy()
    frame.attrs["said"] = said
    return frame
