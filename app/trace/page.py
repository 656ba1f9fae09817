"""``/trace/<id>``: the chain of thought as text, and what the model did at each token.

The page is a heading and an empty frame; its script (page.js) draws the rest from the
addresses of :mod:`ringlens.app.trace.routes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from ringlens.app.annotations import routes as said
from ringlens.app.listing.problem import partner, traces_alike
from ringlens.app.listing.rows import Place, place
from ringlens.app.listing.wanted import Wanted, wanted
from ringlens.app.shared import queries
from ringlens.app.shared.made import Made, made
from ringlens.app.shared.parts import OFF, copy_button, run_script, state_page
from ringlens.app.shared.sources import Sources
from ringlens.app.trace import payload, routes
from ringlens.app.trace.queries import attention_heads
from ringlens.app.web import untrusted
from ringlens.app.web.prefix import below
from ringlens.app.web.untrusted import whole
from ringlens.display import plural
from ringlens.errors import NotInStoreError
from ringlens.store import Store
from ringlens.store.schema.captured import PHASES, RUNNING
from ringlens.store.schema.glossary import OF_COLUMNS
from ringlens.store.schema.promise import recorded_layers

Row = dict[str, Any]

BESIDE = {"nats"}
"""Units that stand beside a number; others are plain from the label."""

TITLES = {"heads": "Attention heads"}
"""Headings of tables in the panel; of others with their names."""


KEYS = (
    ("← →", "previous, next token"),
    ("j k", "next, previous step"),
    ("↓ ↑", "next, previous line"),
    ("m", "the map of the path, or the token"),
    ("[ ]", "previous, next layer"),
    ("/", "find in the text; ↵ and Shift ↵ go to the next and previous place"),
    (", .", "previous, next entropy peak"),
    ("{ }", "previous, next phase"),
    ("1 … 5", "colour by entropy, surprise, margin, expert, phase"),
    ("n p", "next, previous trace of the list it was opened from"),
    ("h", "the maps of heads: arrow keys choose a head, Enter lets go"),
    said.KEY,
    ("Esc", "let go of the head, then of the token"),
)

PHASE_HEADINGS = {"prompt": "Prompt", "think": "Thinking", "answer": "Answer"}

CONSTANTS = {
    "NO_EXPERT": payload.NO_EXPERT,
    "ROUTING_BLOCK": payload.ROUTING_BLOCK,
    "ATTENTION_BLOCK": payload.ATTENTION_BLOCK,
    "PHASE_HEADINGS": [PHASE_HEADINGS[phase] for phase in PHASES],
}
"""Exports of ``trace/constants.js``."""


def layout(sources: Sources, query: Mapping[str, str]) -> Component:
    """Lay out the page of a trace, or say what to do if there is none."""
    trace_id = query["trace_id"]
    number = whole(trace_id)
    found = None if number is None else _now(sources, number, wanted(query))
    if found is None:
        return state_page(
            f"No trace {trace_id[:60]}",
            f"The store {sources.store.name} does not hold it. The list shows what there is.",
        )
    header, data = found
    return html.Div(
        [
            html.Header(header, id="trace-header", className="page-header"),
            html.Div(id="trace-app", className="trace-app", key=f"trace-{trace_id}"),
            dcc.Store(id="trace-boot", data=data),
            dcc.Store(id="trace-growth"),
        ],
        className="page trace-page",
    )


def _now(sources: Sources, trace_id: int, asked: Wanted) -> tuple[list[Component], Row] | None:
    """Make the header of a trace, and what the script must know of it; None if there is none."""
    store, catalogue = sources.store, sources.catalogue
    version = str(queries.version(store))  # before the rest: what comes between is shown twice
    head = queries.trace_head(catalogue, trace_id)
    if head is None:
        return None
    run = queries.run(catalogue, head["run_id"])
    at = place(catalogue, asked, trace_id)
    head |= {"previous": at.previous, "next": at.next, "list": asked.address}
    grows_at = version if _may_grow(store, head, run) else None
    data = {**boot(store, head, run), "grows_at": grows_at}
    return _header(sources, head, run, _place(asked, at)), data


def _may_grow(store: Store, head: Row, run: Row) -> bool:
    """Return whether tokens or steps of a trace may follow."""
    if head["finish_reason"] == RUNNING:
        return True
    return run["finished"] is None and not queries.recorded(store, "steps", head["trace_id"])


def boot(store: Store, head: Row, run: Row) -> Row:
    """Return what the script must know before it fetches: shape of the model, what was recorded."""
    trace_id = head["trace_id"]
    has_routing = queries.recorded(store, "routing", trace_id)
    has_weights = has_routing and queries.recorded(store, "routing", trace_id, "weights")
    return {
        "trace_id": trace_id,
        "run_id": run["run_id"],
        "mode": run["mode"],
        "previous": head["previous"],
        "next": head["next"],
        "list": head.get("list", ""),
        "layers": run["layers"],
        "sparse_layers": recorded_layers(run, "routing") or run["sparse_layers"],
        "experts": run["experts"],
        "groups": run["groups"],
        "k": run["experts_per_token"],
        "heads": run["heads"],
        "head_tables": head_tables(store, trace_id),
        "attention_heads": list(attention_heads(store, trace_id).items()),
        "has_routing": has_routing,
        "has_weights": has_weights,
        "recorded": {
            "entropy": queries.recorded(store, "tokens", trace_id, "entropy"),
            "logprob": queries.recorded(store, "tokens", trace_id, "logprob"),
            "margin": has_weights,
            "expert": has_weights,
        },
        "made": made_of(store, trace_id),
    }


def made_of(store: Store, trace_id: int) -> dict[str, Made]:
    """Say how what needs no request of its own was made; ``$pos`` stands for the focused token."""

    def by_sql(query: str) -> Made:
        return made(store, query, f'found = store.sql("""{query}""").df()')

    tokens = f"from tokens where trace_id = {trace_id} order by pos"
    return {
        "entropy": by_sql(f"select pos, text, phase, entropy {tokens}"),
        "logprob": by_sql(f"select pos, text, phase, -logprob as surprise {tokens}"),
        "phase": by_sql(f"select pos, text, phase {tokens}"),
        "margin": by_sql(
            f"select pos, avg(margin) filter (isfinite(margin)) as margin from routing\n"
            f"where trace_id = {trace_id} group by pos order by pos"
        ),
        "map": by_sql(
            f"select layer, pos, expert_ids[1] as expert from routing\n"
            f"where trace_id = {trace_id} order by layer, pos"
        ),
        "token": by_sql(
            f"select layer, expert_ids, weights, affinities, bias_flips, group_flips, margin,\n"
            f"       group_margin, entropy\n"
            f"from routing where trace_id = {trace_id} and pos = $pos order by layer"
        ),
    }


def head_tables(store: Store, trace_id: int) -> list[Row]:
    """The tables that the panel draws a map of heads for each column of: those recorded."""
    return [
        {
            "table": name,
            "title": TITLES.get(name, f"Attention heads: {name}"),
            "columns": [
                {
                    "column": column.name,
                    "label": column.label or column.name,
                    "unit": column.unit if column.unit in BESIDE else "",
                    "meaning": column.meaning,
                    "term": OF_COLUMNS.get((name, column.name), ""),
                }
                for column in payload.per_head(table)
            ],
        }
        for name, table in payload.head_tables().items()
        if queries.recorded(store, name, trace_id)
    ]


def register(app: Dash, sources: Sources) -> None:
    """Add what the page's script fetches, and have it fill each new frame."""
    routes.register(app.server, sources)
    run_script(app, "trace")

    @app.callback(
        Output("trace-header", "children"),
        Output("trace-boot", "data"),
        Input("trace-growth", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def grow(growth: Row | None, search: str | None) -> tuple[Any, Any]:
        number = untrusted.mapping(growth, "what has grown").get("trace")
        trace_id = untrusted.number_in(number, range(untrusted.LARGEST), "trace")
        query = parse_qs(untrusted.text(search, "search").lstrip("?"))
        asked = wanted({name: values[-1] for name, values in query.items()})
        found = _now(sources, trace_id, asked)
        if found is None:
            raise NotInStoreError(f"no trace {trace_id} in the store any more")
        header, data = found
        return below(sources.prefix, header), data


def _place(asked: Wanted, at: Place) -> str:
    """Say where the trace stands in a list that is not all traces."""
    if asked.is_everything:
        return ""
    if at.number is None:
        return f"not among the {plural(at.length, 'trace')} of the list"
    return f"{at.number:,} of {at.length:,} in the list"


def _header(sources: Sources, head: Row, run: Row, where: str) -> list[Component]:
    return [
        html.Div([_crumbs(head, where), _neighbours(sources, head)], className="crumb-row"),
        html.Div(
            [html.H1(head["prompt"], title=head["prompt"]), *_verdict(head)],
            className="title-row",
        ),
        html.Div(_facts(head, run), className="fact-row"),
    ]


def _crumbs(head: Row, where: str) -> Component:
    items: list[Any] = [
        dcc.Link("Traces", href=f"/{head['list']}"),
        html.Span("/", className="dim"),
        html.Span(f"Trace {head['trace_id']}"),
    ]
    if where:
        items.append(dcc.Link(where, href=f"/{head['list']}", className="tag", id="list-place"))
    if head["source_trace_id"] is not None:
        source = head["source_trace_id"]
        items.append(dcc.Link(f"replays trace {source}", href=f"/trace/{source}", className="tag"))
    return html.Div(items, className="crumbs")


def _neighbours(sources: Sources, head: Row) -> Component:
    def link(name: str, label: str, key: str) -> Component:
        content = [label, html.Kbd(key)]
        if head[name] is None:
            return html.Span(content, className="button disabled", role="link", **OFF)
        href = f"/trace/{head[name]}{head['list']}"
        return dcc.Link(content, href=href, className="button")

    trace_id = head["trace_id"]
    routing = dcc.Link("Routing", href=f"/routing?trace={trace_id}", className="button")
    heads = dcc.Link("Heads", href=f"/heads/{trace_id}", className="button")
    line = f"import ringlens as rl; trace = rl.Store({sources.store.address!r}).trace({trace_id})"
    python = copy_button("Copy Python", line)
    steps = [link("previous", "Previous", "p"), link("next", "Next", "n")]
    beside = _beside(sources, trace_id)
    return html.Div([python, routing, heads, beside, *steps], className="buttons")


def _beside(sources: Sources, trace_id: int) -> Component:
    """Link the page that sets it beside another trace of its problem, if there is one."""
    other = partner(traces_alike(sources.catalogue, trace_id), trace_id)
    if other is None:
        why = "The store has no other trace of this problem by this model."
        return html.Span("Beside…", className="button disabled", title=why, role="link", **OFF)
    href = f"/beside/{trace_id}/{other['trace_id']}"
    said = "Beside another trace of this problem, step by step"
    return dcc.Link("Beside…", href=href, className="button", title=said)


def _verdict(head: Row) -> list[Component]:
    parts: list[Component] = []
    if head["correct"] is not None:
        good = head["correct"]
        parts.append(
            html.Span(
                "correct" if good else "wrong", className="pill " + ("good" if good else "bad")
            )
        )
    if head["answer"] is not None:
        parts.append(
            html.Code(
                head["answer"], className="answer", title=f"the answer it gave: {head['answer']}"
            )
        )
    if head["expected"] is not None and not head["correct"]:
        expected = f"expected {head['expected']}"
        parts.append(html.Span(expected, className="dim expected", title=expected))
    return parts


def _facts(head: Row, run: Row) -> list[Component]:
    runs_on = head["finish_reason"] == RUNNING
    facts = [
        plural(queries.n_tokens(head), "token"),
        f"{head['n_prompt']:,} prompt · {head['n_think']:,} think · {head['n_answer']:,} answer",
        "" if runs_on else f"finish: {head['finish_reason']}",
        head["task"],
        f"sample {head['sample']} (0 to {head['last_sample']})" if head["last_sample"] else "",
        f"{run['model']}, {run['mode']}",
    ]
    long = {facts[3], facts[-1]}  # names of any length
    shown = [
        html.Span(fact, title=fact, className="long" if fact in long else "")
        for fact in facts
        if fact
    ]
    return [_thinking(head, run), *shown] if runs_on else shown


def _thinking(head: Row, run: Row) -> Component:
    """Say that a trace grows, and how far it may."""
    most = json.loads(run["sampling"]).get("max_new_tokens")
    written = head["n_think"] + head["n_answer"]
    far = f"{written:,} of at most {most:,} new tokens" if most else "more tokens follow"
    return html.Span([html.I(className="pulse"), f"thinking, {far}"], className="live")
