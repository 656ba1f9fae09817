"""Keeps the experts of a learning model evenly used, by their selection biases.

Shape letters: N tokens of a batch, E experts, k experts a token, L sparse layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ringlens.model.loaded import LoadedModel


class Balancer:
    """Moves selection biases against the load; routers without a bias are only counted.

    Args:
        lens: The model that learns.
    """

    def __init__(self, lens: LoadedModel) -> None:
        place = lens.family.locations["router_choice"]
        self._experts, self._item = lens.sizes.router.experts, place.item
        modules = [lens.model.get_submodule(place.path.format(n)) for n in lens.sizes.sparse_layers]
        self.biases = [lens.family.selection_bias(module) for module in modules]
        self._chosen: dict[int, Tensor] = {}
        for layer, module in enumerate(modules):
            module.register_forward_hook(self._remember(layer))

    def _remember(self, layer: int) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            ids = output if isinstance(output, Tensor) else output[self._item or 0]
            self._chosen[layer] = ids.detach()

        return hook

    def loads(self, inside_N: Tensor) -> Tensor:
        """Count the tokens of the last forward that chose each expert, [L, E]; no padding."""
        loads = [
            torch.bincount(self._chosen[layer][inside_N].flatten(), minlength=self._experts)
            for layer in range(len(self.biases))
        ]
        return torch.stack(loads)

    @torch.no_grad()
    def move(self, load_LE: Tensor, size: float) -> None:
        """Move the biases by ``size`` where experts are used less than the mean, or more."""
        balance(self.biases, load_LE, size)


def balance(biases: Sequence[Tensor | None], load_LE: Tensor, size: float) -> None:
    """Move selection biases against the load, in place and without an auxiliary loss.

    bias += u · sign(mean load − load), layer by layer (Wang et al. 2024, "Auxiliary-loss-free load
    balancing strategy for mixture-of-experts", arXiv 2408.15664; DeepSeek-V3's rule).

    Args:
        biases: The bias [E] of each layer; None where it has none.
        load_LE: Tokens that chose each expert.
        size: The step u.
    """
    direction_LE = (load_LE.float().mean(dim=1, keepdim=True) - load_LE).sign()
    for bias_E, direction_E in zip(biases, direction_LE, strict=True):
        if bias_E is not None:
            bias_E += size * direction_E.to(bias_E)
