"""Finding and loading a model: ring-nano, a folder, or a hub id."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ringlens.config import known_only
from ringlens.data import path as bundled
from ringlens.errors import ConfigError, ModelNotFoundError
from ringlens.model.family import family_of
from ringlens.model.gate.checkpoint import CONFIG, check_folder, read_values
from ringlens.model.gate.hub import described, fetch_config, fetch_weights
from ringlens.model.gate.tokenizer_files import open_tokenizer
from ringlens.model.kernels.experts import read_experts_in_place
from ringlens.model.layout import choose_layout
from ringlens.model.parallel import distributed_config
from ringlens.model.quantization import (
    check_offload,
    is_offloading,
    keeps_fp8,
    quantization_config,
    quantization_method,
)
from ringlens.plain import half_pair

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

BUNDLED = ("ring-nano", "ring-nano-base")


def model_name(name: str | os.PathLike[str]) -> str:
    """Read the name of a model, given as text or as a path.

    Raises:
        ModelNotFoundError: It is neither, or no text that a path can be.
    """
    text = os.fspath(name) if isinstance(name, os.PathLike) else name
    if isinstance(text, str) and text.strip() and "\0" not in text and half_pair(text) is None:
        return text
    raise ModelNotFoundError(
        f"no model {name!r:.60}. Give {', '.join(BUNDLED)}, the path of a folder, or a hub id such "
        "as inclusionAI/Ring-mini-2.0."
    )


def locate(name: str) -> str:
    """Find the folder of a bundled model; other names are returned as they are.

    Raises:
        ModelNotFoundError: ``name`` looks like a folder, but there is no model in it.
    """
    if name in BUNDLED:
        return str(bundled(name))
    folder = Path(name).expanduser()
    if os.path.isdir(folder):  # Path.is_dir would raise for a name that is too long
        if not os.path.lexists(folder / CONFIG):
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
    device_map: str | Mapping[str, str | int | torch.device] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    quantization: str | None = None,
    attention: str = "sdpa",
    experts: str | None = None,
    tp_size: int = 1,
    ep_size: int = 1,
    pp_size: int = 1,
    revision: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in evaluation mode, and its tokenizer. See docs/loading.md.

    Args:
        name: A bundled model ("ring-nano", "ring-nano-base"), a folder, or a hub id.
        dtype: dtype of the weights; "auto" takes the checkpoint's.
        device: Where to put the whole model; None for the CPU. In a process that torchrun or
            accelerate started, a plain "cuda" is the GPU of its own.
        device_map: Instead of ``device``: "auto" (fill the GPUs, then CPU memory, then the disk),
            another of accelerate's words, or a place for each module
            ({"model.layers.0": 0, "model.layers.1": "cpu", "lm_head": "disk", …}).
        max_memory: With ``device_map="auto"``: bytes (or "70GiB") per GPU number and for "cpu".
        offload_folder: Where weights that go to the disk are kept.
        quantization: "nf4", "nf4-double", "int8" (bitsandbytes), "fp8" (a checkpoint published in
            FP8), or None for the checkpoint as it is.
        attention: Attention kernel: "sdpa", "eager", "flex_attention" or another registered one.
        experts: Experts layout, "fused" or "modules"; None chooses the one that fits the rest.
        tp_size: Processes that share each weight (tensor parallelism), under torchrun.
        ep_size: Processes that share out the experts (expert parallelism); alone, or equal to
            ``tp_size``: the same processes then share dense weights and share out experts.
        pp_size: Stages that the layers are divided into (pipeline parallelism), under torchrun.
        revision: Branch, tag or commit of a hub id.

    Raises:
        ModelNotFoundError: There is no such model.
        ConfigError: It is of no family that ringlens knows, or the options contradict each other,
            the checkpoint or the machine.
        CheckpointError: A file is missing or malformed, a tensor is missing, misshapen or of no
            floating-point dtype, or the tokenizer or its chat template cannot be used.
    """
    place = locate(name)
    _check_attention(attention)
    config = read_config(place, revision)
    local = os.path.isdir(place)
    folder = described(place, revision)
    check_folder(folder)
    sizes = {"tp_size": tp_size, "ep_size": ep_size, "pp_size": pp_size}
    layout = distributed_config(config, **sizes)
    where = _placement(device, device_map, max_memory, offload_folder, layout)
    target = _first_place(where.get("device_map"), layout)
    quantizer = quantization_config(quantization, config, _compute_dtype(dtype, config), target)
    method = quantization_method(config, quantizer)
    check_offload(method, device_map)
    family = family_of(config)
    held = choose_layout(
        experts,
        method=method,
        keeps_fp8=method == "fp8" and keeps_fp8(target),
        offloads=is_offloading(device_map, where.get("offload_folder")),
        sharded=tp_size > 1 or ep_size > 1,
        layouts=family.layouts,
    )
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention, **where}
    options |= {"quantization_config": quantizer}
    given = {key: value for key, value in options.items() if value is not None}
    tokenizer = open_tokenizer(folder, config)
    if not local:
        fetch_weights(place, revision, folder)
    model = family.load(folder, config, held, **given)
    if held == "fused" and str(target) != "cpu" and (tp_size == 1 or ep_size > 1):
        read_experts_in_place(model)
    return model.eval(), tokenizer


def own_device(device: str | torch.device | None) -> str | torch.device | None:
    """Pick the GPU that a plain "cuda" means in one of several processes of a launcher.

    It becomes the current one. Any other device is returned as it is; so is "cuda" where nothing
    was launched, or where the process sees a single GPU (its own, or one that all share).

    Raises:
        ConfigError: More processes were started on this machine than it has GPUs.
    """
    local_rank = os.environ.get("LOCAL_RANK")
    gpus = torch.cuda.device_count()
    if str(device) != "cuda" or local_rank is None or gpus == 1:
        return device
    if int(local_rank) >= gpus > 0:
        raise ConfigError(
            f"LOCAL_RANK = {local_rank}, but this machine has {gpus} GPUs: start at most {gpus} "
            "processes on it (--nproc-per-node), or name a device for each."
        )
    if gpus:
        # Otherwise pinning memory would open a context of every process on the first GPU.
        torch.cuda.set_device(int(local_rank))
    return torch.device("cuda", int(local_rank))


def _placement(
    device: str | torch.device | None,
    device_map: str | Mapping[str, Any] | None,
    max_memory: Mapping[int | str, int | str] | None,
    offload_folder: str | os.PathLike[str] | None,
    layout: Any,
) -> dict[str, Any]:
    """Make the options of ``from_pretrained`` that say where weights go."""
    if layout is not None:
        if device is not None or device_map is not None:
            raise ConfigError(
                "tp_size, ep_size and pp_size give each process its own device: leave device and "
                f"device_map out (given: {device or device_map!r})."
            )
        return {"distributed_config": layout}
    if device is not None and device_map is not None:
        raise ConfigError(f"device = {device!r} and device_map = {device_map!r}: give one of them.")
    if device_map is None and (max_memory is not None or offload_folder is not None):
        raise ConfigError(
            "max_memory and offload_folder belong to a device_map: add device_map='auto'."
        )
    places = {"": own_device(device) or "cpu"} if device_map is None else device_map
    folder = None if offload_folder is None else os.fspath(offload_folder)
    return {
        "device_map": dict(places) if isinstance(places, Mapping) else places,
        "max_memory": None if max_memory is None else dict(max_memory),
        "offload_folder": folder,
    }


def _first_place(device_map: str | Mapping[str, Any] | None, layout: Any) -> str | torch.device:
    """Tell where computing begins: a GPU if any part is there ("auto": if the machine has one)."""
    if layout is not None or isinstance(device_map, str):
        return "auto"
    places = [f"cuda:{p}" if isinstance(p, int) else p for p in (device_map or {}).values()]
    return next((p for p in places if str(p) not in ("cpu", "disk")), "cpu")


def _check_attention(name: str) -> None:
    """Refuse an attention kernel that is unknown; those of the hub are named owner/repository.

    Raises:
        ConfigError: There is no such kernel.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if not isinstance(name, str) or "/" not in name:
        known = sorted({"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()})
        known_only([name], known, "attention kernel")


def _compute_dtype(dtype: str | torch.dtype, config: PreTrainedConfig) -> torch.dtype:
    """Pick the dtype of the weights: the one asked for, or the checkpoint's."""
    wanted = getattr(config, "dtype", None) if dtype == "auto" else dtype
    if isinstance(wanted, str):
        wanted = getattr(torch, wanted, None)
        if not isinstance(wanted, torch.dtype):
            raise ConfigError(
                f"dtype = {dtype!r}; give 'auto', 'bfloat16', 'float16' or 'float32'."
            )
    return wanted or torch.bfloat16


def read_config(place: str, revision: str | None = None) -> PreTrainedConfig:
    """Read the configuration of a folder or hub id, checked before anything is made of it.

    Of a folder the other files that describe the model are checked, too.

    Args:
        place: A folder, the path of a ``config.json``, or a hub id, of which only it is fetched.
        revision: Branch, tag or commit of a hub id.

    Raises:
        ModelNotFoundError: Nothing is found there.
        CheckpointError: It is no JSON, or no regular file.
        ConfigError: It is the configuration of another kind of model, or a value cannot be.
    """
    folder = Path(place)
    if os.path.isdir(folder):
        check_folder(folder)
        file = folder / CONFIG
    else:
        file = folder if os.path.lexists(folder) else fetch_config(place, revision)
    row, values = read_values(file)
    return row.open().config(values)
