"""The checkpoint that a smaller one is made of: checked, with the place of each tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringlens.model.family import Family
from ringlens.model.gate.checkpoint import (
    CONFIG,
    CONFIG_LIMIT,
    check_checkpoint,
    check_folder,
    read_values,
)
from ringlens.model.gate.hub import described, fetch_weights
from ringlens.model.gate.json_files import read_object
from ringlens.model.gate.shards import SINGLE, shard_names
from ringlens.model.loading import locate
from ringlens.prune.tensor_file import Span, spans

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ringlens.model.expert_names import ExpertNames


@dataclass(frozen=True)
class Source:
    """The checkpoint that a smaller one is made of.

    Attributes:
        folder: Its folder.
        family: Its family.
        config: Its configuration.
        values: Its config.json as it is.
        names: How it names what belongs to experts.
        files: Its tensors, by the file that holds them.
    """

    folder: Path
    family: Family
    config: PreTrainedConfig
    values: Mapping[str, Any]
    names: ExpertNames
    files: Mapping[str, Mapping[str, Span]]


def open_source(name: str) -> Source:
    """Open a checkpoint to make a smaller one of it.

    Raises:
        CheckpointError: It is malformed.
        ModelNotFoundError: There is no such model.
    """
    place = locate(name)
    folder = described(place)
    if not os.path.isdir(place):
        fetch_weights(place, None, folder)
    check_folder(folder)
    row, values = read_values(folder / CONFIG)
    family = row.open()
    config = family.config(values)
    check_checkpoint(folder, config, family.tensors(config))
    listed = shard_names(folder)
    files = [SINGLE] if listed is None else sorted(set(listed.values()))
    raw = read_object(folder / CONFIG, CONFIG_LIMIT)
    tensors = {file: spans(folder / file) for file in files}
    return Source(folder, family, config, raw, family.expert_names(config), tensors)
