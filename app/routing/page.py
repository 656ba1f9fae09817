"""``/routing``: layer × expert heatmap of a run or a trace, and the panel of one expert."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from ringlens.analysis.load.usage import METRICS, PHASE_CHOICES
from ringlens.app.annotations import routes as said
from ringlens.app.routing import expert_panel, usage_map, usage_sql, usage_views
from ringlens.app.routing.evidence import EvidenceCache
from ringlens.app.routing.usage_payload import CONSTANTS as CONSTANTS
from ringlens.app.shared import queries
from ringlens.app.shared.made import made
from ringlens.app.shared.parts import copy_button, state_page, term
from ringlens.app.shared.scope import Scope
from ringlens.app.shared.sources import Sources
from ringlens.app.web import untrusted
from ringlens.app.web.prefix import below
from ringlens.errors import NotInStoreError
from ringlens.plot import heatmap
from ringlens.store import Store
from ringlens.store.schema.glossary import OF_METRICS
from ringlens.store.schema.promise import recorded_layers

Row = dict[str, Any]

KEYS = (
    ("[ ]", "previous, next layer"),
    ("← →", "previous, next expert"),
    ("/", "go to a layer and expert, such as L36 E179"),
    ("+ -", "zoom in, out; so does the wheel"),
    ("Shift ← ↑ → ↓", "move the part that is shown; so does dragging"),
    ("0", "the whole map; so does a double click"),
    said.KEY,
)

_MODEL = 14
"""Letters of a model's name in the list of runs."""

ORDERS = {"count": "Frequent", "share": "Exclusive"}
THEMES = ("dark", "light")
ANY = range(untrusted.LARGEST)


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the page for the scope, metric, phase and focus that the address asks for."""
    found = queries.runs(sources.catalogue)
    if not found:
        return state_page("Nothing to count yet", "This store holds no runs. Fill it first.")
    if "trace" in query:
        number = untrusted.whole(query["trace"])
        head = None if number is None else queries.trace_head(sources.catalogue, number)
        if head is None:
            return state_page(f"No trace {query['trace'][:60]}", "The store does not hold it.")
        query = {**query, "run": head["run_id"]}
    else:
        head = None
    names = [run["run_id"] for run in found]
    # Without a wish: the newest run that has traces.
    default = next((run["run_id"] for run in found if run["traces"]), names[0])
    name = query.get("run", default)
    if name not in names:
        return state_page(f"No run {name[:60]}", "The store does not hold it.")
    run = found[names.index(name)]
    if not recorded_layers(run, "routing"):
        return state_page(
            "Routing was not recorded",
            f"Run {name} holds no routing rows. Capture again without leaving routing out.",
        )
    return _page(found, run, head, query)


def _page(found: list[Row], run: Row, head: Row | None, query: Mapping[str, str]) -> Component:
    layers = list(recorded_layers(run, "routing"))
    shape = {
        "layers": layers,
        "experts": run["experts"],
        "groups": run["groups"],
        "k": run["experts_per_token"],
        "zooms": heatmap.zooms(run["experts"]),
        "run": run["run_id"],
    }
    metric, phase = query.get("metric", ""), query.get("phase", "")
    metric = metric if metric in METRICS else "share"
    phase = phase if phase in PHASE_CHOICES else "all"
    scope = {"run_id": run["run_id"], "trace_id": head["trace_id"] if head else None}
    focus = {
        "L": _asked(query, "L", layers, layers[0]),
        "E": _asked(query, "E", range(run["experts"]), None),
    }
    return html.Div(
        [
            _header(found, run, head),
            _controls(metric, phase),
            _body(),
            dcc.Store(id="scope", data=scope),
            dcc.Store(id="shape", data=shape),
            dcc.Store(id="focus", data=focus),
            dcc.Store(id="drawn"),
        ],
        className="page routing-page",
        id="routing-page",
        **{"data-shape": json.dumps(shape)},
    )


def _body() -> Component:
    """Lay out the chart (or table) on the left, the panel on the right."""
    return html.Div(
        [
            html.Section(
                [
                    html.Div(id="routing-note", className="routing-note"),
                    html.Div(html.Div(id="heatmap", className="usage-map"), id="usage-chart"),
                    html.Div(id="usage-table", hidden=True),
                ],
                className="routing-main",
                **{"aria-label": "Layer by expert heatmap"},
            ),
            html.Aside(
                [
                    html.Div(id="expert-summary"),
                    html.Div(id="expert-said"),
                    html.Div(_token_order(), id="token-bar", className="section-bar"),
                    html.Div(id="expert-evidence"),
                ],
                className="routing-panel",
                **{"aria-label": "Expert"},
            ),
        ],
        className="routing-body",
    )


def _token_order() -> list[Component]:
    choices = [{"value": key, "label": label} for key, label in ORDERS.items()]
    return [
        html.H3("Top tokens"),
        html.Div(className="spacer"),
        dmc.SegmentedControl(id="token-order", data=choices, value="count", size="xs"),
    ]


def _asked(query: Mapping[str, str], name: str, allowed: Any, default: int | None) -> int | None:
    value = untrusted.whole(query.get(name, ""))
    return value if value is not None and value in allowed else default


def _ways(run: Row) -> Component:
    """Make the box that goes to an expert, and the buttons of the zoom where the map has one."""

    def button(name: str, label: str, title: str) -> Component:
        attributes = {"data-zoom": name, "aria-label": title, "type": "button"}
        return html.Button(label, className="button", title=title, **attributes)

    layers = recorded_layers(run, "routing")
    layer = layers[len(layers) // 2]
    box = dcc.Input(
        id="goto",
        type="text",
        placeholder=f"L{layer} E{run['experts'] * 7 // 10}",
        autoComplete="off",
        className="goto-box",
    )
    zoom = [
        button("out", "−", "zoom out (-)"),
        button("in", "+", "zoom in (+)"),
        button("whole", "Whole", "the whole map (0)"),
    ]
    return html.Div(
        [
            html.Label(["Go to", box, html.Kbd("/")], className="goto"),
            html.Span(id="goto-said", role="alert"),
            *(zoom if heatmap.zooms(run["experts"]) else []),
        ],
        className="routing-ways",
    )


def _short(run: Row) -> str:
    """Name a run's model by the last part of its path, where that says enough."""
    name = str(run["model"]).rstrip("/").rpartition("/")[2]
    return name if len(name) <= _MODEL else f"{name[: _MODEL - 1]}…"


def _header(found: list[Row], run: Row, head: Row | None) -> Component:
    runs = [
        {"value": each["run_id"], "label": f"{each['run_id']} · {_short(each)}, {each['mode']}"}
        for each in found
    ]
    chooser = dmc.Select(
        id="run",
        data=runs,
        value=run["run_id"],
        size="xs",
        w=320,
        allowDeselect=False,
        **{"aria-label": "Run"},
    )
    title: list[Any] = [html.H1("Routing")]
    if head is not None:
        prompt = head["prompt"] if len(head["prompt"]) < 60 else head["prompt"][:57] + "…"
        title.append(
            html.Span(
                [
                    dcc.Link(
                        f"trace {head['trace_id']}: {prompt}",
                        href=f"/trace/{head['trace_id']}",
                        title=head["prompt"],
                    ),
                    dcc.Link(
                        "×", href=f"/routing?run={run['run_id']}", title="all traces of the run"
                    ),
                ],
                className="scope-chip",
            )
        )
    return html.Header(
        html.Div(
            [
                *title,
                html.Div(className="spacer"),
                _ways(run),
                html.Div(id="routing-sql"),
                html.Div(chooser, title=f"{run['run_id']} · {run['model']}, {run['mode']}"),
            ],
            className="title-row",
        ),
        className="page-header",
    )


def _how_to_roll_up(store: Store) -> Component:
    """Say what to do where the usage tables of a run are missing or incomplete."""
    return html.Span(
        [
            "counted in the routing itself, which takes longer: ",
            html.Code(f"ringlens rollup {shlex.quote(store.address)}"),
            " sums it up for good",
        ],
        className="dim",
        id="no-rollups",
    )


def _controls(metric: str, phase: str) -> Component:
    def segments(name: str, choices: Mapping[str, Any], value: str) -> Component:
        data = [{"value": key, "label": label} for key, label in choices.items()]
        return dmc.SegmentedControl(id=name, data=data, value=value, size="xs")

    # The control's own buttons have the focus, and show what the label in them tells.
    metrics = {
        name: term(label, OF_METRICS[name], focusable=False) for name, label in METRICS.items()
    }
    return html.Div(
        [
            html.Span("Show", className="label"),
            segments("metric", metrics, metric),
            term("Phase", "phase", "label"),
            segments("phase", usage_views.PHASE_LABELS, phase),
            html.Div(className="spacer"),
            segments("view", {"chart": "Chart", "table": "Table"}, "chart"),
        ],
        className="toolbar",
    )


def register(app: Dash, sources: Sources) -> None:
    """Have figure, table and panel follow metric, phase, focus and colour scheme."""
    _figure_callbacks(app, sources)
    _panel_callbacks(app, sources)
    _client_callbacks(app)


def _where(sources: Sources, scope: Any, phase: Any) -> tuple[Scope, str, Row]:
    """Check the scope and phase that a page asks for, and read the row of its run.

    Raises:
        RequestError: No page of ours asks for this.
        NotInStoreError: There is no such run or trace (any more).
    """
    phase = untrusted.one_of(phase, PHASE_CHOICES, "phase")
    scope = untrusted.mapping(scope, "scope")
    run = queries.run(sources.catalogue, untrusted.text(scope.get("run_id"), "run_id"))
    trace_id = scope.get("trace_id")
    if trace_id is not None:
        head = queries.trace_head(sources.catalogue, untrusted.number_in(trace_id, ANY, "trace"))
        if head is None or head["run_id"] != run["run_id"]:
            raise NotInStoreError(f"no trace {trace_id} in run {run['run_id']}")
    return Scope(run["run_id"], trace_id), phase, run


def _focus(run: Row, focus: Any) -> tuple[int, int | None]:
    """Check the layer and expert (or None) in focus. Raises RequestError if there is none."""
    focus = untrusted.mapping(focus, "focus")
    layer = untrusted.number_in(focus.get("L"), recorded_layers(run, "routing"), "layer")
    expert = focus.get("E")
    if expert is not None:
        expert = untrusted.number_in(expert, range(run["experts"]), "expert")
    return layer, expert


def _figure_callbacks(app: Dash, sources: Sources) -> None:
    """Register the heatmap with its caption, and the table."""

    @app.callback(
        Output("drawn", "data"),
        Output("routing-note", "children"),
        Output("routing-sql", "children"),
        Input("metric", "value"),
        Input("phase", "value"),
        Input("theme", "data"),
        State("scope", "data"),
    )
    def draw(metric: str, phase: str, theme: str, scope: Row) -> tuple[Any, ...]:
        where, phase, run = _where(sources, scope, phase)
        metric = untrusted.one_of(metric, METRICS, "metric")
        theme = untrusted.one_of(theme or "dark", THEMES, "theme")
        usage = sources.usage.get(where)
        sql = usage_sql.query(where, metric, phase, run, usage.from_rollups)
        how = made(sources.store, sql, f'found = store.sql("""{sql}""").df()')
        note = usage_views.note(usage, metric, phase, theme)
        if not usage.from_rollups:
            note = [*note, _how_to_roll_up(sources.store)]
        return usage_map.payload(usage, metric, phase, how), note, copy_button("Copy SQL", sql)

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
        where, phase, _ = _where(sources, scope, phase)
        return usage_views.table(sources.usage.get(where), phase), False, True


def _panel_callbacks(app: Dash, sources: Sources) -> None:
    """Register the panel of the expert in focus."""
    cache = sources.one(EvidenceCache)

    @app.callback(
        Output("expert-summary", "children"),
        Output("token-bar", "hidden"),
        Input("focus", "data"),
        Input("metric", "value"),
        Input("phase", "value"),
        State("scope", "data"),
    )
    def summary(focus: Row, metric: str, phase: str, scope: Row) -> tuple[Any, bool]:
        where, phase, run = _where(sources, scope, phase)
        layer, expert = _focus(run, focus)
        metric = untrusted.one_of(metric, METRICS, "metric")
        usage = sources.usage.get(where)
        if expert is None:
            return usage_views.strongest(usage, metric, phase), True
        phase = "all" if phase == "difference" else phase
        found = expert_panel.summary(sources.store, where, usage, layer, expert, phase)
        return below(sources.prefix, found), False

    @app.callback(
        Output("expert-evidence", "children"),
        Input("focus", "data"),
        Input("phase", "value"),
        Input("token-order", "value"),
        State("scope", "data"),
    )
    def evidence(focus: Row, phase: str, order: str, scope: Row) -> Any:
        where, phase, run = _where(sources, scope, phase)
        layer, expert = _focus(run, focus)
        if expert is None:
            return None
        phase = "all" if phase == "difference" else phase
        order = untrusted.one_of(order, ORDERS, "order")
        found = expert_panel.evidence(cache, where, layer, expert, phase, order)
        return below(sources.prefix, found)


def _client_callbacks(app: Dash) -> None:
    """Have clicks move the focus, and metric and phase go to the address."""
    client = app.clientside_callback
    client(
        ClientsideFunction("routing", "draw"),
        Output("heatmap", "id"),
        Input("drawn", "data"),
    )
    client(
        ClientsideFunction("routing", "focused"),
        Output("drawn", "id"),
        Input("focus", "data"),
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
