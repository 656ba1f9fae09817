"""The cache of a thought, which serves whatever goes on from the ends of its steps.

The thought is run once. A row that goes on from its token e takes the keys and values of the
tokens before e; those behind are hidden from it by the mask, and its positions count on from e. So
rows that go on from different places run side by side, and nothing of the thought is run again.

Shape letters: B rows, P positions of the thought that are kept, S positions in all, n new tokens,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ringlens.errors import ConfigError
from ringlens.model.caching import CACHE

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel
    from ringlens.probes.chain.meter import Meter

PREFILL = 32_768
"""Positions that a forward takes at most."""

MASKED = ("sdpa", "eager")
"""Attention kernels that take a mask for each query and key."""

Span = tuple[int, int]
"""Positions from the first to before the second."""


class Prefix:
    """A thought that was run once.

    Args:
        lens: The model.
        token_ids: Tokens of the thought, prompt included.
        meter: Counts what is run.
    """

    def __init__(self, lens: LoadedModel, token_ids: Sequence[int], meter: Meter) -> None:
        self._lens, self._meter = lens, meter
        self._ids_T = list(token_ids)
        self._cache = DynamicCache(config=lens.config)
        for first in range(0, len(self._ids_T), PREFILL):
            part = self._ids_T[first : first + PREFILL]
            run(lens, meter, [part], self._cache, logits_to_keep=1)

    def rows(self, ends: Sequence[int], hidden: Sequence[Span | None] = ()) -> Rows:
        """Rows that go on from places of the thought.

        Args:
            ends: How many tokens of the thought each row has.
            hidden: Positions that tokens behind them do not see, in each row; None for none.

        Raises:
            ConfigError: Positions are hidden, and the attention kernel takes no such mask.
        """
        kernel = self._lens.config._attn_implementation
        if any(hidden) and kernel not in MASKED:
            raise ConfigError(
                f"the attention kernel {kernel!r:.40} cannot hide steps; load the model with "
                f"attention = {' or '.join(map(repr, MASKED))}."
            )
        B, P = len(ends), max(ends)
        cache = DynamicCache(config=self._lens.config)
        for number, layer in enumerate(self._cache.layers):
            keys, values = layer.keys[:, :, :P], layer.values[:, :, :P]
            cache.update(keys.expand(B, -1, -1, -1), values.expand(B, -1, -1, -1), number)
        seen_BP = torch.arange(P) < torch.tensor(list(ends))[:, None]
        seen_BP = seen_BP.to(self._lens.device)
        return Rows(self._lens, self._meter, cache, seen_BP, list(ends), hidden)


class Rows:
    """Rows that go on from places of a thought, side by side.

    Args:
        lens: The model.
        meter: Counts what is run.
        cache: Keys and values of all rows.
        seen_BS: Which cached positions each row sees.
        lengths: Tokens that each row has so far.
        hidden: As in `Prefix.rows`.
    """

    def __init__(
        self,
        lens: LoadedModel,
        meter: Meter,
        cache: DynamicCache,
        seen_BS: Tensor,
        lengths: list[int],
        hidden: Sequence[Span | None] = (),
    ) -> None:
        self._lens, self._meter, self._cache = lens, meter, cache
        self._seen_BS, self.lengths = seen_BS, lengths
        self._pos_BS = torch.arange(seen_BS.shape[1], device=seen_BS.device).expand_as(seen_BS)
        self._hidden = list(hidden)

    def feed(self, ids: Sequence[Sequence[int]], *, keep: int = 0) -> Tensor:
        """Let the rows read on.

        Args:
            ids: As many new tokens for each row.
            keep: Logits of so many last tokens; 0 for all.

        Returns:
            Logits [B, n, V] in float32.
        """
        n = len(ids[0])
        device = self._lens.device
        new_Bn = torch.ones(len(ids), n, dtype=torch.bool, device=device)
        self._seen_BS = torch.cat((self._seen_BS, new_Bn), dim=1)
        begin_B1 = torch.tensor(self.lengths, device=device)[:, None]
        pos_Bn = begin_B1 + torch.arange(n, device=device)
        self._pos_BS = torch.cat((self._pos_BS, pos_Bn), dim=1)
        more: dict[str, Any] = {"logits_to_keep": keep}
        # Without gaps there is no mask: kernels are faster so.
        if any(self._hidden):
            more |= {"attention_mask": self._mask(pos_Bn), "position_ids": pos_Bn}
        elif not bool(self._seen_BS.all()):
            more |= {"attention_mask": self._seen_BS.long(), "position_ids": pos_Bn}
        logits_BnV = run(self._lens, self._meter, ids, self._cache, **more)
        self.lengths = [length + n for length in self.lengths]
        return logits_BnV

    def _mask(self, pos_Bn: Tensor) -> Tensor:
        """What each new token does not see, as a mask [B, 1, n, S] that is added to scores."""
        spans = [span or (0, 0) for span in self._hidden]
        first_B11, end_B11 = torch.tensor(spans, device=pos_Bn.device).T[:, :, None, None]
        key_B1S, query_Bn1 = self._pos_BS[:, None, :], pos_Bn[:, :, None]
        inside_B1S = (key_B1S >= first_B11) & (key_B1S < end_B11)
        lost_BnS = ~self._seen_BS[:, None, :] | (key_B1S > query_Bn1)
        lost_BnS |= inside_B1S & (query_Bn1 >= end_B11)
        dtype = self._lens.model.dtype
        mask_BnS = torch.zeros(lost_BnS.shape, dtype=dtype, device=pos_Bn.device)
        return mask_BnS.masked_fill_(lost_BnS, torch.finfo(dtype).min)[:, None]

    def select(self, rows: Sequence[int]) -> None:
        """Keep some of the rows, in this order."""
        index = torch.tensor(list(rows))
        for layer in self._cache.layers:
            own = index.to(layer.keys.device)
            layer.keys, layer.values = layer.keys[own], layer.values[own]
        own = index.to(self._seen_BS.device)
        self._seen_BS, self._pos_BS = self._seen_BS[own], self._pos_BS[own]
        self._hidden = [self._hidden[row] for row in rows] if self._hidden else []
        self.lengths = [self.lengths[row] for row in rows]


def run(
    lens: LoadedModel,
    meter: Meter,
    ids: Sequence[Sequence[int]],
    cache: DynamicCache | None = None,
    **options: Any,
) -> Tensor:
    """Run one forward, and count it.

    Args:
        lens: The model.
        meter: Counts it.
        ids: Token ids, as many in each row.
        cache: Keys and values of what came before; new ones are added.
        **options: For the forward.

    Returns:
        Logits [B, n, V] in float32.
    """
    ids_Bn = torch.tensor([list(row) for row in ids], device=lens.device)
    more: dict[str, Any] = {} if cache is None else {CACHE: cache}
    with torch.inference_mode():
        output = lens.model(ids_Bn, use_cache=cache is not None, **more, **options)
    logits_BnV: Tensor = output.logits.float()
    meter.add(1, ids_Bn.numel())
    return logits_BnV
