"""Checkpoints with fewer experts, written beside the one they come from.

Bytes are copied from file to file: memory stays that of a chunk, whatever the dtype. The new folder
gets its name once it is whole. Until then it is called ``NAME.incomplete`` and has no config.json,
so that nothing loads it; the same call takes it up again, file by file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringlens.config import refuse_unknown
from ringlens.errors import CheckpointError, ConfigError
from ringlens.model.family import sizes_of
from ringlens.model.gate.checkpoint import CONFIG, FLOATS, check_checkpoint, read_values
from ringlens.model.gate.descriptions import copy_descriptions
from ringlens.model.gate.shards import INDEX, SINGLE
from ringlens.model.loading import model_name
from ringlens.model.quantization import fp8_block
from ringlens.prune.merging import Merged, Merger
from ringlens.prune.plan import PruningPlan
from ringlens.prune.source import Source, open_source
from ringlens.prune.tensor_file import NewTensor, Span, some_rows, whole, write
from ringlens.store.storage.parquet import flush

if TYPE_CHECKING:
    from ringlens.model.expert_names import ExpertNames

PLAN, UNFINISHED = "pruning.json", ".incomplete"
OnBytes = Callable[[int, int], None]
"""Called with the bytes written so far, and those of the whole checkpoint."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: The new checkpoint.
        files: Its weight files.
        bytes: Bytes of its weights.
        bytes_before: Bytes of the weights that it comes from.
        left_out: Tensors of layers that ordinary generation does not run, which are left out.
    """

    folder: Path
    files: tuple[str, ...]
    bytes: int
    bytes_before: int
    left_out: int


@dataclass(frozen=True)
class Pruned:
    """What a pruned checkpoint says of itself.

    Attributes:
        plan: The plan that it was written by.
        bytes: Bytes of its weights.
        bytes_before: Bytes of the weights that it comes from.
    """

    plan: PruningPlan
    bytes: int
    bytes_before: int


def pruning_of(folder: Path) -> Pruned | None:
    """Read what a folder's ``pruning.json`` says; None where there is none.

    Raises:
        ConfigError: It is malformed.
    """
    file = folder / PLAN
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8", errors="replace")
    plan = PruningPlan.from_json(text, str(file))
    values = json.loads(text)
    sizes = [values.get(name) for name in ("bytes", "bytes_before")]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ConfigError(f"{file} does not say how many bytes of weights there were; remove it.")
    return Pruned(plan, *sizes)


@refuse_unknown
def export(
    plan: PruningPlan,
    folder: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    on_bytes: OnBytes | None = None,
) -> Exported:
    """Write a checkpoint without the experts that a plan drops.

    Experts are renumbered in their order, and the router's rows and selection biases with them.
    Everything beside the weights is copied. Layers of multi-token prediction are left out: they do
    not run while traces are recorded, so nothing ranks their experts.

    Args:
        plan: The plan.
        folder: The new folder; it must not be there, or be empty.
        model: The checkpoint; None for the one that the plan names. A hub id is fetched.
        on_bytes: Called while bytes are written.

    Raises:
        ConfigError: The plan is of another model, or ``folder`` is there already.
        CheckpointError: The checkpoint is malformed, or there is no room for the new one.
        ModelNotFoundError: There is no such model.
    """
    source = open_source(model_name(plan.model if model is None else model))
    _check_plan(plan, source)
    return write_checkpoint(source, plan, Path(folder), on_bytes)


def _check_plan(plan: PruningPlan, source: Source) -> None:
    sizes = sizes_of(source.config)
    rule = sizes.router
    if not plan.fits(sizes):
        raise ConfigError(
            f"the plan is about {plan.experts} experts in {plan.groups} groups on layers "
            f"{list(plan.layers)}, and {source.folder} has {rule.experts} in {rule.groups} on "
            f"{list(sizes.sparse_layers)}. Make a plan for this model."
        )
    replace(rule, experts=plan.left)  # refuses what its router could not choose from
    quantized = source.values.get("quantization_config") or {}
    skipped = quantized.get("modules_to_not_convert") or ()
    named = [name for name in skipped if source.names.one.match(f"{name}.")]
    if named:
        raise CheckpointError(
            f"{source.folder} leaves single experts unquantised ({named[0]}), whose numbers would "
            "change. Use the unquantised checkpoint."
        )


def write_checkpoint(
    source: Source, plan: PruningPlan, folder: Path, on_bytes: OnBytes | None = None
) -> Exported:
    """Write the new files, in an order that leaves no folder that loads before all is there."""
    files = _new_files(source, plan)
    size = sum(tensor.size for tensors in files.values() for tensor in tensors)
    before = sum(span.stop - span.start for held in source.files.values() for span in held.values())
    config = _new_config(source, plan)
    partial = _begin(folder, source, plan, size, before)
    done = 0
    for name, tensors in files.items():
        _write_once(partial, name, tensors)
        done += sum(tensor.size for tensor in tensors)
        if on_bytes is not None:
            on_bytes(done, size)
    _write_index(partial, files, size)
    copy_descriptions(source.folder, partial, left_out=[PLAN])
    new = source.family.config(_new_values(source, plan))
    check_checkpoint(partial, new, source.family.tensors(new))
    _write_text(partial / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    flush(partial)
    if folder.is_dir():
        folder.rmdir()  # empty, as was checked
    partial.rename(folder)
    flush(folder.parent)
    left_out = sum(_is_unrun(source.names, name) for held in source.files.values() for name in held)
    return Exported(folder, tuple(files), size, before, left_out)


def _new_values(source: Source, plan: PruningPlan) -> dict[str, Any]:
    """The values of the new config.json in the family's usual spelling."""
    _, values = read_values(source.folder / CONFIG)
    return {**values, source.names.count: plan.left, **source.names.without_unrun}


def _new_config(source: Source, plan: PruningPlan) -> dict[str, Any]:
    return {**source.values, source.names.count: plan.left, **source.names.without_unrun}


def _new_files(source: Source, plan: PruningPlan) -> dict[str, list[NewTensor]]:
    """The tensors of each new file; files that would be empty are left out, and numbered anew."""
    merger = _merger(source)
    kept = [list(_new_tensors(source.names, plan, held, merger)) for held in source.files.values()]
    full = [tensors for tensors in kept if tensors]
    if list(source.files) == [SINGLE]:
        return {SINGLE: full[0]}
    return {
        f"model-{number:05}-of-{len(full):05}.safetensors": tensors
        for number, tensors in enumerate(full, start=1)
    }


def _new_tensors(
    names: ExpertNames, plan: PruningPlan, held: Mapping[str, Span], merger: Merger
) -> Iterator[NewTensor]:
    for name, span in held.items():
        if _is_unrun(names, name):
            continue
        if one := names.one.fullmatch(name):
            layer, expert = int(one["layer"]), int(one["expert"])
            if expert in plan.kept[layer]:
                place = plan.kept[layer].index(expert)
                new = whole(f"{one['head']}{place}{one['tail']}", span)
                members = plan.members(layer, expert)
                if len(members) > 1:
                    new = replace(new, content=Merged(merger, layer, members, one["tail"]))
                yield new
        elif rows := names.rows.fullmatch(name):
            if span.dtype not in FLOATS or span.shape[0] != plan.experts:
                raise CheckpointError(
                    f"{name} is {span.dtype} of shape {list(span.shape)}, and not one row of "
                    f"floating-point numbers for each of {plan.experts} experts. Use the "
                    "unquantised checkpoint."
                )
            yield some_rows(name, span, plan.kept[int(rows["layer"])])
        else:
            yield whole(name, span)


def _merger(source: Source) -> Merger:
    """What averages experts of this checkpoint."""
    experts: dict[tuple[int, int], dict[str, Span]] = {}
    for held in source.files.values():
        for name, span in held.items():
            if one := source.names.one.fullmatch(name):
                place = int(one["layer"]), int(one["expert"])
                experts.setdefault(place, {})[one["tail"]] = span
    return Merger(experts, source.names.neurons, fp8_block(source.config))


def _is_unrun(names: ExpertNames, name: str) -> bool:
    return names.unrun is not None and names.unrun.search(name) is not None


def _begin(folder: Path, source: Source, plan: PruningPlan, size: int, before: int) -> Path:
    """Make the folder that is written to, or find the one that was left unfinished."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is there already, and nothing is written over it. Name another folder, or "
            "remove it."
        )
    facts = json.loads(plan.to_json()) | {
        "source": str(source.folder.resolve()),
        "bytes": size,
        "bytes_before": before,
    }
    told = json.dumps(facts, indent=1) + "\n"
    partial = folder.with_name(folder.name + UNFINISHED)
    try:
        if partial.exists() and _told(partial) != told:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(partial).free
        there = sum(file.stat().st_size for file in partial.glob("*.safetensors"))
        if room + there < size:
            raise CheckpointError(
                f"the new checkpoint takes {size:,} bytes, and there are {room:,} left where "
                f"{folder} is to be. Make room, or name a folder on another disk."
            )
        _write_text(partial / PLAN, told)
    except OSError as error:
        raise CheckpointError(f"cannot write {partial}: {error.strerror}.") from error
    return partial


def _told(partial: Path) -> str:
    try:
        return (partial / PLAN).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _write_once(partial: Path, name: str, tensors: list[NewTensor]) -> None:
    """Write a weight file, unless an earlier call has; half a file never has its name."""
    target = partial / name
    if target.exists():
        return
    half = partial / f"{name}.half"
    try:
        write(half, tensors)
        half.rename(target)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {target}: {error.strerror}. Make room, and start the same command "
            "again: it goes on with this file."
        ) from error


def _write_index(partial: Path, files: Mapping[str, list[NewTensor]], size: int) -> None:
    if list(files) == [SINGLE]:
        return
    homes = {tensor.name: file for file, tensors in files.items() for tensor in tensors}
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(homes.items()))}
    _write_text(partial / INDEX, json.dumps(index, indent=2) + "\n")


def _write_text(file: Path, text: str) -> None:
    with file.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
