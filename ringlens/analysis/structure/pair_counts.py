"""Counts of pairs of experts, which go into an array a batch of rows at a time.

Shape letters: C cells (a group and a layer each), R rows, k experts per token, E experts.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.selection import Selection, same
from ringlens.errors import ConfigError
from ringlens.store.encode.columns import matrix

ROWS = 200_000
"""Rows that are counted at a time."""

MOST = 2**27
"""Most pairs of experts that are counted at once, over all groups and layers: 1 GiB."""


def numbered(selection: Selection) -> str:
    """SQL of the choices with the number of their cell."""
    return f"""with found as (from {chosen_tokens(selection)}),
following as (
    select layer, lead(layer) over (order by layer) as next
    from (select distinct layer from found)),
{selection.cells("found")},
chosen as (
    select found.*, cell from found join cells on {same(selection.keys("layer"), "found", "cells")})
"""


def refuse_many(cells: int, experts: int, selection: Selection) -> None:
    """Refuse to count more pairs than memory should hold.

    Raises:
        ConfigError: There are more than `MOST`.
    """
    if cells * experts**2 > MOST:
        raise ConfigError(
            f"by = {selection.by} makes {cells:,} groups and layers of {experts}² pairs, more "
            "than are counted at once; group by less, or select less."
        )


class PairCounts:
    """How often pairs of experts and single ones were chosen, in each cell."""

    def __init__(self, cells: int, experts: int) -> None:
        self.n_CEE = np.zeros((cells, experts, experts), np.int64)
        self.first_CE = np.zeros((cells, experts), np.int64)
        self.second_CE = np.zeros((cells, experts), np.int64)
        self.tokens_C = np.zeros(cells, np.int64)

    def add(self, rows: pa.Table, cell_R: NDArray[np.int64]) -> None:
        """Count the rows of a batch, which have ``expert_ids`` and ``others``."""
        C, E, _ = self.n_CEE.shape
        first_Rk = matrix(rows["expert_ids"]).astype(np.int64)
        second_Rk = matrix(rows["others"]).astype(np.int64)
        place_Rk = cell_R[:, None] * E + first_Rk
        pair_Rkk = place_Rk[:, :, None] * E + second_Rk[:, None, :]
        self.n_CEE += np.bincount(pair_Rkk.ravel(), minlength=C * E * E).reshape(C, E, E)
        self.first_CE += np.bincount(place_Rk.ravel(), minlength=C * E).reshape(C, E)
        other_Rk = cell_R[:, None] * E + second_Rk
        self.second_CE += np.bincount(other_Rk.ravel(), minlength=C * E).reshape(C, E)
        self.tokens_C += np.bincount(cell_R, minlength=C)

    def frame(self, cells: pd.DataFrame, other: str) -> pd.DataFrame:
        """Make the table of the pairs that occurred."""
        C, i, j = self.n_CEE.nonzero()
        n = self.n_CEE[C, i, j]
        frame = cells.drop(columns="cell").iloc[C].reset_index(drop=True)
        frame["expert"], frame[other], frame["n"] = i, j, n
        frame["share"] = n / self.first_CE[C, i]
        frame["lift"] = frame["share"] * self.tokens_C[C] / self.second_CE[C, j]
        return frame
