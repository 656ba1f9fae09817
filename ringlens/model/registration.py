"""Makes transformers' Auto classes know Ring, without importing transformers or torch early."""

from __future__ import annotations

from types import ModuleType

import wrapt


def register_when_imported() -> None:
    """Register Ring for ``model_type`` "bailing_moe" as soon as transformers' Auto classes load.

    At once where they are loaded already. Registering takes precedence over a checkpoint's
    ``auto_map``, with or without ``trust_remote_code``.
    """
    wrapt.register_post_import_hook(_register_config, _AUTO + ".configuration_auto")
    wrapt.register_post_import_hook(_register_models, _AUTO + ".modeling_auto")
    wrapt.register_post_import_hook(_register_converters, "transformers.conversion_mapping")


_AUTO = "transformers.models.auto"


def _register_config(module: ModuleType) -> None:
    from ringlens.model.configuration import BailingMoeV2Config

    module.AutoConfig.register("bailing_moe", BailingMoeV2Config, exist_ok=True)


def _register_models(module: ModuleType) -> None:
    from ringlens.model import modeling
    from ringlens.model.configuration import BailingMoeV2Config

    module.AutoModel.register(BailingMoeV2Config, modeling.BailingMoeV2Model, exist_ok=True)
    module.AutoModelForCausalLM.register(
        BailingMoeV2Config, modeling.BailingMoeV2ForCausalLM, exist_ok=True
    )


def _register_converters(module: ModuleType) -> None:
    from ringlens.model.conversion import fused_experts_converters

    # Under the class name of the fused layout alone: the other layout needs no conversion.
    module.register_checkpoint_conversion_mapping(
        "BailingMoeV2Model", fused_experts_converters(), overwrite=True
    )
