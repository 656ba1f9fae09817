"""A conversation: its messages so far, and what of an answer becomes one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel
    from ringlens.store import Trace

Message = dict[str, str]


class Conversation:
    """What was said.

    Args:
        system: What the model is told before the first question; nothing if empty.

    Attributes:
        system: As given; a change counts from the next question on.
        turns: Questions and answers.
    """

    def __init__(self, system: str = "") -> None:
        self.system = system
        self.turns: list[Message] = []

    def asked(self, question: str) -> list[Message]:
        """The messages that the model is to answer."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns, {"role": "user", "content": question}]

    def answered(self, question: str, answer: str) -> None:
        """Keep a question with its answer."""
        self.turns += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]


def answer_of(lens: LoadedModel, trace: Trace) -> str:
    """The answer of a stored trace without its thought and marks; empty if there is none."""
    from ringlens.observe.text import token_text
    from ringlens.observe.turns import markup

    token_ids = trace.tokens()["token_id"].tolist()
    n_prompt = int(trace.summary["n_prompt"])
    text = token_text(lens.tokenizer, token_ids)
    reading = markup(lens.tokenizer).read(text, n_prompt, question=trace.summary["prompt"])
    return (reading.transcript.answer or "").strip()
