"""Records that observing passes to the store: numpy arrays of a trace, or of a part of one.

If several processes observe a trace, each has a record with its own layers.

Shape letters: T tokens, S sparse layers, N layers, k experts per token, E experts, H heads,
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
    """Constants of a run; most fields are columns of ``runs`` (see `ringlens.store.schema.runs`).

    ``expert_bias`` [S, E] float32, NaN where unknown, goes to the table ``experts``.
    ``fingerprint`` is a digest of all that decides the result (model, settings, problems). The
    manifest keeps it, so that an interrupted run can be found again; an empty one is never found.
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
    interventions: tuple[str, ...] = ()
    planned: int | None = None


@dataclass(frozen=True)
class TokenArrays:
    """Columns of ``tokens``: ids, spans in characters, phase, log-probability, entropy, turn [T].

    ``logprob`` and ``entropy`` are NaN where missing (pos 0), and ``turn`` is negative where
    unknown; the store writes null for these. Without ``turn``, all are unknown. ``nonfinite``
    marks tokens with a recorded number that is NaN or infinite; by default none.
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
        layers: The S layers of the record, ascending: any of the run's sparse layers, or none.
        expert_ids: [S, T, k], heaviest first.
        weights: [S, T, k] float32.
        affinities: [S, T, k] float32.
        margin: [S, T].
        group_margin: [S, T].
        bias_flips: [S, T, k] bool, which of ``expert_ids`` were chosen only for their bias.
        unlimited_ids: [S, T, k], the k best experts without the group limit.
        group_flips: [S, T, k] bool, which of ``unlimited_ids`` lost to the group limit.
        entropy: [S, T].
        acted: What interventions made of it; None in a run without any.
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
    acted: ActedArrays | None = None


@dataclass(frozen=True)
class ActedArrays:
    """What interventions made of a router record: what the routers had chosen themselves.

    Attributes:
        own_ids: [S, T, k], the experts that the routers chose, heaviest first.
        own_weights: [S, T, k] their weights.
        differs: [S, T] bool, where other experts or weights ran.
        intervened: [S, T, I] bool, which interventions acted.
        numbers: [S, I] the place of each of these in ``RunRecord.interventions``.
    """

    own_ids: NDArray[np.integer]
    own_weights: Floats
    differs: NDArray[np.bool_]
    intervened: NDArray[np.bool_]
    numbers: NDArray[np.integer]


@dataclass(frozen=True)
class ChoiceArrays:
    """Chosen experts without reasons, as serving engines report them.

    Attributes:
        layers: The S layers of the record, ascending.
        expert_ids: [S, R, k], in no order.
        first: Position in the trace of the first of the R rows. Tokens before it, and tokens after
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

    def only(self, layers: tuple[int, ...]) -> LayerArrays:
        """The part of some of the layers."""
        if layers == self.layers:
            return self
        at = [self.layers.index(layer) for layer in layers]
        return LayerArrays(layers, {name: values[at] for name, values in self.columns.items()})

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
        layers: The L layers, ascending; empty for a point outside the layers, where L is 1.
        heads: The H heads, ascending; None for a point without heads.
        pos: [P] positions in the trace, ascending, among those that the record covers.
        values: [L, P, C], or [L, P, H, C] with heads. The store keeps 11 significant bits, like
            fp16.
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
        weights: [L, P, h, k]; the store keeps 11 significant bits, like fp16.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    pos: Ints
    positions: Ints
    weights: Floats


@dataclass(frozen=True)
class TraceRecord:
    """A trace, or the next part of one: its row of ``traces`` and the arrays of the other tables.

    The row describes the whole trace so far. The arrays cover T tokens from position ``start``; the
    spans of ``tokens`` continue where those of the earlier part ended.

    Attributes:
        prompt: The prompt, without the chat template.
        text: The whole text so far.
        n_prompt: Number of tokens of the prompt; the three counts add up to ``start`` + T.
        n_think: Number of tokens of the thinking phase.
        n_answer: Number of tokens of the answer.
        finish_reason: "running" if another part follows, else "stop", "length",
            "interrupted" or "replay".
        seed: Seed of the trace's sampler.
        tokens: The T tokens.
        routing: The router record, or only the choices; None if the run records neither.
        router_logits: [S, T, E], already rounded by the observer.
        heads: Head statistics, stored per token and as head blocks; None if not recorded.
        head_blocks: Head statistics per token, stored only as head blocks; with heads, those of
            all layers that have head blocks. None if these are the layers of heads.
        problem_id: The problem, unique in its set.
        task: Task of the problem.
        answer: The answer found in the text.
        expected: The expected answer.
        correct: Whether the answer passes.
        source_trace_id: The trace this one replays.
        trace_id: None for a new trace; else the committed trace that this record continues.
        start: Position of the first token; with T = 0 the record only ends a trace or rewrites its
            tokens.
        item: Index in the run's list of problems or texts.
        resumed_at: Positions at which generation resumed after an interruption.
        rewritten: Tokens of all positions before ``start``, which replace the stored ones, as
            phases and turns may become known only later.
        vectors: Vectors at chosen points.
        attention: Largest attention weights of chosen heads.
        statistics: Arrays of other instruments, by table.
        flags: Known faults of the trace, as named in `ringlens.store.schema.captured`.
        sample: Number among the samples of its problem, from 0.
        logit_layers: Layers of ``router_logits``; None: those of ``routing``, or all sparse ones.
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
    sample: int | None = None
    logit_layers: tuple[int, ...] | None = None

    def layers_of_logits(self, sparse: tuple[int, ...]) -> tuple[int, ...]:
        """The layers of ``router_logits``, in a run with these sparse layers."""
        if self.logit_layers is not None:
            return self.logit_layers
        return sparse if self.routing is None else self.routing.layers
