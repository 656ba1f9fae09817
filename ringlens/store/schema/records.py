"""What observing hands to the store: plain numpy arrays of a trace or of a part of it, no torch.

Where several processes observe one trace, each has a record of it that holds its own layers.

Shape letters: T tokens, S sparse layers, N layers, k experts a token, E experts, H heads,
L chosen layers, P chosen positions, h chosen heads, C components of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class RunRecord:
    """Constants of a run; field by field the columns of ``runs`` (see schema.py).

    ``expert_bias`` [S, E] float32, NaN where it is not known, goes to the table ``experts``.
    ``fingerprint`` is a digest of
    what decides the result (model, settings, problems), kept in the manifest: by it an interrupted
    run is found again; an empty one is never found.
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
    fingerprint: str = ""
    tokenizer: str | None = None
    router: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenArrays:
    """Columns of ``tokens``: ids, spans in characters, phase, log-probability, entropy, turn [T].

    ``logprob`` and ``entropy`` hold NaN where there is none (pos 0), ``turn`` a negative number
    where it is not known; the store writes null. Left out, no turn is known. ``nonfinite`` says
    of which tokens a recorded number is NaN or infinite; left out, of none.
    """

    token_id: Ints
    text: list[str]
    start: Ints
    end: Ints
    phase: list[str]
    logprob: Floats
    entropy: Floats
    turn: Ints = field(default_factory=lambda: np.empty(0, np.int32))
    nonfinite: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))

    def __post_init__(self) -> None:
        if not len(self.turn):
            object.__setattr__(self, "turn", np.full(len(self.token_id), -1, np.int32))
        if not len(self.nonfinite):
            object.__setattr__(self, "nonfinite", np.zeros(len(self.token_id), bool))


@dataclass(frozen=True)
class RoutingArrays:
    """The canonical router record of one trace, or of a part of it.

    Attributes:
        layers: The S layers it holds, ascending: any of the run's sparse layers; none is allowed.
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
class ChoiceArrays:
    """Chosen experts alone, as serving engines report them: why they were chosen is not known.

    Attributes:
        layers: The S layers it holds, ascending.
        expert_ids: [S, R, k], in no order.
        first: Position in the trace of the first of the R rows. Tokens before it, and those behind
            the last row, have no rows.
    """

    layers: tuple[int, ...]
    expert_ids: NDArray[np.integer]
    first: int = 0


@dataclass(frozen=True)
class LayerArrays:
    """What an instrument gives of each token, for a table with a row for each layer and token.

    Attributes:
        layers: The N layers, ascending; empty for a table without layers, then N is 1.
        columns: By column of the table: [N, T] numbers, or [N, T, …] where a row holds a list.
    """

    layers: tuple[int, ...]
    columns: Mapping[str, NDArray]

    @property
    def count(self) -> int:
        """N."""
        return len(next(iter(self.columns.values()))) if self.columns else 0


@dataclass(frozen=True)
class HeadArrays:
    """Per-token head statistics [N, T, H] of the N layers in ``layers``, ascending."""

    layers: tuple[int, ...]
    entropy: Floats
    first_weight: Floats
    previous_weight: Floats
    output_norm: Floats

    @property
    def arrays(self) -> LayerArrays:
        """The same by column of ``heads``."""
        names = ("entropy", "first_weight", "previous_weight", "output_norm")
        return LayerArrays(self.layers, {name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class VectorArrays:
    """Vectors at one point of the model, for the table ``activations``.

    Attributes:
        point: Name of the point.
        layers: The L layers, ascending; empty for a point outside the layers, then L is 1.
        heads: The H heads, ascending; None for a point without heads.
        pos: [P] positions in the trace, ascending, among those that the record covers.
        values: [L, P, C], or [L, P, H, C] with heads. The store keeps 11 significant bits, as
            fp16 has.
    """

    point: str
    layers: tuple[int, ...]
    heads: tuple[int, ...] | None
    pos: Ints
    values: Floats


@dataclass(frozen=True)
class AttentionArrays:
    """The keys with the largest attention weights, for the table ``attention``.

    Attributes:
        layers: The L layers, ascending.
        heads: The h heads, ascending.
        pos: [P] positions of the queries in the trace, ascending, among those of the record.
        positions: [L, P, h, k] positions of the keys; -1 where there are fewer than k.
        weights: [L, P, h, k]; the store keeps 11 significant bits, as fp16 has.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    pos: Ints
    positions: Ints
    weights: Floats


@dataclass(frozen=True)
class TraceRecord:
    """A trace, or the next part of one: its row of ``traces`` and the arrays of the other tables.

    The row describes the whole trace as far as it is known. The arrays cover T tokens from
    position ``start``; the spans of ``tokens`` go on where those of the earlier part ended.

    Attributes:
        prompt: What was asked.
        text: The whole text up to here.
        n_prompt: Tokens of the prompt; the three counts add up to ``start`` + T.
        n_think: Tokens of the thinking phase.
        n_answer: Tokens of the answer.
        finish_reason: "running" if another part follows, else "stop", "length" or "replay".
        seed: Seed of the trace's sampler.
        tokens: The T tokens.
        routing: The router record, or the choices alone; None where the run records neither.
        router_logits: [S, T, E] of the layers of ``routing``, already rounded by the observer.
        heads: Head statistics, None where the run does not record them; stored for each token and
            by blocks.
        head_blocks: Head statistics of each token of which only blocks are stored; None with heads.
        problem_id: The problem, unique in its set.
        task: Task of the problem.
        answer: The answer found in the text.
        expected: The expected answer.
        correct: Whether the answer passes.
        source_trace_id: The trace this one replays.
        trace_id: None for a new trace; else the committed trace that this record continues.
        start: Position of the first token; T = 0 only ends a trace (or rewrites its tokens).
        item: Place in the run's list of problems or texts.
        resumed_at: Positions at which generation was taken up again after an interruption.
        rewritten: The tokens of all positions before ``start``, which take the place of the stored
            ones: their phases and turns may become known only later.
        vectors: Vectors at chosen points.
        attention: Largest attention weights of chosen heads.
        statistics: What other instruments give of each token, by table.
        flags: What is known to be wrong with the trace, in the words of
            `ringlens.store.schema.captured`.
    """

    prompt: str
    text: str
    n_prompt: int
    n_think: int
    n_answer: int
    finish_reason: str
    seed: int
    tokens: TokenArrays
    routing: RoutingArrays | ChoiceArrays | None = None
    router_logits: Floats | None = None
    heads: HeadArrays | None = None
    head_blocks: HeadArrays | None = None
    problem_id: str | None = None
    task: str | None = None
    answer: str | None = None
    expected: str | None = None
    correct: bool | None = None
    source_trace_id: int | None = None
    trace_id: int | None = None
    start: int = 0
    item: int | None = None
    resumed_at: tuple[int, ...] = ()
    rewritten: TokenArrays | None = None
    vectors: tuple[VectorArrays, ...] = ()
    attention: AttentionArrays | None = None
    statistics: Mapping[str, LayerArrays] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
