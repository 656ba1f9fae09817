"""The gate that every checkpoint passes before anything of it is loaded, or any of its code run.

``ringlens plan`` and loading share it. A folder is read in three steps, each of which refuses what
is malformed in a sentence: what it says of itself (:func:`read_values`, :func:`check_folder`), its
weights against its configuration (:func:`check_checkpoint`), and its tokenizer
(:mod:`ringlens.model.gate.tokenizer_files`). Files are opened as data alone: no pickle, no code of
the checkpoint, no pipe, no file outside the folder that the checkpoint itself names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringlens.errors import CheckpointError, ConfigError
from ringlens.model.family import Family, Row, find_family
from ringlens.model.gate.json_files import MB, is_there, read_object
from ringlens.model.gate.shards import INDEX, Header, headers, shard_names
from ringlens.model.gate.values import DTYPES, check_token_ids, check_types, require
from ringlens.model.quantization import fp8_block, quantization_method

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ringlens.model.sizes import CheckpointTensors

CONFIG, GENERATION = "config.json", "generation_config.json"
CONFIG_LIMIT = 4 * MB
# Suffixes of what transformers may read beside the weights.
READ = (".json", ".jinja", ".txt", ".model")
METHODS = ("fp8", "bitsandbytes")
# What loading decides by itself, whatever a config.json says.
OWN = ("attn_implementation", "experts_implementation", "decoder", "encoder", "generator")
FLOATS = ("F16", "BF16", "F32", "F64")


def read_values(file: Path) -> tuple[Row, dict[str, Any]]:
    """Read a ``config.json``: its family, and its checked values in the family's usual spelling.

    Raises:
        CheckpointError: It is no regular file with one JSON object.
        ConfigError: It is of no family, or a value cannot be.
    """
    values = read_object(file, CONFIG_LIMIT)
    check_types(values)
    row = find_family(values, str(file.parent if file.name == CONFIG else file))
    family = row.open()
    family.check_values(values)
    check_quantization(values)
    ignored = _ignored(family)
    kept = {k: v for k, v in values.items() if k not in ignored and not _nested(k, v)}
    return row, {**kept, "model_type": row.model_type}


def _ignored(family: Family) -> set[str]:
    """List the keys with which a config.json would direct transformers, not describe a model.

    Everything that its base class and its generation config read, but what the family states.
    """
    from transformers import GenerationConfig, PreTrainedConfig

    read = {f.name for f in fields(PreTrainedConfig)} | set(vars(GenerationConfig()))
    return (read | set(OWN)) - family.stated() - {"architectures", "dtype", "auto_map"}


def _nested(name: str, value: Any) -> bool:
    """Tell whether a key is private, or would hold another configuration."""
    if name in ("quantization_config", "rope_scaling", "rope_parameters", "auto_map"):
        return False
    return isinstance(value, dict) or name.endswith("_config") or name.startswith("_")


def check_quantization(values: Mapping[str, Any]) -> None:
    """Refuse checkpoints in a quantisation that cannot be loaded, or that is stated wrongly.

    Raises:
        ConfigError: The message names the method and what to use instead.
    """
    stated = values.get("quantization_config")
    if values.get("compression_config") is not None:
        raise _unknown("compressed-tensors")
    if stated is None:
        return
    require(isinstance(stated, dict), "quantization_config", stated, "an object, or null")
    method = stated.get("quant_method")
    bits = [stated.get(name) for name in ("load_in_4bit", "load_in_8bit")]
    if method is None and True in bits:
        method = "bitsandbytes"
    if method not in METHODS:
        raise _unknown(method)
    if method == "bitsandbytes":
        one = all(b in (True, False, None) for b in bits) and bits.count(True) == 1
        require(one, "load_in_4bit, load_in_8bit", bits, "true for one of them")
        kind = stated.get("bnb_4bit_quant_type", "nf4")
        require(kind in ("nf4", "fp4"), "bnb_4bit_quant_type", kind, "'nf4' or 'fp4'")
        for name in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
            dtype = stated.get(name)
            known = dtype is None or dtype in (*DTYPES, "uint8")
            require(known, name, dtype, f"uint8 or one of {', '.join(DTYPES)}")
        return
    block = stated.get("weight_block_size")
    whole = isinstance(block, list) and all(type(n) is int and 0 < n <= 2**20 for n in block)
    require(block is None or (whole and len(block) == 2), "weight_block_size", block,
            "two whole numbers, for example [128, 128]")  # fmt: skip
    for name, wanted in (("activation_scheme", "dynamic"), ("fmt", "e4m3")):
        require(stated.get(name) in (None, wanted), name, stated.get(name), repr(wanted))
    skipped = stated.get("modules_to_not_convert")
    names = isinstance(skipped, list) and all(isinstance(name, str) for name in skipped)
    require(skipped is None or names, "modules_to_not_convert", skipped, "a list of names")


def _unknown(method: Any) -> ConfigError:
    return ConfigError(
        f"the checkpoint is quantised with quant_method = {str(method)[:80]!r}, which ringlens "
        f"cannot load; known are {' and '.join(map(repr, METHODS))}. Use the 16-bit checkpoint "
        "(quantization='nf4' or 'int8' makes it smaller while loading), or one published in FP8."
    )


def check_folder(folder: Path) -> None:
    """Refuse a folder whose files, the weights aside, cannot be read or say impossible things.

    Raises:
        CheckpointError: A file is no regular file, or malformed; the message names it.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.") from error
    for name in names:
        if name.endswith(READ):
            is_there(folder / name)
    if "adapter_config.json" in names:
        raise CheckpointError(
            f"{folder} has an adapter_config.json, which would load another model in its place. "
            "Merge the adapter into the weights (peft: merge_and_unload), and save the whole model."
        )
    if GENERATION in names:
        _check_generation(folder / GENERATION)
    if INDEX in names:
        shard_names(folder)


def _check_generation(file: Path) -> None:
    """Refuse a generation config that transformers would quietly replace, or fail on later."""
    from transformers import GenerationConfig

    values = read_object(file, CONFIG_LIMIT)
    try:
        ids: dict[str, Any] = {
            k: values[k] for k in ("eos_token_id", "bos_token_id", "pad_token_id") if k in values
        }
        if isinstance(ids.get("bos_token_id"), list):
            del ids["bos_token_id"]  # transformers' own field allows it; nothing here reads it
        check_token_ids(ids)
        GenerationConfig.from_dict(values)
    except (ConfigError, TypeError, ValueError, AttributeError, KeyError, ImportError) as error:
        raise CheckpointError(
            f"{file} is malformed: {str(error).splitlines()[0]} Repair it, or remove it."
        ) from error


def check_checkpoint(folder: Path, config: PreTrainedConfig, tensors: CheckpointTensors) -> None:
    """Refuse a checkpoint folder whose tensors do not fit, before anything is loaded.

    Args:
        folder: The checkpoint.
        config: Its configuration.
        tensors: What it must hold.

    Raises:
        CheckpointError: A file is missing or damaged, or a tensor is missing, or has another shape
            or dtype; the message names it.
        ConfigError: It is quantised in a way that cannot be loaded.
    """
    stated = getattr(config, "quantization_config", None)
    check_quantization({"quantization_config": stated} if isinstance(stated, dict) else {})
    method = quantization_method(config)
    found = headers(folder)
    if not any(name.startswith("model.") for name in found):  # saved from the bare base model
        found = {
            name if name == "lm_head.weight" else f"model.{name}": h for name, h in found.items()
        }
    expected = dict(tensors.required)
    if found.keys() & tensors.together.keys():
        expected |= tensors.together
    missing = [name for name in expected if name not in found]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {_few(missing)}, which its config.json calls for. "
            "The download may be incomplete, or config.json belongs to another model."
        )
    packed = _packed(found) if method == "bitsandbytes" else set()
    if method == "fp8":
        _check_scales(folder, found, fp8_block(config))
    linear = tensors.linear if method == "fp8" else ()
    _check_dtypes(folder, found, {name: name in packed for name in expected}, method, linear)
    wrong = [n for n, shape in expected.items() if not _fits(found[n], shape, n in packed)]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{name} has shape {list(found[name].shape)} in {folder}, but config.json calls for "
            f"{list(expected[name])} ({len(wrong)} such tensors). Use this model's own config.json."
        )


def _packed(found: Mapping[str, Header]) -> set[str]:
    """Find the weights that bitsandbytes has packed, by the scales beside them."""
    return {n for n in found if f"{n}.absmax" in found or f"{n.removesuffix('weight')}SCB" in found}


def _fits(header: Header, shape: tuple[int, ...], packed: bool) -> bool:
    """Tell whether a tensor has the shape wanted, or holds so many numbers in 4 bits each."""
    if packed and header.dtype == "U8":
        return prod(header.shape) == ceil(prod(shape) / 2)
    return header.shape == shape or (packed and header.dtype in FLOATS)


def _check_dtypes(
    folder: Path,
    found: Mapping[str, Header],
    expected: Mapping[str, bool],
    method: str | None,
    linear: tuple[str, ...],
) -> None:
    """Refuse tensors that hold no floating-point numbers where a model has them.

    Args:
        folder: The checkpoint.
        found: Its tensors.
        expected: Those that the model takes, and whether bitsandbytes has packed each.
        method: Quantisation of the checkpoint.
        linear: How names of weights end that may be in FP8.
    """
    for name, packed in expected.items():
        dtype = found[name].dtype
        allowed: tuple[str, ...] = (*FLOATS, "U8", "I8") if packed else FLOATS
        if name.endswith(linear):
            allowed = (*FLOATS, "F8_E4M3")
        if dtype not in allowed:
            why = "" if method else "; config.json states no quantisation"
            raise CheckpointError(
                f"{name} has dtype {dtype} in {folder}; it must be {' or '.join(allowed)}{why}. "
                "Fetch the checkpoint again, or save it as floating-point numbers."
            )


def _check_scales(folder: Path, found: Mapping[str, Header], block: tuple[int, int]) -> None:
    """Refuse FP8 weights without their block scales: transformers would take the bare numbers."""
    bare = [n for n, header in found.items() if header.dtype.startswith("F8_E4M3")]
    lacking = sorted(f"{n}_scale_inv" for n in bare if f"{n}_scale_inv" not in found)
    if lacking:
        raise CheckpointError(
            f"{folder} lacks {_few(lacking)}, the scales of its FP8 weights. "
            "The download may be incomplete."
        )
    for name in bare:
        scale, shape = found[f"{name}_scale_inv"], found[name].shape
        wanted = tuple(ceil(n / b) for n, b in zip(shape, block, strict=False))
        if scale.shape != wanted or scale.dtype not in FLOATS:
            raise CheckpointError(
                f"{name}_scale_inv is {scale.dtype} of shape {list(scale.shape)} in {folder}; it "
                f"must be floating-point numbers of shape {list(wanted)}, one for each block of "
                f"{list(block)}. Fetch the checkpoint again."
            )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
