"""From token ids to text: character spans that tile it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from tokenizers.decoders import DecodeStream

from ringlens.errors import ObservationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenText:
    """Text of a trace, cut into its tokens: ``pieces[i]`` is ``text[starts[i]:ends[i]]``.

    Of a text without ``token_ids`` it is not known which tokens it was written in.
    """

    text: str
    pieces: list[str]
    starts: list[int]
    ends: list[int]
    token_ids: list[int] = field(default_factory=list)


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
        starts = [0, *ends][: len(ends)]
        return TokenText("".join(pieces), pieces, starts, ends, self._token_ids[:stop])


def token_text(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> TokenText:
    """The text of finished token ids, cut into its tokens; see `TextStream`."""
    stream = TextStream(tokenizer)
    stream.push(token_ids)
    stream.close()
    return stream.text()
