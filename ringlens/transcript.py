"""Turns and thoughts in the text of a trace: one parser for phases, grading, replay and import.

A **turn** begins at a mark that opens it (``<role>HUMAN</role>``). If the template ends turns with
a mark of its own (``<|role_end|>``), an opening counts only right after such an end or at the start
of the text; a text without any such pair is split at the openings alone. Fences do not quote
openings: fences are found within turns, and so after them.

A model's turn has at most one **thought**. It opens

- in the prompt, if the template begins the answer with an unclosed ``<think>``, or if a prompt
  without marks of turns ends with one, or holds one on a line of its own;
- else at the first ``<think>`` that is the first word of the turn or stands alone on its line;
- else before the text, if the turn has a closing mark and no ``<think>`` before it.

A thought **closes** at the first ``</think>`` after its opening that stands alone on its line; if
none does, at the first one. A model's turn without a thought is answer as a whole.

**Quoted** marks never count: between quotation marks, in a code span (an odd number of backtick
runs before it in its line, and one after it), or in a fenced block of the turn (from a fence to the
next, if that names no language; a block that is never closed does not count). Nor do marks that
the caller knows to be written out as ordinary tokens, or to stand inside the question.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ringlens.quoting import Quoting

THINK, END_THINK = "<think>", "</think>"
SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"


@dataclass(frozen=True)
class Marks:
    """How a chat template writes turns.

    Attributes:
        openings: Marks that open a turn, with the role of that turn.
        ends: Marks that end a turn in the template.
        begin: What the template begins an answer with: an opening, and ``<think>`` if it opens one.
        stops: Pattern of what else ends an answer, beside ``ends`` and openings; "" for nothing.
    """

    openings: Mapping[str, str]
    ends: tuple[str, ...] = ()
    begin: str = ""
    stops: str = ""

    @cached_property
    def opening(self) -> re.Pattern[str] | None:
        """An opening in group 2, after group 1: the end mark of the turn before it, if any."""
        if not self.openings:
            return None
        return re.compile(f"({_any(self.ends)}\\s*)?({_any(self.openings)})")

    @cached_property
    def stop(self) -> re.Pattern[str] | None:
        """What ends an answer, except openings."""
        patterns = [re.escape(end) for end in self.ends] + [self.stops] * bool(self.stops)
        return re.compile("|".join(patterns)) if patterns else None


RING = Marks(
    {
        "<role>SYSTEM</role>": SYSTEM,
        "<role>HUMAN</role>": USER,
        "<role>ASSISTANT</role>": ASSISTANT,
        "<role>OBSERVATION</role>": TOOL,
    },
    ("<|role_end|>",),
    "<role>ASSISTANT</role>",
    r"<\|[^|>\s]+\|>|<role>",
)
"""The marks of Ring's own templates, for texts that come without a tokenizer."""


@dataclass(frozen=True)
class Turn:
    """One turn: characters ``start`` to ``end``, including its marks.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        start: Its first character.
        own: The first character that the model wrote; ``end`` if it wrote none.
        think: First character of its thought and the one after its end, including marks; equal if
            there is none.
        closed: Whether the thought has its closing mark.
        answer: First character of the answer and the one after its end, without marks.
        end: The character after its last.
    """

    role: str
    start: int
    own: int
    think: tuple[int, int]
    closed: bool
    answer: tuple[int, int]
    end: int


@dataclass(frozen=True)
class Segment:
    """Characters ``start`` to ``end`` that share a phase and a turn."""

    start: int
    end: int
    phase: str
    turn: int


@dataclass(frozen=True)
class Transcript:
    """A text and its turns, which tile it."""

    text: str
    turns: tuple[Turn, ...]

    @property
    def prompt_end(self) -> int:
        """Characters before the first that the model wrote."""
        return next((turn.own for turn in self.turns if turn.own < turn.end), len(self.text))

    @property
    def answer(self) -> str | None:
        """The last answer; None if the model's last turn is a thought that never closes."""
        turns = [turn for turn in self.turns if turn.role == ASSISTANT and turn.own < turn.end]
        if not turns or (turns[-1].think[0] < turns[-1].think[1] and not turns[-1].closed):
            return None
        start, end = turns[-1].answer
        return self.text[start:end]

    def segments(self) -> Iterator[Segment]:
        """The phases, in order; they tile the text and none is empty."""
        for number, turn in enumerate(self.turns):
            opened, closed = turn.think
            for start, end, phase in (
                (turn.start, turn.own, "prompt"),
                (turn.own, opened, "answer"),
                (opened, closed, "think"),
                (closed, turn.end, "answer"),
            ):
                if start < end:
                    yield Segment(start, end, phase, number)


def parse(
    text: str,
    marks: Marks = RING,
    *,
    prompt_end: int | None = None,
    written: bool = False,
    question: str = "",
    plain: frozenset[int] = frozenset(),
) -> Transcript:
    """Split a text into turns, and the model's turns into thought and answer.

    Args:
        text: The text, including prompt and template if there are any.
        marks: How the template writes turns.
        prompt_end: How many characters are prompt; if None, the prompt ends where the model's first
            turn begins.
        written: Whether the model wrote everything after ``prompt_end`` in one turn; else a
            finished conversation may follow, whose turns are split like those before it.
        question: What was asked, if known; marks inside it do not count.
        plain: Positions of marks in the text that are written out as ordinary tokens.
    """
    return _Parser(text, marks, prompt_end, written, question, plain).parse()


class _Parser:
    """The state that the steps of `parse` share."""

    def __init__(
        self,
        text: str,
        marks: Marks,
        prompt_end: int | None,
        written: bool,
        question: str,
        plain: frozenset[int],
    ) -> None:
        self.text, self.marks, self.known = text, marks, prompt_end
        self.written = written and prompt_end is not None
        self.plain = sorted(plain)
        self.question = self._place(question.strip())
        self._quoting = Quoting(text)

    def _place(self, question: str) -> tuple[int, int]:
        """Where the question stands, if it is only a part of the prompt."""
        text, begin = self.text[: self.known], self.marks.begin
        stop = len(text) - len(begin) if text.endswith(begin) else len(text)
        at = text.rfind(question, 0, stop) if question and self.known is not None else -1
        inside = at >= 0 and at + len(question) < len(text)
        return (at, at + len(question)) if inside else (0, 0)

    def parse(self) -> Transcript:
        turns = [self._model(turn) for turn in self._turns()]
        return Transcript(self.text, tuple(turns))

    def _turns(self) -> list[Turn]:
        """The turns with their roles and the part that the model wrote, without thoughts."""
        text, known, total = self.text, self.known, len(self.text)
        found = self._openings(0, known if self.written and known is not None else total)
        stops = [*(cut for cut, _, _ in found[1:]), total]
        turns = [
            _turn(role, cut, stop, own if role == ASSISTANT else stop)
            for (cut, own, role), stop in zip(found, stops, strict=False)
        ]
        first = found[0][0] if found else total
        if first and not text[:first].isspace():
            turns.insert(0, self._unmarked(first, found))
        elif first and turns:
            turns[0] = replace(turns[0], start=0)
        if known is not None:
            turns = [*self._cut_at(turns, known)]
        return turns

    def _openings(self, start: int, stop: int) -> list[tuple[int, int, str]]:
        """Where turns and their contents begin, and their roles."""
        if self.marks.opening is None:
            return []
        matches = list(self.marks.opening.finditer(self.text, start, stop))
        ends = [*(match.start() for match in matches[1:]), stop]
        found = [
            match
            for match, end in zip(matches, ends, strict=False)
            if self._counts(*match.span(2), start, end, fences=False)
        ]
        paired = [match for match in found if match[1]]
        if paired:
            found = [m for m in found if m[1] or not self.text[start : m.start(2)].strip()]
        return [
            (
                match.start(2) if not match[1] else match.end(1) - _spaces(match[1]),
                self._own(match.start(2), match.end(2)),
                self.marks.openings[match[2]],
            )
            for match in found
        ]

    def _own(self, start: int, end: int) -> int:
        """Where the content of a turn begins: after all that the template begins an answer with."""
        begin = self.marks.begin
        for head in (begin, begin.partition(THINK)[0]):
            if head and self.text.startswith(head, start):
                return start + len(head)
        return end

    def _unmarked(self, end: int, openings: list[tuple[int, int, str]]) -> Turn:
        """The text before the first opening.

        If no turn of the model follows, it is the model's: an answer without its prompt.
        A finished text without any marks of turns is prompt up to its thought.
        """
        if any(role == ASSISTANT for _, _, role in openings):
            return _turn(SYSTEM, 0, end, end)
        own = 0
        if self.known is None and not openings:
            own = max(self._opening_of_thought(0, end, anywhere=True), 0)
        return _turn(ASSISTANT, 0, end, own)

    def _cut_at(self, turns: list[Turn], known: int) -> Iterator[Turn]:
        """The turns, with the known characters as prompt and the model's turn after them."""
        total = len(self.text)
        if self.written:
            last = turns.pop() if turns and turns[-1].role == ASSISTANT else None
            start = known if last is None else last.start
            for turn in turns:
                end = min(turn.end, start)
                yield replace(turn, own=end, end=end)
            if start < total:
                yield _turn(ASSISTANT, start, total, max(start, known))
            return
        for turn in turns:
            yield replace(turn, own=max(turn.own, min(known, turn.end)))

    def _model(self, turn: Turn) -> Turn:
        """The turn with its thought and its answer."""
        if turn.role != ASSISTANT or turn.own == turn.end:
            return turn
        opened, closed, ends = self._thought(turn)
        behind = closed if opened < closed else turn.own
        return replace(
            turn, think=(opened, closed), closed=ends, answer=(behind, self._stop(behind, turn))
        )

    def _thought(self, turn: Turn) -> tuple[int, int, bool]:
        """Where the thought opens and ends, and whether a mark closes it."""
        own, end = turn.own, turn.end
        start = own if self._opens(turn) else self._opening_of_thought(own, end)
        closing = self._closing(max(start, own), end)
        # Without an opening that counts, a closing mark ends a thought that began before the text;
        # unless some <think> stands before it, as then the text only talks about the marks.
        if start < 0:
            talked = closing is None or any(True for _ in self._found(THINK, own, closing[0]))
            return (own, own, False) if talked or closing is None else (own, closing[1], True)
        return (start, end, False) if closing is None else (start, closing[1], True)

    def _opens(self, turn: Turn) -> bool:
        """Whether the part of the turn that the model did not write opens a thought."""
        head = self.text[turn.start : turn.own]
        if turn.start < turn.own and self._is_opening(turn.start, turn.own):
            return head.rfind(THINK) > head.rfind(END_THINK)
        # Without marks of turns: the end of the prompt, or a line of its own in a prompt that holds
        # the beginning of the thought as well.
        head, known = self.text[: turn.own], self.known
        if head.rstrip().endswith(THINK) or known is None:
            return head.rstrip().endswith(THINK)
        marks = self._found(THINK, 0, turn.own)
        opened = [at for at, to in marks if self._quoting.is_alone(at, to, 0, turn.own)]
        return bool(opened) and head.rfind(END_THINK) < opened[-1]

    def _is_opening(self, start: int, stop: int) -> bool:
        pattern = self.marks.opening
        found = pattern.search(self.text, start, stop) if pattern is not None else None
        return found is not None and not self.text[start : found.start(2)].strip()

    def _opening_of_thought(self, start: int, end: int, anywhere: bool = False) -> int:
        """The first mark that opens a thought; -1 if there is none."""
        lead = end - len(self.text[start:end].lstrip())
        for at, behind in self._found(THINK, start, end):
            first = at <= lead
            if anywhere or first or self._quoting.is_alone(at, behind, start, end):
                return at if anywhere or not first else start
        return -1

    def _closing(self, start: int, end: int) -> tuple[int, int] | None:
        """The mark that closes a thought; None if there is none."""
        found = list(self._found(END_THINK, start, end))
        alone = (mark for mark in found if self._quoting.is_alone(*mark, start, end))
        return next(alone, found[0] if found else None)

    def _stop(self, start: int, turn: Turn) -> int:
        """Where the answer that begins at ``start`` ends."""
        ends = [turn.end]
        if self.marks.stop is not None:
            for match in self.marks.stop.finditer(self.text, start, turn.end):
                if self._counts(*match.span(), start, turn.end):
                    ends.append(match.start())
                    break
        if self.written:
            ends += [cut for cut, _, _ in self._openings(start, turn.end)[:1]]
        return min(ends)

    def _found(self, mark: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The spans of a mark that count."""
        at = self.text.find(mark, start, end)
        while at >= 0:
            behind = at + len(mark)
            if self._counts(at, behind, start, end):
                yield at, behind
            at = self.text.find(mark, behind, end)

    def _counts(self, at: int, behind: int, start: int, end: int, *, fences: bool = True) -> bool:
        """Whether a mark counts: it is not written out, quoted, or in the question."""
        first = bisect_left(self.plain, at)
        if first < len(self.plain) and self.plain[first] < behind:
            return False
        if self.question[0] <= at < self.question[1] or self._quoting.is_quoted(
            at, behind, start, end
        ):
            return False
        return not fences or not self._quoting.is_fenced(at, start, end)


def _turn(role: str, start: int, end: int, own: int) -> Turn:
    return Turn(role, start, own, (own, own), False, (own, own), end)


def _any(marks: Mapping[str, str] | tuple[str, ...]) -> str:
    """A pattern of any of some marks, the longest first; of no marks, one that never matches."""
    ordered = sorted(marks, key=len, reverse=True)
    return "|".join(map(re.escape, ordered)) if ordered else r"(?!)"


def _spaces(text: str) -> int:
    """How many blanks end a text: the template writes them, as part of the next turn."""
    return len(text) - len(text.rstrip())
