"""Random records that are consistent: the router logits really give the recorded choice.

The routing here is written a second time, in float64 and by sorting, from the definitions in the
documentation; tests compare other code with it.

Shape letters: T tokens, S sparse layers, N layers, k experts a token, E experts, G groups, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from ringlens.store.schema.records import (
    AttentionArrays,
    HeadArrays,
    RoutingArrays,
    RunRecord,
    TokenArrays,
    TraceRecord,
    VectorArrays,
)

WORDS = ("Let", " me", " try", " 7", " *", " 3", ".", "\n", " Wait", ",", " naïve", " 数", "🙂", "")


def random_run(
    seed: int = 0,
    layers: int = 4,
    dense: int = 1,
    experts: int = 16,
    groups: int = 4,
    groups_kept: int = 2,
    k: int = 3,
    heads: int = 4,
    **changes: object,
) -> RunRecord:
    """A run whose first ``dense`` layers do not route; ``changes`` replace any field."""
    rng = np.random.default_rng(seed)
    sparse = tuple(range(dense, layers))
    values: dict = {
        "mode": "live",
        "model": "random",
        "revision": None,
        "layers": layers,
        "sparse_layers": sparse,
        "experts": experts,
        "experts_per_token": k,
        "groups": groups,
        "groups_kept": groups_kept,
        "routed_scaling_factor": 2.5,
        "heads": heads,
        "kv_heads": max(1, heads // 4),
        "head_dim": 32,
        "hidden_size": 32 * heads,
        "dtype": "float32",
        "quantization": None,
        "attention": "sdpa",
        "experts_layout": "fused",
        "seed": seed,
        "record": ("routing", "router_logits", "heads"),
        "expert_bias": rng.normal(0, 0.05, (len(sparse), experts)).astype(np.float32),
        "versions": {"numpy": np.__version__},
        "sampling": {"temperature": 0.7},
    }
    return RunRecord(**(values | changes))


def random_trace(run: RunRecord, tokens: int = 24, seed: int = 0, **changes: object) -> TraceRecord:
    """A trace of the run; ``router_logits=None`` or ``heads=None`` leaves those out."""
    rng = np.random.default_rng(seed)
    n_prompt = max(1, tokens // 5)
    n_answer = (tokens - n_prompt) // 4
    n_think = tokens - n_prompt - n_answer
    arrays = random_tokens(rng, (n_prompt, n_think, n_answer))
    shape = (len(run.sparse_layers), tokens, run.experts)
    logits_STE = rng.normal(0, 1.5, shape).astype(np.float16).astype(np.float32)
    correct = bool(rng.random() < 0.7)
    values: dict = {
        "prompt": "Make 24 from 2, 3, 4.",
        "text": "".join(arrays.text),
        "n_prompt": n_prompt,
        "n_think": n_think,
        "n_answer": n_answer,
        "finish_reason": "stop",
        "seed": seed,
        "tokens": arrays,
        "routing": route(run, logits_STE),
        "router_logits": logits_STE,
        "heads": random_heads(rng, run, tokens),
        "problem_id": f"countdown-{seed}",
        "task": "countdown",
        "answer": "2*3*4" if correct else "2+3+4",
        "expected": "24",
        "correct": correct,
    }
    return TraceRecord(**(values | changes))


def random_tokens(rng: np.random.Generator, counts: tuple[int, int, int]) -> TokenArrays:
    """Tokens whose texts tile the trace's text, in prompt, think and answer."""
    total = sum(counts)
    token_id = rng.integers(0, len(WORDS), total).astype(np.int32)
    text = [WORDS[i] for i in token_id]
    end = np.cumsum([len(piece) for piece in text]).astype(np.int32)
    start = (end - [len(piece) for piece in text]).astype(np.int32)
    phases = ("prompt", "think", "answer")
    phase = [name for name, count in zip(phases, counts, strict=True) for _ in range(count)]
    entropy = rng.gamma(1.0, 0.6, total).astype(np.float32)
    logprob = -rng.gamma(1.0, 0.4, total).astype(np.float32)
    entropy[0] = logprob[0] = np.nan
    return TokenArrays(token_id, text, start, end, phase, logprob, entropy)


def random_heads(rng: np.random.Generator, run: RunRecord, tokens: int) -> HeadArrays:
    """Head statistics in their ranges; at position 0 a head sees one token only."""
    shape = (run.layers, tokens, run.heads)
    reach = np.log(np.arange(1, tokens + 1))[:, None]
    entropy = rng.random(shape) * reach
    first = rng.random(shape)
    previous = (1 - first) * rng.random(shape)
    first[:, 0], previous[:, 0] = 1, 0
    rounded = [a.astype(np.float16).astype(np.float32) for a in (entropy, first, previous)]
    return HeadArrays(
        tuple(range(run.layers)), *rounded, rng.gamma(2.0, 1.0, shape).astype(np.float32)
    )


def random_vectors(
    rng: np.random.Generator,
    point: str,
    layers: tuple[int, ...],
    pos: Sequence[int],
    heads: tuple[int, ...] | None = None,
    width: int = 6,
) -> VectorArrays:
    """Normal vectors of fp16's precision, some of them beyond fp16's range."""
    middle = () if heads is None else (len(heads),)
    shape = (len(layers) or 1, len(pos), *middle, width)
    values = rng.normal(0, 1, shape).astype(np.float16).astype(np.float32)
    values[..., 0] *= 2.0**20
    return VectorArrays(point, layers, heads, np.array(pos, np.int32), values)


def random_attention(
    rng: np.random.Generator,
    layers: tuple[int, ...],
    heads: tuple[int, ...],
    pos: Sequence[int],
    k: int = 4,
) -> AttentionArrays:
    """The k keys of largest weight; -1 where a query sees fewer."""
    shape = (len(layers), len(pos), len(heads), k)
    visible = np.minimum(k, np.asarray(pos) + 1)[None, :, None, None]
    seen = np.broadcast_to(np.arange(k) < visible, shape)
    positions = np.where(seen, rng.integers(0, np.asarray(pos)[None, :, None, None] + 1, shape), -1)
    weights = -np.sort(-rng.random(shape).astype(np.float16).astype(np.float32), axis=-1)
    weights = np.where(seen, weights, 0).astype(np.float32)
    return AttentionArrays(
        layers, heads, np.array(pos, np.int32), positions.astype(np.int32), weights
    )


def part(
    trace: TraceRecord, start: int, stop: int, trace_id: int | None, **changes: object
) -> TraceRecord:
    """Tokens ``start … stop - 1`` of a trace, as the record that goes on there."""
    tokens = cut_tokens(trace.tokens, start, stop)
    phase = trace.tokens.phase[:stop]
    here = [v for v in (_cut_vectors(v, start, stop) for v in trace.vectors) if len(v.pos)]
    values: dict = {
        "text": "".join(trace.tokens.text[:stop]),
        "n_prompt": phase.count("prompt"),
        "n_think": phase.count("think"),
        "n_answer": phase.count("answer"),
        "finish_reason": trace.finish_reason if stop == len(trace.tokens.text) else "running",
        "tokens": tokens,
        "routing": cut(trace.routing, start, stop),
        "heads": cut(trace.heads, start, stop),
        "router_logits": None
        if trace.router_logits is None
        else trace.router_logits[:, start:stop],
        "vectors": tuple(here),
        "attention": None
        if trace.attention is None
        else _cut_vectors(trace.attention, start, stop),
        "trace_id": trace_id,
        "start": start,
    }
    return replace(trace, **(values | changes))


def cut_tokens(tokens: TokenArrays, start: int, stop: int) -> TokenArrays:
    """Tokens ``start … stop - 1``."""
    return TokenArrays(*(getattr(tokens, f.name)[start:stop] for f in fields(tokens)))


def cut(arrays: RoutingArrays | HeadArrays | None, start: int, stop: int):
    """The same of arrays [layers, T, …]."""
    if arrays is None:
        return None
    names = [f.name for f in fields(arrays) if f.name not in ("layers", "acted")]
    return replace(arrays, **{name: getattr(arrays, name)[:, start:stop] for name in names})


def _cut_vectors(arrays, start: int, stop: int):
    """The same of arrays [L, P, …] at chosen positions."""
    inside = (arrays.pos >= start) & (arrays.pos < stop)
    names = [name for name in ("values", "positions", "weights") if hasattr(arrays, name)]
    changes = {name: getattr(arrays, name)[:, inside] for name in names}
    return replace(arrays, pos=arrays.pos[inside], **changes)


def of_rank(trace: TraceRecord, rank: int, size: int) -> TraceRecord:
    """What one of ``size`` ranks holds of a trace: every ``size``-th layer."""
    routing, heads = trace.routing, trace.heads
    logits = trace.router_logits
    vectors = [
        _own_layers(v, rank, size) if v.layers else replace(v, values=v.values[rank:])
        for v in trace.vectors
    ]
    if logits is not None:
        layers = routing.layers
        logits = logits[[i for i, layer in enumerate(layers) if layer % size == rank]]
    return replace(
        trace,
        routing=_own_layers(routing, rank, size),
        router_logits=logits,
        heads=_own_layers(heads, rank, size),
        vectors=tuple(v for v in vectors if len(v.values)),
        attention=_own_layers(trace.attention, rank, size),
    )


def _own_layers(arrays, rank: int, size: int):
    if arrays is None:
        return None
    own = [i for i, layer in enumerate(arrays.layers) if layer % size == rank]
    whole = ("layers", "heads", "pos", "point", "acted")
    names = [f.name for f in fields(arrays) if f.name not in whole]
    changes = {name: getattr(arrays, name)[own] for name in names}
    return replace(arrays, layers=tuple(arrays.layers[i] for i in own), **changes)


def choose(scores_TE: np.ndarray, groups: int, kept: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest scores inside the ``kept`` best groups.

    Returns:
        Expert ids [T, k], best first, and which groups stay, bool [T, G].
    """
    grouped_TGe = scores_TE.reshape(len(scores_TE), groups, -1)
    group_score_TG = np.sort(grouped_TGe, axis=2)[:, :, -2:].sum(axis=2)
    order_TG = np.argsort(-group_score_TG, axis=1, kind="stable")
    stays_TG = np.zeros(group_score_TG.shape, bool)
    np.put_along_axis(stays_TG, order_TG[:, :kept], True, axis=1)
    limited_TE = np.where(np.repeat(stays_TG, grouped_TGe.shape[2], axis=1), scores_TE, -np.inf)
    return np.argsort(-limited_TE, axis=1, kind="stable")[:, :k], stays_TG


def route(run: RunRecord, logits_STE: np.ndarray) -> RoutingArrays:
    """The canonical router record that these logits and the run's bias give."""
    layers = [
        _route_layer(run, logits_TE.astype(np.float64), bias_E.astype(np.float64))
        for logits_TE, bias_E in zip(logits_STE, run.expert_bias, strict=True)
    ]
    columns = {name: np.stack([layer[name] for layer in layers]) for name in layers[0]}
    return RoutingArrays(layers=tuple(run.sparse_layers), **columns)


def _route_layer(run: RunRecord, logits_TE: np.ndarray, bias_E: np.ndarray) -> dict:
    k, groups, kept = run.experts_per_token, run.groups, run.groups_kept
    s_TE = 1 / (1 + np.exp(-logits_TE))
    c_TE = s_TE + bias_E
    chosen_Tk, stays_TG = choose(c_TE, groups, kept, k)
    unbiased_Tk, _ = choose(s_TE, groups, kept, k)
    unlimited_Tk = np.argsort(-c_TE, axis=1, kind="stable")[:, :k]

    affinity_Tk = np.take_along_axis(s_TE, chosen_Tk, axis=1)
    by_weight = np.argsort(-affinity_Tk, axis=1, kind="stable")
    chosen_Tk = np.take_along_axis(chosen_Tk, by_weight, axis=1)
    affinity_Tk = np.take_along_axis(affinity_Tk, by_weight, axis=1)
    weight_Tk = affinity_Tk / (affinity_Tk.sum(1, keepdims=True) + 1e-20)
    share_TE = s_TE / s_TE.sum(1, keepdims=True)
    return {
        "expert_ids": chosen_Tk,
        "weights": (weight_Tk * run.routed_scaling_factor).astype(np.float16).astype(np.float32),
        "affinities": affinity_Tk.astype(np.float32),
        "margin": _margin(c_TE, stays_TG, k),
        "group_margin": _group_margin(c_TE, stays_TG),
        "bias_flips": ~(chosen_Tk[:, :, None] == unbiased_Tk[:, None, :]).any(2),
        "unlimited_ids": unlimited_Tk,
        "group_flips": ~np.take_along_axis(stays_TG, unlimited_Tk // (run.experts // groups), 1),
        "entropy": -(share_TE * np.log(share_TE)).sum(1).astype(np.float32),
    }


def _margin(c_TE: np.ndarray, stays_TG: np.ndarray, k: int) -> np.ndarray:
    inside_TE = np.repeat(stays_TG, c_TE.shape[1] // stays_TG.shape[1], axis=1)
    sorted_TE = -np.sort(-np.where(inside_TE, c_TE, -np.inf), axis=1)
    if k == c_TE.shape[1]:
        return np.full(len(c_TE), np.inf, np.float32)
    return (sorted_TE[:, k - 1] - sorted_TE[:, k]).astype(np.float32)


def _group_margin(c_TE: np.ndarray, stays_TG: np.ndarray) -> np.ndarray:
    groups = stays_TG.shape[1]
    score_TG = np.sort(c_TE.reshape(len(c_TE), groups, -1), axis=2)[:, :, -2:].sum(axis=2)
    last_T = np.where(stays_TG, score_TG, np.inf).min(axis=1)
    first_rejected_T = np.where(stays_TG, -np.inf, score_TG).max(axis=1)
    return (last_T - first_rejected_T).astype(np.float32)
