"""One trace while it is recorded: what was seen of it and is not in the store yet.

Shape letters: T tokens, L layers.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ringlens.observe import heads, routing
from ringlens.observe.block import Field, Seen
from ringlens.observe.strip import Strip
from ringlens.observe.text import TextStream, TokenText, phases
from ringlens.problem import Problem, grade
from ringlens.store.records import HeadArrays, RoutingArrays, TokenArrays, TraceRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens of a running trace that wait: a mark such as </think> may still be incomplete in them.
HOLD = 16


@dataclass(frozen=True)
class Task:
    """What a trace is to be.

    Attributes:
        token_ids: Tokens known beforehand: the prompt, a finished text, or a trace so far.
        n_prompt: How many of them are prompt.
        limit: Tokens at most; at the last the trace is finished.
        item: Place in the run's list of problems or texts.
        problem: What was asked, where that is known.
        seed: Seed of the trace's sampler.
        source_trace_id: The trace this one replays.
        trace_id: The trace in the store that this one continues.
        earlier: That trace's tokens.
        resumed_at: Positions at which it was continued before, and now.
    """

    token_ids: list[int]
    n_prompt: int
    limit: int
    item: int
    problem: Problem | None = None
    seed: int = 0
    source_trace_id: int | None = None
    trace_id: int | None = None
    earlier: TokenArrays | None = None
    resumed_at: tuple[int, ...] = ()


class TraceBuffer:
    """Takes blocks, gives records.

    Args:
        task: The trace.
        tokenizer: For its text.
        row: Its row of the batch.
        pad: Padded positions before it.
        eos_token_ids: Tokens that end it; none where the text is finished already.
        finish_reason: What is said when it ends without one of them.

    Attributes:
        trace_id: Its id in the store, once a part of it is there.
        done: Whether no more tokens follow.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        row: int,
        pad: int,
        eos_token_ids: tuple[int, ...],
        finish_reason: str,
    ) -> None:
        self.task, self.row, self.pad = task, row, pad
        self.trace_id, self.done = task.trace_id, False
        self._eos, self._finish_reason = frozenset(eos_token_ids), finish_reason
        self._text = TextStream(tokenizer)
        self._token_ids: list[int] = []
        self._strips: dict[Field, Strip] = defaultdict(lambda: Strip(axis=1))
        self._layers: dict[str, tuple[int, ...]] = {}
        self._stored = _Columns()
        if task.earlier is not None:
            self._stored = _Columns.of(task.earlier)
            self._push(task.earlier.token_id.tolist())

    def __len__(self) -> int:
        return len(self._token_ids)

    @property
    def bytes(self) -> int:
        """Memory held for the next record."""
        return sum(strip.bytes for strip in self._strips.values())

    def add(self, seen: Seen) -> None:
        """Take what a block holds of this trace and is new."""
        begin = len(self) - (seen.start - self.pad)
        if self.done or begin >= seen.stop - seen.start:
            return
        new = self._until_end(seen.token_ids[self.row, begin:].tolist())
        self._push(new)
        self._layers |= seen.layers
        for field, array in seen.fields.items():
            self._strips[field].append(array[:, self.row, begin : begin + len(new)])

    def end(self) -> None:
        """Nothing follows, though no end was seen."""
        self.done = True

    def cut(self) -> TraceRecord | None:
        """Take what can be stored now; None if that is nothing.

        Of a running trace the last tokens stay: their text may not be complete.
        """
        start = len(self._stored.phase)
        stop = len(self) if self.done else len(self) - HOLD
        if stop <= start:
            return None
        if self.done:
            self._text.close()
        text = self._text.text(stop)
        phase = phases(text, self.task.n_prompt)
        retold = None
        if phase[:start] != self._stored.phase:
            retold = self._stored.tokens(text, phase[:start])
        tokens = self._tokens(text, phase, start, stop)
        self._stored.extend(tokens, phase)
        return self._record(text, phase, tokens, retold)

    def _until_end(self, token_ids: list[int]) -> list[int]:
        """The tokens up to the end of the trace; notes whether that is among them."""
        for i, token_id in enumerate(token_ids, start=len(self)):
            stops = i >= self.task.n_prompt and token_id in self._eos
            if stops or i + 1 == self.task.limit:
                self.done = True
                self._finish_reason = "stop" if stops else self._finish_reason
                return token_ids[: i + 1 - len(self)]
        return token_ids

    def _push(self, token_ids: list[int]) -> None:
        self._token_ids += token_ids
        self._text.push(token_ids)

    def _tokens(self, text: TokenText, phase: list[str], start: int, stop: int) -> TokenArrays:
        numbers = [
            self._take("vocabulary", name, stop - start, np.nan) for name in ("logprob", "entropy")
        ]
        if start == 0:  # in a padded row something stands before the first token: padding
            for number in numbers:
                number[0] = np.nan
        return TokenArrays(
            token_id=np.array(self._token_ids[start:stop], np.int32),
            text=text.pieces[start:],
            start=np.array(text.starts[start:], np.int32),
            end=np.array(text.ends[start:], np.int32),
            phase=phase[start:],
            logprob=numbers[0],
            entropy=numbers[1],
        )

    def _take(self, instrument: str, name: str, length: int, missing: float) -> NDArray:
        """[T] of a field without layers; ``missing`` where this process does not see it."""
        if (instrument, name) not in self._strips:
            return np.full(length, missing, np.float32)
        return self._strips[instrument, name].take(length)[0]

    def _fields(self, instrument: str, names: tuple[str, ...], length: int) -> dict[str, NDArray]:
        return {name: self._strips[instrument, name].take(length) for name in names}

    def _record(
        self, text: TokenText, phase: list[str], tokens: TokenArrays, retold: TokenArrays | None
    ) -> TraceRecord:
        task, problem, T = self.task, self.task.problem, len(tokens.token_id)
        routed = head = logits = None
        if ("routing", "margin") in self._strips:
            layers = self._layers["routing"]
            routed = RoutingArrays(layers, **self._fields("routing", routing.FIELDS, T))
            if ("routing", "logits") in self._strips:
                logits = self._strips["routing", "logits"].take(T)
        if ("heads", "entropy") in self._strips:
            head = HeadArrays(self._layers["heads"], **self._fields("heads", heads.FIELDS, T))
        graded = grade(problem, text.text) if problem is not None and self.done else None
        return TraceRecord(
            trace_id=self.trace_id,
            start=len(phase) - T,
            item=task.item,
            prompt=problem.prompt if problem else "".join(text.pieces[: task.n_prompt]),
            text=text.text,
            n_prompt=phase.count("prompt"),
            n_think=phase.count("think"),
            n_answer=phase.count("answer"),
            finish_reason=self._finish_reason if self.done else "running",
            seed=task.seed,
            tokens=tokens,
            retold=retold,
            routing=routed,
            router_logits=logits,
            heads=head,
            problem_id=problem.id or None if problem else None,
            task=problem.task or None if problem else None,
            answer=graded.answer if graded else None,
            expected=problem.answer if problem else None,
            correct=graded.correct if graded else None,
            source_trace_id=task.source_trace_id,
            resumed_at=task.resumed_at,
        )


class _Columns:
    """Tokens that are in the store, as far as telling them anew takes."""

    def __init__(self) -> None:
        self.phase: list[str] = []
        self._parts: list[TokenArrays] = []

    @classmethod
    def of(cls, tokens: TokenArrays) -> _Columns:
        columns = cls()
        columns.extend(tokens, list(tokens.phase))
        return columns

    def extend(self, tokens: TokenArrays, phase: list[str]) -> None:
        """Add tokens; ``phase`` is that of all."""
        self._parts.append(tokens)
        self.phase = phase

    def tokens(self, text: TokenText, phase: list[str]) -> TokenArrays:
        """All of them, with other phases."""
        stop = len(phase)
        return TokenArrays(
            token_id=np.concatenate([part.token_id for part in self._parts]),
            text=text.pieces[:stop],
            start=np.array(text.starts[:stop], np.int32),
            end=np.array(text.ends[:stop], np.int32),
            phase=phase,
            logprob=np.concatenate([part.logprob for part in self._parts]),
            entropy=np.concatenate([part.entropy for part in self._parts]),
        )
