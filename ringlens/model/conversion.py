"""Checkpoint names: what a published Ring checkpoint must hold, and how it maps to the model.

A checkpoint stores each expert on its own (``mlp.experts.M.gate_proj.weight``); the fused layout
holds a layer's experts in two 3-D parameters. transformers' weight converters translate both ways,
so saving writes the published names again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from ringlens.errors import CheckpointError
from ringlens.model.quantization import quantization_method

if TYPE_CHECKING:
    from transformers.core_model_loading import WeightConverter

    from ringlens.model.configuration import BailingMoeV2Config

Shape = tuple[int, ...]


def fused_experts_converters() -> list[WeightConverter]:
    """Converters between one-tensor-an-expert checkpoints and the fused layout."""
    from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

    return [
        WeightConverter(
            ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            "mlp.experts.gate_up_proj",
            operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
        ),
        WeightConverter(
            "mlp.experts.*.down_proj.weight",
            "mlp.experts.down_proj",
            operations=[MergeModulelist(dim=0)],
        ),
    ]


def expected_tensors(config: BailingMoeV2Config) -> dict[str, Shape]:
    """Names and shapes of the tensors that a checkpoint of this configuration must hold.

    Left out, because published checkpoints may do without them: ``lm_head`` where it is tied,
    ``expert_bias`` where the configuration does not insist on it.
    """
    hidden = config.hidden_size
    tensors = {
        "model.word_embeddings.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        for name, shape in _layer_tensors(config, layer):
            tensors[f"model.layers.{layer}.{name}"] = shape
    return tensors


def _layer_tensors(config: BailingMoeV2Config, layer: int) -> Iterator[tuple[str, Shape]]:
    hidden, head_dim = config.hidden_size, config.head_dim or 0
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or 0
    qkv = (heads + 2 * kv_heads) * head_dim
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    yield "attention.query_key_value.weight", (qkv, hidden)
    yield "attention.dense.weight", (hidden, heads * head_dim)
    if config.use_qkv_bias:
        yield "attention.query_key_value.bias", (qkv,)
    if config.use_bias:
        yield "attention.dense.bias", (hidden,)
    if config.use_qk_norm:
        yield "attention.query_layernorm.weight", (head_dim,)
        yield "attention.key_layernorm.weight", (head_dim,)
    if layer < config.first_k_dense_replace:
        yield from _ffn_tensors("mlp", hidden, config.intermediate_size)
        return
    yield "mlp.gate.weight", (config.num_experts, hidden)
    if config.moe_router_enable_expert_bias:
        yield "mlp.gate.expert_bias", (config.num_experts,)
    for expert in range(config.num_experts):
        yield from _ffn_tensors(f"mlp.experts.{expert}", hidden, config.moe_intermediate_size)
    if config.num_shared_experts:
        shared = config.moe_intermediate_size * config.num_shared_experts
        yield from _ffn_tensors("mlp.shared_experts", hidden, shared)


def _ffn_tensors(prefix: str, hidden: int, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}.gate_proj.weight", (width, hidden)
    yield f"{prefix}.up_proj.weight", (width, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, width)


def checkpoint_headers(folder: Path) -> dict[str, tuple[Shape, str]] | None:
    """Names, shapes and dtypes ("BF16") in a folder's safetensors files, from their headers alone.

    Returns:
        None where the folder holds no safetensors files (transformers then says what it found).

    Raises:
        CheckpointError: A file of the index is missing, or a header cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.is_file():
        files = {folder / name for name in json.loads(index.read_text())["weight_map"].values()}
    elif single.is_file():
        files = {single}
    else:
        return None
    tensors: dict[str, tuple[Shape, str]] = {}
    for file in sorted(files):
        if not file.is_file():
            raise CheckpointError(
                f"{file.name} is named in {index.name} but is not in {folder}. Fetch it again."
            )
        try:
            with safe_open(file, framework="numpy") as shard:
                for name in shard.keys():  # noqa: SIM118 (a safetensors file is no dict)
                    tensor = shard.get_slice(name)
                    tensors[name] = tuple(tensor.get_shape()), tensor.get_dtype()
        except Exception as error:
            raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from error
    return tensors


def check_checkpoint(folder: Path, config: BailingMoeV2Config) -> None:
    """Refuse a checkpoint folder whose tensors do not fit ``config``, before anything is loaded.

    Raises:
        CheckpointError: A tensor is missing or has another shape; the message names it.
    """
    headers = checkpoint_headers(folder)
    if headers is None or quantization_method(config) not in (None, "bitsandbytes", "fp8"):
        return  # transformers says what it misses; other quantisers use other names
    _check_scales(folder, headers)
    found = {name: shape for name, (shape, _) in headers.items()}
    if not any(name.startswith("model.") for name in found):  # saved from the bare base model
        found = {
            name if name == "lm_head.weight" else f"model.{name}": s for name, s in found.items()
        }
    expected = expected_tensors(config)
    missing = sorted(set(expected) - set(found))
    biases = {n for n in found if n.endswith("mlp.gate.expert_bias")}
    wanted = {f"model.layers.{layer}.mlp.gate.expert_bias" for layer in config.sparse_layers}
    if biases & wanted:  # a model either has biases or has none: some is a damaged checkpoint
        missing += sorted(wanted - biases - set(missing))
    if missing:
        raise CheckpointError(
            f"{folder} lacks {_few(missing)}, which its config.json calls for. "
            "The download may be incomplete, or config.json belongs to another model."
        )
    # bitsandbytes packs weights; the scales beside them tell which.
    packed = {
        n for n in found if f"{n}.absmax" in found or f"{n.removesuffix('weight')}SCB" in found
    }
    wrong = [n for n in expected if n not in packed and found[n] != expected[n]]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{name} has shape {list(found[name])} in {folder}, but config.json calls for "
            f"{list(expected[name])} ({len(wrong)} such tensors). Use this model's own config.json."
        )


def _check_scales(folder: Path, headers: dict[str, tuple[Shape, str]]) -> None:
    """Refuse FP8 weights without their block scales: transformers would take the bare numbers."""
    bare = [n for n, (_, dtype) in headers.items() if dtype.startswith("F8_E4M3")]
    lacking = sorted(f"{n}_scale_inv" for n in bare if f"{n}_scale_inv" not in headers)
    if lacking:
        raise CheckpointError(
            f"{folder} lacks {_few(lacking)}, the scales of its FP8 weights. "
            "The download may be incomplete."
        )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def prediction_layer_pattern(config: BailingMoeV2Config) -> str | None:
    """Pattern of the tensors of multi-token-prediction layers; None without such layers."""
    if not config.num_nextn_predict_layers:
        return None
    first = config.num_hidden_layers
    layers = "|".join(str(first + i) for i in range(config.num_nextn_predict_layers))
    return rf"(^|\.)layers\.({layers})\."
