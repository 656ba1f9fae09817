"""What a router chooses under interventions: the arithmetic, on tensors alone.

The edits of scores act at once: c′ = c + boosts, −∞ where an expert is ablated. Groups are ranked
by c′, those of boosted and forced experts first. Behind the group limit c′ is −∞ where tokens are
routed around, and +∞ where an expert is forced; the k largest run. Then come those behind the
selection, one after another.

Shape letters: N tokens, E experts, k experts a token, g groups, I interventions of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from ringlens.interventions import Ablate, Boost, Force, RouteAround, Scale, Swap
from ringlens.interventions.experts import ActsBehind, EditsScores, OnRouter
from ringlens.model.router_rule import RouterRule
from ringlens.observe.instruments.transfer import bring
from ringlens.observe.kernels.router import best, group_scores, keep_best_groups


class RouterEdits:
    """The interventions on one router as tensors, on the device that it runs on.

    Args:
        acts: The interventions, in the order in which they are given.
        rule: How the router chooses.
        device: Where.
    """

    def __init__(self, acts: Sequence[OnRouter], rule: RouterRule, device: torch.device) -> None:
        self.acts, self.rule, self.device = tuple(acts), rule, device
        self.edits = [i for i, act in enumerate(acts) if isinstance(act, EditsScores)]
        self.behind = [i for i, act in enumerate(acts) if isinstance(act, ActsBehind)]

    @cached_property
    def named_IE(self) -> Tensor:
        """Which experts each names, float32."""
        return self._table([1.0] * len(self.acts))

    @cached_property
    def edits_I(self) -> Tensor:
        """Which of them edit scores, bool."""
        flags = [isinstance(act, EditsScores) for act in self.acts]
        return bring(torch.tensor(flags), self.device)

    @cached_property
    def removed_IE(self) -> Tensor | None:
        """Experts that are taken away, bool."""
        return self._flags(Ablate)

    @cached_property
    def avoided_IE(self) -> Tensor | None:
        """Experts that tokens are routed around, bool."""
        return self._flags(RouteAround)

    @cached_property
    def forced_IE(self) -> Tensor | None:
        """Experts that are chosen in any case, bool."""
        return self._flags(Force)

    @cached_property
    def added_IE(self) -> Tensor | None:
        """What is added to the scores, float32."""
        amounts = [act.by if isinstance(act, Boost) else 0.0 for act in self.acts]
        return self._table(amounts) if any(amounts) else None

    @cached_property
    def kept_groups_Ig(self) -> Tensor | None:
        """Groups that are kept for the sake of an expert, bool."""
        wanted = self._flags(Boost, Force)
        if wanted is None or self.rule.group_score == "none":
            return None
        return wanted.unflatten(1, (self.rule.groups, -1)).any(dim=-1)

    @cached_property
    def behind_IE(self) -> dict[int, Tensor]:
        """Of those behind the selection: the expert that runs for each, or the factors, [E]."""
        E = self.rule.experts
        found: dict[int, Tensor] = {}
        for i in self.behind:
            act = self.acts[i]
            if isinstance(act, Swap):
                first, second = act.ids
                moved = torch.arange(E)
                moved[[first, second]] = moved[[second, first]]
                found[i] = bring(moved, self.device)
            elif isinstance(act, Scale):
                factors = torch.ones(E)
                factors[list(act.ids)] = act.factor
                found[i] = bring(factors, self.device)
        return found

    def _flags(self, *kinds: type) -> Tensor | None:
        chosen = [float(isinstance(act, kinds)) for act in self.acts]
        return self._table(chosen).bool() if any(chosen) else None

    def _table(self, values: Sequence[float]) -> Tensor:
        """A value of each intervention at the experts that it names, [I, E]."""
        table = torch.zeros(len(self.acts), self.rule.experts)
        for i, (act, value) in enumerate(zip(self.acts, values, strict=True)):
            table[i, list(act.ids)] = value
        return bring(table, self.device)

    def rechoose(self, scores_NE: Tensor, active_NI: Tensor) -> Tensor:
        """The experts that the router chooses from edited scores, best first [N, k].

        Args:
            scores_NE: Selection scores c, as they are.
            active_NI: Which interventions act at each token, bool.
        """
        limited_NE, _ = self._edited(scores_NE, active_NI)
        return limited_NE.topk(self.rule.experts_per_token, dim=-1).indices

    def margins(self, scores_NE: Tensor, active_NI: Tensor) -> tuple[Tensor, Tensor]:
        """What the last expert that `rechoose` gives has won by, and the last kept group, [N]."""
        limited_NE, groups_Ng = self._edited(scores_NE, active_NI)
        kept = best(groups_Ng, self.rule.groups_kept)[1]
        return best(limited_NE, self.rule.experts_per_token)[1], kept

    def _edited(self, scores_NE: Tensor, active_NI: Tensor) -> tuple[Tensor, Tensor]:
        """Edited scores [N, E] behind the group limit, and group scores [N, g]."""
        rule = self.rule
        if self.added_IE is not None:
            scores_NE = scores_NE + total(active_NI, self.added_IE).to(scores_NE.dtype)
        if self.removed_IE is not None:
            scores_NE = scores_NE.masked_fill(some(active_NI, self.removed_IE), -torch.inf)
        groups_Ng = group_scores(scores_NE, rule)
        if self.kept_groups_Ig is not None:
            groups_Ng = groups_Ng.masked_fill(some(active_NI, self.kept_groups_Ig), torch.inf)
        limited_NE = keep_best_groups(scores_NE, groups_Ng, rule)
        if self.avoided_IE is not None:
            limited_NE = limited_NE.masked_fill(some(active_NI, self.avoided_IE), -torch.inf)
        if self.forced_IE is not None:
            limited_NE = limited_NE.masked_fill(some(active_NI, self.forced_IE), torch.inf)
        return limited_NE, groups_Ng

    def act_behind(
        self, ids_Nk: Tensor, weights_Nk: Tensor, active_NI: Tensor
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """Apply what acts behind the selection.

        Returns:
            The experts that run, their weights, and by intervention the tokens [N] at which it
            changed something.
        """
        changed: dict[int, Tensor] = {}
        for i in self.behind:
            active_N1, table_E = active_NI[:, i, None], self.behind_IE[i]
            if isinstance(self.acts[i], Swap):
                moved_Nk = torch.where(active_N1, table_E[ids_Nk], ids_Nk)
                changed[i] = (moved_Nk != ids_Nk).any(dim=-1)
                ids_Nk = moved_Nk
            else:
                factor_Nk = table_E[ids_Nk].to(weights_Nk.dtype)
                scaled_Nk = torch.where(active_N1, weights_Nk * factor_Nk, weights_Nk)
                changed[i] = (scaled_Nk != weights_Nk).any(dim=-1)
                weights_Nk = scaled_Nk
        return ids_Nk, weights_Nk, changed


def some(active_NI: Tensor, table_Ix: Tensor) -> Tensor:
    """Whether an active intervention flags each expert or group, bool [N, x]."""
    if len(table_Ix) == 1:
        return active_NI & table_Ix
    return (active_NI.float() @ table_Ix.float()) > 0


def total(active_NI: Tensor, table_IE: Tensor) -> Tensor:
    """Sum of what active interventions give each expert, [N, E]."""
    if len(table_IE) == 1:
        return active_NI * table_IE
    return active_NI.double() @ table_IE.double()
