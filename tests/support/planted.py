"""Stores whose routing has a structure that is known, and traces that differ from each other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from records import WORDS, random_run, random_trace, route

from ringlens.store import StoreWriter

# No groups and no bias: what is planted in a logit is not overruled.
RUN = random_run(
    experts=16, groups=1, groups_kept=1, k=3, record=("routing",), heads=1,
    expert_bias=np.zeros((3, 16), np.float32),
)  # fmt: skip
LAYERS = RUN.sparse_layers

Effect = Callable[[int, np.ndarray, np.ndarray], np.ndarray | float]
"""From a trace's number, its phases [T] and its token ids [T]: logits added [S, T, E]."""


def nothing(number: int, phase_T: np.ndarray, token_T: np.ndarray) -> float:
    """No structure."""
    return 0.0


def liked_in_thought(number: int, phase_T: np.ndarray, token_T: np.ndarray) -> np.ndarray:
    """Thoughts like expert 5."""
    logits_STE = np.zeros((len(LAYERS), len(phase_T), RUN.experts))
    logits_STE[:, phase_T == "think", 5] = 3
    return logits_STE


def planted(
    path: Path,
    effect: Effect = nothing,
    traces: int = 16,
    tokens: int = 80,
    seed: int = 0,
    words: Callable[[np.random.Generator, np.ndarray], np.ndarray] | None = None,
) -> Path:
    """Write a store.

    Each trace has its own taste for experts, and each word, so tokens are far from independent;
    ``effect`` comes on top. Half of the traces are correct.

    Args:
        path: Where.
        effect: What is planted.
        traces: Number of traces.
        tokens: Tokens of each.
        seed: Seed.
        words: Draws the token ids of a trace from its phases; None draws all words alike.
    """
    rng = np.random.default_rng(seed)
    shape = (len(LAYERS), len(WORDS), RUN.experts)
    taste_SVE = rng.normal(0, 1, shape)
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        records = [_trace(i, rng, taste_SVE, effect, tokens, words) for i in range(traces)]
        writer.commit(run_id, records)
    return path


def _trace(number, rng, taste_SVE, effect, tokens, words):
    plain = random_trace(RUN, tokens, router_logits=None, heads=None)
    phase_T = np.array(plain.tokens.phase)
    token_T = rng.integers(0, len(WORDS), tokens) if words is None else words(rng, phase_T)
    text = [WORDS[i] for i in token_T]
    end_T = np.cumsum([len(piece) for piece in text]).astype(np.int32)
    start_T = (end_T - [len(piece) for piece in text]).astype(np.int32)
    logits_STE = (
        rng.normal(0, 1, (len(LAYERS), tokens, RUN.experts))
        + rng.normal(0, 0.7, (len(LAYERS), 1, RUN.experts))
        + taste_SVE[:, token_T]
        + effect(number, phase_T, token_T)
    )
    return replace(
        plain,
        tokens=replace(
            plain.tokens, token_id=token_T.astype(np.int32), text=text, start=start_T, end=end_T
        ),
        text="".join(text),
        routing=route(RUN, logits_STE.astype(np.float16).astype(np.float32)),
        correct=number % 2 == 0,
    )
