"""The progress of a distillation on disk: kept whole or not at all."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ringlens.distil.curve import Row
from ringlens.errors import ConfigError


class Progress:
    """Where a distillation has got to.

    Args:
        file: Where it is kept.
        asked: What the distillation was asked for; another one's progress is refused.
    """

    def __init__(self, file: Path, asked: dict[str, Any]) -> None:
        self._file, self._asked = file, asked

    def load(self) -> tuple[dict[str, Any], list[Row]] | None:
        """Read the state of the learner and the curve; None where there is none yet.

        Raises:
            ConfigError: It is of another distillation, or cannot be read.
        """
        if not self._file.is_file():
            return None
        try:
            kept = torch.load(self._file, map_location="cpu", weights_only=True)
            asked, state = kept["asked"], kept["state"]
            curve = [Row(**row) for row in kept["curve"]]
        except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self._file} cannot be read ({type(error).__name__}): remove it to begin anew."
            ) from error
        changed = [name for name in self._asked if asked.get(name) != self._asked[name]]
        if changed:
            name = changed[0]
            raise ConfigError(
                f"{self._file} is of a distillation with {name} = {asked.get(name)!r:.60}, "
                f"not {self._asked[name]!r:.60}: give that to go on with it, or remove the file."
            )
        return state, curve

    def save(self, state: dict[str, Any], curve: list[Row]) -> None:
        """Write them, so that a kill leaves the old or the new."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        kept = {"asked": self._asked, "state": state, "curve": [asdict(row) for row in curve]}
        unfinished = self._file.with_name(self._file.name + ".new")
        with unfinished.open("wb") as file:
            torch.save(kept, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self._file)

    def remove(self) -> None:
        """Remove it."""
        self._file.unlink(missing_ok=True)
