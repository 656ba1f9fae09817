"""Counts of pairs of experts on a layer, or on a layer and the next.

Shape letters: R tokens with a choice, P part of them, k experts per token, E experts, G groups, X
pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.selections.selection import Selection
from ringlens.errors import ConfigError

MOST = 2**24
"""Most pairs that a table lists, or that are counted for a layer at once: 1 GiB of a table."""

_PAIRS = 2**17
"""Pairs of tokens that are numbered at a time: what stays in a core's cache is counted faster."""

Ids = NDArray[np.unsignedinteger]


class LayerPairs(NamedTuple):
    """Pairs of experts that tokens chose on a layer.

    Attributes:
        layer: The layer.
        pair_X: Pairs that occurred, as (group · E + first) · E + second, ascending.
        n_X: Tokens that chose both.
        tokens_G: Tokens of each group.
        first_GE: Those that chose the first expert.
        second_GE: Those that chose the second.
    """

    layer: int
    pair_X: NDArray[np.int32]
    n_X: NDArray[np.int32]
    tokens_G: NDArray[np.int64]
    first_GE: NDArray[np.int64]
    second_GE: NDArray[np.int64]


def refuse_many(pairs: int, selection: Selection) -> None:
    """Refuse to count more pairs than memory should hold.

    Raises:
        ConfigError: There are more than `MOST`.
    """
    if pairs > MOST:
        raise ConfigError(
            f"by = {list(selection.by)} makes {pairs:,} pairs of experts, and at most {MOST:,} are "
            "counted at once; group by less, or select less."
        )


def together(ids_kR: Ids, group_R: NDArray[np.int64], groups: int, experts: int) -> NDArray:
    """Count pairs of different experts of a token, in both orders.

    Returns:
        Tokens that chose both, [G, E, E]; zeros on the diagonal.
    """
    later = [slice(rank + 1, None) for rank in range(len(ids_kR))]
    n_GEE = _counted(ids_kR, ids_kR, later, group_R, groups, experts)
    return n_GEE + n_GEE.transpose(0, 2, 1)


def following(
    ids_kR: Ids, next_kR: Ids, group_R: NDArray[np.int64], groups: int, experts: int
) -> NDArray[np.int64]:
    """Count pairs of an expert on a layer and one on the next, [G, E, E]."""
    every = [slice(None)] * len(ids_kR)
    return _counted(ids_kR, next_kR, every, group_R, groups, experts)


def table(
    found: Sequence[LayerPairs], groups: pd.DataFrame, other: str, selection: Selection
) -> pd.DataFrame:
    """Make the table of the pairs that occurred, by group and layer."""
    refuse_many(sum(len(each.n_X) for each in found), selection)
    columns: dict[str, list[NDArray]] = {
        name: [] for name in ("expert", other, "n", "share", "lift")
    }
    cells, sizes = [], []
    for group in range(len(groups)):
        for each in found:
            E = each.first_GE.shape[1]
            own = slice(*np.searchsorted(each.pair_X, (group * E**2, (group + 1) * E**2)))
            i, j = np.divmod(each.pair_X[own] - group * E**2, E)
            n = each.n_X[own].astype(np.int64)
            share = n / each.first_GE[group, i]
            lift = share * each.tokens_G[group] / each.second_GE[group, j]
            values = (i.astype(np.int64), j.astype(np.int64), n, share, lift)
            for name, part in zip(columns, values, strict=True):
                columns[name].append(part)
            cells.append((group, each.layer))
            sizes.append(len(n))
    group_C, layer_C = np.array(cells, np.int64).reshape(-1, 2).T
    keys = {name: groups[name].iloc[group_C].repeat(sizes).array for name in groups}
    keys["layer"] = np.repeat(layer_C.astype(np.uint16), sizes)
    found_columns = {}
    for name in list(columns):  # one after the other, so that parts and whole are held for one
        parts = columns.pop(name)
        found_columns[name] = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    # Copied, columns of one type would be held twice.
    return pd.DataFrame({**keys, **found_columns}, copy=False)


def _counted(
    first_kR: Ids,
    second_kR: Ids,
    ranks_k: Sequence[slice],
    group_R: NDArray[np.int64],
    groups: int,
    experts: int,
) -> NDArray[np.int64]:
    """Count pairs of each first rank and some of the second, [G, E, E]."""
    n_X = np.zeros(groups * experts**2, np.int64)
    pairs = sum(len(second_kR[ranks]) for ranks in ranks_k)
    step = max(1, _PAIRS // max(1, pairs))
    pair_XR = np.empty((pairs, min(step, len(group_R))), np.int64)
    for start in range(0, len(group_R), step):
        part = slice(start, start + step)
        group_P, second_kP = group_R[part] * experts, second_kR[:, part].astype(np.int64)
        numbered, at = pair_XR[:, : len(group_P)], 0
        for first_P, ranks in zip(first_kR[:, part], ranks_k, strict=True):
            chosen_kP = second_kP[ranks]
            after = at + len(chosen_kP)
            np.add((group_P + first_P) * experts, chosen_kP, out=numbered[at:after])
            at = after
        n_X += np.bincount(numbered.ravel(), minlength=len(n_X))
    return n_X.reshape(groups, experts, experts)
