"""Files of a model on the hub, fetched into its local cache: descriptions first, weights after."""

from __future__ import annotations

import os
from pathlib import Path

from ringlens.errors import ModelNotFoundError
from ringlens.model.gate.checkpoint import CONFIG, READ
from ringlens.model.gate.shards import INDEX, SINGLE, shard_names


def fetch_config(name: str, revision: str | None) -> Path:
    """Fetch the ``config.json`` of a hub id, alone.

    Raises:
        ModelNotFoundError: It is neither on the hub nor in the cache, or the hub is out of reach.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, CONFIG, revision=revision))
    except (OSError, ValueError) as error:
        raise _not_found(name, error) from error


def fetch_descriptions(name: str, revision: str | None) -> Path:
    """Fetch all of a hub id that is no weight and no code; returns its folder.

    Raises:
        ModelNotFoundError: As above.
    """
    return _snapshot(name, revision, [f"*{suffix}" for suffix in READ])


def described(place: str, revision: str | None = None) -> Path:
    """The folder of a place: itself, or what is fetched of a hub id.

    Raises:
        ModelNotFoundError: As above.
    """
    return Path(place) if os.path.isdir(place) else fetch_descriptions(place, revision)


def fetch_weights(name: str, revision: str | None, folder: Path) -> None:
    """Fetch the weight files that the folder's index names.

    Raises:
        ModelNotFoundError: As above.
        CheckpointError: The index is malformed.
    """
    index = shard_names(folder) if (folder / INDEX).exists() else None
    _snapshot(name, revision, [SINGLE] if index is None else sorted(set(index.values())))


def _snapshot(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise _not_found(name, error) from error


def _not_found(name: str, error: Exception) -> ModelNotFoundError:
    said = str(error).strip().split("\n")[0]
    return ModelNotFoundError(f"no model {name!r} on the hub or in the local cache: {said}")
