"""``/data/find``: the traces, experts and runs that a typed text means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from flask import Flask, request

from ringlens.app.listing.conditions import condition
from ringlens.app.listing.problem import partner, traces_alike
from ringlens.app.shared import queries
from ringlens.app.shared.sources import Sources
from ringlens.app.web.answers import answered
from ringlens.app.web.untrusted import text, whole
from ringlens.display import plural
from ringlens.store.schema.promise import recorded_layers

Row = dict[str, Any]

TRACES = 8
"""Traces that are found by their text."""

RUNS = 5

LEAST_DIGITS = 5
"""Letters from which a number may be a part of the name of a run."""

LETTERS = 200
"""Letters of what is typed that are read, and of a problem that are shown."""

_BETWEEN = r"\s*(?:[\s,;/·.:|-]\s*E?|E)\s*"
_EXPERTS = (
    re.compile(rf"^(?:expert\s*)?L?\s*(?P<layer>\d+){_BETWEEN}(?P<expert>\d+)$", re.I | re.A),
    re.compile(r"^E\s*(?P<expert>\d+)\s*[\s,;/·.:|-]?\s*L\s*(?P<layer>\d+)$", re.I | re.A),
)
_TRACE = re.compile(r"^(?:trace\s*)?#?\s*(?P<trace>\d+)$", re.I | re.A)


@dataclass(frozen=True)
class Found:
    """One thing that can be opened.

    Attributes:
        kind: "trace", "expert" or "run".
        title: Its name.
        about: What tells it from others.
        href: Its address.
    """

    kind: str
    title: str
    about: str
    href: str


def register(server: Flask, sources: Sources) -> None:
    """Add the address."""
    server.add_url_rule("/data/find", "find", answered(partial(_find, sources)))


def _find(sources: Sources) -> Row:
    typed = text(request.args.get("text"), "text").strip()[:LETTERS]
    run_id = text(request.args.get("run"), "run") or None
    if not typed:
        return {"found": [], "said": ""}
    experts, said = _experts(sources, typed, run_id)
    found = [
        *experts,
        *_numbered(sources, typed),
        *_by_text(sources, typed),
        *_runs(sources, typed),
    ]
    return {"found": [asdict(each) for each in found], "said": said}


def _experts(sources: Sources, typed: str, run_id: str | None) -> tuple[list[Found], str]:
    """Find the expert that is meant, or say why there is none."""
    match = next(filter(None, (form.match(typed) for form in _EXPERTS)), None)
    if match is None:
        return [], ""
    layer, expert = (whole(match[name]) for name in ("layer", "expert"))
    routed = [run for run in queries.runs(sources.catalogue) if recorded_layers(run, "routing")]
    named = [run for run in routed if run["run_id"] == run_id]
    run = next(iter([*named, *(run for run in routed if run["traces"]), *routed]), None)
    if run is None:
        return [], "No run of this store recorded routing."
    layers = list(recorded_layers(run, "routing"))
    if layer not in layers:
        return [], (
            f"Layer {match['layer'][:20]} has no experts: layers {layers[0]} to {layers[-1]} do."
        )
    if expert is None or expert >= run["experts"]:
        said = f"There is no expert {match['expert'][:20]}: a layer has 0 to {run['experts'] - 1}."
        return [], said
    where = {"run": run["run_id"]}
    about = f"run {run['run_id']}, {run['model']}"
    on_map = urlencode({**where, "L": layer, "E": expert})
    return [
        Found(
            "expert",
            f"Layer {layer}, expert {expert}",
            about,
            f"/expert/{layer}/{expert}?{urlencode(where)}",
        ),
        Found("expert", f"Layer {layer}, expert {expert} on the map", about, f"/routing?{on_map}"),
    ], ""


def _numbered(sources: Sources, typed: str) -> Iterator[Found]:
    """Find the trace of a number, and what else shows it."""
    match = _TRACE.match(typed)
    number = None if match is None else whole(match["trace"])
    head = None if number is None else queries.trace_head(sources.catalogue, number)
    if head is None:
        return
    about = _about(head)
    yield Found("trace", f"Trace {number}", about, f"/trace/{number}")
    yield Found("trace", f"Heads of trace {number}", about, f"/heads/{number}")
    other = partner(traces_alike(sources.catalogue, head["trace_id"]), head["trace_id"])
    if other is not None:
        second = other["trace_id"]
        title = f"Trace {number} beside trace {second}"
        yield Found("trace", title, about, f"/beside/{number}/{second}")
    yield Found("trace", f"Routing of trace {number}", about, f"/routing?trace={number}")


def _by_text(sources: Sources, typed: str) -> Iterator[Found]:
    """Find traces whose problem, task or answer holds every word."""
    if _TRACE.match(typed):
        return
    asked = condition(None, "all", typed)
    query = f"""
        select trace_id, prompt, task, answer, correct
        from traces left join annotations using (trace_id) where {asked.sql}
        order by trace_id limit {TRACES}"""
    for row in queries.rows(sources.catalogue, query, asked.params):
        yield Found("trace", f"Trace {row['trace_id']}", _about(row), f"/trace/{row['trace_id']}")


def _runs(sources: Sources, typed: str) -> Iterator[Found]:
    """Find runs whose name or model holds every word; a short number is a trace's."""
    if _TRACE.match(typed) and len(typed) < LEAST_DIGITS:
        return
    words = typed.lower().split()
    named = (
        (run, f"run {run['run_id']} {run['model']}".lower())
        for run in queries.runs(sources.catalogue)
    )
    fitting = [run for run, name in named if all(word in name for word in words)]
    for run in fitting[:RUNS]:
        about = f"{run['model']}, {plural(run['traces'], 'trace')}"
        yield Found("run", f"Run {run['run_id']}", about, f"/runs/{run['run_id']}")


def _about(row: Row) -> str:
    """Say what a trace was asked, and whether it was right."""
    verdict = {True: "correct · ", False: "wrong · "}.get(row["correct"], "")
    return verdict + " ".join(row["prompt"].split())[:LETTERS]
