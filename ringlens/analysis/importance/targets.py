"""What can be foretold of the steps of a thought, and its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ringlens.config import known_only
from ringlens.errors import ConfigError
from ringlens.store.schema.views_context import TOKEN_CONTEXT_COLUMNS

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

CORRECT, NEXT_ROLE, BACKTRACK = "correct", "next_role", "backtrack"

TARGETS = (CORRECT, NEXT_ROLE, BACKTRACK, *TOKEN_CONTEXT_COLUMNS)
"""Names of what can be foretold."""

MOST = 20
"""Most values of a target."""


def values_of(store: Source, target: str, steps: pd.DataFrame) -> pd.Series:
    """Read what is to be foretold of each step.

    Args:
        store: The store.
        target: "correct" (the answer in the end), "next_role" (what the next step does),
            "backtrack" (whether the next step goes back), or a column of `token_context` (of the
            first token of the step).
        steps: The steps, in order of trace and step: ``trace_id``, ``step``, ``pos``, ``correct``,
            ``role``, ``is_backtrack``.

    Returns:
        The value of each step; missing where it is not known.

    Raises:
        ConfigError: An unknown target, or one with more than `MOST` values.
    """
    known_only([target], TARGETS, "target")
    if target == CORRECT:
        return steps["correct"]
    if target in (NEXT_ROLE, BACKTRACK):
        column = "role" if target == NEXT_ROLE else "is_backtrack"
        following = steps.groupby("trace_id")[column].shift(-1)
        adjacent = steps.groupby("trace_id")["step"].shift(-1) == steps["step"] + 1
        return following.where(adjacent)
    table = store.sql(
        f"select trace_id, pos, {target} as value from token_context where step is not null"
    ).df()
    merged = steps[["trace_id", "pos"]].merge(table, how="left", on=["trace_id", "pos"])
    values = merged["value"].set_axis(steps.index)
    if values.nunique() > MOST:
        raise ConfigError(
            f"{target} has {values.nunique()} values; give a target of at most {MOST}."
        )
    return values
