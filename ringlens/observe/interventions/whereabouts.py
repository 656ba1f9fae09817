"""At which tokens of a forward each intervention acts.

All of it is computed on the device, from what the forward is given and from the tokens before it:
nothing waits for the device.

Shape letters: B rows, T tokens of a forward, S tokens with those in the cache, N = B·T,
I interventions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ringlens.errors import ObservationError
from ringlens.interventions import Intervention
from ringlens.interventions.place import Place
from ringlens.observe.instruments.tape import Tape
from ringlens.observe.instruments.transfer import bring
from ringlens.observe.interventions.continued import cache_given


class Reader(Protocol):
    """Tells places that depend on what the tokens say."""

    def read(self, forward: Forward) -> Mapping[Place, Tensor]:
        """Where each place is, bool [B, T]."""

    def reorder(self, rows_B: Tensor) -> None:
        """Continue other rows."""


@dataclass(frozen=True)
class Forward:
    """One forward of a model.

    Attributes:
        token_ids_BT: Its tokens; None where it was given embeddings.
        shape: B and T.
        start: Positions in the cache before it, padding counted.
        valid_BS: Which positions are no padding, with those in the cache; None: all.
        device: Where it begins.
        own_B1: Position of each row's token in its trace, in a decoding step that is repeated: what
            changes from step to step is then in tensors alone, and ``start`` says nothing.
    """

    token_ids_BT: Tensor | None
    shape: tuple[int, int]
    start: int
    valid_BS: Tensor | None
    device: torch.device
    own_B1: Tensor | None = None

    @property
    def repeats(self) -> bool:
        """Whether it is a step that is repeated."""
        return self.own_B1 is not None

    @property
    def valid_BT(self) -> Tensor | None:
        """Which of its tokens are no padding; None: all."""
        return None if self.valid_BS is None else self.valid_BS[:, self.start :]

    def positions(self) -> Tensor:
        """Positions in the trace, [B or 1, T]; negative ones are padding."""
        if self.own_B1 is not None:
            return self.own_B1
        if self.valid_BS is None:
            stop = self.start + self.shape[1]
            return torch.arange(self.start, stop, device=self.device)[None]
        return (self.valid_BS.long().cumsum(dim=1) - 1)[:, self.start :]


def forward_of(args: tuple, kwargs: Mapping[str, Any], repeats: bool = False) -> Forward:
    """Read what a model's forward was called with.

    Args:
        args: Its arguments.
        kwargs: Those that were named.
        repeats: Whether it is a decoding step that is repeated.

    Raises:
        ObservationError: An attention mask that does not say which positions are padding.
    """
    ids = kwargs.get("input_ids", args[0] if args else None)
    tokens = ids if ids is not None else kwargs.get("inputs_embeds")
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    assert tokens is not None  # or the model itself refuses
    if repeats:
        return Forward(ids, tuple(ids.shape), -1, None, ids.device, kwargs["position_ids"])
    cache = cache_given(kwargs)
    start = 0 if cache is None else int(cache.get_seq_length())
    B, T = tokens.shape[:2]
    if mask is not None and (mask.dim() != 2 or mask.shape[1] != start + T):
        raise ObservationError(
            f"the attention mask has shape {tuple(mask.shape)} at a forward of {B} x {T} tokens "
            f"behind {start}; interventions need one of shape [rows, tokens with those before]."
        )
    valid = None if mask is None else mask.to(tokens.device).bool()
    return Forward(ids, (B, T), start, valid, tokens.device)


class Whereabouts:
    """Masks of interventions over the tokens of the forward that runs.

    Args:
        interventions: The interventions.
        rows: By intervention the rows of the batch that it is for; None: all.
        rows_count: How many rows a batch must have; None: any.
        reader: Tells places that depend on what the tokens say; None where there are none.
        tape: Stands between what hooks see and what is counted.
    """

    def __init__(
        self,
        interventions: Sequence[Intervention],
        rows: Sequence[Sequence[int] | None],
        rows_count: int | None,
        reader: Reader | None,
        tape: Tape | None = None,
    ) -> None:
        self.places = [each.place for each in interventions]
        self._rows, self._rows_count, self._reader = rows, rows_count, reader
        self._tape = tape or Tape()
        self._masks: list[Tensor | None] = []
        self._seen: int | Tensor = 0
        self._chosen: dict[tuple[Sequence[int], torch.device], Tensor] = {}
        self._forward: Forward | None = None
        self._joined: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}

    def begin(self, forward: Forward) -> None:
        """A forward begins."""
        B = forward.shape[0]
        if self._rows_count is not None and self._rows_count != B:
            raise ObservationError(
                f"interventions were given for {self._rows_count} rows, and a batch of {B} runs; "
                "give as many as the batch has."
            )
        self._forward = forward
        valid, B, T = forward.valid_BT, *forward.shape
        self._tape.show(partial(self._see, B * T if valid is None else valid.sum()))
        self._joined.clear()
        found = self._places(forward)
        self._masks = [
            self._of_rows(found[place], rows, forward)
            for place, rows in zip(self.places, self._rows, strict=True)
        ]

    def _see(self, tokens: int | Tensor) -> None:
        self._seen = self._seen + tokens

    def reorder(self, rows_B: Tensor) -> None:
        """Continue other rows, as a beam search does.

        Args:
            rows_B: The row that each row continues.

        Raises:
            ObservationError: Rows have interventions of their own.
        """
        if self._rows_count is not None:
            raise ObservationError(
                "a beam search exchanges the rows of a batch, so that rows cannot have "
                "interventions of their own; give the same to all, or sample."
            )
        if self._reader is not None:
            self._reader.reorder(rows_B)

    def _places(self, forward: Forward) -> dict[Place, Tensor | None]:
        """Where each place is, [B or 1, T]; None: at every token."""
        read = {} if self._reader is None else self._reader.read(forward)
        positions = None
        found: dict[Place, Tensor | None] = {}
        for place in set(self.places):
            mask = read.get(place, forward.valid_BT)
            if place.span != (0, None):
                positions = forward.positions() if positions is None else positions
                start, stop = place.span
                inside = positions >= start
                if stop is not None:
                    inside = inside & (positions < stop)
                mask = inside if mask is None else inside & mask
            found[place] = mask
        return found

    def _of_rows(
        self, mask: Tensor | None, rows: Sequence[int] | None, forward: Forward
    ) -> Tensor | None:
        if rows is None:
            return mask
        if (rows, forward.device) not in self._chosen:
            flags = torch.zeros(forward.shape[0], 1, dtype=torch.bool)
            flags[list(rows)] = True
            self._chosen[rows, forward.device] = bring(flags, forward.device)
        chosen = self._chosen[rows, forward.device]
        return chosen if mask is None else chosen & mask

    @property
    def seen(self) -> int:
        """Tokens that ran so far, padding left out."""
        return int(self._seen)

    def active(self, numbers: tuple[int, ...], device: torch.device) -> Tensor:
        """Which of some interventions act at each token, bool [N, I]."""
        key = numbers, device
        if key not in self._joined:
            assert self._forward is not None
            shape = self._forward.shape
            every = torch.ones(1, 1, dtype=torch.bool, device=self._forward.device)
            masks = [self._masks[i] for i in numbers]
            flat = [(every if m is None else m).expand(shape).reshape(-1) for m in masks]
            self._joined[key] = torch.stack(flat, dim=1).to(device, non_blocking=True)
        return self._joined[key]
