"""What Ring answers to the questions of the seam (`ringlens.model.family.Family`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ringlens.model.expert_names import ExpertNames
from ringlens.model.family import ExpertPlaces, WeightPlace
from ringlens.model.layout import LAYOUTS
from ringlens.model.ring.attention import attention_kernel
from ringlens.model.ring.configuration import BailingMoeV2Config
from ringlens.model.ring.conversion import checkpoint_tensors, expert_names
from ringlens.model.ring.fields import check_fields
from ringlens.model.ring.modeling import BailingMoeV2ForCausalLM
from ringlens.model.ring.moe import BailingMoeV2ExpertModules, BailingMoeV2Gate
from ringlens.model.ring.points import LOCATIONS
from ringlens.model.ring.sharding import split_widths
from ringlens.model.ring.sizes import KINDS, UNITS, buffers, sizes
from ringlens.model.sizes import CheckpointTensors, Sizes


class RingFamily:
    """The family of Ring (Ling 2.0 architecture)."""

    locations = LOCATIONS
    units = UNITS
    kinds = KINDS
    layouts = LAYOUTS
    in_place = True

    def check_values(self, values: Mapping[str, Any]) -> None:
        """See `ringlens.model.ring.fields`."""
        check_fields(values)

    def config(self, values: dict[str, Any]) -> BailingMoeV2Config:
        """Of the values of a config.json, in any spelling of the family."""
        config: BailingMoeV2Config = BailingMoeV2Config.from_dict(values)
        return config

    def stated(self) -> frozenset[str]:
        """Keys of a config.json that describe a Ring model."""
        return frozenset(BailingMoeV2Config.__annotations__)

    def load(
        self, folder: Path, config: BailingMoeV2Config, layout: str, **options: Any
    ) -> BailingMoeV2ForCausalLM:
        """Load weights; `from_pretrained` itself checks them first."""
        config.experts_layout = layout
        model: BailingMoeV2ForCausalLM = BailingMoeV2ForCausalLM.from_pretrained(
            folder, config=config, **options
        )
        return model

    def sizes(self, config: BailingMoeV2Config) -> Sizes:
        """Of the configuration."""
        return sizes(config)

    def tensors(self, config: BailingMoeV2Config) -> CheckpointTensors:
        """By the published names."""
        return checkpoint_tensors(config)

    def expert_names(self, config: BailingMoeV2Config) -> ExpertNames:
        """By the published names."""
        return expert_names(config)

    def buffers(self, config: BailingMoeV2Config) -> Mapping[str, int]:
        """Expert biases and rotary frequencies."""
        return buffers(config)

    def split_widths(self, config: BailingMoeV2Config) -> Mapping[str, int]:
        """Of the fused projection, the output projection and the feed-forward blocks."""
        return split_widths(config)

    def layout_of(self, config: BailingMoeV2Config) -> str:
        """Fused unless it was chosen otherwise."""
        return config.experts_layout or "fused"

    def selection_bias(self, router: BailingMoeV2Gate) -> Tensor:
        """Every Ring router has one; zeros where the checkpoint has none."""
        return router.expert_bias

    def router_weight(self, router: BailingMoeV2Gate) -> Tensor:
        """Of a parameter that no quantiser touches."""
        return router.weight

    def expert_places(self, experts: nn.Module, expert: int) -> ExpertPlaces:
        """In the two 3-D parameters, or in the expert's own modules."""
        if isinstance(experts, BailingMoeV2ExpertModules):
            own = experts[expert]
            gate, up, down = (
                WeightPlace(own.get_submodule(name), "weight")
                for name in ("gate_proj", "up_proj", "down_proj")
            )
            return ExpertPlaces((gate, up), (down,))
        read, write = (WeightPlace(experts, name, expert) for name in ("gate_up_proj", "down_proj"))
        return ExpertPlaces((read,), (write,))

    def route(self, router: BailingMoeV2Gate, logits_NE: Tensor) -> tuple[Tensor, ...]:
        """Logits, weights, ids."""
        return router.route(logits_NE)

    def routing_weights(
        self, router: BailingMoeV2Gate, logits_NE: Tensor, ids_Nk: Tensor
    ) -> Tensor:
        """Affinities as shares of their sum, times the factor."""
        return router.weigh(logits_NE.sigmoid(), ids_Nk)

    def attention_kernel(self, name: str, query: Tensor) -> Callable[..., Any]:
        """The function registered under ``name``, but for one bug of torch's."""
        return attention_kernel(name, query)


FAMILY = RingFamily()
