"""Writes a bundle: scripts, style sheets, and what they fetch of each trace.

Shape letters: S sparse layers, E experts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ringlens.app.shared import constants as shared
from ringlens.app.shared.scope import Scope
from ringlens.app.shared.usage_cache import UsageCache
from ringlens.app.trace import belief, payload, thought
from ringlens.app.trace import page as page_trace
from ringlens.app.web.files import TYPES, module
from ringlens.plot.typed_arrays import encode
from ringlens.store import Store, Trace
from ringlens.store.maintain.export import whole
from ringlens.store.schema.captured import PHASES
from ringlens.store.schema.promise import recorded_layers
from ringlens.store.storage.failure import store_errors

HERE = Path(__file__).parent
SUMMARY = ("prompt", "task", "correct", "answer", "n_prompt", "n_think", "n_answer")

Write = Callable[[str, Any], None]


def write(
    store: Store, trace_ids: Sequence[int], out: Path, on_progress: Callable[[int, int], None]
) -> None:
    """Write some traces as a bundle; open it with ``python -m http.server -d FOLDER``.

    Args:
        store: The store.
        trace_ids: The traces, ascending.
        out: Folder of the bundle.
        on_progress: Called with how many traces are done, and of how many.

    Raises:
        StoreError: ``out`` is not empty or could not be written; then there is no bundle.
    """
    with whole(out) as folder, store_errors(store.folder, f"{out} was not written"):
        _copy_assets(folder)

        def save(name: str, value: Any) -> None:
            path = folder / "data" / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value, ensure_ascii=False, default=str), encoding="utf-8")

        summaries = []
        for i, trace_id in enumerate(trace_ids):
            trace = store.trace(trace_id)
            beside = {
                "previous": trace_ids[i - 1] if i else None,
                "next": trace_ids[i + 1] if i + 1 < len(trace_ids) else None,
            }
            summaries.append(_write_trace(store, trace, beside, save))
            on_progress(i + 1, len(trace_ids))
        save("index", {"title": store.name, "traces": summaries})


def _copy_assets(folder: Path) -> None:
    """Copy scripts and style sheets to ``assets``, in the folders of the dashboard."""
    folders = {"shared": shared.CONSTANTS, "trace": page_trace.CONSTANTS, "bundle": None}
    for name, constants in folders.items():
        out = folder / "assets" / name
        out.mkdir(parents=True)
        for path in (HERE.parent / name).iterdir():
            if path.suffix in TYPES:
                shutil.copyfile(path, out / path.name)
        if constants is not None:
            (out / "constants.js").write_text(module(constants), encoding="utf-8")
    shutil.copyfile(HERE / "index.html", folder / "index.html")


def _write_trace(
    store: Store, trace: Trace, beside: dict[str, int | None], save: Write
) -> dict[str, Any]:
    """Write what the pages of one trace fetch; return its line in the list."""
    trace_id, run, tokens = trace.trace_id, trace.run, len(trace)
    place = f"trace/{trace_id}"
    boot = page_trace.boot(store, {**trace.summary, **beside}, run)
    boot["heads_block"] = payload.heads_block(run["layers"], run["heads"])
    save(f"{place}/boot", boot)
    save(f"{place}/tokens", payload.tokens(store, trace_id))
    save(f"{place}/steps", thought.steps(store, trace_id))
    save(f"{place}/belief", belief.belief(store, run, trace_id))
    save(f"{place}/received", thought.received(store, run, trace_id, tokens))
    save(f"{place}/map", thought.path_map(store, trace_id))
    if boot["has_routing"]:
        save(f"{place}/usage", _usage(UsageCache(store), trace))
        save(f"{place}/experts", payload.expert_map(store, trace_id, tokens))
        save(f"{place}/change", thought.change(store, trace_id, tokens))
        for pos in range(0, tokens, payload.ROUTING_BLOCK):
            save(f"{place}/routing/{pos}", payload.routing(store, trace_id, pos))
    if boot["recorded"]["margin"]:
        save(f"{place}/margin", payload.margin(store, trace_id))
        for layer in recorded_layers(run, "routing"):
            save(f"{place}/layer/{layer}", payload.layer(store, trace_id, layer))
    for shown in boot["head_tables"]:
        table = payload.head_tables()[shown["table"]]
        for pos in range(0, tokens, boot["heads_block"]):
            found = payload.statistics(store, trace_id, pos, table, run["layers"], run["heads"])
            save(f"{place}/statistics/{table.name}/{pos}", found)
    for layer, heads in boot["attention_heads"]:
        for head in heads:
            for pos in range(0, tokens, payload.ATTENTION_BLOCK):
                block = payload.attention(store, trace_id, layer, head, pos, tokens)
                save(f"{place}/attention/{layer}.{head}/{pos}", block)
    known = trace.tokens()
    entropy = known["entropy"][[phase != "prompt" for phase in known["phase"]]]
    return {
        "trace_id": trace_id,
        **{name: trace.summary[name] for name in SUMMARY},
        "finish_reason": trace.summary["finish_reason"],
        "tokens": tokens,
        "entropy": float(np.nanmean(entropy)) if np.isfinite(entropy).any() else None,
        "model": run["model"],
        "mode": run["mode"],
    }


def _usage(cache: UsageCache, trace: Trace) -> dict[str, Any]:
    """Count how often each expert was chosen [S, E], in each phase that has tokens."""
    usage = cache.get(Scope(trace.run["run_id"], trace.trace_id))
    phases = {
        phase: {
            "tokens": usage.tokens(phase),
            "n": encode(usage.count_SE(phase), "u4"),
        }
        for phase in PHASES
        if usage.tokens(phase)
    }
    return {"layers": list(usage.layers), "experts": usage.experts, "phases": phases}
