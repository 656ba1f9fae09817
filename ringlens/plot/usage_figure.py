"""The usage of experts as a figure: layer × expert, load of a layer, balance by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ringlens.analysis.load.usage import METRICS, PHASE_CHOICES, Usage
from ringlens.analysis.load.usage_count import usage as count
from ringlens.config import known_only, refuse_unknown
from ringlens.display import plural, spans
from ringlens.errors import NotInStoreError
from ringlens.plot import heatmap
from ringlens.plot.theme import colours_of, drawn, frame, titled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

    from ringlens.store import Store

_TOP, _BOTTOM = 84, 84


@refuse_unknown
def usage(
    store: Store,
    *,
    metric: str = "share",
    phase: str = "all",
    where: str | None = None,
    layer: int | None = None,
    theme: str | None = None,
) -> PlotlyFigure:
    """Draw how much each expert is used, with the load of one layer and the balance of all.

    Args:
        store: The store.
        metric: "share" of tokens that chose the expert, "weight" (its part of all routing weight),
            "lift" (log₂ of its share over the uniform k/E), or "flips" (share of its choices that
            are due to the selection bias).
        phase: "all" (the title says that phases are pooled), "prompt", "think", "answer", or
            "difference" (think minus answer).
        where: Which tokens: a predicate over ``token_context``; None for all.
        layer: Layer whose load is drawn above; None for the first that routes.
        theme: "light" or "dark"; None follows plotly's default template.

    Raises:
        ConfigError: There is no such metric, phase or theme; ``where`` is no predicate, or selects
            replays beside other traces without naming the mode.
        NotInStoreError: There is no such layer, or no token with routing is selected.
        StoreError: The selected runs have routers of different shapes.
    """
    known_only([metric], METRICS, "metric")
    known_only([phase], PHASE_CHOICES, "phase")
    theme, colours = colours_of(theme)
    found, runs = count(store, where)
    shown = found.layers[0] if layer is None else layer
    if shown not in found.layers:
        known = spans(found.layers)
        raise NotInStoreError(f"layer {layer!r:.60}: routing was recorded of layers {known}")
    if not found.sums.reasons and metric in ("weight", "flips"):
        raise NotInStoreError(f"{metric}: imported runs tell which experts were chosen, not why")
    figure = heatmap.figure(found, metric, phase, shown, None, theme)
    what = heatmap.READINGS[metric].title + (
        ", think minus answer" if phase == "difference" else ""
    )
    title = titled(f"Usage of experts: {what}", _scope(found, runs, phase, where), colours)
    layout = frame(colours, title, figure["layout"]["height"] + _TOP + _BOTTOM - 58)
    margin = {"l": 44, "r": 16, "t": _TOP, "b": _BOTTOM}
    figure["layout"] = {**figure["layout"], **layout, "margin": margin}
    figure["data"][0] |= {"showscale": True, "colorbar": _scale(metric, phase)}
    return drawn(figure)


def _scope(usage: Usage, runs: list[dict[str, Any]], phase: str, where: str | None) -> str:
    """What is counted, in words: no phase and no run is pooled without being named."""
    phases = {
        "all": "prompt, think and answer pooled",
        "difference": "think and answer",
    }.get(phase, phase)
    tokens = (
        usage.tokens("think") + usage.tokens("answer")
        if phase == "difference"
        else usage.tokens(phase)
    )
    models = sorted({run["model"] for run in runs})
    modes = sorted({run["mode"] for run in runs})
    pooled = f"{plural(len(runs), 'run')} ({', '.join(modes)})"
    chosen = "" if where is None else f" · where {where}"
    return f"{phases} · {plural(tokens, 'token')} · {', '.join(models)} · {pooled}{chosen}"


def _scale(metric: str, phase: str) -> dict[str, Any]:
    form = heatmap.READINGS[metric]
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": 0,
        "yanchor": "top",
        "ypad": 30,
        "xpad": 0,
        "len": 0.84,
        "thickness": 8,
        "outlinewidth": 0,
        "nticks": 5,
        "tickformat": (form.difference if phase == "difference" else form.value).replace(
            ".2%", ".0%"
        ),
        "ticks": "",
    }
