"""Records are checked before anything is written: what does not fit the run is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ringlens.errors import ObservationError
from ringlens.store.records import RoutingArrays, RunRecord, TokenArrays, TraceRecord
from ringlens.store.schema import PHASES
from ringlens.store.shape import RunShape


def check_run(run: RunRecord) -> None:
    """Raise ObservationError unless the run's own figures agree."""
    expected = (len(run.sparse_layers), run.experts)
    _equal("expert_bias", np.shape(run.expert_bias), expected)
    if run.groups < 1 or run.experts % run.groups:
        raise ObservationError(
            f"{run.experts} experts do not divide into {run.groups} groups: set `groups` to a "
            f"divisor of `experts`"
        )


def check_trace(record: TraceRecord, shape: RunShape) -> None:
    """Raise ObservationError unless every array of the trace has the run's shape."""
    tokens = len(record.tokens.token_id)
    if tokens == 0:
        raise ObservationError("a trace without tokens cannot be stored: leave it out")
    counts = record.n_prompt + record.n_think + record.n_answer
    if counts != tokens:
        raise ObservationError(
            f"n_prompt + n_think + n_answer is {counts}, but the trace has {tokens} tokens"
        )
    _check_tokens(record.tokens, tokens)
    _check_text(record)
    sparse = len(shape.sparse_layers)
    if record.routing is not None:
        _check_routing(record.routing, tokens, shape)
    if record.router_logits is not None:
        _equal("router_logits", record.router_logits.shape, (sparse, tokens, shape.experts))
    if record.heads is not None:
        for name in ("entropy", "first_weight", "previous_weight", "output_norm"):
            found = getattr(record.heads, name).shape
            _equal(f"heads.{name}", found, (shape.layers, tokens, shape.heads))


def _check_tokens(arrays: TokenArrays, tokens: int) -> None:
    for name in ("text", "start", "end", "phase", "logprob", "entropy"):
        _equal(f"tokens.{name}", (len(getattr(arrays, name)),), (tokens,))
    strangers = set(arrays.phase) - set(PHASES)
    if strangers:
        raise ObservationError(f"unknown phase {strangers.pop()!r}: use one of {', '.join(PHASES)}")


def _check_text(record: TraceRecord) -> None:
    start, end = record.tokens.start, record.tokens.end
    tiled = start[0] == 0 and end[-1] == len(record.text) and (start[1:] == end[:-1]).all()
    if not tiled:
        raise ObservationError(
            f"the tokens' spans do not tile the text of {len(record.text)} characters: each must "
            f"start where the one before ends"
        )
    for text in (record.prompt, record.text, "".join(record.tokens.text)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ObservationError(
                f"a text holds {text[error.start]!r}, half of a surrogate pair, which is not "
                f"Unicode: decode the bytes with errors='replace'"
            ) from None


def _check_routing(routing: RoutingArrays, tokens: int, shape: RunShape) -> None:
    _equal("routing.layers", routing.layers, shape.sparse_layers)
    row = (len(shape.sparse_layers), tokens)
    for name in ("margin", "group_margin", "entropy"):
        _equal(f"routing.{name}", getattr(routing, name).shape, row)
    chosen = (*row, shape.experts_per_token)
    names = ("expert_ids", "weights", "affinities", "bias_flips", "unlimited_ids", "group_flips")
    for name in names:
        _equal(f"routing.{name}", getattr(routing, name).shape, chosen)
    for ids in (routing.expert_ids, routing.unlimited_ids):
        if ids.size and (ids.min() < 0 or ids.max() >= shape.experts):
            wrong = int(ids.max() if ids.max() >= shape.experts else ids.min())
            raise ObservationError(f"expert id {wrong} in a run with {shape.experts} experts")


def _equal(name: str, found: Sequence[int], expected: Sequence[int]) -> None:
    if tuple(found) != tuple(expected):
        raise ObservationError(
            f"{name} is {tuple(found)} where the run has {tuple(expected)}: pass arrays of the "
            f"run that the trace belongs to"
        )
