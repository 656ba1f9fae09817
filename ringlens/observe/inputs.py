"""What a forward takes, from text or token ids.

Shape letters: B batch, T tokens (shorter rows are padded on the left).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ringlens.errors import ConfigError

if TYPE_CHECKING:
    from ringlens.lens import Lens

TextOrIds = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor


def token_rows(lens: Lens, text_or_ids: TextOrIds) -> list[list[int]]:
    """Token ids of each row; text is encoded as it stands, without a chat template.

    Args:
        lens: The lens.
        text_or_ids: A text, several texts, token ids, several rows of token ids, or a tensor of
            token ids [T] or [B, T].

    Raises:
        ConfigError: Something else, or a row without tokens.
    """
    given = text_or_ids.tolist() if isinstance(text_or_ids, Tensor) else text_or_ids
    items = [given] if isinstance(given, str) or _all(given, int) else list(given)
    if not items:
        raise ConfigError("there is no token to run the model on; give a text or token ids.")
    if not all(isinstance(item, str) or _all(item, int) for item in items):
        raise ConfigError(
            f"cannot run the model on {text_or_ids!r:.80}; give a text, a list of texts, or token "
            "ids: one row or several."
        )
    rows = [lens.encode(x) if isinstance(x, str) else list(cast("Sequence[int]", x)) for x in items]
    if not all(rows):
        raise ConfigError(f"row {rows.index([])} has no token; leave it out or give it a text.")
    return rows


def _all(items: object, kind: type) -> bool:
    """Whether ``items`` is a list or tuple of this kind alone, and not empty."""
    listed = isinstance(items, list | tuple) and len(items) > 0
    return listed and all(isinstance(item, kind) for item in cast("Sequence[object]", items))


def model_inputs(lens: Lens, text_or_ids: TextOrIds) -> dict[str, Tensor]:
    """Keyword arguments of a forward over ``text_or_ids``, on the device that takes them.

    Returns:
        ``input_ids`` [B, T]; where rows differ in length also ``attention_mask`` and
        ``position_ids`` [B, T].

    Raises:
        ConfigError: No text and no token ids; see :func:`token_rows`.
    """
    rows = token_rows(lens, text_or_ids)
    T = max(map(len, rows))
    pads = [T - len(row) for row in rows]
    padded = [[lens.pad_token_id] * pad + row for pad, row in zip(pads, rows, strict=True)]
    inputs = {"input_ids": torch.tensor(padded, device=lens.device)}
    if any(pads):
        mask_BT = torch.tensor([[0] * pad + [1] * (T - pad) for pad in pads], device=lens.device)
        inputs["attention_mask"] = mask_BT
        inputs["position_ids"] = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
    return inputs
