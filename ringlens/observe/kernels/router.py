"""The canonical router record: what was chosen and why, from logits, bias and group limit alone.

z router logits, s affinities, b selection bias, c selection scores. What each is, and how groups
are limited, says the model's rule (`ringlens.model.router_rule`). Here stands every rule in torch;
`router_triton` has a kernel for those that `has_kernel` names.

Shape letters: N tokens, E experts, k experts a token, g groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ringlens.errors import ObservationError
from ringlens.model.router_rule import RouterRule

# Two scores closer than this may change places between one way of rounding and another.
TIE = 1e-6


def has_kernel(rule: RouterRule) -> bool:
    """Whether the Triton kernel computes this rule; all others take `torch_record`."""
    groups = rule.group_score == "sum_of_two" or rule.groups == 1
    return rule.score == "sigmoid" and rule.bias == "scores" and groups


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


def affinities(logits_NE: Tensor, rule: RouterRule) -> Tensor:
    """Affinities s [N, E] of logits z, in their dtype."""
    if rule.score == "sigmoid":
        return logits_NE.sigmoid()
    if rule.score == "sqrt_softplus":
        return torch.nn.functional.softplus(logits_NE).sqrt()
    return logits_NE.softmax(dim=-1)


def unbiased_scores(logits_NE: Tensor, rule: RouterRule) -> Tensor:
    """Selection scores c [N, E] were there no selection bias."""
    return logits_NE if rule.score == "softmax_chosen" else affinities(logits_NE, rule)


def selection_scores(logits_NE: Tensor, bias_E: Tensor, rule: RouterRule) -> Tensor:
    """Selection scores c [N, E]; where the rule has no bias, ``bias_E`` is not looked at."""
    if rule.bias == "logits":
        return unbiased_scores(logits_NE + bias_E.to(logits_NE), rule)
    scores_NE = unbiased_scores(logits_NE, rule)
    return scores_NE + bias_E.to(scores_NE) if rule.bias == "scores" else scores_NE


def group_scores(scores_NE: Tensor, rule: RouterRule) -> Tensor:
    """What ranks the groups [N, g] for selection scores c; zeros [N, 1] where there are none."""
    if rule.group_score == "none":
        return torch.zeros_like(scores_NE[:, :1])
    grouped = scores_NE.unflatten(1, (rule.groups, -1))
    if rule.group_score == "maximum":
        return grouped.amax(dim=-1)
    return grouped.topk(2, dim=-1).values.sum(dim=-1)


def limit_groups(scores_NE: Tensor, rule: RouterRule) -> tuple[Tensor, Tensor]:
    """Apply the group limit to selection scores.

    Returns:
        Scores [N, E] with −inf in rejected groups, and group scores [N, g] (zeros [N, 1] where the
        rule has no groups).
    """
    group_scores_Ng = group_scores(scores_NE, rule)
    return keep_best_groups(scores_NE, group_scores_Ng, rule), group_scores_Ng


def keep_best_groups(scores_NE: Tensor, group_scores_Ng: Tensor, rule: RouterRule) -> Tensor:
    """Selection scores [N, E] with −inf outside the best groups by ``group_scores`` [N, g]."""
    if rule.group_score == "none":
        return scores_NE
    grouped = scores_NE.unflatten(1, (rule.groups, -1))
    kept = group_scores_Ng.topk(rule.groups_kept, dim=-1).indices
    rejected_Ng = torch.ones_like(group_scores_Ng, dtype=torch.bool).scatter_(1, kept, False)
    return grouped.masked_fill(rejected_Ng[..., None], -torch.inf).flatten(1)


def choose(scores_NE: Tensor, rule: RouterRule) -> Tensor:
    """Expert ids [N, k] that the router chooses for selection scores c, best first."""
    return limit_groups(scores_NE, rule)[0].topk(rule.experts_per_token, dim=-1).indices


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


def torch_record(
    logits_NE: Tensor, weights_Nk: Tensor, ids_Nk: Tensor, bias_E: Tensor, rule: RouterRule
) -> RouterRecord:
    """Say what a router chose and why, for any rule.

    The choice is recomputed from the logits and must be the one the model made: this catches a
    router whose outputs come in another order, or that was changed by a hook. Nothing here waits
    for the device, so the check is a step of its own: `refuse_other_choice`.

    Args:
        logits_NE: Router logits z.
        weights_Nk: The model's routing weights, in the order of ``ids_Nk``.
        ids_Nk: The model's chosen experts, in any order.
        bias_E: Selection bias b.
        rule: How the router chooses.
    """
    logits_NE, weights_Nk = logits_NE.float(), weights_Nk.float()
    affinity_NE = affinities(logits_NE, rule)
    scores_NE = selection_scores(logits_NE, bias_E, rule)
    limited_NE, group_scores_Ng = limit_groups(scores_NE, rule)
    k = rule.experts_per_token
    again_Nk, margin_N = best(limited_NE, k)
    group_margin_N = best(group_scores_Ng, rule.groups_kept)[1]
    same_N = contains(ids_Nk, again_Nk).all(dim=-1)

    order = weights_Nk.argsort(dim=-1, descending=True, stable=True)
    ids_Nk = ids_Nk.gather(1, order)
    unlimited_Nk = scores_NE.topk(k, dim=-1).indices
    share_NE = affinity_NE / affinity_NE.sum(dim=-1, keepdim=True)
    # What does not exist causes nothing, not even in ties.
    bias_flips_Nk = group_flips_Nk = torch.zeros_like(ids_Nk, dtype=torch.bool)
    if rule.bias != "none":
        bias_flips_Nk = ~contains(ids_Nk, choose(unbiased_scores(logits_NE, rule), rule))
    if rule.group_score != "none":
        group_flips_Nk = limited_NE.gather(1, unlimited_Nk) == -torch.inf
    return RouterRecord(
        expert_ids_Nk=ids_Nk,
        weights_Nk=weights_Nk.gather(1, order),
        # An id that is no expert's is refused later, as not the same; a GPU must not read there.
        affinities_Nk=affinity_NE.gather(1, ids_Nk.clamp(0, rule.experts - 1)),
        margin_N=margin_N,
        group_margin_N=group_margin_N,
        bias_flips_Nk=bias_flips_Nk,
        unlimited_ids_Nk=unlimited_Nk,
        group_flips_Nk=group_flips_Nk,
        entropy_N=torch.special.entr(share_NE).sum(dim=-1),
        same_N=same_N,
    )


def tie_margins(
    margin_N: Tensor, group_margin_N: Tensor, least_N: Tensor, rule: RouterRule
) -> Tensor:
    """What `refuse_other_choice` holds against TIE, [N].

    Shares of a softmax may all be tiny, and are compared as shares of the least chosen one.
    """
    smaller_N = torch.minimum(margin_N, group_margin_N)
    return smaller_N / least_N if rule.score == "softmax" else smaller_N


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


def refuse_other_run(meant_N: Tensor, ids_Nk: Tensor) -> None:
    """Raise ObservationError where other experts run than interventions meant to."""
    if not meant_N.all():
        row = int((~meant_N).nonzero()[0])
        raise ObservationError(
            f"the experts {ids_Nk[row].tolist()} that run for token {row} are not those that the "
            "interventions give. Something else replaces the router's output; detach other hooks "
            "and retry."
        )


def unrounded_logits(logits_NE: Tensor, ids_Nk: Tensor, bias_E: Tensor, rule: RouterRule) -> Tensor:
    """Logits as they are, but for ties that float64 would break the other way.

    For rows in which interventions edit scores: rounding could change what was chosen from these.
    Arguments, result and refusals are those of `storable_logits`.
    """
    logits_NE = logits_NE.float().clone()
    rows = _rows_that_differ(logits_NE, ids_Nk, bias_E, rule)
    if len(rows):
        logits_NE[rows] = storable_logits(logits_NE[rows], ids_Nk[rows], bias_E, rule)
    return logits_NE


def rounded_logits(
    logits_NE: Tensor, margin_N: Tensor, group_margin_N: Tensor, rule: RouterRule
) -> tuple[Tensor, Tensor]:
    """Logits rounded to fp16 where that cannot change the choice, and the other rows [N] bool."""
    logits_NE = logits_NE.float()
    rounded_NE = logits_NE.half().float()
    beyond_half_N = rounded_NE.isinf().any(dim=-1)
    close, groups_close = _closest(logits_NE, rule)
    doubtful_N = (margin_N < close) | (group_margin_N < groups_close) | beyond_half_N
    return torch.where(doubtful_N[:, None], logits_NE, rounded_NE), doubtful_N


def _closest(logits_NE: Tensor, rule: RouterRule) -> tuple[Tensor | float, Tensor | float]:
    """Margins of experts and of groups below which rounding logits to fp16 may change the choice.

    Rounding moves z by at most ε = |z|/2¹¹ (2⁻²⁵ for tiny z). For sigmoid scores s moves by at most
    max |z|·s'(z) / 2¹¹ < 1.1e-4, whatever z: two scores come closer by less than 2.2e-4, two group
    scores (sums of two) by less than 4.4e-4. Other scores move by at most slope · max ε: the
    absolute derivatives of a softmax add up to 2s(1 − s) ≤ 1/2, that of √softplus is below 1/3, and
    compared logits themselves have slope 1.
    """
    if rule.score == "sigmoid" and rule.bias != "logits":
        return 2.5e-4, 5e-4
    slope = 1.0 if rule.score == "softmax_chosen" else 0.5
    moved_N = slope * (logits_NE.abs().amax(dim=-1) / 2**11 + 2**-25)
    close_N = 2.2 * moved_N + 1e-6  # and what float32 rounds
    return close_N, 2 * close_N


def storable_logits(logits_NE: Tensor, ids_Nk: Tensor, bias_E: Tensor, rule: RouterRule) -> Tensor:
    """Logits as they are stored: rounded to fp16 wherever that leaves the choice as it was.

    Rows whose choice rounding would change keep float32. Where even float32 is a tie that float64
    breaks the other way, the winners are lifted by the smallest power of two of float32's precision
    that makes the choice recomputed in float64 the recorded one. (Affinities that float32 rounds to
    exactly 1 stay tied: no small lift tells them apart.)

    Args:
        logits_NE: Router logits.
        ids_Nk: The recorded choice.
        bias_E: Selection bias.
        rule: How the router chooses.

    Returns:
        float32 [N, E].

    Raises:
        ObservationError: No tie explains a choice: it is not this router's.
    """
    logits_NE = logits_NE.float()
    stored_NE = logits_NE.half().float()
    too_large = stored_NE.isinf().any(dim=-1)
    stored_NE[too_large] = logits_NE[too_large]
    rows = _rows_that_differ(stored_NE, ids_Nk, bias_E, rule)
    for power in (None, *range(14)):
        if not len(rows):
            return stored_NE
        stored_NE[rows] = logits_NE[rows]
        if power is not None:
            precision = torch.finfo(torch.float32).eps * logits_NE[rows].abs().clamp(min=1)
            lift = _winners(logits_NE[rows], ids_Nk[rows], bias_E, rule)
            stored_NE[rows] += lift * precision * 2**power
        rows = rows[_rows_that_differ(stored_NE[rows], ids_Nk[rows], bias_E, rule)]
    stored_NE[rows] = logits_NE[rows]
    limited_NE, groups_Ng = limit_groups(selection_scores(logits_NE[rows], bias_E, rule), rule)
    least_N = affinities(logits_NE[rows], rule).gather(1, ids_Nk[rows]).amin(dim=-1)
    margin_N = tie_margins(
        best(limited_NE, rule.experts_per_token)[1],
        best(groups_Ng, rule.groups_kept)[1],
        least_N,
        rule,
    )
    refuse_other_choice(torch.zeros_like(rows, dtype=torch.bool), margin_N, ids_Nk[rows])
    return stored_NE


def _winners(logits_NE: Tensor, ids_Nk: Tensor, bias_E: Tensor, rule: RouterRule) -> Tensor:
    """How much to lift each expert [N, E]: kept groups, above them chosen groups and experts."""
    limited_NE, _ = limit_groups(selection_scores(logits_NE, bias_E, rule), rule)
    chosen_NE = torch.zeros_like(logits_NE).scatter_(1, ids_Nk, 1.0)
    in_chosen_group = chosen_NE.unflatten(1, (rule.groups, -1)).amax(dim=-1, keepdim=True)
    group_NE = in_chosen_group.expand(-1, -1, rule.experts // rule.groups).flatten(1)
    return (limited_NE > -torch.inf).float() + 2 * group_NE + chosen_NE


def _rows_that_differ(
    logits_NE: Tensor, ids_Nk: Tensor, bias_E: Tensor, rule: RouterRule
) -> Tensor:
    """Indices of rows whose choice, recomputed in float64, is not ``ids_Nk``."""
    chosen_Nk = choose(selection_scores(logits_NE.double(), bias_E, rule), rule)
    return (~contains(ids_Nk, chosen_Nk).all(dim=-1)).nonzero().flatten()
