"""The panel of one expert: how much it is used, on which tokens, and where it weighs most."""

from __future__ import annotations

from urllib.parse import urlencode

from dash import dcc, html
from dash.development.base_component import Component

from ringlens.analysis.load.usage import Usage
from ringlens.app.routing.evidence import EvidenceCache
from ringlens.app.shared.parts import is_it_real, term, visible
from ringlens.app.shared.queries import Row, rows
from ringlens.app.shared.scope import Scope
from ringlens.plot.figure import signed
from ringlens.plot.palette import expert_colour
from ringlens.store import Store
from ringlens.store.schema.captured import PHASES
from ringlens.store.schema.glossary import OF_METRICS
from ringlens.store.schema.views import literal

TOKENS = 12
CONTEXTS = 6


def summary(
    store: Store, scope: Scope, usage: Usage, layer: int, expert: int, phase: str
) -> list[Component]:
    """Show how much an expert is used.

    Args:
        store: The store.
        scope: Run or trace.
        usage: The scope's usage.
        layer: Layer of the expert.
        expert: Expert id.
        phase: 'all' or a phase.
    """
    facts = expert_facts(store, scope.run_id, layer, expert)
    return [
        _head(scope, usage, layer, expert, facts),
        _facts(usage, layer, expert, phase),
        _phases(usage, layer, expert),
    ]


def expert_facts(store: Store, run_id: str, layer: int, expert: int) -> Row | None:
    """Read the group and selection bias of one expert; None if the run does not have it."""
    query = """
        select "group", bias from experts
        where run_id = $run_id and layer = $layer and expert = $expert"""
    found = rows(store, query, {"run_id": run_id, "layer": layer, "expert": expert})
    return found[0] if found else None


def evidence(
    cache: EvidenceCache, scope: Scope, layer: int, expert: int, phase: str, order: str
) -> list[Component]:
    """Show the tokens an expert is chosen for, and the places where it weighs most.

    Args:
        cache: Of the store.
        scope: Run or trace.
        layer: Layer of the expert.
        expert: Expert id.
        phase: Phase that tokens and contexts are taken from, or 'all'.
        order: 'count' or 'share', see :meth:`ringlens.app.routing.evidence.Chosen.top`.
    """
    chosen = cache.chosen(scope, layer, expert, phase)
    tokens, contexts = chosen.top(order, TOKENS), chosen.contexts(CONTEXTS)
    if not tokens:
        least = " at least ten times" if order == "share" else ""
        return [html.P(f"No token that occurs{least} here was routed to it.", className="dim")]
    weighed = any(row["weight"] is not None for row in contexts)
    title = "Where it weighs most" if weighed else "Where it is chosen"
    return [_tokens(tokens), html.H3(title), _contexts(contexts, layer)]


def _head(scope: Scope, usage: Usage, layer: int, expert: int, facts: Row | None) -> Component:
    colour = expert_colour(expert, usage.experts, usage.groups)
    known = facts["bias"] if facts else None  # null in imported runs
    bias = (
        []
        if known is None
        else [" · ", term("bias", "selection bias"), f" {signed(known, '+.3f')}"]
    )
    return html.Div(
        [
            html.I(className="swatch", style={"background": colour}),
            html.H2(f"Expert {expert}"),
            html.Span([f"layer {layer} · group {usage.group(expert)}", *bias], className="dim"),
            html.Div(
                [
                    dcc.Link(
                        "Card",
                        href=f"/expert/{layer}/{expert}?{urlencode({'run': scope.run_id})}",
                        className="button",
                        title="what it is for: all that the run says of it",
                    ),
                    *_real(scope, usage, layer, expert),
                ],
                className="buttons",
            ),
        ],
        className="panel-title",
    )


def _real(scope: Scope, usage: Usage, layer: int, expert: int) -> list[Component]:
    """Link what tells the difference between its phases from chance, if it has both.

    One trace cannot tell it: its whole run is compared.
    """
    if not usage.tokens("think") or not usage.tokens("answer"):
        return []
    return [is_it_real(f"run_id = {literal(scope.run_id)}", layer, expert)]


def _facts(usage: Usage, layer: int, expert: int, phase: str) -> Component:
    s = usage.layers.index(layer)
    forms = {"share": ".1%", "lift": "+.2f", "weight": ".1%", "flips": ".0%"}
    names = {
        "share": "of tokens",
        "lift": "log₂ lift",
        "weight": "weight share",
        "flips": "by bias",
    }
    items = []
    for metric, form in forms.items():
        value = usage.metric_SE(metric, phase)[s, expert]
        text = signed(value, form) if abs(value) < float("inf") else "–"
        if not usage.sums.reasons and metric in ("weight", "flips"):
            text = "not recorded"
        items.append(
            html.Div(
                [term(names[metric], OF_METRICS[metric], "dim"), html.B(text)], className="fact"
            )
        )
    return html.Div(items, className="facts")


def _phases(usage: Usage, layer: int, expert: int) -> Component:
    """Show the share of tokens in each phase, as bars on one scale."""
    s = usage.layers.index(layer)
    shares = {
        phase: usage.metric_SE("share", phase)[s, expert] if usage.tokens(phase) else None
        for phase in PHASES
    }
    top = max((share for share in shares.values() if share), default=1.0)
    return html.Div(
        [
            html.Div(
                [
                    html.Span(phase, className="dim"),
                    html.Span(
                        html.I(style={"width": f"{100 * share / top:.1f}%"}, className=phase),
                        className="bar",
                    )
                    if share is not None
                    else html.Span(),
                    html.Span("no tokens" if share is None else f"{share:.1%}", className="value"),
                ],
                className="phase-bar",
            )
            for phase, share in shares.items()
        ],
        className="phase-bars",
    )


def _tokens(rows: list[Row]) -> Component:
    top = max(row["n"] for row in rows)
    body = [
        html.Tr(
            [
                html.Td(html.Code(visible(row["text"]), className="token-cell")),
                _meter(row["n"] / top, f"{row['n']:,}"),
                _meter(row["share"], f"{row['share']:.0%}"),
                html.Td(_percent(row["weight"]), className="num"),
            ]
        )
        for row in rows
    ]
    heads = [
        html.Th("Token"),
        html.Th(term("Times chosen", "times chosen")),
        html.Th(term("Of its occurrences", "occurrence share")),
        html.Th(term("Weight share", "weight share"), className="num"),
    ]
    return html.Table([html.Thead(html.Tr(heads)), html.Tbody(body)], className="token-table")


def _meter(share: float, text: str) -> Component:
    bar = html.Span(html.I(style={"width": f"{100 * share:.1f}%"}), className="bar")
    return html.Td([bar, html.Span(text, className="value")], className="meter")


def _contexts(rows: list[Row], layer: int) -> Component:
    return html.Div(
        [
            dcc.Link(
                [
                    html.Span(
                        "" if row["weight"] is None else _percent(row["weight"]),
                        className="weight",
                        title="weight share: of the token's routing weight",
                    ),
                    html.Span(
                        [
                            _flat(row["before"]),
                            html.Mark(visible(row["token"])),
                            _flat(row["after"]),
                        ],
                        className="snippet",
                    ),
                    html.Span(f"#{row['trace_id']}", className="dim"),
                ],
                href=f"/trace/{row['trace_id']}?tok={row['pos']}&L={layer}&metric=expert",
                className="context",
            )
            for row in rows
        ],
        className="contexts",
    )


def _percent(share: float | None) -> str:
    return "not recorded" if share is None else f"{share:.0%}"


def _flat(text: str) -> str:
    return text.replace("\n", " ↵ ")
