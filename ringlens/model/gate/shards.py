"""The weight files of a checkpoint: which they are, and what their headers say is in them.

Only headers are read. Files are those that transformers would load: ``model.safetensors``, or else
the files named in ``model.safetensors.index.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from ringlens.errors import CheckpointError
from ringlens.model.gate.json_files import MB, is_there, parse_object, read_object

Shape = tuple[int, ...]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Ring-1T's index has 6 MB, and the header of a file with all its tensors would have 8.
INDEX_LIMIT, HEADER_LIMIT = 64 * MB, 64 * MB
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf")


@dataclass(frozen=True)
class Header:
    """What a weight file says of one tensor: its shape, and its dtype ("BF16")."""

    shape: Shape
    dtype: str


def shard_names(folder: Path) -> dict[str, str] | None:
    """Read which file holds each tensor; None where a single file has no index.

    Every file is named by a relative path inside the folder. Links that stand in the folder are
    followed wherever they lead (the hub's cache is made of them): whoever put them there owns it.

    Raises:
        CheckpointError: There are no weights, weights are pickles only, or the index is malformed
            or names files outside the folder.
    """
    single = is_there(folder / SINGLE)
    if not is_there(folder / INDEX):
        if single:
            return None
        raise CheckpointError(_no_weights(folder))
    weight_map = read_object(folder / INDEX, INDEX_LIMIT).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{folder / INDEX} has no weight_map, an object of a file for each tensor. "
            "Fetch it again."
        )
    for tensor, file in weight_map.items():
        if not isinstance(file, str):
            raise CheckpointError(
                f"{INDEX} in {folder} names {file!r} as the file of {tensor}; it must be a name."
            )
    for file in sorted(set(weight_map.values())):
        _check_name(file, folder)
    others = sorted(set(weight_map.values()) - {SINGLE})
    if single and others:
        raise CheckpointError(
            f"{folder} holds both {SINGLE} and {INDEX}, which names {others[0]} instead. Remove "
            "the one that is left over from another download."
        )
    return weight_map


def _check_name(file: str, folder: Path) -> None:
    """Refuse what is no plain name of a safetensors file inside the folder."""
    path = PurePosixPath(file)
    outside = path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file
    if outside:
        raise CheckpointError(
            f"{INDEX} in {folder} names {file[:200]!r}, which is outside the folder; nothing is "
            "loaded from there. Put the file into the folder and name it so."
        )
    if path.suffix != ".safetensors" or "\0" in file or len(file) > 255 or str(path) != file:
        raise CheckpointError(
            f"{INDEX} in {folder} names {file[:200]!r}, which is no name of a safetensors file."
        )


def _no_weights(folder: Path) -> str:
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        return (
            f"{folder} has weights in {pickles[0]} only: ringlens reads safetensors, which run no "
            "code when they are opened. Convert them (transformers' save_pretrained writes them)."
        )
    return f"{folder} holds no weights: neither {SINGLE} nor {INDEX}. Fetch them."


def headers(folder: Path) -> dict[str, Header]:
    """Read the shape and dtype of every tensor in a folder's weight files.

    Raises:
        CheckpointError: A file is missing, damaged or contradicts the index, or two files hold
            tensors of one name.
    """
    weight_map = shard_names(folder)
    files = [SINGLE] if weight_map is None else sorted(set(weight_map.values()))
    tensors: dict[str, Header] = {}
    home: dict[str, str] = {}
    for file in files:
        for name, header in _read(folder, file).items():
            if name in tensors:
                raise CheckpointError(
                    f"{name} is in two files of {folder}, {home[name]} and {file}. "
                    "Remove the one that does not belong there."
                )
            tensors[name], home[name] = header, file
    for name, file in (weight_map or {}).items():
        if home.get(name) != file:
            raise CheckpointError(
                f"{folder} lacks {name} in {file}, where {INDEX} says that it is. "
                "The download may be incomplete."
            )
    return tensors


def _read(folder: Path, file: str) -> dict[str, Header]:
    """Read the tensors of one file from its header."""
    path = folder / file
    if not is_there(path):
        raise CheckpointError(f"{file} is named in {INDEX} but is not in {folder}. Fetch it again.")
    try:
        size = path.stat().st_size
        with path.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > size - 8:
                raise CheckpointError(f"{path} is not a readable safetensors file: it is cut off.")
            if length > HEADER_LIMIT:
                raise CheckpointError(
                    f"{path} has a header of {length / MB:.4g} MB; no model needs more than "
                    f"{HEADER_LIMIT / MB:.4g} MB. Fetch it again."
                )
            header = opened.read(length)
        found = parse_object(header, f"the header of {path}")
        with safe_open(path, framework="numpy"):  # its own checks: offsets, gaps, sizes
            pass
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}.") from error
    found.pop("__metadata__", None)
    return {name: Header(tuple(x["shape"]), str(x["dtype"])) for name, x in found.items()}
