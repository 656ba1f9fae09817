"""Encodes what stands along a thought: its steps, how routing changes, what is looked back at.

Each payload says under ``made`` how the same numbers are had in SQL and in Python; one that has
nothing to show says under ``lacks`` why, and under ``command`` what would record it.

Shape letters: S steps, L layers, W windows, T tokens.
"""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np

from ringlens.analysis import trajectory
from ringlens.analysis.differences import routing_shift
from ringlens.app.shared.arrow import floats
from ringlens.app.shared.made import Made, made
from ringlens.app.steps import listed
from ringlens.app.steps.listed import spread
from ringlens.app.trace import queries
from ringlens.errors import StoreError
from ringlens.plot.typed_arrays import encode
from ringlens.store import Store

Payload = dict[str, Any]
Row = dict[str, Any]

WINDOWS = 192
"""Windows of a trace that routing changes are shown of, at most: more would not be told apart."""

LEAST_WINDOW = 16
"""Tokens of a window at least: the choices of fewer say little of where they came from."""

CHANGE_ROWS = 500_000
"""Rows of routing that changes are counted in, at most; of longer traces some layers are shown."""

MAP_NUMBERS = 2_000_000
"""Numbers of the signatures that a map is made of, at most; beyond it takes some of the layers."""


def steps(store: Store, trace_id: int) -> Payload:
    """Encode the steps of a trace in order: spans of tokens, roles, flags, parents [S]."""
    table = listed.steps(store, trace_id)
    if not len(table):
        return {"lacks": "This trace is not cut into steps.", "command": listed.command(store)}
    query = listed.STEPS.format(steps="steps", trace_id=trace_id)
    return listed.encoded(table) | {"made": _by_sql(store, query)}


def change(store: Store, trace_id: int, n_tokens: int) -> Payload:
    """Encode how far each window's experts are from those of the window before [L, W], in nats.

    ``chance`` [W] is the mean over layers if the choices of each layer were in another order: the
    fewer tokens a window has, the more it diverges by chance.
    """
    window = window_of(n_tokens)
    some = spread(queries.routing_layers(store, trace_id), CHANGE_ROWS // max(1, n_tokens))
    found = routing_shift.chance_along(store, trace_id, window, layers=some)
    named = "" if some is None else f", layers={some}"
    layers = found["layer"].unique()
    chance_W = found.groupby("start")["by_chance"].mean().reindex(found["start"].unique())
    return {
        "window": window,
        "layers": layers.tolist(),
        "start": encode(found["start"].to_numpy().reshape(len(layers), -1)[0], "u4"),
        "change": encode(found["from_previous"].to_numpy(), "f4"),
        "chance": encode(chance_W.to_numpy(), "f4"),
        "made": made(
            store,
            found.attrs["sql"],
            f"found = routing_shift.chance_along(store, {trace_id}, window={window}{named})",
            "ringlens.analysis.differences.routing_shift",
        ),
    }


def window_of(n_tokens: int) -> int:
    """Return the tokens of a window: a power of two, so that a trace has at most `WINDOWS`."""
    window = LEAST_WINDOW
    while n_tokens > window * WINDOWS:
        window *= 2
    return window


def received(store: Store, run: Row, trace_id: int, n_tokens: int) -> Payload:
    """Encode the attention that later tokens pay to each token [T], summed; mean of the heads.

    ``held`` is the share of all attention that the recorded positions hold.
    """
    heads = queries.attention_heads(store, trace_id)
    if not heads:
        return {
            "lacks": "Which tokens heads look at was not recorded.",
            "command": f"ringlens replay {shlex.quote(run['model'])} {shlex.quote(store.address)} "
            f"--store {shlex.quote(store.address.rstrip('/') + '-attention')} "
            f"--record logprobs,routing,attention:4@0-{run['layers'] - 1}",
        }
    table = queries.received(store, trace_id)
    received_T = np.zeros(n_tokens, np.float32)
    received_T[table["pos"].to_numpy()] = floats(table["received"])
    return {
        "received": encode(received_T, "f4"),
        "heads": sum(map(len, heads.values())),
        "held": queries.attention_held(store, trace_id),
        "made": _by_sql(store, queries.RECEIVED.format(attention="attention", trace_id=trace_id)),
    }


def path_map(store: Store, trace_id: int) -> Payload:
    """Encode the places of the steps of a thought on its map of two principal components [S]."""
    where = f"trace_id = {trace_id}"
    layers = _map_layers(store, trace_id)
    try:
        found = trajectory.step_map(store, where, layers=layers)
    except StoreError as error:
        return {"lacks": str(error), "command": ""}
    shares = next(iter(found.attrs["explained"].values()))
    some = "" if layers is None else f", layers={list(layers)}"
    return {
        "step": encode(found["step"].to_numpy(), "u4"),
        "x": encode(found["pc1"].to_numpy(), "f4"),
        "y": encode(found["pc2"].to_numpy(), "f4"),
        "explained": [_known(share) for share in shares],
        "layers": list(found.attrs["layers"]),
        "made": made(
            store,
            None,
            f"found = trajectory.step_map(store, {where!r}{some})",
            "ringlens.analysis.trajectory",
        ),
    }


def _map_layers(store: Store, trace_id: int) -> list[int] | None:
    """Choose the layers of a map: all, or as many as keep it small, evenly spread."""
    experts, steps_of = queries.map_size(store, trace_id)
    layers = queries.routing_layers(store, trace_id)
    return spread(layers, MAP_NUMBERS // max(1, steps_of * experts))


def _by_sql(store: Store, query: str) -> Made:
    """Say how numbers were made that SQL gives as they are."""
    return made(store, query, f'found = store.sql("""{query}""").df()')


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
