"""Whether a store is of the model that a plan is about.

Models of one shape differ in the selection biases of their routers, which a store keeps. Where the
checkpoint lies in a folder, these are compared; else only names can be.

Shape letters: L sparse layers, E experts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.errors import StoreError
from ringlens.model.gate.json_files import is_there
from ringlens.model.gate.shards import INDEX, SINGLE
from ringlens.model.loading import locate
from ringlens.prune.source import open_source

if TYPE_CHECKING:
    from ringlens.model.sizes import Sizes
    from ringlens.store.read.selection import Source as Rows

CLOSE = 2**-7
"""Biases may be rounded to bfloat16."""


def check_same_model(model: str, sizes: Sizes, store: Rows, table: pd.DataFrame) -> tuple[str, ...]:
    """Refuse a store of another model.

    Args:
        model: The model that a plan is about.
        sizes: Its sizes.
        store: The store.
        table: Its table of `expert_importance`.

    Returns:
        Names of models whose runs ranked the experts, and that cannot be told to be this one.

    Raises:
        StoreError: A run is of a model of another shape or with other selection biases, or lacks
            layers.
    """
    _check_shape(model, sizes, table)
    runs = store.sql(
        "select distinct run_id, model from runs where run_id in (select run_id from token_context "
        f"where ({table.attrs['where']}\n)) order by run_id"
    ).fetchall()
    own_LE = _checkpoint_biases(model, sizes)
    unknown = []
    for run_id, name in runs:
        seen_LE = _run_biases(store, run_id, sizes)
        if own_LE is None or np.isnan(seen_LE).any():
            unknown += [name] * (name != model)
        elif not np.allclose(seen_LE, own_LE, rtol=CLOSE, atol=1e-6):
            raise StoreError(
                f"run {run_id} is of another model, {name!r:.80}: its routers have other selection "
                f"biases than {model}. Capture with this one, or select its runs with where."
            )
    return tuple(dict.fromkeys(unknown))


def _check_shape(model: str, sizes: Sizes, table: pd.DataFrame) -> None:
    layers = tuple(sorted(table["layer"].unique().tolist()))
    experts = int(table["expert"].max()) + 1
    if experts != sizes.router.experts or not set(layers) <= set(sizes.sparse_layers):
        raise StoreError(
            f"the store has routing of {experts} experts in layers {list(layers)}, and {model} has "
            f"{sizes.router.experts} in layers {list(sizes.sparse_layers)}: it is of another "
            "model. Capture with this one, or select its runs with where."
        )
    missing = sorted(set(sizes.sparse_layers) - set(layers))
    if missing:
        raise StoreError(
            f"the selection has no routing of layers {missing[:8]} ({len(missing)} in all), which "
            "a plan must rank too. Record routing without naming layers."
        )


def _run_biases(store: Rows, run_id: str, sizes: Sizes) -> np.ndarray:
    """Selection biases that a run has noted, [L, E]; NaN where it does not know them."""
    shape = (len(sizes.sparse_layers), sizes.router.experts)
    rows = store.sql(
        "select bias from experts where run_id = ? order by layer, expert", [run_id]
    ).fetchall()
    if len(rows) != np.prod(shape):
        return np.full(shape, np.nan)
    return np.array([np.nan if bias is None else bias for (bias,) in rows]).reshape(shape)


def _checkpoint_biases(model: str, sizes: Sizes) -> np.ndarray | None:
    """Selection biases of a checkpoint in a folder, [L, E]; None where there are none to read."""
    place = locate(model)
    folder = Path(place)
    if not os.path.isdir(place) or not (is_there(folder / SINGLE) or is_there(folder / INDEX)):
        return None
    from ringlens.prune.merging import read_tensor

    source = open_source(model)
    found = {
        int(matched["layer"]): read_tensor(span).float().numpy()
        for held in source.files.values()
        for name, span in held.items()
        if len(span.shape) == 1 and (matched := source.names.rows.fullmatch(name))
    }
    if not set(sizes.sparse_layers) <= set(found):
        return None
    return np.stack([found[layer] for layer in sizes.sparse_layers])
