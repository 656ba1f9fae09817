"""A stored thought as probes read it: its tokens, where its steps end, and what it answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ringlens.errors import StoreError
from ringlens.problem import Problem, from_row
from ringlens.store import Store

BEFORE = -1
"""Number that stands for the place before the first step."""


@dataclass(frozen=True)
class ThoughtStep:
    """A step of a thought.

    Attributes:
        number: Its number in the table ``steps``.
        first: Position of its first token.
        end: Position after its last token.
        text: Its text.
        role: What it does; None without a label.
    """

    number: int
    first: int
    end: int
    text: str
    role: str | None


@dataclass(frozen=True)
class Thought:
    """A trace that thinks.

    Attributes:
        run_id: Its run.
        trace_id: The trace.
        problem: What was asked, as far as the store keeps it.
        answer: The answer that was found in it; None if it has none.
        text: Its text.
        token_ids: Its tokens, prompt included.
        n_prompt: How many of them are prompt.
        starts: First character of each token.
        steps: The steps of its thinking, in order.
        answer_first: Position of the first token of the answer, marks left out; None if it has
            none.
    """

    run_id: str
    trace_id: int
    problem: Problem
    answer: str | None
    text: str
    token_ids: tuple[int, ...]
    n_prompt: int
    starts: tuple[int, ...]
    steps: tuple[ThoughtStep, ...]
    answer_first: int | None

    @property
    def ends(self) -> list[tuple[int, int]]:
        """Places between steps: the step before (`BEFORE` the first), and the tokens so far."""
        return [(BEFORE, self.steps[0].first), *((step.number, step.end) for step in self.steps)]

    def text_of(self, first: int, end: int) -> str:
        """Text of the tokens from ``first`` to before ``end``."""
        last = self.starts[end] if end < len(self.starts) else len(self.text)
        return self.text[self.starts[first] : last]


def read_thought(store: Store, trace_id: int) -> Thought:
    """Read a trace.

    Args:
        store: The store.
        trace_id: The trace, cut into steps.

    Raises:
        StoreError: Its thinking has no steps.
    """
    trace = store.trace(trace_id)
    tokens = trace.tokens()
    rows = store.sql(
        "select step, token_start, token_end, text, role from steps where trace_id = ? "
        "and token_end > token_start order by step",
        [trace_id],
    ).fetchall()
    phases: Sequence[str] = tokens["phase"]
    steps = tuple(ThoughtStep(*row) for row in rows if phases[row[1]] == "think")
    if not steps:
        raise StoreError(
            f"the thinking of trace {trace_id} has no steps: leave it out, or cut it with "
            f"`ringlens steps {store.address}`."
        )
    answered: list[int] = [row[1] for row in rows if phases[row[1]] == "answer"]
    row: dict[str, Any] = trace.summary
    return Thought(
        run_id=row["run_id"],
        trace_id=trace_id,
        problem=from_row(row),
        answer=row["answer"],
        text=trace.text,
        token_ids=tuple(tokens["token_id"].tolist()),
        n_prompt=row["n_prompt"],
        starts=tuple(tokens["start"].tolist()),
        steps=steps,
        answer_first=min(answered, default=None),
    )
