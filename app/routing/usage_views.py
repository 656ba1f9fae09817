"""Shows what stands around the heatmap: caption, strongest cells, and the same as a table."""

from __future__ import annotations

from typing import Any

import dash_ag_grid as dag
import numpy as np
from dash import html
from dash.development.base_component import Component

from ringlens.analysis.load.usage import METRICS, Array, Usage
from ringlens.app.shared.parts import GRID_THEME, term
from ringlens.display import plural
from ringlens.plot import heatmap
from ringlens.plot.figure import signed
from ringlens.store.schema.glossary import OF_METRICS, define

Row = dict[str, Any]

PHASE_LABELS = {
    "all": "All",
    "prompt": "Prompt",
    "think": "Think",
    "answer": "Answer",
    "difference": "Think − answer",
}

UNKNOWN = "not recorded: imported runs tell which experts were chosen, not why"


HEADINGS = {"share": "Tokens", "weight": "Weight share", "lift": "Lift", "flips": "By bias"}
"""Names of the table's columns."""


def note(usage: Usage, metric: str, phase: str, theme: str) -> list[Component]:
    """Say what is counted, and show the colour scale."""
    low, high, colours = heatmap.scale(usage, metric, phase, theme)
    tokens = (
        f"{usage.tokens('think'):,} think and {usage.tokens('answer'):,} answer tokens"
        if phase == "difference"
        else plural(usage.tokens(phase), "token")
    )
    reading = heatmap.READINGS[metric].title
    what = f"{reading}, think minus answer" if phase == "difference" else reading
    if not usage.sums.reasons and metric in ("weight", "flips"):
        return [html.Span([html.B(what), f" · {UNKNOWN}"])]
    empty = [
        each
        for each in (("think", "answer") if phase == "difference" else (phase,))
        if not usage.tokens(each)
    ]
    if empty:
        where = "" if phase == "all" else f" in {' and '.join(empty)}"
        return [html.Span([html.B(what), f" · nothing to show: no token{where} was routed here"])]
    blank = len(heatmap.rows(usage.layers)) > len(usage.layers)
    bar = html.Span(
        className="legend-bar",
        style={"background": f"linear-gradient(90deg, {', '.join(colours)})"},
    )
    return [
        html.Span(
            [
                term(what, OF_METRICS[metric], "reading"),
                f" · {tokens} · beside: ",
                term("MaxVio", "MaxVio"),
                ", ",
                term("Gini", "Gini"),
                *([" · blank: not recorded"] if blank else []),
            ]
        ),
        html.Span([low, bar, high], className="legend"),
    ]


def strongest(usage: Usage, metric: str, phase: str) -> Component:
    """List the largest cells of the view, as buttons that focus them."""
    values_SE = usage.metric_SE(metric, phase)
    size_SE = np.where(np.isfinite(values_SE), np.abs(values_SE), -1)
    order = np.argsort(-size_SE, axis=None, kind="stable")[:10]
    form = heatmap.python_format(metric, phase)
    items = []
    for cell in order:
        s, expert = divmod(int(cell), usage.experts)
        if size_SE[s, expert] < 0:
            continue
        layer = usage.layers[s]
        label = [
            html.Span(f"L{layer} · E{expert}", className="mono"),
            html.Span(f"group {usage.group(expert)}", className="dim"),
            html.B(signed(values_SE[s, expert], form)),
        ]
        items.append(html.Button(label, **{"data-focus": f"{layer},{expert}", "type": "button"}))
    nothing = html.P("Nothing was recorded for this view.", className="dim")
    return html.Div(
        [
            html.H2("Choose an expert"),
            html.P("Click a cell to see the tokens that expert is chosen for."),
            html.H3("Strongest in this view"),
            html.Div(items, className="strongest") if items else nothing,
        ],
        className="panel-hint",
    )


def table(usage: Usage, phase: str) -> Component:
    """Show the heatmap as a grid that can be sorted, filtered and read by keyboard."""
    layers, experts = len(usage.layers), usage.experts
    columns: dict[str, list[Any]] = {
        "layer": np.repeat(usage.layers, experts).tolist(),
        "expert": np.tile(np.arange(experts), layers).tolist(),
        "group": np.tile([usage.group(expert) for expert in range(experts)], layers).tolist(),
        "n": usage.count_SE(phase).astype(int).ravel().tolist(),
        **{name: _finite(usage.metric_SE(name, phase)) for name in METRICS},
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    plain = {"layer": "Layer", "expert": "Expert", "group": "Group", "n": "Chosen"}
    number = {"filter": "agNumberColumnFilter", "type": "rightAligned", "flex": 1}
    shown: list[Row] = [
        {"field": field, "headerName": name, **number} for field, name in plain.items()
    ]
    for field, name in METRICS.items():
        form = heatmap.python_format(field, phase)
        known = usage.sums.reasons or field in ("share", "lift")
        gap = "–" if known else "not recorded"
        text = f"params.value === null ? '{gap}' : d3.format('{form}')(params.value)"
        shown.append(
            {
                "field": field,
                "headerName": HEADINGS[field],
                "headerTooltip": f"{name}: {define(OF_METRICS[field])}",
                "valueFormatter": {"function": text},
                **number,
            }
        )
    return dag.AgGrid(
        id="usage-rows",
        getRowId="params.data.layer + ',' + params.data.expert",
        columnDefs=shown,
        rowData=rows,
        dashGridOptions={"theme": GRID_THEME, "animateRows": False},
        className="usage-grid",
        style={"height": None},
    )


def _finite(values_SE: Array) -> list[float | None]:
    """Return the values row by row, None for those that JSON cannot hold."""
    shown_SE = values_SE.astype(object)
    shown_SE[~np.isfinite(values_SE)] = None
    return shown_SE.ravel().tolist()
