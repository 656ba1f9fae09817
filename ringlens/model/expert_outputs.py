"""What each chosen expert gives, before the routing weights mix it.

A module of experts returns the mixture alone. Modules that show the outputs themselves (Ring's, in
both layouts) run as ever, and what they compute does not change by a bit. Any other module that
takes (hidden states, ids, weights) is run with one choice a row, and mixed outside.

Shape letters: N tokens, k experts a token, D hidden size, S some of the N·k choices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ringlens.model.kernels.experts import IN_PLACE, computed
from ringlens.model.kernels.rows import norms_and_peaks
from ringlens.model.parallel import parallel_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Forward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Mixes the experts: hidden states [N, D], ids and weights [N, k] → [N, D]."""

Show = Callable[[Tensor, Tensor], None]
"""Takes outputs [S, D], and the place of each among the N·k choices [S]."""

See = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Takes ids and weights [N, k], then L2 norms and largest magnitudes of the outputs [N, k]."""

WATCHED = "ringlens_shows_outputs"
# Numbers of partial outputs that are summed over processes at a time.
AT_ONCE = 2**26


def watcher_of(experts: nn.Module) -> Show | None:
    """Who wants to see the outputs that a module computes; None where nobody watches."""
    found: Show | None = experts.__dict__.get(WATCHED)
    return found


class OutputWatch:
    """Calls a function with the norms of all chosen experts' outputs, at each forward.

    In a model that is spread over processes all of them must watch the same modules: each has a
    part of every output (tensor parallelism), or the outputs of some experts (expert parallelism).
    The numbers are those of whole outputs, on every process.

    Args:
        model: The model.
        experts: One of its modules of experts.
        see: The function, as `See` says; float32.
    """

    def __init__(self, model: PreTrainedModel, experts: nn.Module, see: See) -> None:
        self.experts, self.see = experts, see
        layout = parallel_of(model)
        inside = getattr(experts, "shows_outputs", False)
        self._shares = inside and layout.ep_size > 1
        self._parts = inside and layout.tp_size > 1 and not self._shares
        self._numbers = torch.empty(0)
        self._before = experts.__dict__.get("forward")
        self._forward: Forward = experts.forward
        if inside:
            experts.__dict__[WATCHED] = self._show
        experts.__dict__["forward"] = self._inside if inside else self._outside

    def remove(self) -> None:
        """Watch no more."""
        kept = self.experts.__dict__
        kept.pop(WATCHED, None)
        kept.pop("forward")
        if self._before is not None:
            kept["forward"] = self._before

    def _inside(self, hidden_ND: Tensor, ids_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
        self._begin(ids_Nk)
        mixed = self._forward(hidden_ND, ids_Nk, weights_Nk)
        self._end(ids_Nk, weights_Nk)
        return mixed

    def _outside(self, hidden_ND: Tensor, ids_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
        self._begin(ids_Nk)
        mixed = one_choice_a_row(self._forward, self._show, hidden_ND, ids_Nk, weights_Nk)
        self._end(ids_Nk, weights_Nk)
        return mixed

    def _begin(self, ids_Nk: Tensor) -> None:
        self._numbers = torch.zeros(2, ids_Nk.numel(), device=ids_Nk.device)

    def _show(self, output_SD: Tensor, choice_S: Tensor) -> None:
        if self._parts:
            output_SD = _summed(output_SD)
        self._numbers[:, choice_S] = norms_and_peaks(output_SD)

    def _end(self, ids_Nk: Tensor, weights_Nk: Tensor) -> None:
        if self._shares:  # the outputs of experts elsewhere are zeros here
            _sum_in_place(self._numbers)
        norm_Nk, peak_Nk = self._numbers.view(2, *ids_Nk.shape)
        self._numbers = torch.empty(0)
        self.see(ids_Nk, weights_Nk, norm_Nk, peak_Nk)


def one_choice_a_row(
    forward: Forward,
    show: Show,
    hidden_ND: Tensor,
    ids_Nk: Tensor,
    weights_Nk: Tensor,
    experts: int | None = None,
) -> Tensor:
    """Mix experts whose module does not show their outputs: a row for each choice, weighed later.

    Args:
        forward: The module's.
        show: Takes the outputs.
        hidden_ND: Hidden states.
        ids_Nk: Chosen experts.
        weights_Nk: Their weights.
        experts: Ids from here on are experts of other processes; None: there are none.
    """
    N, k = ids_Nk.shape
    here_Nk = torch.ones_like(ids_Nk) if experts is None else ids_Nk < experts
    rows = hidden_ND.repeat_interleave(k, dim=0), ids_Nk.reshape(-1, 1)
    output_SD = forward(*rows, here_Nk.reshape(-1, 1).to(weights_Nk.dtype))
    show(output_SD, torch.arange(N * k, device=ids_Nk.device))
    weighted_NkD = output_SD.unflatten(0, (N, k)).to(weights_Nk.dtype) * weights_Nk.unsqueeze(-1)
    return weighted_NkD.sum(dim=1).to(hidden_ND.dtype)


def shown_by_kernel(
    module: Any,
    forward: Forward,
    hidden_ND: Tensor,
    ids_Nk: Tensor,
    weights_Nk: Tensor,
    experts: int,
) -> Tensor:
    """Run transformers' kernel of a fused module, and show the outputs to who watches it.

    The grouped and the batched kernel, and ours in place of both, have a place where outputs are
    whole and not weighed yet: that of a norm of the outputs, which some families have. Others mix
    inside one launch.

    Args:
        module: A module that ``use_experts_implementation`` decorates.
        forward: Its forward, which looks the kernel up.
        hidden_ND: Hidden states.
        ids_Nk: Chosen experts, as numbers in this process.
        weights_Nk: Their weights.
        experts: Ids from here on are experts of other processes.
    """
    show, kernel = watcher_of(module), module.config._experts_implementation
    if show is None or kernel == "eager":  # which shows them itself
        return forward(hidden_ND, ids_Nk, weights_Nk)
    # Before transformers 5.24 modules had no such place, and would show nothing.
    has_place = hasattr(module, "has_post_expert_norm")
    if kernel not in ("grouped_mm", "batched_mm", IN_PLACE) or not has_place:
        return one_choice_a_row(forward, show, hidden_ND, ids_Nk, weights_Nk, experts)
    flat = ids_Nk.reshape(-1)
    if kernel == IN_PLACE:
        choice_S = computed(module, ids_Nk)
    else:  # in the order in which the grouped kernel sorts the same ids
        in_turn = torch.arange(len(flat), device=flat.device)
        choice_S = in_turn if kernel == "batched_mm" else flat.sort()[1]

    def seen(output_SD: Tensor) -> Tensor:
        elsewhere_S = flat[choice_S] >= experts
        show(output_SD.masked_fill(elsewhere_S[:, None], 0.0) if sharded else output_SD, choice_S)
        return output_SD

    sharded = module._is_expert_parallel
    module.has_post_expert_norm, module.post_expert_norm = True, seen
    try:
        return forward(hidden_ND, ids_Nk, weights_Nk)
    finally:
        module.has_post_expert_norm = False
        del module.post_expert_norm


def _summed(part_SD: Tensor) -> Tensor:
    """The sum of all processes' parts of outputs."""
    whole_SD = part_SD.clone()
    for rows in whole_SD.split(max(1, AT_ONCE // whole_SD.shape[1])):
        _sum_in_place(rows)
    return whole_SD


def _sum_in_place(numbers: Tensor) -> None:
    import torch.distributed as dist

    dist.all_reduce(numbers)
