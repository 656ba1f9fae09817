"""What a bundle holds that reveals no token: sums over traces, by run and phase.

Shape letters: P phases, S sparse layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ringlens.analysis.load.usage import Usage
from ringlens.app.bundle.contents import (
    Entry,
    Payload,
    Progress,
    heading,
    of_runs,
    run_summary,
    summed,
)
from ringlens.app.routing.usage_payload import usage_payload
from ringlens.app.shared.usage_cache import UsageCache
from ringlens.errors import StoreError
from ringlens.store import Store

LEAST = 100
"""Tokens of a phase below which its sums would be next to the routes of single tokens."""


def aggregates(store: Store, trace_ids: Sequence[int], on_progress: Progress) -> Iterator[Entry]:
    """Yield the usage of experts by run, summed over traces: no text, token or route of a token.

    Args:
        store: The store.
        trace_ids: The traces, ascending.
        on_progress: Called with how many traces are done, and of how many.

    Yields:
        Paths with what they answer; the last is ``data/index``.

    Raises:
        StoreError: No run has a phase with `LEAST` routed tokens.
    """
    cache = UsageCache(store)
    runs: list[Payload] = []
    done = 0
    for run, ids in of_runs(store, trace_ids):
        usage = summed(store, cache, run, ids)
        found = None if usage is None else _of_many(usage)
        if found is not None and found.sums.rows:
            yield f"data/usage/run/{len(runs)}", usage_payload(found)
            runs.append(run_summary(run, len(ids), True))
        done += len(ids)
        on_progress(done, len(trace_ids))
    if not runs:
        raise StoreError(
            f"no phase of the chosen traces has {LEAST} routed tokens: sums over fewer would "
            f"reveal the routes of single tokens; choose more traces"
        )
    yield (
        "data/index",
        {**heading(store), "about": "aggregates", "least": LEAST, "runs": runs, "traces": []},
    )


def _of_many(usage: Usage) -> Usage:
    """Leave out phases with few tokens, also of what is summed over phases."""
    many_P = usage.tokens_P >= LEAST
    sums = usage.sums
    kept = replace(
        sums,
        tokens_PS=np.where(many_P[:, None], sums.tokens_PS, 0),
        n_PSE=np.where(many_P[:, None, None], sums.n_PSE, 0),
        weight_PSE=np.where(many_P[:, None, None], sums.weight_PSE, 0),
        flips_PSE=np.where(many_P[:, None, None], sums.flips_PSE, 0),
    )
    return replace(usage, sums=kept)
