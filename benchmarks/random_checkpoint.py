"""A checkpoint of any size that is nowhere: true headers on disk, random numbers when it is read.

The files say every tensor's name, shape and dtype, and are holes behind that, so that a trillion
parameters take some megabytes of disk. Loading runs as ever (checks, conversion, quantising,
sharding), but what transformers reads is drawn on a GPU, by a seed of the tensor's name: every
process, and every run, reads the same numbers. In FP8 it is as Ring-1T-FP8 is published: bits, and
beside each projection the scales of its blocks.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import modeling_utils

from ringlens.data import path as bundled
from ringlens.model.family import family_of
from ringlens.model.loading import read_config

Shape = tuple[int, ...]
SIZES = {"BF16": 2, "F32": 4, "F8_E4M3": 1}
DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn}
OWN = ("config.json", "generation_config.json")
IN_FP8 = ("_proj.weight", "query_key_value.weight", "dense.weight")
"""How names of weights end that are in FP8 where any are."""
SCALE = "_scale_inv"
LARGE = 64.0
"""Standard deviation of bits in FP8: most of their range is used, and none is beyond it."""


def make_checkpoint(folder: Path, config: Path, fp8: int | None = None, **changes: Any) -> Path:
    """Write the files of a checkpoint without its numbers.

    Args:
        folder: Where; what is there goes.
        config: A published config.json.
        fp8: Side of the blocks that share a scale, of weights in FP8; None for bfloat16.
        **changes: Values of the configuration to change.

    Returns:
        The folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    nano = bundled("ring-nano")
    for file in nano.iterdir():  # its tokenizer: any will do
        if (
            file.suffix in (".json", ".jinja")
            and "safetensors" not in file.name
            and file.name not in OWN
        ):
            shutil.copy(file, folder)
    values = json.loads(config.read_text()) | changes
    # No text may end early: an id that hardly any step draws ends it.
    values |= {"eos_token_id": values["vocab_size"] - 1, "pad_token_id": 0}
    if fp8:
        values["quantization_config"] = {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "weight_block_size": [fp8, fp8],
        }
    (folder / "config.json").write_text(json.dumps(values))
    read = read_config(str(folder / "config.json"))
    tensors = family_of(read).tensors(read)
    shapes = dict(tensors.required) | dict(tensors.together)
    if fp8:
        shapes = dict(_with_scales(shapes, fp8))
    places = {}
    for part, names in groupby(shapes, key=_part):
        file = f"{part}.safetensors"
        chosen = {name: shapes[name] for name in names}
        places |= dict.fromkeys(chosen, _write_holes(folder, file, chosen))
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _with_scales(shapes: Mapping[str, Shape], block: int) -> Iterator[tuple[str, Shape]]:
    for name, shape in shapes.items():
        yield name, shape
        if name.endswith(IN_FP8):
            yield f"{name}{SCALE}", tuple(-(-size // block) for size in shape)


def _part(name: str) -> str:
    pieces = name.split(".")
    return f"layer-{pieces[2]}" if pieces[1] == "layers" else f"model-{pieces[-2]}"


def _write_holes(folder: Path, file: str, shapes: Mapping[str, Shape]) -> str:
    """Write a header and a hole; a name that is taken gets a longer one."""
    while (folder / file).exists():
        file = f"more-{file}"
    header, end = {}, 0
    for name, shape in shapes.items():
        dtype = "F8_E4M3" if f"{name}{SCALE}" in shapes else _dtype(name)
        start, end = end, end + prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / file).open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + end)
    return file


def _dtype(name: str) -> str:
    return "F32" if name.endswith(("expert_bias", SCALE)) else "BF16"


class RandomTensor:
    """A tensor of a file, drawn when it is sliced."""

    def __init__(self, name: str, shape: Shape, dtype: str, width: int) -> None:
        self.name, self.shape, self._dtype, self._width = name, shape, dtype, width

    def get_shape(self) -> list[int]:
        """Its shape."""
        return list(self.shape)

    def get_dtype(self) -> str:
        """Its dtype, as safetensors names it."""
        return self._dtype

    def __getitem__(self, places: Any) -> Tensor:
        device = place_to_draw()
        in_fp8 = self._dtype == "F8_E4M3"
        drawn = torch.bfloat16 if in_fp8 else DTYPES[self._dtype]
        made = torch.empty(self.shape, dtype=drawn, device=device)
        if self.name.endswith(SCALE):
            return made.fill_(self._std() / LARGE)[places]
        if made.ndim == 1 and not self.name.endswith("expert_bias"):
            return made.fill_(1.0)[places]
        generator = torch.Generator(device).manual_seed(zlib.crc32(self.name.encode()))
        made.normal_(0.0, LARGE if in_fp8 else self._std(), generator=generator)
        return made.to(DTYPES[self._dtype])[places]

    def _std(self) -> float:
        """So that a unit input gives a unit output."""
        if self.name.endswith("expert_bias"):
            return 0.01
        return 1.0 if "embeddings" in self.name else self._width**-0.5


class RandomFile:
    """Stands for a safetensors file."""

    def __init__(self, path: str | os.PathLike[str], **_: Any) -> None:
        with Path(path).open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        self._tensors = {
            name: RandomTensor(
                name, tuple(x["shape"]), x["dtype"], header[name.removesuffix(SCALE)]["shape"][-1]
            )
            for name, x in header.items()
        }

    def keys(self) -> list[str]:
        """Names of its tensors."""
        return list(self._tensors)

    def get_slice(self, name: str) -> RandomTensor:
        """One of them."""
        return self._tensors[name]

    def __enter__(self) -> RandomFile:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


def place_to_draw() -> torch.device:
    """A process's own GPU; of several in one process the last, which is filled last."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    rank = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", torch.cuda.device_count() - 1 if rank is None else int(rank))


@contextmanager
def reading_random_numbers() -> Iterator[None]:
    """Have transformers read random numbers instead of holes."""
    own = modeling_utils.safe_open
    modeling_utils.safe_open = RandomFile
    try:
        yield
    finally:
        modeling_utils.safe_open = own
