"""Counts what interventions do, without waiting for the device.

Shape letters: N tokens, E experts, k experts a token, I interventions of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ringlens.interventions import Ablate, RouteAround
from ringlens.interventions.experts import ActsBehind
from ringlens.observe.interventions.selection import RouterEdits
from ringlens.observe.kernels.router import selection_scores

STEPS = 64
"""Decoding steps that are counted together."""


@dataclass(frozen=True)
class Seen:
    """What one router did in a forward.

    Attributes:
        logits_NE: Its logits.
        bias_E: Its selection bias.
        own_Nk: The experts that it chose itself.
        ran_Nk: The experts that ran.
        active_NI: Which interventions acted at each token.
        behind: By intervention behind the selection: where it changed something, bool [N].
    """

    logits_NE: Tensor
    bias_E: Tensor
    own_Nk: Tensor
    ran_Nk: Tensor
    active_NI: Tensor
    behind: dict[int, Tensor]


@dataclass
class Counts:
    """Counts of one layer, int64.

    Attributes:
        tokens_I: Tokens at which each intervention acted.
        changed_I: Those at which it changed something.
        barred_I: Those at which an expert that it names was among the k best of all, but outside
            the groups that the router keeps.
        displaced_E: Tokens that lost an expert which the router had chosen.
        gained_E: Tokens at which an expert ran that the router had not chosen.
        differ: Tokens at which other experts ran than the router had chosen.
    """

    tokens_I: Tensor
    changed_I: Tensor
    barred_I: Tensor
    displaced_E: Tensor
    gained_E: Tensor
    differ: Tensor

    def __add__(self, other: Counts) -> Counts:
        names = [each.name for each in fields(self)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})


class RouterTally:
    """Counts of one layer's router; short forwards wait and are counted together."""

    def __init__(self, edits: RouterEdits) -> None:
        self._edits = edits
        self._waiting: list[Seen] = []
        self._last: Counts | None = None
        self._total: Counts | None = None

    def add(self, seen: Seen, again: bool = False) -> None:
        """Count a forward; ``again`` in place of the one counted last."""
        long = len(seen.own_Nk) >= 2 * STEPS
        if again:
            if self._last is not None:
                self._last = None
            elif self._waiting:
                self._waiting.pop()
        else:
            self._settle()
        if long:
            self._last = count(self._edits, seen)
            return
        if len(self._waiting) >= STEPS:
            self._count_waiting()
        self._waiting.append(seen)

    @property
    def counts(self) -> Counts | None:
        """All that was counted; None where nothing ran."""
        self._settle()
        self._count_waiting()
        return self._total

    def _settle(self) -> None:
        if self._last is not None:
            self._total = self._last if self._total is None else self._total + self._last
            self._last = None

    def _count_waiting(self) -> None:
        if not self._waiting:
            return
        waiting, first = self._waiting, self._waiting[0]
        joined = Seen(
            torch.cat([seen.logits_NE for seen in waiting]),
            first.bias_E,
            torch.cat([seen.own_Nk for seen in waiting]),
            torch.cat([seen.ran_Nk for seen in waiting]),
            torch.cat([seen.active_NI for seen in waiting]),
            {i: torch.cat([seen.behind[i] for seen in waiting]) for i in first.behind},
        )
        self._waiting.clear()
        found = count(self._edits, joined)
        self._total = found if self._total is None else self._total + found


@torch.no_grad()
def count(edits: RouterEdits, seen: Seen) -> Counts:
    """Count what a router did."""
    scores_NE = selection_scores(seen.logits_NE.float(), seen.bias_E, edits.rule)
    best_Nk = scores_NE.topk(edits.rule.experts_per_token, dim=-1).indices
    own_NE, ran_NE, best_NE = (
        torch.zeros_like(scores_NE).scatter_(1, ids_Nk, 1.0)
        for ids_Nk in (seen.own_Nk, seen.ran_Nk, best_Nk)
    )
    lost_NE, new_NE = own_NE * (1 - ran_NE), ran_NE * (1 - own_NE)
    named_EI = edits.named_IE.T
    chosen_NI, gained_NI = own_NE @ named_EI > 0, new_NE @ named_EI > 0
    changed = []
    for i, act in enumerate(edits.acts):
        if isinstance(act, ActsBehind):
            changed.append(seen.behind[i])
        elif isinstance(act, Ablate | RouteAround):
            changed.append(chosen_NI[:, i])
        else:
            changed.append(gained_NI[:, i])
    active_NI = seen.active_NI
    barred_NI = (best_NE * (1 - own_NE)) @ named_EI > 0
    return Counts(
        tokens_I=active_NI.sum(0),
        changed_I=(active_NI & torch.stack(changed, dim=1)).sum(0),
        barred_I=(active_NI & barred_NI).sum(0),
        displaced_E=lost_NE.sum(0).long(),
        gained_E=new_NE.sum(0).long(),
        differ=lost_NE.any(dim=-1).sum(),
    )
