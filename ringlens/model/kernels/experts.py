"""Experts "ringlens" for transformers: no weights are copied, and no choices of others computed.

After the prompt ``generate`` switches experts from the grouped kernel to ``batched_mm``, which
copies the weights of each row's experts: 805 MB a row and layer at Ring-1T's width. Under this name
nothing is switched. A few tokens on CUDA run the kernels of experts_triton.py; all else runs
transformers' grouped kernel, which copies nothing either but is made for many.

Under expert parallelism that kernel gathers, weighs and masks the choices of all processes in each
of them. Here those of other processes are left out first.

Shape letters: N tokens, k experts a token, D hidden size, S choices of this process's experts,
E experts of this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.integrations import moe

from ringlens.model.kernels.triton_available import triton_installed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IN_PLACE = "ringlens"
# Choices that run in the kernels: what one program lays out.
MOST_CHOICES = 1024


def read_experts_in_place(model: PreTrainedModel) -> None:
    """Have a model's experts run as "ringlens" where they would be grouped, and can.

    Args:
        model: A model that has whole experts in this process: all of a layer, or its share.
    """
    if getattr(model.config, "_experts_implementation", None) != "grouped_mm":
        return
    found = [module for module in model.modules() if hasattr(module, "has_post_expert_norm")]
    shared = all(module._is_expert_parallel for module in found)
    if found and all(map(_served, found)) and (shared or triton_installed()):
        moe.ExpertsInterface.register(IN_PLACE, in_place)
        model.set_experts_implementation(IN_PLACE)


def in_place(module: Any, hidden_ND: Tensor, ids_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
    """Sum of w·expert(h) over the chosen experts, [N, D]; of those of this process."""
    if module._is_expert_parallel and not are_few(ids_Nk):
        return own_choices(module, hidden_ND, ids_Nk, weights_Nk)
    if module._is_expert_parallel or not are_few(ids_Nk):
        mixed_ND: Tensor = moe.grouped_mm_experts_forward(module, hidden_ND, ids_Nk, weights_Nk)
        return mixed_ND
    from ringlens.model.kernels.experts_triton import expert_outputs, mixed

    output_SD = expert_outputs(hidden_ND, ids_Nk, module.gate_up_proj, module.down_proj)
    if module.has_post_expert_norm:
        output_SD = module.post_expert_norm(output_SD)
    return mixed(output_SD, weights_Nk)


def own_choices(module: Any, hidden_ND: Tensor, ids_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
    """Sum of w·expert(h) over the chosen experts of this process, [N, D], by grouped products.

    How many there are is read from the device. Products are added in the weights' dtype, those of
    a token in the order of its choices.

    Args:
        module: A module of fused experts.
        hidden_ND: Hidden states.
        ids_Nk: Chosen experts; E stands for those of other processes.
        weights_Nk: Their weights.
    """
    choice_S, k = computed(module, ids_Nk), ids_Nk.shape[1]
    if not len(choice_S):
        return torch.zeros_like(hidden_ND)
    E = len(module.gate_up_proj)
    numbers_E = torch.arange(E, device=ids_Nk.device)
    ends_E = torch.searchsorted(ids_Nk.flatten()[choice_S], numbers_E, right=True, out_int32=True)
    up = moe._grouped_linear(hidden_ND[choice_S // k], module.gate_up_proj, ends_E)
    output_SD = moe._grouped_linear(module._apply_gate(up), module.down_proj, ends_E)
    if module.has_post_expert_norm:
        output_SD = module.post_expert_norm(output_SD)
    weighted_SD = output_SD * weights_Nk.flatten()[choice_S, None]
    of_token_N = (ids_Nk < E).sum(dim=1)
    begins_N = of_token_N.cumsum(dim=0) - of_token_N
    # index_add_ would add in no certain order on CUDA.
    mixed_ND = F.embedding_bag(choice_S.argsort(), weighted_SD, begins_N, mode="sum")
    return mixed_ND.to(hidden_ND.dtype)


def computed(module: Any, ids_Nk: Tensor) -> Tensor:
    """The choices whose outputs `in_place` computes, in its order: places among all N·k."""
    flat = ids_Nk.flatten()
    if not module._is_expert_parallel and are_few(ids_Nk):
        return torch.arange(len(flat), device=flat.device)
    by_expert = flat.sort()[1]  # as transformers sorts them
    if not module._is_expert_parallel or are_few(ids_Nk):
        return by_expert
    return by_expert[: int((flat < len(module.gate_up_proj)).sum())]  # the rest stands last


def are_few(ids_Nk: Tensor) -> bool:
    """Whether a GPU is given few choices: as in a decoding step, which must not wait for it."""
    return ids_Nk.is_cuda and ids_Nk.numel() <= MOST_CHOICES


def _served(experts: Any) -> bool:
    """Whether the kernels compute what a module of experts computes."""
    weights = [getattr(experts, name, None) for name in ("gate_up_proj", "down_proj")]
    if experts.has_bias or experts.is_transposed or not getattr(experts, "is_concatenated", True):
        return False
    wide = all(
        isinstance(w, nn.Parameter)
        and w.ndim == 3
        and w.is_floating_point()
        and w.element_size() > 1
        for w in weights
    )
    if experts._is_expert_parallel:
        return wide and experts.has_gate
    plain = wide and all(type(w) is nn.Parameter for w in weights)
    gated = experts.has_gate and type(experts)._apply_gate is moe._default_apply_gate
    silu = isinstance(getattr(experts, "act_fn", None), nn.SiLU | type(ACT2FN["silu"]))
    return plain and gated and silu
