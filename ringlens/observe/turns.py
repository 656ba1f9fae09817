"""Turns and phases of tokens: the text of a trace, read with its checkpoint's tokenizer.

`ringlens.transcript` parses the text. This file says how the checkpoint writes turns (its own chat
template, rendered with probe messages), which marks in the text are the tokens made for them and
which are written out in ordinary ones, and which tokens fall into which phase. Phases are found on
the text, not on ids: ``</think>`` is one token in Ring-1T and three in Ring-mini, and its pieces
may run into their neighbours.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from ringlens.observe.text import TokenText
from ringlens.transcript import (
    ASSISTANT,
    END_THINK,
    RING,
    SYSTEM,
    THINK,
    TOOL,
    USER,
    Marks,
    Transcript,
    parse,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = ("ringlensfirst", "ringlenssecond", "ringlensthird")
"""Contents of probe messages: words that no template writes itself."""


# What templates raise: jinja's own, and whatever the expressions in them do.
FAULTS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError,
    RecursionError,
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What a trace's tokens are.

    Attributes:
        transcript: The text in turns.
        phase: "prompt", "think" or "answer" of each of the T tokens.
        turn: Turn of each token, 0 is the first [T].
    """

    transcript: Transcript
    phase: list[str]
    turn: NDArray[np.int32]


@dataclass(frozen=True)
class Markup:
    """How a checkpoint writes turns, and the tokens that are made for its marks.

    Attributes:
        marks: The marks of its chat template.
        atoms: Added tokens that marks are made of, with their ids. Spelled in other tokens, such a
            text is no mark.
    """

    marks: Marks = RING
    atoms: Mapping[str, int] = field(default_factory=dict)

    def read(
        self, text: TokenText, n_prompt: int, *, written: bool = True, question: str = ""
    ) -> Reading:
        """Turns and phases of a trace.

        Thinking begins and ends as `ringlens.transcript` says; its marks belong to it, and so does
        a token that reaches into it.

        Args:
            text: The trace, as far as it is there.
            n_prompt: Tokens known beforehand: these are prompt.
            written: Whether the model wrote all others, in one turn; else they may hold more turns.
            question: What was asked, where that is known.
        """
        n_prompt = min(n_prompt, len(text.pieces))
        transcript = parse(
            text.text,
            self.marks,
            prompt_end=text.ends[n_prompt - 1] if n_prompt else 0,
            written=written,
            question=question,
            plain=self.plain(text),
        )
        phase, turn = _spread(text, transcript)
        phase[:n_prompt] = ["prompt"] * n_prompt
        if written:  # a token without text yet, such as the first half of a character
            rest = phase[n_prompt:]
            phase[n_prompt:] = ["answer" if name == "prompt" else name for name in rest]
        return Reading(transcript, phase, turn)

    def prompt_of(self, text: str) -> int:
        """Characters of a finished text that are prompt: up to the model's first turn."""
        return parse(text, self.marks).prompt_end

    def plain(self, text: TokenText) -> frozenset[int]:
        """Where marks, or parts of them, stand in the text that are written in ordinary tokens."""
        if not self.atoms or not text.token_ids:
            return frozenset()
        pattern = "|".join(map(re.escape, sorted(self.atoms, key=len, reverse=True)))
        return frozenset(
            match.start()
            for match in re.finditer(pattern, text.text)
            if text.token_ids[bisect_right(text.starts, match.start()) - 1] != self.atoms[match[0]]
        )


def phases(text: TokenText, n_prompt: int) -> list[str]:
    """Phase of each token of a prompt and what the model wrote, by Ring's own marks."""
    return Markup().read(text, n_prompt).phase


def markup(tokenizer: PreTrainedTokenizerBase) -> Markup:
    """How a tokenizer's checkpoint writes turns."""
    template = str(tokenizer.chat_template)
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != template:
        marks = _marks(tokenizer)
        known = _KNOWN[tokenizer] = template, Markup(marks, _atoms(tokenizer, marks))
    return known[1]


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, Markup]] = WeakKeyDictionary()


def _spread(text: TokenText, transcript: Transcript) -> tuple[list[str], NDArray[np.int32]]:
    """Phase and turn of each token: those of its first character, and think where it reaches in."""
    segments = list(transcript.segments())
    if not segments:
        return ["answer"] * len(text.pieces), np.zeros(len(text.pieces), np.int32)
    begins = np.array([segment.start for segment in segments])
    place_T = np.searchsorted(begins, np.array(text.starts, np.int64), side="right") - 1
    for place, segment in enumerate(segments):
        if segment.phase == "think":  # spans are in order, so the tokens that reach in are too
            first = bisect_right(text.ends, segment.start)
            place_T[first : bisect_left(text.starts, segment.end)] = place
    turn = np.array([segment.turn for segment in segments], np.int32)
    return [segments[place].phase for place in place_T.tolist()], turn[place_T]


def _marks(tokenizer: PreTrainedTokenizerBase) -> Marks:
    """The marks of the checkpoint's chat template; Ring's own where it has none that tells them."""
    stops = "|".join(map(re.escape, _special(tokenizer)))
    probed = _probed(tokenizer) if tokenizer.chat_template else None
    if probed is None:
        return Marks(RING.openings, RING.ends, RING.begin, stops or RING.stops)
    openings, ends, begin = probed
    inside = [mark for mark in _special(tokenizer) if not any(mark in o for o in openings)]
    return Marks(openings, ends, begin, "|".join(map(re.escape, inside)))


def _special(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of the tokenizer's special tokens, those of thoughts left out."""
    added = tokenizer.added_tokens_decoder.values()
    names = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
    return sorted(names - {THINK, END_THINK, ""}, key=len, reverse=True)


def _atoms(tokenizer: PreTrainedTokenizerBase, marks: Marks) -> dict[str, int]:
    """Added tokens that a mark consists of or holds."""
    written = (THINK, END_THINK, *marks.openings, *marks.ends)
    added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}
    return {name: i for name, i in added.items() if name and any(name in mark for mark in written)}


def _probed(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[dict[str, str], tuple[str, ...], str] | None:
    """Openings, ends and what begins an answer, of a template that tells users from answers."""
    one, two, three = PROBES
    asked, answered = {"role": USER, "content": one}, {"role": ASSISTANT, "content": two}
    again = {"role": USER, "content": three}
    alone = _render(tokenizer, [asked])
    closed = _render(tokenizer, [asked, answered])
    whole = _render(tokenizer, [asked, answered, again])
    begun = _render(tokenizer, [asked], begin=True)
    if alone is None or closed is None or whole is None or begun is None:
        return None
    ends_user = alone.partition(one)[2]
    ends_answer = closed.partition(two)[2]
    opens_answer = _behind(_between(whole, one, two), ends_user).partition(THINK)[0].strip()
    opens_user = _behind(_between(whole, two, three), ends_answer).strip()
    begin = _behind(begun.partition(one)[2], ends_user)
    if not opens_answer:  # some templates close the question with what opens the answer
        opens_answer, begin, ends_user = ends_user.strip(), ends_user + begin, ""
        ends_answer = ""  # an answer's opening never stands behind it
    if not opens_answer or not opens_user or opens_answer == opens_user:
        return None
    openings = {opens_user: USER, opens_answer: ASSISTANT}
    before = _render(tokenizer, [{"role": SYSTEM, "content": three}, asked])
    tool = _render(tokenizer, [asked, answered, {"role": TOOL, "content": three}])
    for found, role in (
        ((before or "").partition(three)[0].removeprefix(tokenizer.bos_token or ""), SYSTEM),
        (_behind(_between(tool or "", two, three), ends_answer), TOOL),
    ):
        if found.strip():
            openings.setdefault(found.strip(), role)
    ends = {end.strip() for end in (ends_user, ends_answer)} - {""}
    return openings, tuple(sorted(ends)), begin.lstrip()


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], begin: bool = False
) -> str | None:
    """The messages in the chat template; None where it refuses them or leaves a content out."""
    try:
        text = str(
            tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=begin, tokenize=False
            )
        )
    except FAULTS:
        return None
    return text if all(message["content"] in text for message in messages) else None


def _between(text: str, first: str, second: str) -> str:
    return text.partition(first)[2].partition(second)[0]


def _behind(text: str, end: str) -> str:
    """The text behind what ends a turn."""
    return text.removeprefix(end) if end else text
