"""``/``: what the store holds: figures, runs, and the grid of all traces."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from ringlens.app.listing import conditions
from ringlens.app.listing.rows import traces_page
from ringlens.app.listing.wanted import Wanted, wanted
from ringlens.app.shared.catalogue import Catalogue
from ringlens.app.shared.parts import GRID_THEME, ago, command_box, percent, segments, stat, term
from ringlens.app.shared.queries import runs, version
from ringlens.app.shared.sources import Sources
from ringlens.app.store import queries
from ringlens.app.store.pace import Paces
from ringlens.app.web import untrusted
from ringlens.app.web.prefix import below
from ringlens.display import plural
from ringlens.store import Store
from ringlens.store.schema.glossary import define

Row = dict[str, Any]

RUNS = 6  # shown above the grid, newest first
PAGE = 100  # rows the grid asks for at a time
ROWS_BEYOND = 2  # the screen: a sort draws these, too
KINDS = {"all": "All", "originals": "Originals", "replays": "Replays"}
BLOCKS = 4  # of so many rows that it keeps: a commit or a filter has it ask for all of them again
MOST = 10_000  # rows that it can ask for at a time


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the page, or say how to fill a store that holds no runs."""
    store, catalogue = sources.store, sources.catalogue
    asked = wanted(query)
    shown = str(version(store))  # before the figures: what comes between is shown twice
    totals = queries.totals(catalogue)
    return html.Div(
        [
            html.Header(
                [
                    html.Div(
                        [
                            html.H1(store.name, title=store.name),
                            html.Span(store.address, className="path dim", title=store.address),
                        ],
                        className="title-row",
                    ),
                    html.Div(
                        _stats(totals), id="stats", className="stats", **{"data-version": shown}
                    ),
                ],
                className="page-header",
            ),
            html.Div(_runs(sources), id="runs"),
            html.Div(_empty(store, totals), id="empty", className="empty"),
            _grid_section(catalogue, totals, asked),
            dcc.Store(id="heartbeat", data=shown),
            dcc.Store(id="commits"),
        ],
        className="page store-page",
    )


def register(app: Dash, sources: Sources) -> None:
    """Register rows for the grid, and new figures after a commit."""
    store, catalogue = sources.store, sources.catalogue

    @app.callback(
        Output("traces", "getRowsResponse"),
        Output("found", "children"),
        Input("traces", "getRowsRequest"),
        State("verdict", "value"),
        State("search", "value"),
        State("kind", "value"),
        prevent_initial_call=True,
    )
    def rows(request: Row | None, verdict: str, search: str | None, kind: str) -> tuple[Any, Any]:
        if request is None:
            return no_update, no_update
        request = untrusted.mapping(request, "the request of rows")
        search = untrusted.text(search, "search")
        where = conditions.condition(request.get("filterModel"), verdict, search, kind)
        order = conditions.order_sql(request.get("sortModel"))
        start = untrusted.number_in(request.get("startRow"), range(untrusted.LARGEST), "row")
        end = untrusted.number_in(request.get("endRow"), range(start, start + MOST + 1), "row")
        page, total = traces_page(catalogue, where.sql, order, where.params, start, end)
        return {"rowData": page, "rowCount": total}, plural(total, "trace")

    @app.callback(
        Output("stats", "children"),
        Output("runs", "children"),
        Output("empty", "children"),
        Output("grid", "hidden"),
        Output("commits", "data"),
        Input("heartbeat", "data"),
        prevent_initial_call=True,
    )
    def refresh(version: str) -> tuple[Any, ...]:
        totals = queries.totals(catalogue)
        parts = _stats(totals), _runs(sources), _empty(store, totals)
        version = untrusted.text(version, "version")
        return *below(sources.prefix, list(parts)), not totals["all_traces"], version

    _register_script(app.clientside_callback)


def _register_script(client: Callable[..., None]) -> None:
    """Register what the browser does by itself: keep the address, reset or refresh the grid."""
    client(
        ClientsideFunction("store", "address"),
        Output("traces", "id"),
        Input("traces", "getRowsRequest"),
        prevent_initial_call=True,
    )
    client(
        ClientsideFunction("store", "restart"),
        Output("verdict", "id"),
        Input("verdict", "value"),
        Input("search", "value"),
        Input("kind", "value"),
        prevent_initial_call=True,
    )
    client(
        ClientsideFunction("store", "refresh"),
        Output("commits", "id"),
        Input("commits", "data"),
        prevent_initial_call=True,
    )


def _stats(totals: Row) -> list[Component]:
    tokens = totals["n_prompt"] + totals["n_think"] + totals["n_answer"]
    judged = (
        f"{totals['correct']:,} of {totals['judged']:,} judged"
        if totals["judged"]
        else "none judged"
    )
    mean = totals["n_think"] / totals["traces"] if totals["traces"] else 0
    only = totals["only_replays"]
    replays = "" if only or not totals["replays"] else f"+ {plural(totals['replays'], 'replay')}"
    again = f" · + {totals['replay_tokens']:,} in replays" if replays else ""
    return [
        stat("Replays" if only else "Traces", f"{totals['traces']:,}", _beside(totals, replays)),
        stat("Tokens", f"{tokens:,}", f"{totals['n_think']:,} thinking{again}"),
        stat(term("Correct", "verdict"), percent(totals["correct"], totals["judged"]), judged),
        stat(term("Thinking a trace", "thinking"), f"{mean:,.0f}", "tokens, mean"),
        stat("Runs", f"{totals['runs']:,}", None),
    ]


def _beside(totals: Row, replays: str) -> list[Any]:
    """Say whether more traces are coming, and how many replays there are."""
    if not totals["unfinished"]:
        return [replays]
    return [html.Span([html.I(className="pulse"), "capturing"], className="live"), f" {replays}"]


def _runs(sources: Sources) -> Component | None:
    found = runs(sources.catalogue)
    if not found:
        return None
    heads = ("Run", "Model", "Mode", "Shape", "Traces", "Correct", "Tokens", "Recorded", "Started")
    classes = {**dict.fromkeys(("Traces", "Correct", "Tokens"), "num"), "Recorded": "wide"}
    return html.Section(
        [
            html.H2("Runs"),
            html.Table(
                [
                    html.Thead(html.Tr([html.Th(h, className=classes.get(h, "")) for h in heads])),
                    html.Tbody([_run_row(sources, run) for run in found[:RUNS]]),
                ],
                className="runs-table",
            ),
            html.P(f"and {len(found) - RUNS} older", className="dim")
            if len(found) > RUNS
            else None,
        ],
        className="section",
    )


def _run_row(sources: Sources, run: Row) -> Component:
    shape = (
        f"{len(run['sparse_layers'])} × {run['experts']} experts, top {run['experts_per_token']}"
    )
    ended = run["finished"] is not None
    return html.Tr(
        [
            html.Td(dcc.Link(run["run_id"], href=f"/runs/{run['run_id']}", className="mono")),
            html.Td(run["model"], title=run["model"], className="model"),
            html.Td(html.Span(run["mode"], className=f"tag {run['mode']}")),
            html.Td(shape, className="dim"),
            html.Td(_traces_of(run), className="num"),
            html.Td(percent(run["correct"], run["judged"]), className="num"),
            html.Td(f"{run['tokens']:,}", className="num"),
            html.Td(
                ", ".join(name.replace("_", " ") for name in run["record"]), className="dim wide"
            ),
            html.Td(ago(run["started"]) if ended else _comes_along(sources, run), className="dim"),
        ]
    )


def _comes_along(sources: Sources, run: Row) -> Component:
    """Say how far a running run is, and how fast; or that nobody writes to it any more."""
    if not sources.store.is_being_written(run["run_id"]):
        return html.Span("interrupted", title="nobody writes to it: the same call takes it up")
    parts: list[Component] = [html.I(className="pulse")]
    if run["planned"]:
        share = f"{100 * min(1, run['ended'] / run['planned']):.0f}%"
        bar = html.B(html.I(style={"width": share}), className="run-progress", title=share)
        parts += [html.Span(f"{run['ended']:,} of {run['planned']:,}"), bar]
    pace = sources.one(Paces).of(run["run_id"], run["tokens"], run["started"])
    if pace is not None:
        over = "since it began" if pace.since_start else f"over the last {pace.seconds:.0f} s"
        said = f"{pace} tokens/s"
        parts.append(html.Span(said, title=f"tokens committed a second, {over}"))
    return html.Span(parts, className="live")


def _traces_of(run: Row) -> str:
    """Count the traces of a run, replays apart."""
    if not run["replays"]:
        return f"{run['traces']:,}"
    if run["replays"] == run["traces"]:
        return plural(run["traces"], "replay")
    return f"{run['traces'] - run['replays']:,} + {plural(run['replays'], 'replay')}"


def _grid_section(catalogue: Catalogue, totals: Row, asked: Wanted) -> Component:
    verdicts = [
        {"value": "all", "label": "All"},
        {"value": "correct", "label": "Correct"},
        {"value": "wrong", "label": "Wrong"},
        {"value": "unjudged", "label": "Not judged"},
    ]
    kinds = [{"value": key, "label": label} for key, label in KINDS.items()]
    bar = html.Div(
        [
            html.H2("All traces"),
            html.Span(plural(totals["all_traces"], "trace"), id="found", className="dim"),
            html.Div(className="spacer"),
            segments("kind", kinds, asked.kind),
            segments("verdict", verdicts, asked.verdict),
            dmc.TextInput(
                id="search",
                value=asked.search,
                placeholder="Search prompt, answer, task, label, id",
                debounce=100,
                size="xs",
                w=240,
                **{"aria-label": "Search traces"},
            ),
        ],
        className="section-bar",
    )
    return html.Section(
        [bar, _grid(queries.grid_facts(catalogue), asked)],
        id="grid",
        className="section grow",
        hidden=not totals["all_traces"],
    )


def _column(field: str, name: str, kind: str, **more: Any) -> Row:
    filters = {"number": "agNumberColumnFilter", "text": "agTextColumnFilter", "": False}
    plain = {"cellRenderer": "Plain"}
    return {"field": field, "headerName": name, "filter": filters[kind], **plain, **more}


def _columns(facts: Row) -> list[Row]:
    """Define the columns of the grid, without those that are empty in the whole store."""
    return [
        _column("trace_id", "#", "number", width=64, cellRenderer="TraceLink"),
        _column(
            "correct", "", "", width=44, cellRenderer="Verdict", headerTooltip=define("verdict")
        ),
        _column(
            "source_trace_id",
            "Replays",
            "number",
            width=88,
            hide=not facts["replays"],
            cellRenderer="SourceLink",
            headerTooltip=define("replay"),
        ),
        _column("prompt", "Prompt", "text", flex=5, minWidth=150, cellClass="strong"),
        _column("answer", "Answer", "text", flex=3, minWidth=90, cellClass="mono"),
        _column(
            "labels",
            "Labels",
            "text",
            width=84,
            hide=not facts["labels"],
            tooltipField="labels",
        ),
        _column("task", "Task", "text", width=96, cellClass="dim"),
        _column(
            "tokens",
            "Tokens",
            "number",
            width=80,
            type="rightAligned",
            cellClass="num ag-right-aligned-cell",
        ),
        _column(
            "n_think",
            "Thinking",
            "number",
            width=112,
            cellRenderer="Meter",
            cellRendererParams={"top": facts["n_think"], "digits": 0},
            headerTooltip=define("thinking"),
        ),
        _column(
            "entropy",
            "Entropy",
            "number",
            width=112,
            cellRenderer="Meter",
            cellRendererParams={"top": facts["entropy"], "digits": 3},
            headerTooltip=f"Mean over what the model wrote. {define('entropy')}",
        ),
        _column(
            "finish_reason",
            "Finish",
            "text",
            width=88,
            cellRenderer="Tag",
            headerTooltip=define("finish"),
        ),
        _column(
            "run_id",
            "Run",
            "text",
            width=84,
            cellClass="dim mono",
            tooltipField="run_id",
            valueFormatter={"function": "params.value ? params.value.slice(-6) : ''"},
        ),
    ]


def _grid(facts: Row, asked: Wanted) -> Component:
    return dag.AgGrid(
        id="traces",
        columnDefs=_columns(facts),
        defaultColDef={"sortable": True, "resizable": True, "suppressHeaderMenuButton": False},
        rowModelType="infinite",
        getRowId="params.data.trace_id.toString()",
        dashGridOptions={
            "theme": GRID_THEME,
            "cacheBlockSize": PAGE,
            "rowBuffer": ROWS_BEYOND,
            "infiniteInitialRowCount": 20,
            "maxConcurrentDatasourceRequests": 2,
            "maxBlocksInCache": BLOCKS,
            "suppressCellFocus": False,
            "tooltipShowDelay": 300,
            "animateRows": False,
            # Before the first rows are asked for; a property would come after them.
            "initialState": {
                "partialColumnState": True,  # the rest is as the columns say
                "sort": {"sortModel": asked.sort},
                "filter": {"filterModel": asked.filters},
            },
        },
        className="traces-grid",
        style={"height": None},
    )


def _empty(store: Store, totals: Row) -> Component | None:
    """Say what to do if there is no trace yet; None if there are some."""
    if totals["all_traces"]:
        return None
    command = (
        "ringlens capture ring-nano --problems countdown --n 8 "
        f"--store {shlex.quote(store.address)} --max-new-tokens 300"
    )
    running = totals["unfinished"] > 0
    title = "Waiting for the first trace" if running else "This store is empty"
    text = (
        "A capture is running; traces appear here as soon as they are finished."
        if running
        else "Fill it with the embedded model thinking about eight problems. Traces appear here "
        "while it runs."
    )
    return html.Div(
        [html.H2(title), html.P(text), None if running else command_box(command)], className="state"
    )
