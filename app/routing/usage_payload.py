"""Encodes usage for the script that draws it: every metric and phase at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ringlens.analysis.load.usage import METRICS, PHASE_CHOICES, Usage
from ringlens.app.routing import usage_map, usage_sql
from ringlens.app.shared.made import Made, made
from ringlens.app.shared.scope import Scope
from ringlens.plot import heatmap
from ringlens.plot.typed_arrays import encode
from ringlens.store import Store
from ringlens.store.schema.glossary import OF_METRICS

Payload = dict[str, Any]

PHASE_LABELS = {
    "all": "All",
    "prompt": "Prompt",
    "think": "Think",
    "answer": "Answer",
    "difference": "Think − answer",
}

HEADINGS = {"share": "Tokens", "weight": "Weight share", "lift": "Lift", "flips": "By bias"}
"""Names of the numbers of an expert."""

UNKNOWN = "not recorded: imported runs tell which experts were chosen, not why"

OF_REASONS = ("weight", "flips")
"""Metrics that imported runs do not tell."""

OF_A_PHASE = ("load", "violation", "gini")
"""What is the same in every metric."""

CONSTANTS = {
    "METRICS": [
        {
            "name": name,
            "label": label,
            "heading": HEADINGS[name],
            "title": heatmap.READINGS[name].title,
            "term": OF_METRICS[name],
        }
        for name, label in METRICS.items()
    ],
    "PHASE_LABELS": PHASE_LABELS,
    "UNKNOWN": UNKNOWN,
}
"""Exports of ``routing/constants.js``."""


def usage_payload(
    usage: Usage, run_id: str | None = None, made_of: Callable[[str, str], Made] | None = None
) -> Payload:
    """Encode how experts were used: by phase, how often; by metric and phase, what the map draws.

    Args:
        usage: Counts of the scope.
        run_id: A run of the model, of whose experts people may have said something; "" where all
            runs are of one model; None where what they said is not there.
        made_of: Says how the values of a metric in a phase are had; None where nothing gives them.

    Returns:
        The ``shape`` of the model, ``phases`` and ``views``. A phase without tokens is left out,
        and so is a metric that is not known.
    """
    phases = [phase for phase in PHASE_CHOICES if _is_there(usage, phase)]
    known = [name for name in METRICS if usage.sums.reasons or name not in OF_REASONS]
    found = {
        (metric, phase): _view(usage, metric, phase, made_of)
        for metric in known
        for phase in phases
    }
    return {
        "shape": {
            "layers": list(usage.layers),
            "experts": usage.experts,
            "groups": usage.groups,
            "k": usage.experts_per_token,
            "zooms": heatmap.zooms(usage.experts),
            "run": run_id,
        },
        "phases": {
            phase: {
                "tokens": [usage.tokens(each) for each in _phases_of(phase)],
                "n": encode(usage.count_SE(phase), "u4"),
                **{name: found["share", phase][name] for name in OF_A_PHASE},
            }
            for phase in phases
        },
        "views": {
            f"{metric}/{phase}": {
                name: value for name, value in view.items() if name not in OF_A_PHASE
            }
            for (metric, phase), view in found.items()
        },
    }


def made_of_scope(
    store: Store, scope: Scope, usage: Usage, run: Payload
) -> Callable[[str, str], Made]:
    """Return what says how the values of a scope are had in SQL and Python."""

    def made_of(metric: str, phase: str) -> Made:
        query = usage_sql.query(scope, metric, phase, run, usage.from_rollups)
        return made(store, query, f'found = store.sql("""{query}""").df()')

    return made_of


def _phases_of(phase: str) -> tuple[str, ...]:
    return ("think", "answer") if phase == "difference" else (phase,)


def _is_there(usage: Usage, phase: str) -> bool:
    return all(usage.tokens(each) > 0 for each in _phases_of(phase))


def _view(
    usage: Usage, metric: str, phase: str, made_of: Callable[[str, str], Made] | None
) -> Payload:
    """Encode what the map draws of a metric in a phase, with the ends of its scale as text."""
    how = None if made_of is None else made_of(metric, phase)
    least, most, _ = heatmap.scale(usage, metric, phase, "dark")
    return usage_map.payload(usage, metric, phase, how) | {"ends": [least, most]}
