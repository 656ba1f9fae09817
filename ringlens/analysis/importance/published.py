"""Published importances of steps in the layout of math-rollouts (arXiv 2506.19143), recomputed."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError

CHUNKS, MATRIX = "chunks_labeled.json", "step_importance.json"
"""Files of a problem's folder."""

ROUNDING = 2e-6
"""Published numbers are rounded to six digits."""

_NEEDED = ("chunk_idx", "accuracy", "function_tags", "resampling_importance_accuracy")
_THOUGHT = ["model", "condition", "problem"]


@refuse_unknown
def published_importance(path: str | PathLike[str]) -> pd.DataFrame:
    """Read published importances, and recompute what follows from their accuracies.

    The accuracy of a step is that of the thoughts that were sampled from before it, so its
    importance by accuracy is that of the next step less its own.

    Args:
        path: A CSV file with a row per step, or the folder of a problem.

    Returns:
        A row per step: ``model``, ``condition``, ``problem_id``; ``step``, ``role`` (the first of
        its tags), ``accuracy``; ``accuracy_change`` as published, ``recomputed`` (NaN of the last
        step of a thought), and ``gap``, whether they differ: steps are missing there, so the
        published number is of other steps; and what else is published, ``resampling_kl``,
        ``counterfactual_kl``, ``counterfactual_accuracy``. ``attrs``: ``steps`` with a next one,
        ``agree``, ``gaps`` and ``said``.

    Raises:
        ConfigError: It holds no such table.
    """
    table = _read(Path(path))
    if lost := [name for name in _NEEDED if name not in table]:
        raise ConfigError(f"{path} has no {lost[0]}: give a table of steps as math-rollouts has.")
    for name in _THOUGHT:
        if name not in table:
            table[name] = ""
    table = table.sort_values([*_THOUGHT, "chunk_idx"], kind="stable", ignore_index=True)
    frame = pd.DataFrame(
        {
            "model": table["model"],
            "condition": table["condition"],
            "problem_id": table["problem"],
            "step": table["chunk_idx"].astype(int),
            "role": table["function_tags"].map(_first),
            "accuracy": table["accuracy"].astype(float),
            "accuracy_change": table["resampling_importance_accuracy"].astype(float),
        }
    )
    following = table.groupby(_THOUGHT, sort=False)["accuracy"].shift(-1)
    frame["recomputed"] = following - frame["accuracy"]
    differs = (frame["recomputed"] - frame["accuracy_change"]).abs() > ROUNDING
    frame["gap"] = differs & frame["recomputed"].notna()
    for name in ("resampling_kl", "counterfactual_kl", "counterfactual_accuracy"):
        kind, _, what = name.partition("_")
        frame[name] = table.get(f"{kind}_importance_{what}", pd.Series(np.nan, table.index))
    known, gaps = int(frame["recomputed"].notna().sum()), int(frame["gap"].sum())
    frame.attrs |= {"steps": known, "agree": known - gaps, "gaps": gaps}
    frame.attrs["said"] = f"{known - gaps:,} of {known:,} importances follow; {gaps} are in gaps"
    return frame


@refuse_unknown
def published_matrix(path: str | PathLike[str]) -> pd.DataFrame:
    """Read how each step of a published thought changes the later ones.

    Args:
        path: The folder of a problem.

    Returns:
        A row per pair of steps: ``changed_step``, ``step`` and ``effect``. ``attrs``: ``steps`` S;
        ``mean`` over all S·S pairs, those not published being 0; ``max`` and ``min``.

    Raises:
        ConfigError: There is no such file.
    """
    rows = _json(Path(path) / MATRIX)
    try:
        pairs = [
            (row["source_chunk_idx"], each["target_chunk_idx"], each["importance_score"])
            for row in rows
            for each in row["target_impacts"]
        ]
    except (TypeError, KeyError) as error:
        raise ConfigError(f"{path}/{MATRIX} is no list of steps and their impacts.") from error
    frame = pd.DataFrame(pairs, columns=["changed_step", "step", "effect"])
    frame.attrs |= {
        "steps": len(rows),
        "mean": float(frame["effect"].sum() / len(rows) ** 2),
        "max": float(frame["effect"].max()),
        "min": float(frame["effect"].min()),
    }
    return frame


def _read(path: Path) -> pd.DataFrame:
    if path.is_dir():
        return pd.DataFrame(_json(path / CHUNKS))
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the table {str(path)!r}: {error!s:.80}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error!s:.80}") from error


def _first(tags: Any) -> str:
    """The first of several tags."""
    if isinstance(tags, str):
        return tags.split(",")[0].strip()
    return str(tags[0]) if isinstance(tags, list) and tags else "unknown"
