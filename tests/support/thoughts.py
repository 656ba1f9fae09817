"""Stores of thoughts whose steps are known: their texts, roles, routing and entropies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from planted import LAYERS, RUN
from records import random_trace, route

from ringlens.store import Store, StoreWriter, TokenArrays
from ringlens.store.schema.records import VectorArrays


@dataclass(frozen=True)
class Thought:
    """A trace to write.

    Attributes:
        states: The state of each step; steps of one state are routed alike.
        texts: Their texts; None for texts that name the step.
        roles: Their roles; None for "active_computation".
        backtracks: Numbers of the steps that go back.
        correct: Whether its answer passes.
        problem: Its problem.
        entropy: Mean entropy of the tokens of each step; None for 0.5.
        prompt: What was asked.
        task: Task of the problem.
        expected: The right answer.
    """

    states: Sequence[int]
    texts: Sequence[str] | None = None
    roles: Sequence[str] | None = None
    backtracks: frozenset[int] = frozenset()
    correct: bool | None = True
    problem: str = "p"
    entropy: Sequence[float] | None = None
    prompt: str = "What is it? "
    task: str = "plain"
    expected: str | None = "24"

    def text(self, step: int) -> str:
        """Text of a step."""
        return f"Step {step} of this thought. " if self.texts is None else self.texts[step]


def write_thoughts(
    path, thoughts: Sequence[Thought], tokens: int = 12, strength: float = 4, seed: int = 0
):
    """Write a store, its thoughts cut into their steps; returns its path.

    Args:
        path: Where.
        thoughts: The traces.
        tokens: Tokens of each step.
        strength: What a state adds to the logits of its experts; 0 for no structure.
        seed: Seed.
    """
    rng = np.random.default_rng(seed)
    taste_ZSE = rng.normal(0, 1, (64, len(LAYERS), RUN.experts))
    run = replace(RUN, record=("logprobs", "routing", "resid_post@1+2"))
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        for number, thought in enumerate(thoughts, 1):
            writer.commit(run_id, [_trace(thought, rng, strength * taste_ZSE, tokens)])
            writer.replace_rows(run_id, "steps", _steps(thought, number, tokens))
        writer.finish_run(run_id)
    return path


def _pieces(text: str, tokens: int) -> list[str]:
    """A text in so many pieces, some of them empty if it is short."""
    ends = np.linspace(0, len(text), tokens + 1).astype(int)
    return [text[a:b] for a, b in pairwise(ends)]


def _trace(thought, rng, taste_ZSE, tokens):
    steps = len(thought.states)
    text = [thought.prompt]
    for step in range(steps):
        text += _pieces(thought.text(step), tokens)
    text.append("24")
    T = len(text)
    end_T = np.cumsum([len(piece) for piece in text]).astype(np.int32)
    start_T = (end_T - [len(piece) for piece in text]).astype(np.int32)
    mean = [0.5] * steps if thought.entropy is None else thought.entropy
    mean_T = np.concatenate([[0.5], np.repeat(mean, tokens), [0.5]])
    entropy_T = (mean_T * rng.uniform(0.8, 1.2, T)).astype(np.float32)
    logits_STE = rng.normal(0, 1, (len(LAYERS), T, RUN.experts))
    state_T = np.repeat(thought.states, tokens)
    logits_STE[:, 1:-1] += taste_ZSE[state_T].swapaxes(0, 1)
    vector_TV = rng.normal(0, 0.1, (T, 32)).astype(np.float16).astype(np.float32)
    vector_TV[1:-1, 0] += state_T
    vector_TV[np.arange(1, T - 1), 1 + state_T] += 2
    logprob_T = -entropy_T * rng.uniform(0.5, 1.5, T).astype(np.float32)
    entropy_T[0] = logprob_T[0] = np.nan
    plain = random_trace(RUN, T, router_logits=None, heads=None)
    ids_T = np.arange(T).astype(np.int32) % 7
    phases = ["prompt", *["think"] * (T - 2), "answer"]
    return replace(
        plain,
        prompt=thought.prompt.strip(),
        text="".join(text),
        n_prompt=1,
        n_think=T - 2,
        n_answer=1,
        tokens=TokenArrays(ids_T, text, start_T, end_T, phases, logprob_T, entropy_T),
        routing=route(RUN, logits_STE.astype(np.float16).astype(np.float32)),
        vectors=(
            VectorArrays(
                "resid_post", (1, 2), None, np.arange(T, dtype=np.int32), np.stack([vector_TV] * 2)
            ),
        ),
        problem_id=thought.problem,
        task=thought.task,
        expected=thought.expected,
        answer="24",
        correct=thought.correct,
    )


def _steps(thought, trace_id, tokens):
    rows, at = [], len(thought.prompt)
    for step in range(len(thought.states)):
        text = thought.text(step)
        rows.append(
            {
                "trace_id": trace_id,
                "step": step,
                "start": at,
                "end": at + len(text),
                "token_start": 1 + step * tokens,
                "token_end": 1 + (step + 1) * tokens,
                "role": "active_computation" if thought.roles is None else thought.roles[step],
                "is_backtrack": step in thought.backtracks,
                "is_hypothesis": False,
                "label_source": "planted",
                "text": text,
            }
        )
        at += len(text)
    return rows


def opened(path, thoughts, **settings) -> Store:
    """The written store, open."""
    return Store(write_thoughts(path, thoughts, **settings))
