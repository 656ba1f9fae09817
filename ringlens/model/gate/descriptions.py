"""The files of a checkpoint beside its weights: tokenizer, templates, licence and the rest."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from ringlens.model.gate.checkpoint import CONFIG
from ringlens.model.gate.shards import INDEX, PICKLES


def copy_descriptions(source: Path, target: Path, left_out: Collection[str] = ()) -> None:
    """Copy all files of a folder but weights, their index and the configuration.

    Args:
        source: The checkpoint.
        target: A folder.
        left_out: Names of files that stay behind, too.
    """
    weights = ("*.safetensors", *PICKLES)
    for file in sorted(source.iterdir()):
        is_weight = any(file.match(pattern) for pattern in weights)
        if file.is_file() and not is_weight and file.name not in (CONFIG, INDEX, *left_out):
            shutil.copyfile(file, target / file.name)
