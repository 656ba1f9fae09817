"""Finding and loading a Ring model: ring-nano, a folder, or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ringlens.data import path as bundled
from ringlens.errors import ConfigError, ModelNotFoundError
from ringlens.model.configuration import BailingMoeV2Config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ringlens.model import BailingMoeV2ForCausalLM

BUNDLED = ("ring-nano",)


def locate(name: str) -> str:
    """Folder of a bundled model; other names are returned as they are.

    Raises:
        ModelNotFoundError: ``name`` looks like a folder, but there is no model in it.
    """
    if name in BUNDLED:
        return str(bundled(name))
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFoundError(
                f"{folder} holds no config.json, so it is no model folder. Give the folder that "
                "holds config.json and the safetensors files."
            )
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelNotFoundError(
            f"no model {name!r}. Give {', '.join(BUNDLED)}, an existing folder, or a hub id such "
            "as inclusionAI/Ring-mini-2.0."
        )
    return name


def load_model(
    name: str,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    attention: str = "sdpa",
    experts: str = "fused",
    revision: str | None = None,
) -> tuple[BailingMoeV2ForCausalLM, PreTrainedTokenizerBase]:
    """Load a model in evaluation mode, and its tokenizer.

    Args:
        name: "ring-nano", a folder, or a hub id.
        dtype: dtype of the weights; "auto" takes the checkpoint's.
        device: Where to put the model; None for the CPU.
        attention: Attention kernel: "sdpa", "eager", "flex_attention" or another registered one.
        experts: Experts layout, "fused" or "modules".
        revision: Branch, tag or commit of a hub id.

    Raises:
        ModelNotFoundError: There is no such model.
        ConfigError: It is not a Ring model, or its configuration contradicts itself.
        CheckpointError: A tensor is missing or misshapen.
    """
    from transformers import AutoTokenizer

    from ringlens.model import BailingMoeV2ForCausalLM

    place = locate(name)
    config = read_config(place, revision)
    config.experts_layout = experts
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention}
    if revision is not None:
        options["revision"] = revision
    model = BailingMoeV2ForCausalLM.from_pretrained(place, config=config, **options)
    tokenizer = AutoTokenizer.from_pretrained(place, revision=revision or "main")
    return model.to(device or "cpu").eval(), tokenizer


def read_config(place: str, revision: str | None = None) -> BailingMoeV2Config:
    """The configuration of a folder or hub id.

    Raises:
        ModelNotFoundError: Nothing is found there.
        ConfigError: It is the configuration of another kind of model.
    """
    from transformers import PreTrainedConfig

    try:
        values, _ = PreTrainedConfig.get_config_dict(place, revision=revision or "main")
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"no model {place!r} on the hub or in the local cache: {_first_line(error)}"
        ) from error
    if values.get("model_type") != BailingMoeV2Config.model_type:
        raise ConfigError(
            f"{place} is a {values.get('model_type')!r} model; ringlens opens Ring models "
            "(model_type 'bailing_moe')."
        )
    return BailingMoeV2Config.from_dict(values)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
