"""Frames as tables that a script draws (shared/rows_table.js)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ringlens.app.shared.frames import records
from ringlens.app.shared.made import Made

Row = dict[str, Any]


def table(
    frame: pd.DataFrame, title: str, name: str, about: str, links: Mapping[str, str], made: Made
) -> Row:
    """Make what the script is sent.

    Args:
        frame: The rows; columns that hold lists are left out.
        title: Its heading.
        name: Of its files.
        about: One sentence.
        links: Addresses by column; ``{column}`` stands for the value of a column of the row.
        made: How it was made.
    """
    listed = [
        column
        for column in frame.columns
        if frame[column].map(lambda each: isinstance(each, list | tuple | np.ndarray | dict)).any()
    ]
    shown = frame.drop(columns=listed)
    return {
        "title": title,
        "name": name,
        "about": about,
        "columns": [str(column) for column in shown.columns],
        "rows": [list(row.values()) for row in records(shown)],
        "links": dict(links),
        "made": made,
    }
