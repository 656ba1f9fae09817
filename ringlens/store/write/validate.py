"""Checks records before anything is written, and refuses those that do not fit their run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ringlens.errors import ObservationError
from ringlens.store.schema.captured import PHASES
from ringlens.store.schema.instruments import SIZES, tables
from ringlens.store.schema.recorded_tables import HEADS
from ringlens.store.schema.records import (
    ChoiceArrays,
    LayerArrays,
    RoutingArrays,
    RunRecord,
    TokenArrays,
    TraceRecord,
)
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.runs import ROUTER_WORDS
from ringlens.store.schema.table import Table


def check_run(run: RunRecord) -> None:
    """Raise ObservationError if the run's sizes contradict each other."""
    expected = (len(run.sparse_layers), run.experts)
    _equal("expert_bias", np.shape(run.expert_bias), expected)
    if run.groups < 1 or run.experts % run.groups:
        raise ObservationError(
            f"{run.experts} experts do not divide into {run.groups} groups: set `groups` to a "
            f"divisor of `experts`"
        )
    for name, known in ROUTER_WORDS.items():
        if run.router and run.router.get(name) not in known:
            raise ObservationError(
                f"router[{name!r}] is {run.router.get(name)!r}: set it to "
                f"{' or '.join(map(repr, known))}"
            )


def check_trace(record: TraceRecord, shape: RunShape) -> None:
    """Raise ObservationError unless every array of the record has the run's shape."""
    tokens = len(record.tokens.token_id)
    _check_start(record, tokens)
    counts = record.n_prompt + record.n_think + record.n_answer
    if counts != record.start + tokens:
        where = (
            f"the trace has {tokens} tokens"
            if not record.start
            else (f"the part has {tokens} tokens after the {record.start} before it")
        )
        raise ObservationError(f"n_prompt + n_think + n_answer is {counts}, but {where}")
    _check_tokens("tokens", record.tokens, tokens)
    _check_text(record)
    if isinstance(record.routing, ChoiceArrays):
        _check_choices(record.routing, record.start, tokens, shape)
    elif record.routing is not None:
        _check_routing(record.routing, tokens, shape)
    if record.router_logits is not None:
        layers = record.layers_of_logits(shape.sparse_layers)
        _check_subset("logit_layers", layers, shape.sparse_layers)
        found = record.router_logits.shape
        _equal("router_logits", found, (len(layers), tokens, shape.experts))
    heads, blocks = record.heads, record.head_blocks
    if heads is not None and blocks is not None and not set(heads.layers) < set(blocks.layers):
        raise ObservationError(
            "a record has both heads and head_blocks: leave head_blocks out, those of heads are "
            "stored with them; or give those of more layers"
        )
    for name, each in (("heads", heads), ("head_blocks", blocks)):
        if each is not None:
            _check_arrays(name, HEADS, each.arrays, tokens, shape)
    _check_statistics(record, tokens, shape)
    check_vectors(record, tokens, shape)


def distinct_traces(ids: list[int | None]) -> list[int | None]:
    """Return the ids; raise ObservationError if a trace occurs twice."""
    known = [trace_id for trace_id in ids if trace_id is not None]
    for trace_id in known:
        if known.count(trace_id) > 1:
            raise ObservationError(
                f"trace {trace_id} is continued twice in one commit: pass one record per trace"
            )
    return ids


def _check_start(record: TraceRecord, tokens: int) -> None:
    if record.trace_id is None:
        if tokens == 0:
            raise ObservationError("a trace without tokens cannot be stored: leave it out")
        if record.start or record.rewritten is not None:
            raise ObservationError(
                f"a new trace starts at 0 and rewrites nothing, not at {record.start}: pass the "
                f"trace_id of the trace that this part continues"
            )
    elif record.start < 1:
        raise ObservationError(
            f"the part of trace {record.trace_id} starts at {record.start}: it must start where "
            f"the stored part ends"
        )
    wrong = [pos for pos in record.resumed_at if not 0 <= pos <= record.start + tokens]
    if wrong:
        raise ObservationError(f"resumed_at has position {wrong[0]}, outside the trace")


def _check_tokens(name: str, arrays: TokenArrays, tokens: int) -> None:
    for column in (
        "token_id",
        "text",
        "start",
        "end",
        "phase",
        "logprob",
        "entropy",
        "turn",
        "nonfinite",
    ):
        _equal(f"{name}.{column}", (len(getattr(arrays, column)),), (tokens,))
    unknown = set(arrays.phase) - set(PHASES)
    if unknown:
        raise ObservationError(f"unknown phase {unknown.pop()!r}: use one of {', '.join(PHASES)}")


def _check_text(record: TraceRecord) -> None:
    tokens, rewritten = record.tokens, record.rewritten
    spans = [tokens] if len(tokens.token_id) else []
    if rewritten is not None:
        _check_tokens("rewritten", rewritten, record.start)
        spans.insert(0, rewritten)
    pieces = [piece for arrays in spans for piece in arrays.text]
    if spans:
        start = np.concatenate([arrays.start for arrays in spans])
        end = np.concatenate([arrays.end for arrays in spans])
        # Without the tokens before `start`, where the first span must begin is checked later,
        # against the stored trace.
        whole = record.start == 0 or rewritten is not None
        tiled = (start[0] == 0 if whole else start[0] >= 0) and (start[1:] == end[:-1]).all()
        if not (tiled and end[-1] == len(record.text)):
            raise ObservationError(
                f"the tokens' spans do not tile the text of {len(record.text)} characters: each "
                f"must start where the one before ends"
            )
    for text in (record.prompt, record.text, "".join(pieces)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ObservationError(
                f"a text holds {text[error.start]!r}, half of a surrogate pair, which is not "
                f"Unicode: decode the bytes with errors='replace'"
            ) from None


def _check_routing(routing: RoutingArrays, tokens: int, shape: RunShape) -> None:
    _check_subset("routing.layers", routing.layers, shape.sparse_layers)
    row = (len(routing.layers), tokens)
    for name in ("margin", "group_margin", "entropy"):
        _equal(f"routing.{name}", getattr(routing, name).shape, row)
    chosen = (*row, shape.experts_per_token)
    names = ("expert_ids", "weights", "affinities", "bias_flips", "unlimited_ids", "group_flips")
    for name in names:
        _equal(f"routing.{name}", getattr(routing, name).shape, chosen)
    for ids in (routing.expert_ids, routing.unlimited_ids):
        _check_ids(ids, shape)
    if (acted := routing.acted) is not None:
        _check_ids(acted.own_ids, shape)
        _equal("routing.acted.own_ids", acted.own_ids.shape, chosen)
        _equal("routing.acted.own_weights", acted.own_weights.shape, chosen)
        _equal("routing.acted.differs", acted.differs.shape, row)
        _equal("routing.acted.intervened", acted.intervened.shape[:2], row)
        _equal(
            "routing.acted.numbers",
            acted.numbers.shape,
            (len(routing.layers), acted.intervened.shape[2]),
        )


def _check_choices(choices: ChoiceArrays, start: int, tokens: int, shape: RunShape) -> None:
    _check_subset("routing.layers", choices.layers, shape.sparse_layers)
    rows = choices.expert_ids.shape[1] if choices.expert_ids.ndim == 3 else 0
    expected = (len(choices.layers), rows, shape.experts_per_token)
    _equal("routing.expert_ids", choices.expert_ids.shape, expected)
    if not start <= choices.first <= choices.first + rows <= start + tokens:
        raise ObservationError(
            f"routing covers the positions {choices.first} to {choices.first + rows - 1}: give "
            f"rows of {start} to {start + tokens - 1}, those that the record covers"
        )
    _check_ids(choices.expert_ids, shape)


def _check_ids(ids: NDArray[np.integer], shape: RunShape) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= shape.experts):
        wrong = int(ids.max() if ids.max() >= shape.experts else ids.min())
        raise ObservationError(f"expert id {wrong} in a run with {shape.experts} experts")


def _check_statistics(record: TraceRecord, tokens: int, shape: RunShape) -> None:
    known = {t.name: t for t in tables() if not t.encoder}
    for name, arrays in record.statistics.items():
        if name not in known:
            raise ObservationError(
                f"a record has statistics for the table {name!r:.60}, which no instrument fills: "
                f"declare it in ringlens.store.schema.instruments"
            )
        _check_arrays(name, known[name], arrays, tokens, shape)


def _check_arrays(
    name: str, table: Table, arrays: LayerArrays, tokens: int, shape: RunShape
) -> None:
    """Each column of the table, [N, T] and then what its shape says."""
    known = shape.sparse_layers if table.is_sparse else range(shape.layers)
    _check_subset(f"{name}.layers", arrays.layers, known if table.has("layer") else ())
    layers = len(arrays.layers) if table.has("layer") else 1
    wanted = {column.name: column for column in table.values}
    if arrays.columns.keys() != wanted.keys():
        raise ObservationError(
            f"{name} has the columns {', '.join(arrays.columns)}: give {', '.join(wanted)}"
        )
    for column, values in arrays.columns.items():
        width = [getattr(shape, SIZES[letter]) for letter in wanted[column].shape]
        _equal(f"{name}.{column}", values.shape, (layers, tokens, *width))


def check_vectors(record: TraceRecord, tokens: int, shape: RunShape) -> None:
    """Raise ObservationError unless vectors and attention have the right shapes."""
    seen: set[tuple[str, int, int]] = set()
    for vectors in record.vectors:
        name = f"vectors at {vectors.point!r}"
        _check_subset(f"{name}: layers", vectors.layers, range(shape.layers))
        _check_positions(name, vectors.pos, record.start, tokens)
        heads = vectors.heads
        if heads is not None:
            _check_subset(f"{name}: heads", heads, range(shape.heads))
        width = vectors.values.shape[-1:]
        middle = () if heads is None else (len(heads),)
        expected = (len(vectors.layers) or 1, len(vectors.pos), *middle, *width)
        _equal(f"{name}: values", vectors.values.shape, expected)
        for key in product([vectors.point], vectors.layers or (-1,), heads or (-1,)):
            if key in seen:
                raise ObservationError(f"{name} are given twice: put them into one VectorArrays")
            seen.add(key)
    if (top := record.attention) is not None:
        _check_subset("attention.layers", top.layers, range(shape.layers))
        _check_subset("attention.heads", top.heads, range(shape.heads))
        _check_positions("attention", top.pos, record.start, tokens)
        expected = (len(top.layers), len(top.pos), len(top.heads), *top.weights.shape[-1:])
        _equal("attention.positions", top.positions.shape, expected)
        _equal("attention.weights", top.weights.shape, expected)
        end = record.start + tokens
        if top.positions.size and not -1 <= top.positions.min() <= top.positions.max() < end:
            raise ObservationError(
                f"attention.positions goes from {top.positions.min()} to {top.positions.max()} in "
                f"a trace of {end} tokens: give positions of its tokens, or -1 for none"
            )


def _check_positions(name: str, pos: NDArray, start: int, tokens: int) -> None:
    """Check that positions ascend inside the record, so that parts never share a row."""
    inside = len(pos) == 0 or (pos[0] >= start and pos[-1] < start + tokens)
    if not inside or (np.diff(pos) <= 0).any():
        raise ObservationError(
            f"{name} must be at ascending positions from {start} to {start + tokens - 1}, those "
            f"that the record covers, not at {np.asarray(pos).tolist()[:8]}"
        )


def _check_subset(name: str, found: Sequence[int], known: Sequence[int]) -> None:
    if list(found) != sorted(set(found) & set(known)):
        raise ObservationError(
            f"{name} is {tuple(found)}: give some of {tuple(known)}, each once and ascending"
        )


def _equal(name: str, found: Sequence[int], expected: Sequence[int]) -> None:
    if tuple(found) != tuple(expected):
        raise ObservationError(
            f"{name} is {tuple(found)} where the run has {tuple(expected)}: pass arrays of the "
            f"run that the trace belongs to"
        )
