"""What a model is to run on: one function decides what was given, and refuses all else.

Taken are a text, token ids (a list, tuple, range, numpy array or tensor of whole numbers), what a
tokenizer returned (``input_ids`` with its ``attention_mask``), a chat (a list of messages), a
`Problem`, a `Completion`, a `Text`, and lists of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ringlens.errors import ConfigError
from ringlens.messages import Message, checked_messages
from ringlens.plain import check_text, shown
from ringlens.problem import Problem, check_problem
from ringlens.prompts.completions import Completion, checked_text

WAYS = (
    "give a text, token ids, what the tokenizer returned, a list of chat messages, a Problem, a "
    "Completion, a Text, or a list of these"
)

# What tokenizers return beside ids and mask; nothing of it changes what the model reads.
BESIDE = (
    "token_type_ids", "special_tokens_mask", "offset_mapping", "length",
    "overflow_to_sample_mapping", "overflowing_tokens", "num_truncated_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Text:
    """A finished text as tokens.

    Attributes:
        token_ids: Its tokens.
        n_prompt: How many of them are prompt in any case. Turns behind them are told apart by the
            chat template's marks: those of users and systems are prompt too.
    """

    token_ids: list[int]
    n_prompt: int = 0


@dataclass(frozen=True)
class Ids:
    """Token ids as they stand."""

    token_ids: list[int]


@dataclass(frozen=True)
class Chat:
    """Messages of a chat, each with a role and a content."""

    messages: tuple[Message, ...]


Item = str | Ids | Chat | Problem | Completion | Text

TextOrIds = (
    str | Sequence[Any] | np.ndarray | Tensor | Mapping[str, Any] | Problem | Completion | Text
)


def read(given: object) -> list[Item]:
    """Decide what is given: a list of rows, each a text, token ids, a chat, a problem.

    Args:
        given: Anything.

    Raises:
        ConfigError: It is nothing that a model can run on; the message says why.
    """
    alone = _rows(given, "")
    if alone is not None:
        return alone
    if not isinstance(given, Sequence) or not _is_list(given):
        raise ConfigError(f"cannot run the model on {shown(given)}; {WAYS}.")
    if not given:
        raise ConfigError("there is no token to run the model on; give a text or token ids.")
    found: list[Item] = []
    for index, each in enumerate(given):
        rows = _rows(each, f"item {index}: ")
        if rows is None:
            raise ConfigError(f"item {index} is {shown(each)}; {_why(each)}.")
        found += rows
    return found


def _rows(given: object, place: str) -> list[Item] | None:
    """The rows that something stands for by itself; None where it is a list of others."""
    if isinstance(given, str):
        check_text(given, place)
        return [str(given)]
    if isinstance(given, Problem):
        check_problem(given, place.rstrip(": ") or "the problem")
        return [given]
    if isinstance(given, Completion):
        here = place.rstrip(": ") or "the completion"
        check_problem(given.problem, here)
        checked_text(given.text, here)
        return [given]
    if isinstance(given, Text):
        return [_text(given, place)]
    if isinstance(given, Mapping):
        return _tokenizer_output(given, place)
    if isinstance(given, Tensor | np.ndarray):
        return _array_rows(given, place)
    if not isinstance(given, Sequence) or not _is_list(given):
        return None
    if len(given) and all(isinstance(each, Mapping) and "role" in each for each in given):
        return [Chat(checked_messages(given, place))]
    ids = _ids(given)
    if ids == [] and place:
        raise ConfigError(f"row {place.removeprefix('item ').rstrip(': ')} has no token.")
    return [Ids(ids)] if ids else None


def _ids(given: Sequence[Any]) -> list[int] | None:
    """Whole numbers of any kind as Python's own; None if there is anything else among them."""
    ids = []
    for each in given:
        if type(each) is not int and not _is_number(each):
            return None
        ids.append(int(each))
    return ids


def _is_number(given: object) -> bool:
    """Whether something is one whole number, and no bool."""
    if isinstance(given, Tensor | np.ndarray):
        return given.ndim == 0 and _is_whole(given)
    return isinstance(given, Integral) and not isinstance(given, bool)


def _is_list(given: object) -> bool:
    """Whether something is a sequence of other things, and neither text nor bytes."""
    raw = str | bytes | bytearray | memoryview
    return isinstance(given, Sequence) and not isinstance(given, raw)


def _array_rows(given: Tensor | np.ndarray, place: str) -> list[Item]:
    """The rows of an array [T] or, where it is no item of a list, [B, T]."""
    if not _is_whole(given):
        raise ConfigError(
            f"{place}token ids are whole numbers, not {given.dtype} of shape "
            f"{tuple(given.shape)}; {WAYS}."
        )
    most = 1 if place else 2
    if not 1 <= given.ndim <= most:
        wanted = "[tokens]" if place else "[tokens] or [rows, tokens]"
        raise ConfigError(
            f"{place}token ids have the shape {tuple(given.shape)}, not {wanted}; {WAYS}."
        )
    if 0 in given.shape:
        raise ConfigError(f"{place}there is no token in an array of shape {tuple(given.shape)}.")
    rows = given.tolist() if given.ndim == 2 else [given.tolist()]
    return [Ids(row) for row in rows]


def _is_whole(array: Tensor | np.ndarray) -> bool:
    """Whether an array holds whole numbers, and they can be read."""
    if isinstance(array, np.ndarray):
        return array.dtype.kind in "iu" and not isinstance(array, np.ma.MaskedArray)
    plain = array.layout == torch.strided and not array.is_meta and not array.is_quantized
    other = array.is_floating_point() or array.is_complex() or array.dtype == torch.bool
    return plain and not other


def _tokenizer_output(given: Mapping[str, Any], place: str) -> list[Item]:
    """The rows of what a tokenizer returned, without what its mask leaves out."""
    if "input_ids" not in given:
        what = "a chat message alone" if "role" in given else f"a mapping of {_keys(given)}"
        raise ConfigError(
            f"{place or 'cannot run the model on this: '}{what}. What a tokenizer returned has "
            "input_ids; chat messages have role and content and stand in a list of their own."
        )
    unknown = [key for key in given if key not in ("input_ids", "attention_mask", *BESIDE)]
    if unknown:
        raise ConfigError(
            f"{place}{unknown[0]!r:.60} beside input_ids would be left out; give input_ids and "
            "attention_mask alone."
        )
    rows = _number_rows(given["input_ids"], f"{place}input_ids")
    mask = given.get("attention_mask")
    if mask is None:
        return [Ids(row) for row in rows]
    masks = _number_rows(mask, f"{place}attention_mask", flags=True)
    if [len(row) for row in rows] != [len(row) for row in masks]:
        raise ConfigError(f"{place}input_ids and attention_mask differ in shape.")
    pairs = zip(rows, masks, strict=True)
    return [Ids(_cut(row, kept, f"{place}row {i}")) for i, (row, kept) in enumerate(pairs)]


def _number_rows(given: Any, name: str, *, flags: bool = False) -> list[list[int]]:
    """Whole numbers in one row or several; with ``flags`` 0 and 1 or bools."""
    if isinstance(given, Tensor | np.ndarray):
        given = list(given) if given.ndim == 2 else [given]
    elif _is_list(given):
        several = len(given) > 0 and not any(map(_is_number, given)) and not _is_flag(given[0])
        given = given if several else [given]
    else:
        given = [None]
    rows = [_row(each, flags) for each in given]
    if None in rows:
        kind = "0 and 1" if flags else "whole numbers"
        raise ConfigError(f"{name} must be {kind}, one row or several.")
    return [row for row in rows if row is not None]


def _row(given: Any, flags: bool) -> list[int] | None:
    """One row of whole numbers, or of flags; None if it is something else."""
    if isinstance(given, Tensor | np.ndarray):
        is_flags = flags and given.dtype == (torch.bool if isinstance(given, Tensor) else np.bool_)
        given = given.tolist() if given.ndim == 1 and (is_flags or _is_whole(given)) else None
    if not _is_list(given):
        return None
    row = _ids([int(each) if flags and _is_flag(each) else each for each in given])
    return None if row is None or (flags and not set(row) <= {0, 1}) else row


def _is_flag(given: object) -> bool:
    return isinstance(given, bool | np.bool_)


def _cut(row: list[int], mask: list[int], place: str) -> list[int]:
    """The part of a padded row that its mask keeps."""
    if 1 not in mask:
        raise ConfigError(f"{place} has no token: its attention_mask is 0 everywhere.")
    first, last = mask.index(1), len(mask) - mask[::-1].index(1)
    if 0 in mask[first:last]:
        hole = mask.index(0, first)
        raise ConfigError(
            f"{place} has a hole in its attention_mask at position {hole}: a row is padded on the "
            "left or on the right; take the tokens out that the model shall not see."
        )
    return row[first:last]


def _text(given: Text, place: str) -> Text:
    """A finished text whose numbers are Python's own."""
    rows = _number_rows(given.token_ids, f"{place}token_ids of a Text")
    total, n_prompt = len(rows[0]), given.n_prompt
    if len(rows) != 1:
        raise ConfigError(f"{place}a Text has one row of token_ids, not {len(rows)}.")
    if not _is_number(n_prompt) or not 0 <= n_prompt <= total:
        raise ConfigError(
            f"{place}n_prompt = {n_prompt!r:.60} of a Text of {total} tokens; it must be a whole "
            f"number, 0 to {total}."
        )
    return Text(rows[0], int(n_prompt))


def _why(item: object) -> str:
    """What to do instead about an item of a list."""
    if _is_number(item):
        return "token ids stand in a list of their own, beside texts or other rows"
    if _is_list(item):
        return "a row of a list is a text, token ids alone, or messages alone, and no list of rows"
    return WAYS


def _keys(given: Mapping[Any, Any]) -> str:
    return f"{', '.join(map(repr, given)) or 'nothing':.80}"
