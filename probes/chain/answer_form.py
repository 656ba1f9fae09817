r"""How a model ends its thoughts and gives answers, so that it can be made to answer at once.

A run shows it: what stands between the last step of a thought and the answer, and whether answers
are put in a box. So ring-nano is made to answer by ``</think>`` and a new line, and a model that
boxes its answers by what it writes before them, ``\boxed{`` included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ringlens.errors import ConfigError
from ringlens.transcript import END_THINK

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel
    from ringlens.probes.chain.thought import Thought

BOX = "\\boxed{"


@dataclass(frozen=True)
class AnswerForm:
    """What makes a model answer, and where its answer ends.

    Attributes:
        opening: Text between a thought and the answer.
        boxed: Whether the answer ends with the brace that closes the box.
    """

    opening: str
    boxed: bool

    def opening_ids(self, lens: LoadedModel, before: str) -> list[int]:
        """Tokens that make the model answer behind some text.

        White space that the text ends with already is left out.
        """
        given = self.opening.lstrip() if before[-1:].isspace() else self.opening
        return lens.encode(given)

    def has_ended(self, lens: LoadedModel, ids: Sequence[int]) -> bool:
        """Whether an answer is complete."""
        if ids[-1] in lens.eos_token_ids:
            return True
        return self.boxed and _closes(lens.tokenizer.decode(list(ids))) is not None

    def answer_of(self, lens: LoadedModel, ids: Sequence[int]) -> str | None:
        """The answer that was written; None if it is not complete, or empty."""
        ends = ids[-1] in lens.eos_token_ids
        text = str(lens.tokenizer.decode(list(ids[:-1] if ends else ids)))
        closes = _closes(text) if self.boxed else len(text)
        if closes is None or (not self.boxed and not ends):
            return None
        return text[:closes].strip() or None

    def ids_of(self, lens: LoadedModel, answer: str) -> list[int]:
        """Tokens of an answer, its end included."""
        return lens.encode(answer + "}") if self.boxed else [*lens.encode(answer), _end(lens)]


def answer_form(
    thought: Thought, model_thought: Thought | None, opening: str | None, boxed: bool | None
) -> AnswerForm:
    """How a thought is made to end.

    Args:
        thought: The thought.
        model_thought: A thought of the same run that ended by itself, where there is one.
        opening: The text that makes the model answer; None to take it from the thoughts.
        boxed: Whether the answer ends with a brace; None for whether the opening opens a box.

    Raises:
        ConfigError: No thought of the run ended, so the text has to be given.
    """
    if opening is None:
        shown = thought if thought.answer_first is not None else model_thought
        if shown is None:
            raise ConfigError(
                f"no thought of run {thought.run_id} has ended with an answer, so it is not known "
                f"what makes the model answer; give opening, such as {END_THINK + chr(10)!r}."
            )
        opening = _shown(shown)
    return AnswerForm(opening, opening.endswith(BOX) if boxed is None else boxed)


def _shown(thought: Thought) -> str:
    """What stands between the thought and the answer, up to the box where the answer has one."""
    assert thought.answer_first is not None
    between = thought.text_of(thought.steps[-1].end, thought.answer_first)
    last = thought.text.rfind(BOX, thought.starts[thought.answer_first])
    return between if last < 0 else between + BOX


def _closes(text: str) -> int | None:
    """Where the brace is closed that was open before the text."""
    depth = 1
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return place
    return None


def _end(lens: LoadedModel) -> int:
    return lens.eos_token_ids[0]
