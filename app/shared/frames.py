"""Sends frames of analyses to scripts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

Row = dict[str, Any]


def records(frame: pd.DataFrame, *columns: str, most: int | None = None) -> list[Row]:
    """Convert rows of a frame to what JSON holds; numbers that are none become None.

    Args:
        frame: The frame.
        *columns: Columns to send; all if none is named.
        most: Rows at most.
    """
    shown = frame[list(columns)] if columns else frame
    shown = shown if most is None else shown.head(most)
    return [{str(k): _plain(v) for k, v in row.items()} for row in shown.to_dict("records")]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return None if value is pd.NA or value is pd.NaT else value
