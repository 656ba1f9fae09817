"""What a bundle holds: what the trace page and the map of usage ask for, by its path.

The paths are those of the dashboard, without their first slash. What is made of blocks has a path
for the first token of each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from ringlens.analysis.load.usage import Usage
from ringlens.app.bundle import said
from ringlens.app.bundle.unplaced import model_name, unplaced
from ringlens.app.routing.usage_payload import made_of_scope, usage_payload
from ringlens.app.shared.scope import Scope
from ringlens.app.shared.usage_cache import UsageCache
from ringlens.app.trace import belief, payload, thought
from ringlens.app.trace import page as page_trace
from ringlens.store import Store, Trace
from ringlens.store.schema.promise import recorded_layers
from ringlens.versions import __version__

Payload = dict[str, Any]
Entry = tuple[str, Payload]
Progress = Callable[[int, int], None]

SUMMARY = (
    "prompt",
    "task",
    "correct",
    "expected",
    "answer",
    "n_prompt",
    "n_think",
    "n_answer",
    "finish_reason",
)


def traces(store: Store, trace_ids: Sequence[int], on_progress: Progress) -> Iterator[Entry]:
    """Yield all that the pages show of some traces.

    Args:
        store: The store.
        trace_ids: The traces, ascending.
        on_progress: Called with how many traces are done, and of how many.

    Yields:
        Paths with what they answer; the last is ``data/index``.
    """
    cache = UsageCache(store)
    summaries = []
    for i, trace_id in enumerate(trace_ids):
        trace = store.trace(trace_id)
        beside = {
            "previous": trace_ids[i - 1] if i else None,
            "next": trace_ids[i + 1] if i + 1 < len(trace_ids) else None,
        }
        for path, answer in trace_entries(store, trace, beside):
            yield path, unplaced(answer, store)
        yield from usage_entries(store, trace, cache)
        summaries.append(summary(trace))
        on_progress(i + 1, len(trace_ids))
    runs = []
    for number, (run, ids) in enumerate(of_runs(store, trace_ids)):
        found = summed(store, cache, run, ids)
        if found is not None:
            yield f"data/usage/run/{number}", unplaced(usage_payload(found, run["run_id"]), store)
        yield f"data/annotations/experts/{number}", said.of_experts(store, run["run_id"])
        runs.append(run_summary(run, len(ids), found is not None))
    yield (
        "data/index",
        {
            **heading(store),
            "about": "traces",
            "said": sum(said.authors(store, trace_ids).values()),
            "runs": runs,
            "traces": summaries,
        },
    )


def trace_entries(store: Store, trace: Trace, beside: Payload) -> Iterator[Entry]:
    """Yield what the page of a trace asks for, and under ``boot`` what it is started with.

    Args:
        store: The store.
        trace: The trace.
        beside: Under ``previous`` and ``next`` the ids of its neighbours, or None.
    """
    trace_id, run, tokens = trace.trace_id, trace.run, len(trace)
    place = f"data/trace/{trace_id}"
    boot = page_trace.boot(store, {**trace.summary, **beside}, run)
    boot["heads_block"] = payload.heads_block(run["layers"], run["heads"])
    yield f"{place}/boot", boot
    yield f"data/annotations/trace/{trace_id}", said.of_trace(store, trace_id)
    yield f"{place}/tokens", payload.tokens(store, trace_id)
    yield f"{place}/steps", thought.steps(store, trace_id)
    yield f"{place}/belief", belief.belief(store, run, trace_id)
    yield f"{place}/received", thought.received(store, run, trace_id, tokens)
    yield f"{place}/map", thought.path_map(store, trace_id)
    if boot["has_routing"]:
        yield f"{place}/experts", payload.expert_map(store, trace_id, tokens)
        yield f"{place}/change", thought.change(store, trace_id, tokens)
        for pos in range(0, tokens, payload.ROUTING_BLOCK):
            yield f"{place}/routing/{pos}", payload.routing(store, trace_id, pos)
    if boot["recorded"]["margin"]:
        yield f"{place}/margin", payload.margin(store, trace_id)
        for layer in recorded_layers(run, "routing"):
            yield f"{place}/layer/{layer}", payload.layer(store, trace_id, layer)
    for shown in boot["head_tables"]:
        table = payload.head_tables()[shown["table"]]
        for pos in range(0, tokens, boot["heads_block"]):
            found = payload.statistics(store, trace_id, pos, table, run["layers"], run["heads"])
            yield f"{place}/statistics/{table.name}/{pos}", found
    for layer, heads in boot["attention_heads"]:
        for head in heads:
            for pos in range(0, tokens, payload.ATTENTION_BLOCK):
                block = payload.attention(store, trace_id, layer, head, pos, tokens)
                yield f"{place}/attention/{layer}.{head}/{pos}", block


def usage_entries(store: Store, trace: Trace, cache: UsageCache | None = None) -> Iterator[Entry]:
    """Yield how a trace used the experts, if that was recorded.

    Args:
        store: The store.
        trace: The trace.
        cache: Usage that is known already.
    """
    if trace.has("routing"):
        scope = Scope(trace.run["run_id"], trace.trace_id)
        usage = (cache or UsageCache(store)).get(scope)
        made_of = made_of_scope(store, scope, usage, trace.run)
        found = usage_payload(usage, trace.run["run_id"], made_of)
        yield f"data/usage/trace/{trace.trace_id}", unplaced(found, store)


def heading(store: Store) -> Payload:
    """Say which store a bundle is of, and what wrote it."""
    return {"title": store.name, "version": __version__}


def summary(trace: Trace) -> Payload:
    """Return the line of a trace in the list."""
    known = trace.tokens()
    labels = {row["label"] for row in said.of_trace(trace.store, trace.trace_id)["rows"]}
    entropy = known["entropy"][[phase != "prompt" for phase in known["phase"]]]
    return {
        "trace_id": trace.trace_id,
        **{name: trace.summary.get(name) for name in SUMMARY},
        "tokens": len(trace),
        "entropy": float(np.nanmean(entropy)) if np.isfinite(entropy).any() else None,
        "labels": ", ".join(sorted(filter(None, labels))),
        "run_id": trace.run["run_id"],
        "model": model_name(trace.run["model"]),
        "mode": trace.run["mode"],
    }


def run_summary(run: Payload, n: int, routed: bool) -> Payload:
    """Say what a bundle holds of a run: ``n`` traces, and whether it has their routing."""
    names = {"run_id": run["run_id"], "model": model_name(run["model"]), "mode": run["mode"]}
    return {**names, "traces": n, "has_routing": routed}


def of_runs(store: Store, trace_ids: Sequence[int]) -> list[tuple[Payload, list[int]]]:
    """Return each run that the traces are of, with those of it."""
    found: dict[str, tuple[Payload, list[int]]] = {}
    for trace_id in trace_ids:
        run = store.trace(trace_id).run
        found.setdefault(run["run_id"], (run, []))[1].append(trace_id)
    return list(found.values())


def summed(store: Store, cache: UsageCache, run: Payload, trace_ids: Sequence[int]) -> Usage | None:
    """Sum the usage of experts over some traces of a run; None where none has its routing."""
    routed = [trace_id for trace_id in trace_ids if store.trace(trace_id).has("routing")]
    if not routed:
        return None
    each = [cache.get(Scope(run["run_id"], trace_id)) for trace_id in routed]
    sums = reduce(add, [usage.sums for usage in each])
    return Usage(each[0].layers, each[0].experts_per_token, each[0].groups, sums, False)
