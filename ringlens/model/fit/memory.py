"""What a run needs beside the weights: key/value cache, activations, observation buffers.

The formulas are upper bounds read off this package's modelling code and transformers' grouped
expert kernel; the cache is exact. docs/plan.md states them and what was measured against them.

Letters: B traces side by side, T tokens of a trace in one forward, N = B·T, S tokens of a trace in
the cache, L layers, D hidden size, H heads, G kv heads, C head dimension, E experts, k experts a
token, F width of an expert, W width of a dense block, V vocabulary, b bytes of the dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ringlens.errors import ConfigError
from ringlens.model.family import sizes_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Recording: decoding steps observed together; bytes of blocks that may wait for the writer (beside
# a GPU, and on the CPU alone), and of records that wait to be committed (the constants of
# observe/recorder.py and observe/recording.py).
BLOCK_TOKENS, QUEUED, QUEUED_ALONE, HELD = 64, 2**31, 2**27, 2**26
# Decoding as a CUDA graph: steps in the ring on the device, steps of noise drawn ahead, and what
# the cache's positions are a multiple of (observe/decoding/generating.py).
RING, NOISE_STEPS, ROOM = 32, 16, 256
# Parts at most that flash attention divides a cache into, and rows times kv heads from which on it
# divides none (0.8 of twice the multiprocessors of the largest GPU so far).
PARTS, DIVIDED_BELOW = 128, 256
# Bytes a query element that the pass for head statistics holds (measured on an H200: 1.3 GiB for
# 8,192 tokens of 64 heads of 128).
STATISTICS_WORK = 20
# Logits that are held at once to find the surprise of prompt tokens, three float32 copies.
CHUNK_LOGITS = 3 * 4 * 2**25


@dataclass(frozen=True)
class Observed:
    """What waits of a token until it is stored, in bytes a head (H), expert (E) or choice (k).

    Attributes:
        layer: Of every layer.
        sparse: Of a layer that routes, beside that.
    """

    layer: Mapping[str, int]
    sparse: Mapping[str, int]


# Entropy, first and previous weight, output norm: float32. Router logits in float32; of each choice
# an int64 id and a float32 weight. The table of instruments says the same (its test compares them).
EVERYTHING = Observed(layer={"H": 4 * 4}, sparse={"E": 4, "k": 12})


@dataclass(frozen=True)
class Workload:
    """What the model is to do.

    Attributes:
        context: Tokens of the longest trace, prompt included (S).
        batch: Traces side by side (B).
        prefill: Tokens of a trace that one forward takes at most (T): the longest prompt, or the
            longest text that is replayed.
        observed: What is recorded.
    """

    context: int = 32768
    batch: int = 4
    prefill: int = 2048
    observed: Observed = EVERYTHING

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("context", "batch", "prefill"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; it must be 1 or more.")

    @property
    def tokens(self) -> int:
        """Tokens of one forward (N)."""
        return self.batch * min(self.prefill, self.context)


def cache_bytes(config: PreTrainedConfig, work: Workload, item: int) -> int:
    """Count the bytes of one layer's keys and values: S · B · 2 · G · C · b."""
    model = sizes_of(config)
    return work.context * work.batch * 2 * model.kv_heads * model.head_dim * item


def activation_bytes(
    config: PreTrainedConfig, work: Workload, item: int, layout: str, linear_bytes: int = 0
) -> dict[str, int]:
    """Bound the working memory of each stage of a forward; a device needs the largest.

    Args:
        config: The model's configuration.
        work: What it is to do.
        item: Bytes of the dtype.
        layout: "fused" or "modules".
        linear_bytes: Largest linear layer that is dequantised for a product.
    """
    model = sizes_of(config)
    N, D, k = work.tokens, model.hidden_size, model.router.experts_per_token
    F, C, H, G = model.expert_width, model.head_dim, model.heads, model.kv_heads
    # Embeddings, the layer's input, its attention's output, their sum, and the normed sum; cosines
    # and sines; where traces of several lengths stand side by side, a mask.
    mask = N * work.context if work.batch > 1 else 0
    stream = 5 * N * D * item + 2 * N * model.rotary_dim * item + mask
    routing = N * (model.router.experts * 6 * 4 + k * 6 * 8)  # scores in float32, order of choices
    queries = N * H * C
    # Fused projection, rotated queries, float32 copies inside the query norm; a layer's keys and
    # values twice while the cache grows, and once more a head where a mask forbids sharing them.
    grown = cache_bytes(config, work, item)
    repeated = grown // G * H if work.batch > 1 else 0
    attention = stream + N * (H + 2 * G) * C * item + queries * (item + 8) + grown
    attention += repeated
    if layout == "fused":
        # Gathered inputs, their outputs, and two float32 copies of those while they are weighted.
        experts = N * k * D * (2 * item + 8)
    else:
        # All tokens may choose one expert: inputs, outputs, two float32 copies, and the sum.
        experts = N * D * (2 * item + 12) + 3 * N * F * item
    return {
        "attention": attention + linear_bytes,
        "head statistics": stream + queries * (2 * item + STATISTICS_WORK),
        "experts": stream + routing + experts + linear_bytes if model.sparse_layers else 0,
        "dense FFN": stream + 3 * N * model.dense_width * item + linear_bytes,
        "logits": stream + 2 * 4 * work.batch * model.vocabulary + CHUNK_LOGITS,
    }


def graph_bytes(config: PreTrainedConfig, work: Workload, item: int, linear_bytes: int = 0) -> int:
    """Bound what a decoding step takes that a CUDA graph repeats.

    The graph keeps the working memory of its step. In 16 bits attention reads the cache in place,
    divided into parts; otherwise keys and values are repeated for every head. Beside it lie the
    noise that tokens are drawn with, and the work on a block of 64 steps that is taken in.

    Args:
        config: The model's configuration.
        work: What it is to do, its context as many positions as the cache has room for.
        item: Bytes of the dtype.
        linear_bytes: Largest linear layer that is dequantised for a product.
    """
    model = sizes_of(config)
    B, S, D, k = work.batch, work.context, model.hidden_size, model.router.experts_per_token
    H, G, C, V = model.heads, model.kv_heads, model.head_dim, model.vocabulary
    in_place = item == 2 and C % 8 == 0
    parts = PARTS * min(B * G, DIVIDED_BELOW) * (H // G) * (C + 1) * 4
    repeated = S * B * 2 * H * C * item
    stream = 5 * B * D * item + 2 * B * model.rotary_dim * item
    routing = B * (model.router.experts * 6 * 4 + k * 6 * 8)
    attention = S * B * item + (parts if in_place else repeated)
    experts = B * k * (D * (2 * item + 8) + 3 * model.expert_width * item)
    drawing = B * V * (8 * 4 + 8)  # scores in float32 as they are warped, their order in int64
    block = B * BLOCK_TOKENS * H * C * (2 * item + STATISTICS_WORK)
    noise = NOISE_STEPS * B * V * 4
    working = max(attention, experts) + linear_bytes
    return stream + routing + working + drawing + block + noise


@dataclass(frozen=True)
class Recording:
    """Buffers of an observed run.

    Attributes:
        sparse_layer: Bytes on the device of each sparse layer: router logits and choices, and what
            a layer holds of its heads.
        dense_layer: Bytes on the device of each dense layer: what it holds of its heads.
        host: Host memory of a process that runs on a GPU: the queue of blocks that wait for the
            writer (pinned), at least one block, and the records that wait for a commit.
        host_alone: The same of a process that runs on the CPU.
    """

    sparse_layer: int
    dense_layer: int
    host: int
    host_alone: int


def decoding_bytes(config: PreTrainedConfig, work: Workload, item: int, shares: int = 1) -> int:
    """Bound the working memory of a decoding step of fused experts on a GPU, with copied weights.

    Under tensor parallelism alone, and of families whose experts our kernels do not compute,
    ``generate`` switches to transformers' ``batched_mm`` after the prompt wherever the model is on
    no CPU. It copies the chosen experts of each row, both parameters at once: B · k · 3 · D · F · b
    bytes. Experts in FP8 or in modules are not copied.

    Args:
        config: The model's configuration.
        work: What it is to do.
        item: Bytes of the dtype.
        shares: Processes that split each expert's width (tensor parallelism without expert
            parallelism).
    """
    model = sizes_of(config)
    D, F, k = model.hidden_size, -(-model.expert_width // shares), model.router.experts_per_token
    rows, chosen = work.batch, work.batch * k
    copied = chosen * 3 * D * F * item
    # Repeated inputs, both projections' outputs, the weighted one in float32.
    mixed = chosen * (D * (2 * item + 4) + 4 * F * item)
    stream = 5 * rows * D * item + 2 * rows * model.rotary_dim * item + rows * work.context
    routing = rows * (model.router.experts * 6 * 4 + k * 6 * 8)
    return stream + routing + copied + mixed


def recording_bytes(
    config: PreTrainedConfig, work: Workload, item: int, steps: int = BLOCK_TOKENS
) -> Recording:
    """Bound the buffers of a run that records what the workload says.

    Decoding: a block of 64 steps waits on the device, with router logits and choices and with each
    head's query and output (statistics of 64 steps are computed together). Prefill: the router's of
    one forward, and the statistics of each head. The larger of the two counts.

    Args:
        config: The model's configuration.
        work: What it is to do.
        item: Bytes of the dtype.
        steps: Decoding steps that wait on the device.
    """
    model = sizes_of(config)
    H, C, router_rule = model.heads, model.head_dim, model.router
    sizes = {"H": H, "E": router_rule.experts, "k": router_rule.experts_per_token, "": 1}
    router = sum(sizes[letter] * size for letter, size in work.observed.sparse.items())
    seen = sum(sizes[letter] * size for letter, size in work.observed.layer.items())
    waiting = 2 * H * C * item
    decoded, prefilled = work.batch * steps, work.tokens
    sparse, dense = len(model.sparse_layers), len(model.dense_layers)
    block = max(work.batch * BLOCK_TOKENS, prefilled) * (sparse * (router + seen) + dense * seen)
    return Recording(
        sparse_layer=max(decoded * (router + waiting), prefilled * (router + seen)),
        dense_layer=max(decoded * waiting, prefilled * seen),
        host=max(QUEUED, block) + HELD,
        host_alone=max(QUEUED_ALONE, block) + HELD,
    )
