"""Models in 4 and 8 bits: which method, on which experts layout, and how many bytes it takes.

bitsandbytes, quanto and torchao replace linear modules. The fused experts are 3-D parameters, not
modules: these methods would silently leave them in 16 bits, 97.9% of Ring-1T. So they get the
"modules" layout. The router's weight is a parameter of its own module and its selection bias a
buffer: no method touches either.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ringlens.errors import ConfigError
from ringlens.model.family import family_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

    from ringlens.model.family import WeightPlace


QUANTIZATIONS = ("nf4", "nf4-double", "int8", "fp8")
# Methods that replace nn.Linear and know nothing of 3-D parameters.
MODULE_METHODS = ("bitsandbytes", "quanto", "torchao")


def quantization_method(config: PreTrainedConfig, given: Any = None) -> str | None:
    """Name the method of a quantisation config as transformers does ("bitsandbytes", "fp8", …).

    Args:
        config: The model's; its ``quantization_config`` counts where none is given.
        given: A quantisation config (object or dict) or None.
    """
    if given is None:
        given = getattr(config, "quantization_config", None)
    if given is None:
        return None
    values = given if isinstance(given, dict) else vars(given)
    method = values.get("quant_method")
    if method is None and (values.get("load_in_4bit") or values.get("load_in_8bit")):
        return "bitsandbytes"
    return None if method is None else str(getattr(method, "value", method))


def fp8_block(config: PreTrainedConfig) -> tuple[int, int]:
    """Rows and columns of an FP8 weight that share a scale; the usual where none are stated."""
    stated = getattr(config, "quantization_config", None) or {}
    rows, columns = stated.get("weight_block_size") or (128, 128)
    return int(rows), int(columns)


def quantization_config(
    name: str | None, config: PreTrainedConfig, dtype: torch.dtype, place: str | torch.device
) -> Any | None:
    """Make transformers' quantisation config for one of ``QUANTIZATIONS``.

    Args:
        name: The method wanted; None takes the checkpoint as it is.
        config: Configuration of the checkpoint.
        dtype: What 4-bit and 8-bit weights are computed in.
        place: First device of the model ("auto": the GPU where there is one).

    Raises:
        ConfigError: No such method, or this checkpoint or machine does not allow it.
    """
    if name is not None and name not in QUANTIZATIONS:
        raise ConfigError(
            f"quantization = {name!r}; known are {', '.join(map(repr, QUANTIZATIONS))} "
            "and None (the checkpoint as it is)."
        )
    published = quantization_method(config)
    _check_published(name, published)
    if published == "fp8":
        return _fp8_config(config, place)
    if name is None or published == "bitsandbytes":
        return None  # nothing to do, or the checkpoint's own config says it all
    return _bitsandbytes_config(name, dtype)


def _check_published(name: str | None, published: str | None) -> None:
    if name is None:
        return
    if name == "fp8" and published != "fp8":
        raise ConfigError(
            "quantization = 'fp8' is for checkpoints that are published in FP8, such as "
            f"inclusionAI/Ring-1T-FP8; this one is {published or 'not quantised'}. "
            "Use 'nf4', 'nf4-double' or 'int8' to quantise while loading."
        )
    if name != "fp8" and published not in (None, "bitsandbytes"):
        raise ConfigError(
            f"quantization = {name!r}, but the checkpoint is already quantised ({published}). "
            "Leave quantization out, or load the unquantised checkpoint."
        )


def _bitsandbytes_config(name: str, dtype: torch.dtype) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantization = {name!r} needs bitsandbytes, which is not installed: "
            "pip install 'ringlens[quantization]'."
        )
    from transformers import BitsAndBytesConfig

    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=name == "nf4-double",
        bnb_4bit_compute_dtype=dtype,
    )


def _fp8_config(config: PreTrainedConfig, place: str | torch.device) -> Any:
    from transformers import FineGrainedFP8Config

    published = getattr(config, "quantization_config", {})
    values = published if isinstance(published, dict) else vars(published)
    keep = keeps_fp8(place)
    if keep and importlib.util.find_spec("kernels") is None:
        raise ConfigError(
            "FP8 weights are multiplied by kernels that transformers fetches from the hub; install "
            "their loader (pip install kernels), or load with device='cpu', which dequantises."
        )
    return FineGrainedFP8Config(**{**values, "dequantize": not keep})


def check_offload(method: str | None, device_map: Any) -> None:
    """Refuse bitsandbytes with weights that would have to wait in CPU memory or on the disk.

    Raises:
        ConfigError: The device map has such weights.
    """
    if method == "bitsandbytes" and is_offloading(device_map):
        raise ConfigError(
            "bitsandbytes keeps its weights where they are computed with, but the device_map puts "
            "some into CPU memory or on the disk. Use fewer bits or more GPUs, or leave "
            "quantization out to offload 16-bit weights."
        )


def is_offloading(device_map: Any, offload_folder: str | None = None) -> bool:
    """Tell whether a device map leaves weights on the disk, or in CPU memory beside a GPU.

    "auto" decides while loading; with it, giving an ``offload_folder`` is taken as the answer.
    """
    if not isinstance(device_map, Mapping):
        return device_map is not None and offload_folder is not None
    places = {str(place) for place in device_map.values()}
    return "disk" in places or ("cpu" in places and len(places) > 1)


def keeps_fp8(place: str | torch.device) -> bool:
    """Tell whether an FP8 checkpoint stays in FP8 at ``place``, not dequantised while loading.

    It stays on CUDA devices of compute capability 8.9 or higher (Ada, Hopper, Blackwell).
    """
    import torch

    if torch.device("cuda" if place == "auto" else place).type != "cuda":
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)


def keep_head(given: Any) -> Any:
    """Let a bitsandbytes config skip the output head, whatever else it skips.

    transformers skips the head by itself only while ``llm_int8_skip_modules`` is not set.
    """
    skipped = getattr(given, "llm_int8_skip_modules", None)
    if skipped is None or "lm_head" in skipped:
        return given
    given = copy.copy(given)
    given.llm_int8_skip_modules = [*skipped, "lm_head"]
    return given


def plain_weight(place: WeightPlace) -> Tensor:
    """The weight at a place as numbers, dequantised if it is quantised.

    Raises:
        ConfigError: It is in a form from which ringlens cannot compute the numbers.
    """
    import torch

    weight = getattr(place.module, place.name)
    kind = type(weight).__name__
    if kind in ("Params4bit", "Int8Params"):
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        return dequantize_bnb_weight(weight, getattr(place.module, "state", None)).detach()
    if hasattr(weight, "to_local"):
        raise ConfigError(
            f"a weight of {type(place.module).__name__} is divided over processes, each of which "
            "holds a part; load the model in one process to look at whole weights."
        )
    plain = weight.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    if not plain and weight.dtype.is_floating_point:
        raise ConfigError(
            f"a weight of {type(place.module).__name__} is {weight.dtype} beside scales of its "
            "own; load the checkpoint with device='cpu', which dequantises it."
        )
    if type(weight) not in (torch.Tensor, torch.nn.Parameter):
        weight = weight.dequantize()  # quanto's and torchao's tensors
    elif not plain:
        raise ConfigError(
            f"a weight of {type(place.module).__name__} is {weight.dtype}, of a quantiser that "
            "ringlens does not know; load the checkpoint unquantised, or with quantization='nf4'."
        )
    return weight.detach() if place.index is None else weight[place.index].detach()


class _Once(logging.Filter):
    """Lets each message through once."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        fresh = message not in self.seen
        self.seen.add(message)
        return fresh


def warn_once() -> None:
    """Let bitsandbytes say only once that it casts to float16; it says so at every product."""
    log = logging.getLogger("bitsandbytes.autograd._functions")
    if not any(isinstance(known, _Once) for known in log.filters):
        log.addFilter(_Once())


def keep_portable(model: nn.Module) -> None:
    """Keep 4-bit weights as they were loaded, on every CPU.

    On CPUs with AVX512-BF16 bitsandbytes rearranges a weight at its first use. That rounds its
    block scales to bfloat16, so that logits depend on the CPU; what is saved afterwards is damaged;
    and widths that its blocks do not divide fail (bitsandbytes 0.50.2). GPUs are not concerned.
    """
    for module in model.modules():
        if "support_avx512bf16_for_cpu" in vars(module):
            vars(module)["support_avx512bf16_for_cpu"] = False


def weight_bytes(model: nn.Module) -> dict[str, int]:
    """Count the bytes of a model's weights by kind: "experts", "attention" and "other".

    Counted are parameters and buffers with all that a quantiser keeps beside them (block scales,
    code books); what several weights share counts once. "experts" are the routed ones. Of sharded
    weights this process's share counts; weights that are offloaded count as if they were here.
    """
    sizes = {"experts": 0, "attention": 0, "other": 0}
    config = getattr(model, "config", None)  # a part by itself has none, and is "other"
    marks: dict[str, str] = {}
    if config is not None:
        units = family_of(config).units
        marks = {units.experts: "experts", units.attention: "attention"}
    seen: set[int] = set()
    for name, module in model.named_modules():
        place = f".{name}."
        kind = next((kind for mark, kind in marks.items() if mark in place), "other")
        for tensor in _tensors(module):
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            shared = 0 if local.is_meta else local.data_ptr()
            if shared == 0 or shared not in seen:
                seen.add(shared)
                sizes[kind] += local.numel() * local.element_size()
    return sizes


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Yield a module's own parameters and buffers, and what bitsandbytes keeps beside them."""
    yield from module.buffers(recurse=False)
    holders = [*module.parameters(recurse=False), getattr(module, "state", None)]
    for holder in holders:
        state = getattr(holder, "quant_state", None)
        parts: list[Any] = [holder, getattr(holder, "SCB", None)]  # 8 bits: one scale a row
        while state is not None:  # 4 bits: one scale a block, itself quantised or not
            parts += [state.absmax, state.code, state.offset]
            state = state.state2 if state.nested else None
        yield from (part for part in parts if hasattr(part, "element_size"))
