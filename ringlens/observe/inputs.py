"""Which token ids an input means, and what a forward takes of them.

What an input may be is said in `given`. Problems and chats are put in the chat template. Text
stands as it is, except where it is a prompt (`capture`, `import_problems`): those are put in the
template unless they are in it already. Token ids are used as they are.

Shape letters: B batch, T tokens (shorter rows are padded on the left).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig

from ringlens.config import known_only
from ringlens.errors import ConfigError
from ringlens.observe.chat import chat_text, prompt_text
from ringlens.observe.given import Chat, Ids, Item, Text, TextOrIds, read
from ringlens.problem import Problem, check_prompt
from ringlens.prompts.completions import Completion
from ringlens.transcript import END_THINK, THINK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ringlens.model.loaded import LoadedModel
    from ringlens.model.sizes import Sizes

log = logging.getLogger(__name__)

# Not for those who run a forward through a lens; and what transformers adds to every forward.
NO_OPTION = ("self", "input_ids", "inputs_embeds", "kwargs")
OUTPUTS = ("output_attentions", "output_hidden_states", "output_router_logits", "return_dict")


class Encoder(Protocol):
    """What turns texts into tokens: a lens, or a served model."""

    @property
    def sizes(self) -> Sizes:
        """The model's sizes."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""


def token_rows(encoder: Encoder, given: TextOrIds) -> list[list[int]]:
    """Token ids of each row; text is encoded as it stands, without a chat template.

    Args:
        encoder: What encodes texts.
        given: A text, token ids, or whatever else `read` takes.

    Raises:
        ConfigError: Something else, a row without tokens, or an id that the model does not have.
    """
    rows = [item_ids(encoder, item) for item in read(given)]
    check_rows(encoder, rows)
    return rows


def item_ids(encoder: Encoder, item: Item, *, prompts: bool = False) -> list[int]:
    """Token ids of one row.

    Args:
        encoder: What encodes texts.
        item: The row.
        prompts: Whether text is a prompt, to be put in the chat template.

    Raises:
        ConfigError: A prompt that is empty, or that the chat template refuses.
    """
    if prompts:
        for text in _asked(item):
            check_prompt(text, "a prompt")
    if isinstance(item, Ids | Text):
        return item.token_ids
    tokenizer = encoder.tokenizer
    if isinstance(item, Chat):
        return encoder.encode(chat_text(tokenizer, item.messages))
    if isinstance(item, Problem):
        return encoder.encode(problem_text(tokenizer, item))
    if isinstance(item, Completion):
        return [token for part in completion_ids(encoder, item) for token in part]
    return encoder.encode(prompt_text(tokenizer, item) if prompts else item)


def completion_ids(encoder: Encoder, given: Completion) -> tuple[list[int], list[int]]:
    """Token ids of a completion's prompt in the chat template, and of what was written.

    The template may begin an answer with a thought. It does not where the completion has none, and
    a completion that opens its thought itself opens it once.

    Raises:
        ConfigError: The template refuses the prompt.
    """
    prompt, text = problem_text(encoder.tokenizer, given.problem), given.text
    opening = prompt.rstrip()
    if opening.endswith(THINK):
        if text.lstrip().startswith(THINK):
            text = text.lstrip().removeprefix(THINK).lstrip("\n")
        elif END_THINK not in text and THINK not in text:
            prompt = opening.removesuffix(THINK)
    return encoder.encode(prompt), encoder.encode(text)


def problem_text(tokenizer: PreTrainedTokenizerBase, problem: Problem) -> str:
    """A problem in the chat template, the answer about to begin.

    Raises:
        ConfigError: The template refuses it.
    """
    if problem.messages:
        return chat_text(tokenizer, problem.messages)
    return prompt_text(tokenizer, problem.prompt)


def _asked(item: Item) -> Iterator[str]:
    """The texts that a row asks; none of token ids, which are used as they are."""
    if isinstance(item, str):
        yield item
    elif isinstance(item, Problem):
        yield item.prompt
        yield from (message["content"] for message in item.messages)
    elif isinstance(item, Completion):
        yield from _asked(item.problem)
    elif isinstance(item, Chat):
        yield from (message["content"] for message in item.messages)


def check_rows(encoder: Encoder, rows: Sequence[Sequence[int]]) -> None:
    """Refuse rows without tokens, and ids that the model has no embedding for.

    Raises:
        ConfigError: There is such a row.
    """
    V = encoder.sizes.vocabulary
    for index, row in enumerate(rows):
        if not row:
            raise ConfigError(f"row {index} has no token; leave it out or give it a text.")
        if min(row) < 0 or max(row) >= V:
            wrong = next(i for i in row if not 0 <= i < V)
            known = len(encoder.tokenizer)
            raise ConfigError(
                f"row {index} holds the token id {wrong}, but the model has ids 0 to {V - 1} (its "
                f"tokenizer knows {known}); give ids of this model's tokenizer."
            )


def say_beyond_context(encoder: Encoder, lengths: Sequence[int], extra: int = 0) -> None:
    """Warn, before the run, of rows longer than the context that the model was trained for.

    They are run all the same: rotary positions go on, and only the user knows what is wanted.

    Args:
        encoder: The model.
        lengths: Tokens of each row.
        extra: Most tokens that may be added to each.
    """
    context = encoder.sizes.positions
    longest = max(lengths, default=0)
    if not context or not lengths or longest + extra <= context:
        return
    count = sum(length + extra > context for length in lengths)
    size = f"{longest:,} tokens" + (f" and up to {extra:,} new ones" if extra else "")
    log.warning(
        "%s of %s texts may go beyond the model's context of %s tokens (the longest has %s): what "
        "it computes there it was not trained for",
        f"{count:,}", f"{len(lengths):,}", f"{context:,}", size,
    )  # fmt: skip


def model_inputs(
    lens: LoadedModel, given: TextOrIds, attention_mask: object = None
) -> dict[str, Tensor]:
    """Keyword arguments of a forward over what is given, on the device that takes them.

    Args:
        lens: The lens.
        given: As for :func:`token_rows`.
        attention_mask: Mask of ``given``, where that is token ids that were padded.

    Returns:
        ``input_ids`` [B, T]; where rows differ in length also ``attention_mask`` and
        ``position_ids`` [B, T].

    Raises:
        ConfigError: See :func:`token_rows`.
    """
    if attention_mask is not None:
        given = {"input_ids": given, "attention_mask": attention_mask}
    rows = token_rows(lens, given)
    say_beyond_context(lens, [len(row) for row in rows])
    T = max(map(len, rows))
    pads = [T - len(row) for row in rows]
    padded = [[lens.pad_token_id] * pad + row for pad, row in zip(pads, rows, strict=True)]
    inputs = {"input_ids": torch.tensor(padded, device=lens.device)}
    if any(pads):
        mask_BT = torch.tensor([[0] * pad + [1] * (T - pad) for pad in pads], device=lens.device)
        inputs["attention_mask"] = mask_BT
        inputs["position_ids"] = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
    return inputs


def check_options(
    lens: LoadedModel, options: Mapping[str, Any], others: Sequence[str] = ()
) -> None:
    """Refuse options that the model's forward would ignore, or that would replace the input.

    Args:
        lens: The lens.
        options: The options.
        others: Names of the caller's own settings, which the message lists as well.

    Raises:
        ConfigError: There is such an option.
    """
    for name in ("input_ids", "inputs_embeds"):
        if name in options:
            raise ConfigError(f"{name} would replace the text; give token ids in its place.")
    known_only(options, [*others, *_of_forward(lens)], "option of a forward")


def check_generation(lens: LoadedModel, options: Mapping[str, Any]) -> None:
    """Refuse options that the model's ``generate`` does not know.

    Raises:
        ConfigError: There is such an option.
    """
    settings = [name for name in GenerationConfig().to_dict() if not name.startswith("_")]
    named = [n for n in signature(type(lens.model).generate).parameters if n not in NO_OPTION]
    known_only(options, [*settings, *named, *_of_forward(lens)], "option of a generation")


def _of_forward(lens: LoadedModel) -> list[str]:
    named = [n for n in signature(type(lens.model).forward).parameters if n not in NO_OPTION]
    return [*named, *OUTPUTS]
