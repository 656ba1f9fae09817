"""Experts "ringlens" for transformers: the weights that a decoding step needs are read in place.

After the prompt ``generate`` switches experts from the grouped kernel to ``batched_mm``, which
copies the weights of each row's experts: 805 MB a row and layer at Ring-1T's width. Under this name
nothing is switched. A few tokens on CUDA run the kernels of experts_triton.py; all else runs
transformers' grouped kernel, which copies nothing either but is made for many.

Shape letters: N tokens, k experts a token, D hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
        model: A model in this process alone.
    """
    if getattr(model.config, "_experts_implementation", None) != "grouped_mm":
        return
    found = [module for module in model.modules() if hasattr(module, "has_post_expert_norm")]
    if found and all(map(_served, found)) and triton_installed():
        moe.ExpertsInterface.register(IN_PLACE, in_place)
        model.set_experts_implementation(IN_PLACE)


def in_place(module: Any, hidden_ND: Tensor, ids_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
    """Sum of w·expert(h) over the chosen experts, [N, D]."""
    if not are_few(ids_Nk):
        mixed_ND: Tensor = moe.grouped_mm_experts_forward(module, hidden_ND, ids_Nk, weights_Nk)
        return mixed_ND
    from ringlens.model.kernels.experts_triton import expert_outputs, mixed

    output_SD = expert_outputs(hidden_ND, ids_Nk, module.gate_up_proj, module.down_proj)
    if module.has_post_expert_norm:
        output_SD = module.post_expert_norm(output_SD)
    return mixed(output_SD, weights_Nk)


def are_few(ids_Nk: Tensor) -> bool:
    """Whether these choices run in the kernels, in the order in which they stand."""
    return ids_Nk.is_cuda and ids_Nk.numel() <= MOST_CHOICES


def _served(experts: Any) -> bool:
    """Whether the kernels compute what a module of experts computes."""
    weights = [getattr(experts, name, None) for name in ("gate_up_proj", "down_proj")]
    plain = all(
        type(w) is nn.Parameter and w.ndim == 3 and w.is_floating_point() and w.element_size() > 1
        for w in weights
    )
    gated = experts.has_gate and type(experts)._apply_gate is moe._default_apply_gate
    silu = isinstance(getattr(experts, "act_fn", None), nn.SiLU | type(ACT2FN["silu"]))
    other = experts.has_bias or experts.is_transposed or experts._is_expert_parallel
    return plain and gated and silu and not other and getattr(experts, "is_concatenated", True)
