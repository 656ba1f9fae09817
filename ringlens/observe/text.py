"""From token ids to text: character spans that tile it, and the phase of each token.

Phases are found on the text, not on ids: ``</think>`` is one token in Ring-1T and three in
Ring-mini, and its pieces may run into their neighbours.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tokenizers.decoders import DecodeStream

from ringlens.errors import ObservationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK, END_THINK = "<think>", "</think>"


@dataclass(frozen=True)
class TokenText:
    """Text of a trace, cut into its tokens: ``pieces[i]`` is ``text[starts[i]:ends[i]]``."""

    text: str
    pieces: list[str]
    starts: list[int]
    ends: list[int]


class TextStream:
    """Decodes ids as they come into pieces that join to the whole text, nothing lost.

    A token that ends inside a multi-byte character gets an empty piece; the token that completes
    the character gets it. Bytes that never complete one become "�" on the last token.

    Attributes:
        pieces: Text of each token so far.

    Raises:
        ObservationError: The tokenizer is not backed by the ``tokenizers`` library.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ObservationError(
                f"{type(tokenizer).__name__} is not a fast tokenizer, so its text spans are "
                "unknown. Load the model with a tokenizer.json."
            )
        self._backend = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=False)
        self._token_ids: list[int] = []
        self.pieces: list[str] = []

    def push(self, token_ids: list[int]) -> None:
        """Add tokens."""
        self._token_ids += token_ids
        self.pieces += (self._stream.step(self._backend, i) or "" for i in token_ids)

    def close(self) -> None:
        """No token follows: an unfinished character goes to the last one."""
        whole = self._backend.decode(self._token_ids, skip_special_tokens=False)
        decoded = "".join(self.pieces)
        if self.pieces and whole.startswith(decoded):
            self.pieces[-1] += whole[len(decoded) :]

    def text(self, stop: int | None = None) -> TokenText:
        """Text and spans of the first ``stop`` tokens, of all if None."""
        pieces = self.pieces[:stop]
        ends = list(accumulate(map(len, pieces)))
        return TokenText("".join(pieces), pieces, [0, *ends][: len(ends)], ends)


def token_text(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> TokenText:
    """The text of finished token ids, cut into its tokens; see `TextStream`."""
    stream = TextStream(tokenizer)
    stream.push(token_ids)
    stream.close()
    return stream.text()


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str | list[Any]) -> str:
    """A prompt, or the messages of a chat, in the chat template, the answer about to begin.

    Without a template a prompt stays as it is.

    Raises:
        ObservationError: There are messages, but no template.
    """
    if not tokenizer.chat_template:
        if isinstance(prompt, str):
            return prompt
        raise ObservationError("the tokenizer has no chat template: give prompts instead of chats")
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def phases(text: TokenText, n_prompt: int) -> list[str]:
    """Phase of each token: "prompt", "think" or "answer".

    Thinking starts after the prompt if the prompt's text ends in an open ``<think>``, else at the
    first ``<think>`` after it, and ends behind ``</think>``; the marks belong to it, and so does
    a token that reaches into it. Without marks, all that follows the prompt is answer.
    """
    total = len(text.pieces)
    n_prompt = min(n_prompt, total)
    prompt_end = text.ends[n_prompt - 1] if n_prompt else 0
    think_start, think_end = think_span(text.text, prompt_end)
    # Spans are in order, so the tokens that reach into the thinking phase are neighbours.
    first = max(n_prompt, bisect_right(text.ends, think_start))
    stop = max(first, bisect_left(text.starts, think_end))
    return (
        ["prompt"] * n_prompt
        + ["answer"] * (first - n_prompt)
        + ["think"] * (stop - first)
        + ["answer"] * (total - stop)
    )


def think_span(text: str, prompt_end: int) -> tuple[int, int]:
    """First character of the thinking phase and the one behind its end (equal: no thinking)."""
    opened = text[:prompt_end].rfind(THINK)
    if opened >= 0 and text.find(END_THINK, opened, prompt_end) < 0:
        start = prompt_end
    else:
        start = text.find(THINK, prompt_end)
    closed = text.find(END_THINK, max(start, prompt_end))
    if start < 0:  # some templates open the phase out of sight: only its end is in the text
        start = prompt_end if closed >= 0 else len(text)
    return start, closed + len(END_THINK) if closed >= 0 else len(text)


def split_prompt(text: str) -> int:
    """Characters of finished text that are prompt: up to the assistant's turn or ``<think>``."""
    opened = text.find(THINK)
    turn = text.find("<role>ASSISTANT</role>")
    if turn >= 0 and (opened < 0 or turn < opened):
        return turn + len("<role>ASSISTANT</role>")
    return max(opened, 0)
