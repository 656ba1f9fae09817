"""Interventions on heads and on the residual stream, at one point of one layer.

Shape letters: B rows, T tokens of a forward, D hidden size, H heads, C head dimension,
I interventions of a point.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ringlens.interventions import Intervention, Steer
from ringlens.interventions.heads import OnHeads
from ringlens.observe.instruments.tape import Tape
from ringlens.observe.instruments.transfer import bring
from ringlens.observe.interventions.whereabouts import Whereabouts
from ringlens.observe.points import Point


class Stream:
    """The interventions at one point of a layer, in the order in which they are given.

    Args:
        point: The point.
        layer: The layer.
        acts: Numbers and interventions.
        where: Says at which tokens they act.
        tape: Stands between what is seen and what is counted.

    Attributes:
        numbers: Their numbers among all interventions.
    """

    def __init__(
        self,
        point: Point,
        layer: int,
        acts: Sequence[tuple[int, Intervention]],
        where: Whereabouts,
        tape: Tape | None = None,
    ) -> None:
        self.point, self.layer = point, layer
        self.numbers = tuple(number for number, _ in acts)
        self._acts, self._where = tuple(act for _, act in acts), where
        self._tape = tape or Tape()
        self._tables: list[Tensor] = []
        self._counts_2I: Tensor | None = None

    def change(self, x: Tensor) -> Tensor:
        """What the point becomes: head outputs [B, T, H, C], or a stream [B, T, D]."""
        B, T = x.shape[:2]
        self._bring(x)
        active_BTI = self._where.active(self.numbers, x.device).unflatten(0, (B, T))
        changed = []
        for i, act in enumerate(self._acts):
            active_BT1 = active_BTI[..., i, None]
            before = x
            if isinstance(act, Steer):
                x = torch.where(active_BT1, x + self._tables[i], x)
                moved = (x != before).any(dim=-1)
            else:
                x = self._scaled(x, act, self._tables[i], active_BT1)
                moved = (x != before).flatten(2).any(dim=-1)
            changed.append(moved)
        self._count(active_BTI.detach(), torch.stack(changed, dim=-1))
        return x

    def _scaled(self, x_BTHC: Tensor, act: Intervention, named_H: Tensor, active: Tensor) -> Tensor:
        assert isinstance(act, OnHeads)
        here_BTH1 = (active & named_H)[..., None]
        if act.multiplier == 0:  # whatever they give
            return x_BTHC.masked_fill(here_BTH1, 0)
        return torch.where(here_BTH1, x_BTHC * act.multiplier, x_BTHC)

    @torch.no_grad()
    def _count(self, active_BTI: Tensor, changed_BTI: Tensor) -> None:
        self._tape.show(self._add, torch.stack((active_BTI, active_BTI & changed_BTI)).sum((1, 2)))

    def _add(self, both_2I: Tensor) -> None:
        self._counts_2I = both_2I if self._counts_2I is None else self._counts_2I + both_2I

    @property
    def counts(self) -> tuple[list[int], list[int]]:
        """By intervention: tokens at which it acted, and those at which it changed something."""
        if self._counts_2I is None:
            return [0] * len(self._acts), [0] * len(self._acts)
        tokens, changed = self._counts_2I.tolist()
        return tokens, changed

    def _bring(self, x: Tensor) -> None:
        """Have directions and named heads on the device of the tensor, in its type."""
        if self._tables and self._tables[0].device == x.device:
            return
        self._tables = [bring(self._table(act, x), x.device) for act in self._acts]

    def _table(self, act: Intervention, x: Tensor) -> Tensor:
        if isinstance(act, Steer):
            return torch.from_numpy(act.vector).to(x.dtype)
        assert isinstance(act, OnHeads)
        named_H = torch.zeros(x.shape[2], dtype=torch.bool)
        named_H[list(act.ids)] = True
        return named_H
