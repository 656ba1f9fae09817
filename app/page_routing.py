"""``/routing``: layer × expert heatmap of a run or a trace, and the panel of one expert."""

from __future__ import annotations

import json
import threading
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
import numpy as np
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from ringlens.app import expert_panel, figures, queries
from ringlens.app import usage as usages
from ringlens.app.page_store import GRID_THEME
from ringlens.app.parts import plural, state_page
from ringlens.app.queries import Scope
from ringlens.app.usage import METRICS, PHASE_CHOICES, Usage
from ringlens.store import Store

Row = dict[str, Any]

PHASE_LABELS = {
    "all": "All",
    "prompt": "Prompt",
    "think": "Think",
    "answer": "Answer",
    "difference": "Think − answer",
}


class UsageCache:
    """Usage of the scopes asked for last; a new commit makes them anew. Safe for threads."""

    KEPT = 8

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[tuple[Scope, int], Usage] = {}

    def get(self, scope: Scope) -> Usage:
        """The usage of a scope, from one scan of its routing rows."""
        key = (scope, queries.version(self._store))
        with self._lock:  # also keeps eight threads from scanning for the same answer
            if key not in self._kept:
                while len(self._kept) >= self.KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = read_usage(self._store, scope)
            return self._kept[key]


def read_usage(store: Store, scope: Scope) -> Usage:
    """Count the experts of a scope."""
    run = queries.run(store, scope.run_id)
    return usages.count(
        queries.choices(store, scope),
        queries.tokens_by_phase(store, scope),
        run["sparse_layers"],
        run["experts"],
        run["experts_per_token"],
        run["groups"],
    )


def layout(store: Store, query: dict[str, str]) -> Component:
    """The page for the scope, metric, phase and focus that the address asks for."""
    found = queries.runs(store)
    if not found:
        return state_page("Nothing to count yet", "This store holds no runs. Fill it first.")
    if "trace" in query:
        head = queries.trace_head(store, int(query["trace"])) if query["trace"].isdecimal() else None
        if head is None:
            return state_page(f"No trace {query['trace']}", "The store does not hold it.")
        query = {**query, "run": head["run_id"]}
    else:
        head = None
    names = [run["run_id"] for run in found]
    # Without a wish: the newest run that has traces.
    default = next((run["run_id"] for run in found if run["traces"]), names[0])
    name = query.get("run", default)
    if name not in names:
        return state_page(f"No run {name}", "The store does not hold it.")
    run = found[names.index(name)]
    if "routing" not in queries.recorded_tables(store, run["run_id"]):
        return state_page(
            "Routing was not recorded",
            f"Run {name} holds no routing rows. Capture again without leaving routing out.",
        )
    return _page(found, run, head, query)


def _page(found: list[Row], run: Row, head: Row | None, query: dict[str, str]) -> Component:
    layers = run["sparse_layers"]
    shape = {"layers": layers, "experts": run["experts"]}
    metric = query.get("metric") if query.get("metric") in METRICS else "share"
    phase = query.get("phase") if query.get("phase") in PHASE_CHOICES else "all"
    scope = {"run_id": run["run_id"], "trace_id": head["trace_id"] if head else None}
    focus = {
        "L": _asked(query, "L", layers, layers[0]),
        "E": _asked(query, "E", range(run["experts"]), None),
    }
    return html.Div(
        [
            _header(found, run, head),
            _controls(metric, phase),
            html.Div(
                [
                    html.Section(
                        [
                            html.Div(id="routing-note", className="routing-note"),
                            html.Div(
                                dcc.Graph(
                                    id="heatmap",
                                    config=figures.CONFIG,
                                    responsive=True,
                                    style={"height": figures.height(len(layers))},
                                ),
                                id="usage-chart",
                            ),
                            html.Div(id="usage-table", hidden=True),
                        ],
                        className="routing-main",
                        **{"aria-label": "Layer by expert heatmap"},
                    ),
                    html.Aside(
                        [
                            html.Div(id="expert-summary"),
                            html.Div(_token_order(), id="token-bar", className="section-bar"),
                            html.Div(id="expert-evidence"),
                        ],
                        className="routing-panel",
                        **{"aria-label": "Expert"},
                    ),
                ],
                className="routing-body",
            ),
            dcc.Store(id="scope", data=scope),
            dcc.Store(id="shape", data=shape),
            dcc.Store(id="focus", data=focus),
        ],
        className="page routing-page",
        id="routing-page",
        **{"data-shape": json.dumps(shape)},
    )


def _token_order() -> list[Component]:
    choices = [{"value": "count", "label": "Frequent"}, {"value": "share", "label": "Exclusive"}]
    return [
        html.H3("Top tokens"),
        html.Div(className="spacer"),
        dmc.SegmentedControl(id="token-order", data=choices, value="count", size="xs"),
    ]


def _asked(query: dict[str, str], name: str, allowed: Any, default: int | None) -> int | None:
    value = query.get(name, "")
    return int(value) if value.isdecimal() and int(value) in allowed else default


def _header(found: list[Row], run: Row, head: Row | None) -> Component:
    runs = [
        {"value": each["run_id"], "label": f"{each['run_id']} · {each['model']}, {each['mode']}"}
        for each in found
    ]
    chooser = dmc.Select(
        id="run", data=runs, value=run["run_id"], size="xs", w=320, allowDeselect=False,
        **{"aria-label": "Run"},
    )
    title: list[Any] = [html.H1("Routing")]
    if head is not None:
        prompt = head["prompt"] if len(head["prompt"]) < 60 else head["prompt"][:57] + "…"
        title.append(
            html.Span(
                [
                    dcc.Link(f"trace {head['trace_id']}: {prompt}", href=f"/trace/{head['trace_id']}"),
                    dcc.Link("×", href=f"/routing?run={run['run_id']}", title="all traces of the run"),
                ],
                className="scope-chip",
            )
        )
    return html.Header(
        html.Div([*title, html.Div(className="spacer"), chooser], className="title-row"),
        className="page-header",
    )


def _controls(metric: str, phase: str) -> Component:
    def segments(name: str, choices: dict[str, str], value: str) -> Component:
        data = [{"value": key, "label": label} for key, label in choices.items()]
        return dmc.SegmentedControl(id=name, data=data, value=value, size="xs")

    return html.Div(
        [
            html.Span("Show", className="label"),
            segments("metric", METRICS, metric),
            html.Span("Phase", className="label"),
            segments("phase", PHASE_LABELS, phase),
            html.Div(className="spacer"),
            segments("view", {"chart": "Chart", "table": "Table"}, "chart"),
        ],
        className="toolbar",
    )


def register(app: Dash, store: Store) -> None:
    """Figure, note, table and panel follow metric, phase, focus and colour scheme."""
    cache = UsageCache(store)

    @app.callback(
        Output("heatmap", "figure"),
        Output("routing-note", "children"),
        Input("metric", "value"),
        Input("phase", "value"),
        Input("focus", "data"),
        Input("theme", "data"),
        State("scope", "data"),
    )
    def draw(metric: str, phase: str, focus: Row, theme: str, scope: Row) -> tuple[Any, Any]:
        usage = cache.get(Scope(**scope))
        figure = figures.usage_heatmap(usage, metric, phase, focus["L"], focus["E"], theme)
        return figure, _note(usage, metric, phase, theme)

    @app.callback(
        Output("expert-summary", "children"),
        Output("token-bar", "hidden"),
        Input("focus", "data"),
        Input("metric", "value"),
        Input("phase", "value"),
        State("scope", "data"),
    )
    def summary(focus: Row, metric: str, phase: str, scope: Row) -> tuple[Any, bool]:
        where = Scope(**scope)
        usage = cache.get(where)
        if focus["E"] is None:
            return _strongest(usage, metric, phase), True
        phase = "all" if phase == "difference" else phase
        return expert_panel.summary(store, where, usage, focus["L"], focus["E"], phase), False

    @app.callback(
        Output("expert-evidence", "children"),
        Input("focus", "data"),
        Input("phase", "value"),
        Input("token-order", "value"),
        State("scope", "data"),
    )
    def evidence(focus: Row, phase: str, order: str, scope: Row) -> Any:
        if focus["E"] is None:
            return None
        phase = "all" if phase == "difference" else phase
        return expert_panel.evidence(store, Scope(**scope), focus["L"], focus["E"], phase, order)

    @app.callback(
        Output("usage-table", "children"),
        Output("usage-table", "hidden"),
        Output("usage-chart", "hidden"),
        Input("view", "value"),
        Input("phase", "value"),
        State("scope", "data"),
        prevent_initial_call=True,
    )
    def table(view: str, phase: str, scope: Row) -> tuple[Any, Any, Any]:
        if view == "chart":
            return no_update, True, False
        return _table(cache.get(Scope(**scope)), phase), False, True

    client = app.clientside_callback
    client(
        ClientsideFunction("routing", "focus"),
        Output("focus", "data"),
        Input("heatmap", "clickData"),
        State("shape", "data"),
        prevent_initial_call=True,
    )
    client(
        ClientsideFunction("routing", "row"),
        Output("shape", "id"),
        Input("usage-rows", "cellClicked"),
        prevent_initial_call=True,
    )
    client(
        ClientsideFunction("routing", "url"),
        Output("metric", "id"),
        Input("metric", "value"),
        Input("phase", "value"),
        prevent_initial_call=True,
    )
    client(
        ClientsideFunction("routing", "scope"),
        Output("run", "id"),
        Input("run", "value"),
        prevent_initial_call=True,
    )


def _note(usage: Usage, metric: str, phase: str, theme: str) -> list[Component]:
    """What is counted, and the colour scale."""
    low, high, colours = figures.scale(usage, metric, phase, theme)
    tokens = (
        f"{usage.tokens('think'):,} think and {usage.tokens('answer'):,} answer tokens"
        if phase == "difference"
        else plural(usage.tokens(phase), "token")
    )
    reading = figures.READINGS[metric].title
    what = f"{reading}, think minus answer" if phase == "difference" else reading
    bar = html.Span(
        className="legend-bar", style={"background": f"linear-gradient(90deg, {', '.join(colours)})"}
    )
    return [
        html.Span([html.B(what), f" · {tokens}"]),
        html.Span([low, bar, high], className="legend"),
    ]


def _strongest(usage: Usage, metric: str, phase: str) -> Component:
    """The largest cells of the view, each a way in."""
    values_SE = usage.metric_SE(metric, phase)
    size_SE = np.where(np.isfinite(values_SE), np.abs(values_SE), -1)
    order = np.argsort(-size_SE, axis=None, kind="stable")[:10]
    form = figures.python_format(metric, phase)
    items = []
    for cell in order:
        s, expert = divmod(int(cell), usage.experts)
        if size_SE[s, expert] < 0:
            continue
        layer = usage.layers[s]
        label = [
            html.Span(f"L{layer} · E{expert}", className="mono"),
            html.Span(f"group {usage.group(expert)}", className="dim"),
            html.B(format(values_SE[s, expert], form)),
        ]
        items.append(html.Button(label, **{"data-focus": f"{layer},{expert}", "type": "button"}))
    return html.Div(
        [
            html.H2("Choose an expert"),
            html.P("Click a cell to see the tokens that expert is chosen for."),
            html.H3("Strongest in this view"),
            html.Div(items, className="strongest"),
        ],
        className="panel-hint",
    )


def _table(usage: Usage, phase: str) -> Component:
    """The heatmap as a grid that can be sorted, filtered and read by keyboard."""
    metrics = {name: usage.metric_SE(name, phase) for name in METRICS}
    n_SE = usage.count_SE(phase)
    rows = [
        {
            "layer": layer,
            "expert": expert,
            "group": usage.group(expert),
            "n": int(n_SE[s, expert]),
            **{name: _finite(values[s, expert]) for name, values in metrics.items()},
        }
        for s, layer in enumerate(usage.layers)
        for expert in range(usage.experts)
    ]
    plain = {"layer": "Layer", "expert": "Expert", "group": "Group", "n": "Chosen"}
    number = {"filter": "agNumberColumnFilter", "type": "rightAligned", "flex": 1}
    columns: list[Row] = [
        {"field": field, "headerName": name, **number} for field, name in plain.items()
    ]
    for field, name in METRICS.items():
        form = figures.python_format(field, phase)
        text = f"params.value === null ? '–' : d3.format('{form}')(params.value)"
        columns.append(
            {
                "field": field,
                "headerName": name.split()[-1].capitalize(),
                "headerTooltip": name,
                "valueFormatter": {"function": text},
                **number,
            }
        )
    return dag.AgGrid(
        id="usage-rows",
        getRowId="params.data.layer + ',' + params.data.expert",
        columnDefs=columns,
        rowData=rows,
        dashGridOptions={"theme": GRID_THEME, "animateRows": False},
        className="usage-grid",
        style={"height": None},
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
