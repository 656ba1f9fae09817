"""Makes transformers' Auto classes know Ring, without importing transformers or torch early."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import wrapt

_AUTO = "transformers.models.auto"
_MODELING = "ringlens.model.ring.modeling"


def register_when_imported() -> None:
    """Register Ring for ``model_type`` "bailing_moe" as soon as transformers' Auto classes load.

    At once where they are loaded already. Registering takes precedence over a checkpoint's
    ``auto_map``, with or without ``trust_remote_code``.
    """
    wrapt.register_post_import_hook(_register_models, _MODELING)
    wrapt.register_post_import_hook(_register_config, f"{_AUTO}.configuration_auto")
    wrapt.register_post_import_hook(_import_models, f"{_AUTO}.modeling_auto")
    wrapt.register_post_import_hook(_register_converters, "transformers.conversion_mapping")


def _register_config(auto: ModuleType) -> None:
    from ringlens.model.ring.configuration import BailingMoeV2Config

    auto.AutoConfig.register("bailing_moe", BailingMoeV2Config, exist_ok=True)


def _import_models(auto: ModuleType) -> None:
    # Where importing the models is what loaded the Auto classes, they register at its end.
    import_module(_MODELING)


def _register_models(modeling: ModuleType) -> None:
    auto = import_module(f"{_AUTO}.modeling_auto")
    config = modeling.BailingMoeV2Config
    auto.AutoModel.register(config, modeling.BailingMoeV2Model, exist_ok=True)
    auto.AutoModelForCausalLM.register(config, modeling.BailingMoeV2ForCausalLM, exist_ok=True)


def _register_converters(conversion_mapping: ModuleType) -> None:
    from ringlens.model.ring.conversion import fused_experts_converters

    # Under the class name of the fused layout alone: the other layout needs no conversion.
    conversion_mapping.register_checkpoint_conversion_mapping(
        "BailingMoeV2Model", fused_experts_converters(), overwrite=True
    )
