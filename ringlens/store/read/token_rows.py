"""TokenRows: numbers of selected tokens as arrays, ready for numpy, scikit-learn and frames.

Shape letters: N tokens, E experts, k experts per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ringlens.config import known_only
from ringlens.display import html_table
from ringlens.errors import ConfigError, NotInStoreError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

MOST_COLUMNS = 100_000
"""Columns of a frame, at most."""


@dataclass(frozen=True, repr=False)
class TokenRows:
    """What is recorded of selected tokens, a row a token, ordered by trace and position.

    ``rows["phase"]`` is a column by name, ``rows.values`` the numbers that were asked for.

    Attributes:
        name: What it is, for messages and ``repr``.
        trace_id: Traces of the tokens, int64 [N].
        pos: Their positions, int32 [N].
        columns: Arrays by name, each [N], [N, width] or [N, heads, width].
        numbers: Names of the columns that were asked for; the others are context.
        absent: Selected tokens that have no row, and are left out.
        heads: Heads of the second axis of ``values``; None where it has none.
    """

    name: str
    trace_id: NDArray[np.int64]
    pos: NDArray[np.int32]
    columns: Mapping[str, NDArray]
    numbers: tuple[str, ...]
    absent: int = 0
    heads: tuple[int, ...] | None = None

    @property
    def values(self) -> NDArray[np.float32]:
        """The numbers that were asked for: [N, width], or [N, heads, width].

        Raises:
            ConfigError: There are several columns of numbers: take one by its name.
        """
        if len(self.numbers) == 1:
            return self.columns[self.numbers[0]]
        names = ", ".join(f"rows[{name!r}]" for name in self.numbers)
        raise ConfigError(f"{self.name}: there are several columns; take one: {names}.")

    def __getitem__(self, name: str) -> NDArray:
        """A column.

        Raises:
            ConfigError: There is no such column.
        """
        if name in ("trace_id", "pos"):
            return self.trace_id if name == "trace_id" else self.pos
        known_only([name], ["trace_id", "pos", *self.columns], "column")
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.pos)

    def __repr__(self) -> str:
        left = f", {self.absent:,} selected tokens have none" if self.absent else ""
        traces = len(np.unique(self.trace_id))
        shapes = (f"{n} {c.dtype}{list(c.shape)}" for n, c in self.columns.items())
        return (
            f"TokenRows: {self.name}, {len(self):,} tokens of {traces:,} traces{left}\n"
            f"  {', '.join(shapes)}"
        )

    def _repr_html_(self) -> str:
        head = ("column", "shape", "dtype")
        columns: dict[str, NDArray] = {"trace_id": self.trace_id, "pos": self.pos, **self.columns}
        rows = [(name, list(c.shape), c.dtype) for name, c in columns.items()]
        note = f"{self.absent:,} selected tokens have no row" if self.absent else ""
        return html_table(f"{len(self):,} tokens: {self.name}", head, rows, note)

    def _ipython_key_completions_(self) -> list[str]:
        return ["trace_id", "pos", *self.columns]

    def df(self) -> pd.DataFrame:
        """A pandas frame; of an array with several numbers a token, each is a column."""
        import pandas as pd

        return pd.DataFrame(self._flat())

    def pl(self) -> pl.DataFrame:
        """A polars frame, as :meth:`df`.

        Raises:
            ConfigError: polars is not installed.
        """
        try:
            import polars as pl
        except ModuleNotFoundError as error:
            raise ConfigError(
                "polars is not installed: pip install polars, or use df()."
            ) from error
        return pl.DataFrame(self._flat())

    def _flat(self) -> dict[str, Any]:
        """Columns of one number a token."""
        found: dict[str, Any] = {"trace_id": self.trace_id, "pos": self.pos}
        for name, column in self.columns.items():
            if column.ndim == 1:
                found[name] = column
                continue
            for place in np.ndindex(column.shape[1:]):
                if len(found) == MOST_COLUMNS:
                    raise ConfigError(f"a frame of more than {MOST_COLUMNS:,} columns: use values.")
                found["_".join([name, *map(str, place)])] = column[(slice(None), *place)]
        return found


@dataclass(frozen=True, repr=False)
class RoutingRows(TokenRows):
    """Router choices of selected tokens.

    Attributes:
        experts: Experts of the layer, E.
    """

    experts: int = 0

    @property
    def values(self) -> NDArray[np.float32]:
        """Routing weights by expert [N, E], 0 where an expert is not chosen.

        Raises:
            NotInStoreError: A run was imported, and tells only which experts were chosen.
        """
        weights_Nk = self.columns["weights"]
        if np.isnan(weights_Nk).any():
            raise NotInStoreError(
                "some of the selected runs were imported, and tell which experts were chosen but "
                "not with which weight: use rows['expert_ids'], or add mode <> 'imported' to where"
            )
        values_NE = np.zeros((len(self), self.experts), np.float32)
        np.put_along_axis(
            values_NE, self.columns["expert_ids"].astype(np.int64), weights_Nk, axis=1
        )
        return values_NE
