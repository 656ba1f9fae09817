"""One trace while it is recorded: what was observed of it and is not in the store yet.

Shape letters: T tokens, L layers.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ringlens.config import OnLayers, Recorded
from ringlens.observe.instruments.base import kind_of
from ringlens.observe.instruments.monitor import NAME
from ringlens.observe.monitoring.monitor import Monitor
from ringlens.observe.pipeline.block import Block, Field
from ringlens.observe.pipeline.finite import PEAK, Fault, faults, merged
from ringlens.observe.text import TextStream, TokenText
from ringlens.observe.turns import Reading, markup
from ringlens.problem import Grade, Problem, grade
from ringlens.store.schema.captured import MONITORED, NONFINITE, WARNED
from ringlens.store.schema.instruments import by_kind
from ringlens.store.schema.records import LayerArrays, TokenArrays, TraceRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens of a running trace that wait: a mark such as </think> may still be incomplete in them.
HOLD = 16


@dataclass(frozen=True)
class Task:
    """What a trace is to be.

    Attributes:
        token_ids: Tokens known beforehand: the whole prompt, or a finished text.
        n_prompt: How many of them are prompt.
        limit: Tokens at most; at the last the trace is finished.
        item: Place in the run's list of problems or texts.
        problem: What was asked, where that is known.
        seed: Seed of the trace's sampler.
        source_trace_id: The trace this one replays.
        trace_id: The trace in the store that this one continues.
        earlier: What the store has of it: the first tokens, of the prompt perhaps a part only.
        finished: Whether the store has all of it. It then runs beside the others and is not
            recorded again.
        resumed_at: Positions at which it was continued before, and now.
        written: Whether the model writes all that follows the prompt, in one turn; else that is a
            finished text, which may hold several turns.
        graded: The grade of the trace that this one replays, where its problem says no more what
            is right.
        sample: Number among the samples of its problem; None where there is no problem.
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
    finished: bool = False
    resumed_at: tuple[int, ...] = ()
    written: bool = True
    graded: Grade | None = None
    sample: int | None = None


class Rows:
    """Rows of one field that wait to be stored: [L, T, …], joined, and taken from the front.

    Attributes:
        first: Position of the first column held.
    """

    def __init__(self) -> None:
        self.first = 0
        self._parts: list[NDArray] = []

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(part.nbytes for part in self._parts)

    def append(self, part: NDArray, first: int) -> None:
        """Add positions from ``first`` on, by reference where the array is kept for little else."""
        if not self._parts:
            self.first = first
        self._parts.append(part if _is_most_of_its_memory(part) else part.copy())

    def take(self, stop: int) -> NDArray:
        """Remove the positions before ``stop`` and return them; `first` moves up to it."""
        parts = [part for part in self._parts if part.shape[1]] or self._parts[:1]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        length = min(max(stop - self.first, 0), joined.shape[1])
        taken, rest = np.split(joined, [length], axis=1)
        self._parts, self.first = [rest.copy()], self.first + length
        return taken


def _is_most_of_its_memory(part: NDArray) -> bool:
    """Whether an array may be kept: a small one must keep no large one alive."""
    return part.base is not None and 2 * part.nbytes >= part.base.nbytes


class TraceBuffer:
    """Takes blocks, gives records.

    Args:
        task: The trace.
        tokenizer: For its text.
        row: Its row of the batch.
        pad: Padded positions before it.
        eos_token_ids: Tokens that end it; none where the text is finished already.
        finish_reason: What is said when it ends without one of them.
        record: What is recorded, resolved for the model.
        interventions: By layer the places in ``runs.interventions`` of what acts on its router;
            None in a run without interventions.
        monitor: The monitor that judges it; None without one.

    Attributes:
        trace_id: Its id in the store, once a part of it is there.
        done: Whether no more tokens follow.
        finish_reason: Why it ended, or what is said if no end is seen.
        token_ids: Its tokens so far.
        text: Their text.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        row: int,
        pad: int,
        eos_token_ids: tuple[int, ...],
        finish_reason: str,
        record: tuple[Recorded, ...] = (),
        interventions: Mapping[int, tuple[int, ...]] | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        self._monitor, self._warned_at = monitor, sys.maxsize
        self.task, self.row, self.pad = task, row, pad
        self.trace_id, self.done = task.trace_id, False
        self._eos, self.finish_reason = frozenset(eos_token_ids), finish_reason
        self._kinds, self._interventions = by_kind(record), interventions
        self._chosen = {w.observed_as: w for w in record if not isinstance(w, str | OnLayers)}
        self.text = TextStream(tokenizer)
        self._markup = markup(tokenizer)
        self.token_ids: list[int] = []
        self._rows: dict[Field, Rows] = defaultdict(Rows)
        self._layers: dict[Field, tuple[int, ...]] = {}
        self._stored = _Columns()
        self._nonfinite: set[int] = set()
        if task.earlier is not None:
            self._nonfinite = set(np.flatnonzero(task.earlier.nonfinite).tolist())
            self._stored = _Columns.of(task.earlier)
            self._push(task.earlier.token_id.tolist())

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def bytes(self) -> int:
        """Memory held for the next record."""
        return sum(rows.bytes for rows in self._rows.values())

    def add(self, block: Block, suspects: Collection[Field] = ()) -> dict[int, Fault]:
        """Take what a block holds of this trace and is new.

        Args:
            block: The block.
            suspects: Fields in which something may not be a finite number.

        Returns:
            By position the first number that is none.
        """
        begin = len(self) - (block.start - self.pad)
        if self.done or begin >= block.stop - block.start:
            return {}
        found: dict[int, Fault] = {}
        start = len(self)
        new = self._until_end(block.token_ids[self.row, begin:].tolist())
        self._push(new if self._monitor is None else self._judged(self._monitor, block, new))
        for (instrument, name), array in block.fields.items():
            self._layers[instrument, name] = block.layers[instrument, name]
            first = block.starts[instrument] - self.pad  # position of the array's first column
            low, high = self._span(instrument)
            low, high = max(low, start, first), min(high, len(self), first + array.shape[2])
            if low < high:
                part = array[:, self.row, low - first : high - first]
                if (instrument, name) != PEAK:
                    self._rows[instrument, name].append(part, low)
                if (instrument, name) in suspects:
                    layers = self._layers[instrument, name]
                    found = merged(found, faults((instrument, name), part, low, layers))
        return found

    def flag(self, positions: Iterable[int]) -> None:
        """Note tokens of which a number is none."""
        self._nonfinite.update(positions)

    def end(self, finish_reason: str | None = None) -> None:
        """Nothing follows, though no end was seen; for what reason, where it is a special one."""
        self.finish_reason = finish_reason or self.finish_reason
        self.done = True

    def read(self, stop: int) -> Reading:
        """Turns and phases of the first ``stop`` tokens, as they read without those behind."""
        return self._read(self.text.text(stop))

    def cut(self) -> TraceRecord | None:
        """Take what can be stored now; None if that is nothing.

        Of a running trace the last tokens stay: their text may not be complete.
        """
        start = len(self._stored.phase)
        stop = len(self) if self.done else len(self) - HOLD
        if stop <= start:
            return None
        if self.done:
            self.text.close()
        text = self.text.text(stop)
        reading = self._read(text)
        rewritten = None
        if not self._stored.agrees(reading):
            rewritten = self._stored.tokens(text, reading)
        tokens = self._tokens(text, reading, start, stop)
        self._stored.extend(tokens, reading)
        return self._record(text, reading, tokens, rewritten)

    def _read(self, text: TokenText) -> Reading:
        """Turns and phases of the text so far."""
        task, problem = self.task, self.task.problem
        question = problem.prompt if problem else ""
        return self._markup.read(text, task.n_prompt, written=task.written, question=question)

    def _span(self, instrument: str) -> tuple[int, int]:
        """Positions that are recorded of what an instrument sees."""
        wanted = self._chosen.get(instrument)
        start, stop = (0, None) if wanted is None else wanted.span
        return start, sys.maxsize if stop is None else stop

    def _until_end(self, token_ids: list[int]) -> list[int]:
        """The tokens up to the end of the trace; notes whether that is among them."""
        for i, token_id in enumerate(token_ids, start=len(self)):
            stops = i >= self.task.n_prompt and token_id in self._eos
            if stops or i + 1 == self.task.limit:
                self.done = True
                self.finish_reason = "stop" if stops else self.finish_reason
                return token_ids[: i + 1 - len(self)]
        return token_ids

    def _judged(self, monitor: Monitor, block: Block, token_ids: list[int]) -> list[int]:
        """The tokens up to where the monitor stops the trace; notes where it first warns.

        Looks at all of the block: of a trace that is continued earlier tokens are in it too.
        """
        first = block.starts[NAME] - self.pad  # position of the block's first score
        begin, stop = max(first, 0), len(self) + len(token_ids)
        recent = block.fields[NAME, "recent"][0, self.row, begin - first : stop - first]
        over = np.flatnonzero(recent > np.float32(monitor.threshold))
        if not len(over):
            return token_ids
        at = begin + int(over[0])
        self._warned_at = min(self._warned_at, at)
        if not monitor.stops or at + 1 == stop:
            if monitor.stops and not self.done:
                self.done, self.finish_reason = True, MONITORED
            return token_ids
        self.done, self.finish_reason = True, MONITORED
        return token_ids[: max(0, at + 1 - len(self))]

    def _push(self, token_ids: list[int]) -> None:
        self.token_ids += token_ids
        self.text.push(token_ids)

    def _tokens(self, text: TokenText, reading: Reading, start: int, stop: int) -> TokenArrays:
        numbers = [self._numbers(name, start, stop) for name in ("logprob", "entropy")]
        if start == 0:  # in a padded row something stands before the first token: padding
            for number in numbers:
                number[0] = np.nan
        return TokenArrays(
            token_id=np.array(self.token_ids[start:stop], np.int32),
            text=text.pieces[start:],
            start=np.array(text.starts[start:], np.int32),
            end=np.array(text.ends[start:], np.int32),
            phase=reading.phase[start:],
            logprob=numbers[0],
            entropy=numbers[1],
            turn=reading.turn[start:],
            nonfinite=np.array([pos in self._nonfinite for pos in range(start, stop)], bool),
        )

    def _numbers(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """[T] of log-probability or entropy; NaN where this process does not see the logits."""
        if ("logprobs", name) not in self._rows:
            return np.full(stop - start, np.nan, np.float32)
        return self._rows["logprobs", name].take(stop)[0]

    def _observed(self, stop: int) -> dict[str, Any]:
        """What all kinds of instruments make of the rows before ``stop``: fields of a record."""
        cut = Cut(self._rows, self._layers, self.pad, stop, self._interventions)
        found: dict[str, Any] = {}
        statistics: dict[str, LayerArrays] = {}
        for kind, asked in self._kinds.items():
            fields = dict(kind_of(kind).to_record(cut, asked))
            statistics |= fields.pop("statistics", {})
            found |= fields
        return found | {"statistics": statistics}

    def _record(
        self, text: TokenText, reading: Reading, tokens: TokenArrays, rewritten: TokenArrays | None
    ) -> TraceRecord:
        task, problem, phase = self.task, self.task.problem, reading.phase
        stop = len(phase)
        graded = task.graded if self.done else None
        if graded is None and problem is not None and self.done:
            graded = grade(problem, reading.transcript)
        nonfinite = (NONFINITE,) if any(pos < stop for pos in self._nonfinite) else ()
        warned = (WARNED,) if self._warned_at < stop else ()
        return TraceRecord(
            trace_id=self.trace_id,
            start=stop - len(tokens.token_id),
            item=task.item,
            prompt=problem.prompt if problem else "".join(text.pieces[: task.n_prompt]),
            text=text.text,
            n_prompt=phase.count("prompt"),
            n_think=phase.count("think"),
            n_answer=phase.count("answer"),
            finish_reason=self.finish_reason if self.done else "running",
            seed=task.seed,
            tokens=tokens,
            rewritten=rewritten,
            **self._observed(stop),
            problem_id=problem.id or None if problem else None,
            task=problem.task or None if problem else None,
            answer=graded.answer if graded else None,
            expected=problem.answer if problem else None,
            correct=graded.correct if graded else None,
            source_trace_id=task.source_trace_id,
            resumed_at=task.resumed_at,
            sample=task.sample,
            flags=(*nonfinite, *warned, *(graded.flags if graded else ())),
        )


@dataclass(frozen=True)
class Cut:
    """The rows of one trace before a position, which are to be stored now.

    Attributes:
        rows: What waits.
        layers_of: The layers of each field.
        pad: Padded positions before the trace.
        stop: The position.
        interventions: What acts on each layer's router; None in a run without interventions.
    """

    rows: dict[Field, Rows]
    layers_of: dict[Field, tuple[int, ...]]
    pad: int
    stop: int
    interventions: Mapping[int, tuple[int, ...]] | None = None

    def has(self, instrument: str, field: str) -> bool:
        """Whether this process has observed a field of an instrument."""
        return (instrument, field) in self.rows

    def layers(self, instrument: str, field: str) -> tuple[int, ...]:
        """The layers of a field."""
        return self.layers_of[instrument, field]

    def take(self, instrument: str, field: str) -> tuple[int, NDArray]:
        """The position of the first row, and the rows; they wait no more."""
        rows = self.rows[instrument, field]
        return rows.first, rows.take(self.stop)


class _Columns:
    """Tokens that are in the store: what a later reading of the text may rewrite."""

    def __init__(self) -> None:
        self.phase: list[str] = []
        self._turn = np.empty(0, np.int32)
        self._parts: list[TokenArrays] = []

    @classmethod
    def of(cls, tokens: TokenArrays) -> _Columns:
        columns = cls()
        columns.phase, columns._turn = list(tokens.phase), tokens.turn
        columns._parts.append(tokens)
        return columns

    def agrees(self, reading: Reading) -> bool:
        """Whether a reading gives the same phases and turns; turns are unknown in old stores."""
        stop = len(self.phase)
        told = (self._turn < 0) | (self._turn == reading.turn[:stop])
        return bool(self.phase == reading.phase[:stop] and told.all())

    def extend(self, tokens: TokenArrays, reading: Reading) -> None:
        """Add tokens; ``reading`` is that of all."""
        self._parts.append(tokens)
        self.phase, self._turn = reading.phase, reading.turn

    def tokens(self, text: TokenText, reading: Reading) -> TokenArrays:
        """All of them, with the phases and turns of a reading."""
        stop = len(self.phase)
        return TokenArrays(
            token_id=np.concatenate([part.token_id for part in self._parts]),
            text=text.pieces[:stop],
            start=np.array(text.starts[:stop], np.int32),
            end=np.array(text.ends[:stop], np.int32),
            phase=reading.phase[:stop],
            logprob=np.concatenate([part.logprob for part in self._parts]),
            entropy=np.concatenate([part.entropy for part in self._parts]),
            turn=reading.turn[:stop],
            nonfinite=np.concatenate([part.nonfinite for part in self._parts]),
        )
