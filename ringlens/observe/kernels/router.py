"""The canonical router record: what was chosen and why, from logits, bias and group limit alone.

z router logits, s = sigmoid(z) affinities, b expert bias, c = s + b selection scores. A group's
score is the sum of its two best c; the ``groups_kept`` best groups stay; the k best c inside them
are chosen, and their weights come from s (published modelling code of the Ring family).

Shape letters: N tokens, E experts, k experts a token, g groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ringlens.errors import ObservationError
from ringlens.model.router_rule import RouterRule
from ringlens.observe.kernels.triton_available import triton_installed

# Two scores closer than this may change places between one way of rounding and another.
TIE = 1e-6


@dataclass(frozen=True)
class RouterRecord:
    """What one router did, a row a token; field by field as in ``store/records.py``.

    ``same_N`` says whether the choice recomputed from the logits is the model's.
    """

    expert_ids_Nk: Tensor
    weights_Nk: Tensor
    affinities_Nk: Tensor
    margin_N: Tensor
    group_margin_N: Tensor
    bias_flips_Nk: Tensor
    unlimited_ids_Nk: Tensor
    group_flips_Nk: Tensor
    entropy_N: Tensor
    same_N: Tensor


def limit_groups(scores_NE: Tensor, spec: RouterRule) -> tuple[Tensor, Tensor]:
    """Apply the group limit to selection scores.

    Returns:
        Scores [N, E] with −inf in rejected groups, and group scores [N, g].
    """
    grouped = scores_NE.unflatten(1, (spec.groups, -1))
    group_scores_Ng = grouped.topk(2, dim=-1).values.sum(dim=-1)
    kept = group_scores_Ng.topk(spec.groups_kept, dim=-1).indices
    rejected_Ng = torch.ones_like(group_scores_Ng, dtype=torch.bool).scatter_(1, kept, False)
    return grouped.masked_fill(rejected_Ng[..., None], -torch.inf).flatten(1), group_scores_Ng


def choose(scores_NE: Tensor, spec: RouterRule) -> Tensor:
    """Expert ids [N, k] that the router chooses for selection scores c, best first."""
    return limit_groups(scores_NE, spec)[0].topk(spec.experts_per_token, dim=-1).indices


def contains(ids_Nk: Tensor, others_Nk: Tensor) -> Tensor:
    """For each of ``ids`` [N, k]: is it among ``others`` of the same row? [N, k] bool."""
    return (ids_Nk[:, :, None] == others_Nk[:, None, :]).any(dim=-1)


def best(scores_Nx: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The ``kept`` best of each row, and what the last of them won by.

    Returns:
        Indices [N, kept], best first, and the score of rank ``kept`` minus that of the next [N];
        inf where nothing is left to lose.
    """
    more = min(kept + 1, scores_Nx.shape[1])
    values, indices = scores_Nx.topk(more, dim=-1)
    if more == kept:
        return indices, torch.full_like(values[:, 0], torch.inf)
    return indices[:, :kept], values[:, kept - 1] - values[:, kept]


def router_record(
    logits_NE: Tensor, weights_Nk: Tensor, ids_Nk: Tensor, bias_E: Tensor, spec: RouterRule
) -> RouterRecord:
    """Say what a router chose and why.

    The choice is recomputed from the logits and must be the one the model made: this catches a
    router whose outputs come in another order, or that was changed by a hook. Nothing here waits
    for the device, so the check is a step of its own: `refuse_other_choice`.

    Args:
        logits_NE: Router logits z.
        weights_Nk: The model's routing weights, in the order of ``ids_Nk``.
        ids_Nk: The model's chosen experts, in any order.
        bias_E: Expert bias b.
        spec: Constants of the router.
    """
    if logits_NE.is_cuda and triton_installed():
        from ringlens.observe.kernels.router_triton import record_rows

        return record_rows(logits_NE, weights_Nk, ids_Nk, bias_E, spec)
    return torch_record(logits_NE, weights_Nk, ids_Nk, bias_E, spec)


def torch_record(
    logits_NE: Tensor, weights_Nk: Tensor, ids_Nk: Tensor, bias_E: Tensor, spec: RouterRule
) -> RouterRecord:
    """`router_record` in torch alone: what the kernel is held to, and the way of the CPU."""
    logits_NE, weights_Nk = logits_NE.float(), weights_Nk.float()
    affinity_NE = logits_NE.sigmoid()
    scores_NE = affinity_NE + bias_E.to(affinity_NE)
    limited_NE, group_scores_Ng = limit_groups(scores_NE, spec)
    k = spec.experts_per_token
    again_Nk, margin_N = best(limited_NE, k)
    group_margin_N = best(group_scores_Ng, spec.groups_kept)[1]
    same_N = contains(ids_Nk, again_Nk).all(dim=-1)

    order = weights_Nk.argsort(dim=-1, descending=True, stable=True)
    ids_Nk = ids_Nk.gather(1, order)
    unlimited_Nk = scores_NE.topk(k, dim=-1).indices
    share_NE = affinity_NE / affinity_NE.sum(dim=-1, keepdim=True)
    return RouterRecord(
        expert_ids_Nk=ids_Nk,
        weights_Nk=weights_Nk.gather(1, order),
        affinities_Nk=affinity_NE.gather(1, ids_Nk),
        margin_N=margin_N,
        group_margin_N=group_margin_N,
        bias_flips_Nk=~contains(ids_Nk, choose(affinity_NE, spec)),
        unlimited_ids_Nk=unlimited_Nk,
        group_flips_Nk=limited_NE.gather(1, unlimited_Nk) == -torch.inf,
        entropy_N=torch.special.entr(share_NE).sum(dim=-1),
        same_N=same_N,
    )


def refuse_other_choice(same_N: Tensor, margin_N: Tensor, ids_Nk: Tensor) -> None:
    """Raise ObservationError where a choice differs from the recomputed one and is no tie."""
    wrong = (~same_N) & (margin_N > TIE)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ObservationError(
            f"the router's choice {ids_Nk[row].tolist()} for token {row} does not follow from its "
            f"logits ({int(wrong.sum())} of {len(wrong)} tokens). Something replaces the router's "
            "output, or its outputs are not (logits, weights, ids); detach other hooks and retry."
        )


def rounded_logits(
    logits_NE: Tensor, margin_N: Tensor, group_margin_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits rounded to fp16 where that cannot change the choice, and the other rows [N] bool.

    Rounding moves z by at most |z|/2¹¹, so s by at most max |z|·s'(z) / 2¹¹ < 1.1e-4: two scores
    come closer by less than 2.2e-4, two group scores (sums of two) by less than 4.4e-4.
    """
    logits_NE = logits_NE.float()
    rounded_NE = logits_NE.half().float()
    beyond_half_N = rounded_NE.isinf().any(dim=-1)
    doubtful_N = (margin_N < 2.5e-4) | (group_margin_N < 5e-4) | beyond_half_N
    return torch.where(doubtful_N[:, None], logits_NE, rounded_NE), doubtful_N


def storable_logits(logits_NE: Tensor, ids_Nk: Tensor, bias_E: Tensor, spec: RouterRule) -> Tensor:
    """Logits as they are stored: rounded to fp16 wherever that leaves the choice as it was.

    Rows whose choice rounding would change keep float32. Where even float32 is a tie that float64
    breaks the other way, the winners are lifted by the smallest power of two of float32's precision
    that makes the choice recomputed in float64 the recorded one. (Affinities that float32 rounds to
    exactly 1 stay tied: no small lift tells them apart.)

    Args:
        logits_NE: Router logits.
        ids_Nk: The recorded choice.
        bias_E: Expert bias.
        spec: Constants of the router.

    Returns:
        float32 [N, E].

    Raises:
        ObservationError: No tie explains a choice: it is not this router's.
    """
    logits_NE = logits_NE.float()
    stored_NE = logits_NE.half().float()
    too_large = stored_NE.isinf().any(dim=-1)
    stored_NE[too_large] = logits_NE[too_large]
    rows = _rows_that_differ(stored_NE, ids_Nk, bias_E, spec)
    for power in (None, *range(14)):
        if not len(rows):
            return stored_NE
        stored_NE[rows] = logits_NE[rows]
        if power is not None:
            precision = torch.finfo(torch.float32).eps * logits_NE[rows].abs().clamp(min=1)
            lift = _winners(logits_NE[rows], ids_Nk[rows], bias_E, spec)
            stored_NE[rows] += lift * precision * 2**power
        rows = rows[_rows_that_differ(stored_NE[rows], ids_Nk[rows], bias_E, spec)]
    stored_NE[rows] = logits_NE[rows]
    limited_NE, groups_Ng = limit_groups(logits_NE[rows].sigmoid() + bias_E.to(logits_NE), spec)
    margin_N = torch.minimum(
        best(limited_NE, spec.experts_per_token)[1], best(groups_Ng, spec.groups_kept)[1]
    )
    refuse_other_choice(torch.zeros_like(rows, dtype=torch.bool), margin_N, ids_Nk[rows])
    return stored_NE


def _winners(logits_NE: Tensor, ids_Nk: Tensor, bias_E: Tensor, spec: RouterRule) -> Tensor:
    """How much to lift each expert [N, E]: kept groups, above them chosen groups and experts."""
    limited_NE, _ = limit_groups(logits_NE.sigmoid() + bias_E.to(logits_NE), spec)
    chosen_NE = torch.zeros_like(logits_NE).scatter_(1, ids_Nk, 1.0)
    in_chosen_group = chosen_NE.unflatten(1, (spec.groups, -1)).amax(dim=-1, keepdim=True)
    group_NE = in_chosen_group.expand(-1, -1, spec.experts // spec.groups).flatten(1)
    return (limited_NE > -torch.inf).float() + 2 * group_NE + chosen_NE


def _rows_that_differ(
    logits_NE: Tensor, ids_Nk: Tensor, bias_E: Tensor, spec: RouterRule
) -> Tensor:
    """Indices of rows whose choice, recomputed in float64, is not ``ids_Nk``."""
    chosen_Nk = choose(logits_NE.double().sigmoid() + bias_E.to(logits_NE).double(), spec)
    return (~contains(ids_Nk, chosen_Nk).all(dim=-1)).nonzero().flatten()
