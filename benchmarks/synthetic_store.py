"""Stores of any size at Ring-1T's shape, written through the real writer.

Values come from distributions like the model's: experts are used unevenly (by a power of their
rank, each layer and phase with ranks of its own), the group limit and the bias change some choices,
lengths are log-normal, tokens follow Zipf's law. To be fast, each layer and phase has a pool of
routed tokens that traces draw from with replacement; their affinities are disturbed afresh.

python benchmarks/synthetic_store.py STORE --routed 1e8 [--traces 1000]

A routed row is one chosen expert: 8 of them are a row of ``routing``, 608 a token.

Shape letters: T tokens, R rows of a pool, S sparse layers, P phases, k experts a token, E experts,
G groups, H heads.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ringlens.store import (
    HeadArrays,
    RoutingArrays,
    RunRecord,
    StoreWriter,
    TokenArrays,
    TraceRecord,
)

LAYERS, DENSE, EXPERTS, K, GROUPS, KEPT, HEADS = 80, 4, 256, 8, 8, 4, 64
SPARSE = tuple(range(DENSE, LAYERS))
ROUTED_A_TOKEN = len(SPARSE) * K
PHASES = ("prompt", "think", "answer")
POOL = 512
TYPICAL = 4_000
"""Tokens of a trace, where the number of traces is not given."""


def main() -> None:
    """Make a store and say how long that took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--routed", type=float, default=1e7, help="chosen experts in all")
    parser.add_argument("--traces", type=int, help=f"by default one for {TYPICAL} tokens")
    parser.add_argument("--heads", action="store_true", help="record head statistics too")
    parser.add_argument("--logits", action="store_true", help="record router logits too")
    given = parser.parse_args()
    start = time.perf_counter()
    tokens = make(given.store, int(given.routed), given.traces, given.heads, given.logits)
    size = sum(path.stat().st_size for path in given.store.rglob("*") if path.is_file())
    print(
        f"{given.store}: {tokens:,} tokens, {tokens * ROUTED_A_TOKEN:,} routed rows,"
        f" {size / 1e6:,.0f} MB, made in {time.perf_counter() - start:.0f} s"
    )


def make(
    path: Path,
    routed: int,
    traces: int | None = None,
    heads: bool = False,
    logits: bool = False,
    seed: int = 0,
) -> int:
    """Write a store of one run, a commit a trace.

    Args:
        path: Folder of the store; made if it is missing.
        routed: Chosen experts in all, about.
        traces: How many traces; by default one for `TYPICAL` tokens.
        heads: Write ``heads`` too (2.2 kB a token and more).
        logits: Write ``router_logits`` too (31 kB a token).
        seed: Seed of everything.

    Returns:
        Tokens written.
    """
    rng = np.random.default_rng(seed)
    tokens = max(1, routed // ROUTED_A_TOKEN)
    count = traces or max(1, round(tokens / TYPICAL))
    maker = Maker(rng, heads, logits)
    written = 0
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run_record(rng, heads, logits, maker.pool.bias_SE))
        for item, length in enumerate(lengths(rng, tokens, count)):
            writer.commit(run_id, [maker.trace(int(length), item)])
            written += int(length)
        writer.finish_run(run_id)
    return written


def lengths(rng: np.random.Generator, tokens: int, traces: int) -> NDArray[np.int64]:
    """Log-normal lengths that add up to about ``tokens``; the longest is some 6 times the mean."""
    shares = rng.lognormal(0, 0.8, traces)
    return np.maximum(16, np.rint(shares / shares.sum() * tokens)).astype(np.int64)


@dataclass(frozen=True)
class Pool:
    """Routed tokens of each layer and phase, to draw from.

    Attributes:
        bias_SE: The selection bias.
        logits_SPRE: Router logits.
        ids_SPRk: Chosen experts, heaviest first.
        affinities_SPRk: Their affinities.
        unlimited_SPRk: The k best without the group limit.
        bias_flips_SPRk: Choices that the bias made.
        group_flips_SPRk: Which of the unlimited lost to the group limit.
    """

    bias_SE: NDArray
    logits_SPRE: NDArray
    ids_SPRk: NDArray
    affinities_SPRk: NDArray
    unlimited_SPRk: NDArray
    bias_flips_SPRk: NDArray
    group_flips_SPRk: NDArray

    @classmethod
    def random(cls, rng: np.random.Generator, rows: int = POOL) -> Pool:
        """A pool of ``rows`` tokens for each layer and phase."""
        bias_SE = rng.normal(0, 0.02, (len(SPARSE), EXPERTS)).astype(np.float32)
        logits = np.stack([_logits(rng, rows) for _ in SPARSE])
        s = 1 / (1 + np.exp(-logits))
        c = s + bias_SE[:, None, None, :]
        ids, unbiased, unlimited = _choose(c, KEPT), _choose(s, KEPT), _choose(c, GROUPS)
        return cls(
            bias_SE,
            logits,
            ids.astype(np.uint8),
            np.take_along_axis(s, ids, axis=-1),
            unlimited.astype(np.uint8),
            ~(ids[..., :, None] == unbiased[..., None, :]).any(-1),
            ~(unlimited[..., :, None] == ids[..., None, :]).any(-1),
        )


def _logits(rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
    """Logits [P, R, E] of a layer whose popular experts differ a little from phase to phase."""
    popularity_E = -0.45 * np.log(1 + rng.permutation(EXPERTS))
    shift_PE = rng.normal(0, 0.3, (len(PHASES), EXPERTS))
    noise = rng.standard_normal((len(PHASES), rows, EXPERTS), np.float32)
    return (popularity_E + shift_PE[:, None, :] + 0.9 * noise).astype(np.float32)


def _choose(scores: NDArray, kept: int) -> NDArray[np.int64]:
    """The k best experts of the ``kept`` best groups (by their two best), best first [..., k]."""
    grouped = scores.reshape(*scores.shape[:-1], GROUPS, -1)
    best = np.partition(grouped, -2, axis=-1)[..., -2:].sum(-1)
    last = np.partition(best, GROUPS - kept, axis=-1)[..., GROUPS - kept]
    limited = np.where(best[..., None] >= last[..., None, None], grouped, -np.inf)
    limited = limited.reshape(scores.shape)
    ids = np.argpartition(limited, -K, axis=-1)[..., -K:]
    order = np.argsort(-np.take_along_axis(limited, ids, axis=-1), axis=-1)
    return np.take_along_axis(ids, order, axis=-1)


class Maker:
    """Makes traces, one after the other, from one pool."""

    def __init__(self, rng: np.random.Generator, heads: bool, logits: bool) -> None:
        self.pool = Pool.random(rng)
        self._rng = rng
        self._heads = heads
        self._logits = logits

    def trace(self, tokens: int, item: int) -> TraceRecord:
        """A trace of ``tokens`` tokens: a tenth prompt, a tenth answer."""
        rng = self._rng
        n_prompt, n_answer = max(1, tokens // 10), max(1, tokens // 10)
        counts = (n_prompt, tokens - n_prompt - n_answer, n_answer)
        phase_T = np.repeat(np.arange(len(PHASES)), counts)
        row_ST = rng.integers(0, self.pool.ids_SPRk.shape[2], (len(SPARSE), tokens))
        where = (np.arange(len(SPARSE))[:, None], phase_T, row_ST)
        words = _tokens(rng, phase_T)
        correct = bool(rng.random() < 0.7)
        return TraceRecord(
            prompt=f"Make {item + 24} from 2, 3, 4 and {item % 97}.",
            text="".join(words.text),
            n_prompt=counts[0],
            n_think=counts[1],
            n_answer=counts[2],
            finish_reason="stop",
            seed=item,
            tokens=words,
            routing=self._routing(where),
            router_logits=half(self.pool.logits_SPRE[where]) if self._logits else None,
            heads=_head_arrays(rng, tokens) if self._heads else None,
            problem_id=f"countdown-{item}",
            task=("countdown", "arithmetic", "logic")[item % 3],
            answer=f"2*3*4+{item % 5}",
            expected="2*3*4" if correct else "2+3+4",
            correct=correct,
            item=item,
        )

    def _routing(self, where: tuple[NDArray, ...]) -> RoutingArrays:
        pool, rng = self.pool, self._rng
        affinities = pool.affinities_SPRk[where]
        affinities *= 1 + 0.05 * rng.standard_normal(affinities.shape, np.float32)
        affinities = -np.sort(-affinities, axis=-1)
        weights = affinities * (2.5 / affinities.sum(-1, keepdims=True))
        shape = affinities.shape[:2]
        return RoutingArrays(
            layers=SPARSE,
            expert_ids=pool.ids_SPRk[where],
            weights=half(weights),
            affinities=affinities,
            margin=0.01 * rng.standard_exponential(shape, np.float32),
            group_margin=0.05 * rng.standard_exponential(shape, np.float32),
            bias_flips=pool.bias_flips_SPRk[where],
            unlimited_ids=pool.unlimited_SPRk[where],
            group_flips=pool.group_flips_SPRk[where],
            entropy=5 + 0.1 * rng.standard_normal(shape, np.float32),
        )


def _tokens(rng: np.random.Generator, phase_T: NDArray) -> TokenArrays:
    """Words w0, w1, … by Zipf's law, whose spans tile the text."""
    token_id = np.minimum(rng.zipf(1.3, len(phase_T)), 150_000).astype(np.int32)
    text = [f" w{i}" for i in token_id]
    end = np.cumsum([len(word) for word in text]).astype(np.int32)
    start = np.concatenate([[0], end[:-1]]).astype(np.int32)
    entropy, logprob = (rng.gamma(1, 0.5, len(phase_T)).astype(np.float32) for _ in range(2))
    entropy[0] = logprob[0] = np.nan
    phase = [PHASES[p] for p in phase_T]
    return TokenArrays(token_id, text, start, end, phase, -logprob, entropy)


def _head_arrays(rng: np.random.Generator, tokens: int) -> HeadArrays:
    """Most weight on the first token, as large models have it."""
    shape = (LAYERS, tokens, HEADS)
    first = rng.random(shape, np.float32)
    previous = (1 - first) * rng.random(shape, np.float32)
    entropy, norm = (rng.standard_exponential(shape, np.float32) for _ in range(2))
    layers = tuple(range(LAYERS))
    return HeadArrays(layers, half(entropy), half(first), half(previous), half(norm))


def run_record(
    rng: np.random.Generator, heads: bool, logits: bool, bias_SE: NDArray[np.float32]
) -> RunRecord:
    """A run of Ring-1T's sizes."""
    optional = {"router_logits": logits, "heads": heads}
    return RunRecord(
        mode="live",
        model="synthetic",
        revision=None,
        layers=LAYERS,
        sparse_layers=SPARSE,
        experts=EXPERTS,
        experts_per_token=K,
        groups=GROUPS,
        groups_kept=KEPT,
        routed_scaling_factor=2.5,
        heads=HEADS,
        kv_heads=8,
        head_dim=128,
        hidden_size=8192,
        dtype="bfloat16",
        quantization=None,
        attention="synthetic",
        experts_layout="fused",
        seed=int(rng.integers(2**31)),
        record=("routing", *(name for name, on in optional.items() if on)),
        expert_bias=bias_SE,
    )


def half(values: NDArray) -> NDArray[np.float32]:
    """Rounded to fp16, as float32."""
    return values.astype(np.float16).astype(np.float32)


if __name__ == "__main__":
    main()
