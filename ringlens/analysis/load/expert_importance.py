"""How much each expert gives: what criteria of pruning rank, and which experts are super experts.

w routing weight, f output of an expert, h residual stream, r sum of the routed experts.

Shape letters: L sparse layers, E experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.selections import expert_counts
from ringlens.analysis.selections.expert_counts import ExpertCounts, chosen_tokens
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.layer_parts import rows_by_layers
from ringlens.analysis.selections.selection import Selection, read
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

PERCENTILE, OF_LARGEST, OF_LAYERS = 99.5, 0.1, 0.75
"""Thresholds of super experts (arXiv 2507.23279)."""

OF_OUTPUTS = ("reap", "ean", "easy_ep", "peak")
"""Columns that need `expert_outputs`."""


@refuse_unknown
def expert_importance(
    store: Source, where: str | None = None, *, engine: Engine = LOCAL
) -> pd.DataFrame:
    """Measure what each expert gives to some tokens.

    All phases count together: a model that lacks an expert lacks it in prompt and thought alike.
    Name a phase in ``where`` to measure one.

    Args:
        store: The store; all but ``n``, ``share`` and ``weight`` need a run that recorded
            `expert_outputs`.
        where: The tokens, a predicate over `token_context`; None for all.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per sparse layer and expert: ``n`` times chosen; ``share`` of tokens; ``weight``, the
        sum of its routing weights; ``reap`` = mean of w·‖f‖ over the tokens that chose it (arXiv
        2510.13999); ``ean`` = Σ‖f‖; ``easy_ep`` = Σ w·‖f‖·(1 − cos(h, h + r)) (arXiv 2504.06792);
        ``peak`` = max |f|; and ``super_expert``, whether that is above the 99.5th percentile of all
        experts and above a tenth of the largest, in the first three quarters of the layers (arXiv
        2507.23279). An expert without a choice has 0. What was not recorded is NaN, and
        ``super_expert`` then None. ``attrs`` has ``tokens``, those of the layer with most.

    Raises:
        ConfigError: The predicate is wrong.
        StoreError: Nothing is selected, runs have different routers, or some of the tokens have
            `expert_outputs` and others do not.
    """
    selection = replace(read(store, where), by=())
    counts = expert_counts.count(store, selection, engine)
    weight_RE = expert_counts.weights_of(store, selection, counts, engine)
    rows = []
    for key, index in counts.groups(()):
        tokens = int(counts.rows["tokens"].to_numpy()[index].sum())
        n_E = counts.n_RE[index].sum(axis=0)
        facts = {"expert": np.arange(counts.experts), "n": n_E, "share": n_E / tokens}
        rows.append(pd.DataFrame(key | facts | {"weight": weight_RE[index].sum(axis=0)}))
    frame = pd.concat(rows, ignore_index=True)
    outputs = _outputs(store, selection, counts, engine)
    if outputs is None:
        frame[list(OF_OUTPUTS)] = np.nan
        frame["super_expert"] = None
    else:
        frame = frame.merge(outputs, how="left", on=["layer", "expert"])
        frame[list(OF_OUTPUTS)] = frame[list(OF_OUTPUTS)].fillna(0.0)
        frame["super_expert"] = super_experts(
            frame["layer"].to_numpy(), frame["peak"].to_numpy(), _layers(store, selection)
        )
    tokens = int(counts.rows.groupby("layer")["tokens"].sum().max())
    return described(frame, selection, counts.traces, _outputs_sql(selection), tokens=tokens)


def super_experts(
    layer: NDArray[np.integer], peak: NDArray[np.floating], layers: int
) -> NDArray[np.bool_]:
    """Find super experts by the largest magnitude of their outputs (arXiv 2507.23279).

    Args:
        layer: Layer of each expert.
        peak: Largest magnitude of its outputs.
        layers: Layers of the model, dense ones included.
    """
    early = layer < OF_LAYERS * layers
    return early & (peak > np.percentile(peak, PERCENTILE)) & (peak > OF_LARGEST * peak.max())


def _outputs_sql(selection: Selection) -> str:
    """SQL of what the outputs of each expert come to."""
    chosen = chosen_tokens(selection, "expert_ids", "weights")
    return f"""
select layer, expert, avg(w * f) as reap, sum(f) as ean, sum(w * f * turned) as easy_ep,
       max(peak) as peak, count(*) as n
from (select layer, outputs.expert_ids[rank] as expert,
             weights[list_position(chosen.expert_ids, outputs.expert_ids[rank])]::double as w,
             norms[rank]::double as f, peaks[rank]::double as peak,
             greatest(contribution, 0)::double as turned
      from (select *, unnest(range(1, len(expert_ids) + 1)) as rank from {chosen}) as chosen
      join expert_outputs as outputs using (trace_id, layer, pos))
group by layer, expert order by layer, expert"""


def _outputs(
    store: Source, selection: Selection, counts: ExpertCounts, engine: Engine
) -> pd.DataFrame | None:
    """What the outputs of each expert come to; None where no token has outputs."""
    found = rows_by_layers(store, selection, _outputs_sql, engine)
    if found.empty:
        return None
    seen, wanted = int(found["n"].sum()), int(counts.n_RE.sum())
    if seen != wanted:
        raise StoreError(
            f"{seen:,} of {wanted:,} choices selected by {selection.where!r:.200} have outputs: "
            "some runs, or layers, recorded expert_outputs and others did not. Select those that "
            "did, with `run_id = '…'`, or replay the traces with record=[…, 'expert_outputs']."
        )
    return found.drop(columns="n")


def _layers(store: Source, selection: Selection) -> int:
    """Layers of the models of a selection's runs."""
    query = f"select max(layers) from runs where {selection.of_runs}"
    (found,) = store.sql(query).fetchall()[0]
    return int(found)
