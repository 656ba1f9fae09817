"""Encodes what the map of layers × experts draws: numbers, ends of their scale, balance of layers.

Shape letters: S sparse layers, E experts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ringlens.analysis.load.usage import Usage, gini, max_violation
from ringlens.app.shared.made import Made
from ringlens.plot import heatmap
from ringlens.plot.typed_arrays import encode

Row = dict[str, Any]


def payload(usage: Usage, metric: str, phase: str, made: Made | None) -> Row:
    """Encode the numbers of a metric in a phase.

    Args:
        usage: Counts of the scope.
        metric: Key of :data:`ringlens.analysis.load.usage.METRICS`.
        phase: 'all', a phase, or 'difference' (think minus answer).
        made: SQL and Python that give the same numbers; None where nothing does.

    Returns:
        Arrays ``values`` [S, E] (NaN where nothing is known), ``load`` [S, E] (the share of tokens
        that chose each expert, whatever the metric) and ``violation`` and ``gini`` [S]; the
        ``layers``, the ends ``low`` and ``high`` of the scale, the name of the ``scale``; whether a
        value is a ``difference``, and ``made``.
    """
    values_SE = usage.metric_SE(metric, phase)
    n_SE = usage.count_SE(phase)
    chosen_S = n_SE.sum(axis=1, keepdims=True) / usage.experts_per_token
    low, high = heatmap.bounds(values_SE, metric, phase)
    return {
        "metric": metric,
        "phase": phase,
        "title": heatmap.READINGS[metric].title,
        "layers": list(usage.layers),
        "low": low,
        "high": high,
        "scale": heatmap.scale_name(metric, phase),
        "values": encode(np.where(np.isfinite(values_SE), values_SE, np.nan), "f4"),
        "load": encode(n_SE / np.maximum(chosen_S, 1), "f4"),
        "violation": encode(max_violation(n_SE), "f4"),
        "gini": encode(gini(n_SE), "f4"),
        "made": made,
    }
