"""What observing hands to the store: plain numpy arrays of one finished trace, no torch.

Shape letters: T tokens, S sparse layers, N layers, k experts a token, E experts, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class RunRecord:
    """Constants of a run; field by field the columns of ``runs`` (see schema.py).

    ``expert_bias`` [S, E] float32 goes to the table ``experts``.
    """

    mode: str
    model: str
    revision: str | None
    layers: int
    sparse_layers: tuple[int, ...]
    experts: int
    experts_per_token: int
    groups: int
    groups_kept: int
    routed_scaling_factor: float
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    dtype: str
    quantization: str | None
    attention: str
    experts_layout: str
    seed: int
    record: tuple[str, ...]
    expert_bias: Floats
    parallel: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sampling: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenArrays:
    """Columns of ``tokens``: ids, spans in characters, phase, log-probability and entropy [T].

    ``logprob`` and ``entropy`` hold NaN where there is none (pos 0); the store writes null.
    """

    token_id: Ints
    text: list[str]
    start: Ints
    end: Ints
    phase: list[str]
    logprob: Floats
    entropy: Floats


@dataclass(frozen=True)
class RoutingArrays:
    """The canonical router record of one trace.

    Attributes:
        layers: The S sparse layers, ascending.
        expert_ids: [S, T, k], heaviest first.
        weights: [S, T, k] float32.
        affinities: [S, T, k] float32.
        margin: [S, T].
        group_margin: [S, T].
        bias_flips: [S, T, k] bool, which of ``expert_ids`` are there only by their bias.
        unlimited_ids: [S, T, k], the k best scores were there no group limit.
        group_flips: [S, T, k] bool, which of ``unlimited_ids`` lost to the group limit.
        entropy: [S, T].
    """

    layers: tuple[int, ...]
    expert_ids: NDArray[np.integer]
    weights: Floats
    affinities: Floats
    margin: Floats
    group_margin: Floats
    bias_flips: NDArray[np.bool_]
    unlimited_ids: NDArray[np.integer]
    group_flips: NDArray[np.bool_]
    entropy: Floats


@dataclass(frozen=True)
class HeadArrays:
    """Per-token head statistics [N, T, H] of layers 0 … N-1."""

    entropy: Floats
    first_weight: Floats
    previous_weight: Floats
    output_norm: Floats


@dataclass(frozen=True)
class TraceRecord:
    """One finished trace: its row of ``traces`` and the arrays of the other tables.

    ``router_logits`` is [S, T, E] float32 as stored (already rounded by the observer);
    ``routing``, ``router_logits`` and ``heads`` are None where the run does not record them.
    """

    prompt: str
    text: str
    n_prompt: int
    n_think: int
    n_answer: int
    finish_reason: str
    seed: int
    tokens: TokenArrays
    routing: RoutingArrays | None = None
    router_logits: Floats | None = None
    heads: HeadArrays | None = None
    problem_id: str | None = None
    task: str | None = None
    answer: str | None = None
    expected: str | None = None
    correct: bool | None = None
    source_trace_id: int | None = None
