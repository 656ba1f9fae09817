"""Families of models: what each must say of itself, and the one table of them.

A new family is a folder and a row. The folder holds, in files of fixed names, what the rest of
ringlens asks: see :class:`Family` for the questions and docs/families.md for the files. Nothing
outside the folder names the family's classes, modules or fields of its configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from ringlens.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from ringlens.model.expert_names import ExpertNames
    from ringlens.model.points import Location
    from ringlens.model.sizes import CheckpointTensors, Sizes, Units


@dataclass(frozen=True)
class WeightPlace:
    """Where a weight of one expert is.

    Attributes:
        module: The module that holds it.
        name: Name of the parameter.
        index: The expert, if the parameter holds the weights of all.
    """

    module: nn.Module
    name: str
    index: int | None = None


@dataclass(frozen=True)
class ExpertPlaces:
    """Where the weights of one expert are.

    Attributes:
        reading: Weights that map the hidden state into the expert.
        writing: Weights that map back to it.
    """

    reading: tuple[WeightPlace, ...]
    writing: tuple[WeightPlace, ...]


class Family(Protocol):
    """What a family says of its models.

    Attributes:
        locations: Where its modules have each observable point that it has.
        units: What a device map places as a whole.
        kinds: Marks in names of tensors and the kind of weights that each stands for (one of
            ``ringlens.model.fit.size.KINDS``); the first mark that is found counts.
        layouts: Layouts in memory that its experts can have, "fused" and "modules".
        in_place: Whether its modules run the kernels of ringlens.model.kernels: fused experts in
            place, and few rows in one launch each.
    """

    locations: Mapping[str, Location]
    units: Units
    kinds: tuple[tuple[str, str], ...]
    layouts: tuple[str, ...]
    in_place: bool

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Refuse a value of a config.json that its field cannot have.

        Raises:
            ConfigError: The message names the field, its value and what it must be.
        """

    def config(self, values: dict[str, Any]) -> PreTrainedConfig:
        """Make the configuration of checked values of a config.json.

        Raises:
            ConfigError: They contradict each other.
        """

    def stated(self) -> frozenset[str]:
        """Name the keys of a config.json that describe a model of the family."""

    def load(
        self, folder: Path, config: PreTrainedConfig, layout: str, **options: Any
    ) -> PreTrainedModel:
        """Check a folder's weights against ``config``, then load them.

        Args:
            folder: The checkpoint.
            config: Its configuration.
            layout: Layout of the experts, one of ``layouts``.
            **options: For transformers' ``from_pretrained``.

        Raises:
            CheckpointError: A tensor is missing or misshapen.
        """

    def sizes(self, config: PreTrainedConfig) -> Sizes:
        """Tell the sizes of a model, and how its routers choose."""

    def tensors(self, config: PreTrainedConfig) -> CheckpointTensors:
        """Tell what a checkpoint of this configuration must hold."""

    def expert_names(self, config: PreTrainedConfig) -> ExpertNames:
        """Tell how a checkpoint names what belongs to routed experts."""

    def buffers(self, config: PreTrainedConfig) -> Mapping[str, int]:
        """Count the bytes of buffers by unit, whatever the dtype of the weights."""

    def split_widths(self, config: PreTrainedConfig) -> Mapping[str, int]:
        """Tell the widths of the dense weights that tensor parallelism splits, by name."""

    def layout_of(self, config: PreTrainedConfig) -> str:
        """Tell the layout of a loaded model's experts."""

    def selection_bias(self, router: nn.Module) -> Tensor | None:
        """Take the selection bias [E] of a router; None where it has none."""

    def router_weight(self, router: nn.Module) -> Tensor:
        """Take the weight [E, D] by which a router makes its logits."""

    def expert_places(self, experts: nn.Module, expert: int) -> ExpertPlaces:
        """Tell where the weights of an expert are, in the layout that the module has."""

    def route(self, router: nn.Module, logits_NE: Tensor) -> tuple[Tensor, ...]:
        """Compute what a router returns for float32 logits [N, E], in its own order."""

    def routing_weights(self, router: nn.Module, logits_NE: Tensor, ids_Nk: Tensor) -> Tensor:
        """Compute the weights [N, k] that a router gives to these experts for these logits.

        For the experts that it would choose itself, they are those of ``route``, bit by bit.
        """

    def attention_kernel(self, name: str, query: Tensor) -> Callable[..., Any]:
        """Look up the attention function that layers call for ``name`` and this query."""


@dataclass(frozen=True)
class Row:
    """A family in the table.

    Attributes:
        home: Package that holds it. ``{home}.family`` has its answers as ``FAMILY``, and
            ``{home}.registration`` makes transformers' Auto classes know it.
        model_type: What its configurations say that they are.
        architectures: Names of model classes in its configurations.
        other_types: What its configurations may say instead, if an architecture is named.
    """

    home: str
    model_type: str
    architectures: tuple[str, ...]
    other_types: tuple[str | None, ...] = ()

    def claims(self, model_type: Any, architectures: Iterable[Any]) -> bool:
        """Tell whether a config.json with these values is of this family."""
        if model_type == self.model_type:
            return True
        return model_type in self.other_types and bool(set(architectures) & set(self.architectures))

    def open(self) -> Family:
        """Import the family's answers, with torch and transformers."""
        return cast("Family", import_module(f"{self.home}.family").FAMILY)


FAMILIES: dict[str, Row] = {
    "Ring": Row(
        home="ringlens.model.ring",
        model_type="bailing_moe",
        architectures=("BailingMoeV2ForCausalLM", "BailingMoeV2Model"),
        # The published configuration class names no model_type, so that what it saves says "";
        # other code for the same architecture calls it "bailing_moe_v2".
        other_types=("bailing_moe_v2", "", None),
    ),
}
"""Every family by its name."""


def register_families() -> None:
    """Let transformers' Auto classes open every family, as soon as they are imported."""
    for row in FAMILIES.values():
        import_module(f"{row.home}.registration").register_when_imported()


def find_family(values: Mapping[str, Any], what: str) -> Row:
    """Find the family of the model that a config.json describes.

    Args:
        values: Its values.
        what: What to call the model in the message.

    Raises:
        ConfigError: It is of none.
    """
    kind, names = values.get("model_type"), values.get("architectures") or []
    known = names if isinstance(names, list) else []
    texts = [name for name in known if isinstance(name, str)]
    for row in FAMILIES.values():
        if isinstance(kind, str | None) and row.claims(kind, texts):
            return row
    opened = " and ".join(
        f"{name} models (model_type {row.model_type!r}, or an architecture "
        f"{row.architectures[0]!r})"
        for name, row in FAMILIES.items()
    )
    raise ConfigError(
        f"{what} is a {str(kind)[:80]!r} model{f' ({texts[0][:80]})' if texts else ''}; "
        f"ringlens opens {opened}."
    )


def family_of(config: PreTrainedConfig) -> Family:
    """Find the family of a configuration.

    Raises:
        ConfigError: It is of none.
    """
    for row in FAMILIES.values():
        if row.model_type == config.model_type:
            return row.open()
    raise ConfigError(
        f"no family in ringlens has model_type {config.model_type!r}; known are "
        f"{', '.join(repr(row.model_type) for row in FAMILIES.values())}."
    )


def sizes_of(config: PreTrainedConfig) -> Sizes:
    """Tell the sizes of a configuration's model.

    Raises:
        ConfigError: It is of no family.
    """
    return family_of(config).sizes(config)
