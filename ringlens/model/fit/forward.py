"""What one rank does in a forward: operations, bytes, kernels and messages, for the roofline.

Letters: B traces side by side, N tokens of a forward in all, S tokens of a trace in the cache, D
hidden size, H heads, G kv heads, C head dimension, E experts, k experts a token, F width of an
expert, b bytes of the dtype; t ranks that divide each weight, e ranks that share out experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ringlens.model.family import family_of
from ringlens.model.fit.scenario import FOUR_BITS, Scenario
from ringlens.model.kernels.few_rows import MOST_ROWS
from ringlens.model.shared_routing import FEWEST

# Kernels of a layer as they are launched one by one, and those of one that a graph holds, whose
# experts take few; beside an expert that is a module of its own. Counted with torch's profiler on a
# H200 (6,202 in eight layers and tokens); of modules fitted to Ring-1T's in nf4 (docs/plan.md).
LAUNCHED, GRAPHED, OF_MODULE = 97, 70, 30
# Kernels of a layer that a GPU spares where rows are few (ringlens/model/kernels/few_rows.py): a
# graph of a step of Ring-mini then holds 567 in 20 layers.
SPARED = 42
# Modules of a sparse layer whose weights tensor parallelism divides: attention's two, the experts,
# the three of the shared expert.
DIVIDED = 6
# Times the bound of its bytes that a product with weights in 4 bits takes for a few tokens, as long
# as it unpacks them where they lie (bench_nf4.py: 2.35 to 2.65).
UNPACKING = 2.5


@dataclass(frozen=True)
class Split:
    """How many ranks divide what: (t, e); both 1 where a layer is whole on one device."""

    tp: int = 1
    ep: int = 1

    @property
    def ranks(self) -> int:
        """Ranks that work on a layer together."""
        return max(self.tp, self.ep)

    @property
    def experts(self) -> int:
        """Ranks among which the experts of a layer, or parts of all of them, are divided."""
        return self.ep if self.ep > 1 else self.tp


@dataclass(frozen=True)
class Forward:
    """What a rank does, all layers together.

    Attributes:
        products: Operations of matrix products.
        attention: Operations of attention between tokens.
        read: Bytes of weights, keys and values that are read.
        moved: Bytes that gathers and elementwise kernels read and write.
        launches: Kernels that are launched one by one.
        graphed: Kernels of a graph of the same.
        spared: Kernels of either that are not needed on a GPU.
        divided: Calls of modules whose weights are divided.
        messages: Collectives.
        sent: Bytes that they bring to a rank.
    """

    products: float
    attention: float
    read: float
    moved: float
    launches: float
    graphed: float
    spared: float
    divided: float
    messages: float
    sent: float


def forward(s: Scenario, rows: int, tokens: int, context: int, split: Split = Split()) -> Forward:
    """Count what a rank does in a forward of the whole model.

    Args:
        s: The model and its precision.
        rows: Traces side by side (B).
        tokens: New tokens of each; 1 when decoding.
        context: Tokens of each in the cache at the end (S).
        split: How a layer is divided. Stages of a pipeline and devices of a map take turns, so all
            of them together count as one.
    """
    model, item, N = s.model, s.held.item, rows * tokens
    D, H, G, C = model.hidden_size, model.heads, model.kv_heads, model.head_dim
    E, k, F = model.router.experts, model.router.experts_per_token, model.expert_width
    sparse, L = len(model.sparse_layers), model.layers
    hit = E * (1 - (1 - k / E) ** N) if sparse else 0.0
    plain = s.layout == "fused" and s.held.quantization is None
    copied = rows * k if plain and split.tp > 1 == split.ep and tokens == 1 else 0
    seen = context - (tokens - 1) / 2  # tokens that a new one looks at, in the mean
    of_choice = D * (8 * item + 10) + 7 * F * item
    of_token = 30 * D * item + 20 * (H + G) * C * item
    shared = split.experts
    messages, sent = _messages(s, N, split)
    modules = s.layout == "modules"
    return Forward(
        products=_products(s, N, rows, split),
        attention=4 * L * H * C * N * seen,
        read=_weights(s, hit, split, few=tokens == 1) + L * rows * context * 2 * G * C * item,
        # Choices of other ranks' experts are left out; parts of every expert see all choices.
        moved=L * N * of_token
        + sparse * N * k * of_choice / split.ep
        + 2 * sparse * copied * 3 * D * F * item / shared
        + (2 * item * _expanded(s) / split.tp if N > 1 else 0),
        launches=LAUNCHED * L + (sparse * hit * OF_MODULE if modules else 0),
        graphed=GRAPHED * L,
        spared=SPARED * L if N <= MOST_ROWS and family_of(s.config).in_place else 0,
        divided=(DIVIDED if split.tp > 1 else 1) * L if split.ranks > 1 else 0,
        messages=messages,
        sent=sent,
    )


def _products(s: Scenario, N: int, rows: int, split: Split) -> float:
    """Count operations of matrix products; of the output projection at the last tokens."""
    model, total = s.model, 0.0
    k, E = model.router.experts_per_token, model.router.experts
    routed_apart = split.ranks if FEWEST * split.ranks <= N else 1
    for t in s.tensors:
        if len(t.shape) != 2 or t.unit == s.units.embeddings:
            continue
        operations = 2.0 * t.count * prod(t.shape)
        if t.unit == s.units.head:
            total += rows * operations / split.tp
        elif t.kind == "experts":
            total += N * operations * k / E / split.experts
        else:
            total += N * operations / (routed_apart if t.kind == "router" else split.tp)
    if model.tied:
        total += 2.0 * rows * model.hidden_size * model.vocabulary / split.tp
    return total


def _expanded(s: Scenario) -> float:
    """Count dense weights in 4 bits, which are written out for the products of several tokens."""
    if s.held.quantization not in FOUR_BITS:
        return 0.0
    dense = [t for t in s.tensors if len(t.shape) == 2 and t.kind not in ("experts", "router")]
    return sum(t.count * prod(t.shape) for t in dense if s.units.layer(t.unit) is not None)


def _weights(s: Scenario, hit: float, split: Split, *, few: bool) -> float:
    """Count bytes of weights that a forward reads: of the experts those that are chosen.

    Args:
        s: The model and its precision.
        hit: Experts of a layer that some token chose.
        split: How a layer is divided.
        few: Whether the forward is a decoding step.
    """
    total, size = 0.0, s.size
    unpacking = UNPACKING if few and s.held.quantization in FOUR_BITS else 1.0
    for unit, weights in size.weight_bytes.items():
        if unit == s.units.embeddings and not s.model.tied:
            continue
        routed, whole = size.expert_bytes[unit], size.whole_bytes[unit]
        dense = (weights - routed - whole) / split.tp
        chosen = routed * hit / s.model.router.experts / split.experts
        times = 1.0 if s.units.layer(unit) is None else unpacking
        total += times * (dense + chosen) + whole
    return total


def _messages(s: Scenario, N: int, split: Split) -> tuple[float, float]:
    """Count collectives and the bytes that they bring to a rank."""
    model, ranks = s.model, split.ranks
    if ranks == 1:
        return 0, 0
    stream = N * model.hidden_size * s.held.item
    around = 2 * (ranks - 1) / ranks  # of a sum over all, by a ring
    # Under tensor parallelism queries, keys and values are gathered, outputs of attention and of
    # the shared expert are summed; experts' outputs always.
    heads = N * (model.heads + 2 * model.kv_heads) * model.head_dim * s.held.item
    divided = model.layers if split.tp > 1 else 0
    sparse = len(model.sparse_layers)
    count = 3 * divided + sparse
    return count, divided * (2 * stream * around + heads * around / 2) + sparse * stream * around
