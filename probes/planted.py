"""Whether steps that an answer hangs on count for more: measured on thoughts whose steps are known.

``python -m ringlens.probes.planted`` lets the suppression probe read told thoughts of ring-nano's
held-out problems, in which the generator marks the steps that the answer goes on from, and prints
how well importance tells these from the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.importance.agreement import average_ranks
from ringlens.analysis.importance.importance import importance
from ringlens.analysis.roles.importing import import_steps
from ringlens.data import path
from ringlens.lens import Lens, load
from ringlens.observe.session import replay
from ringlens.probes.chain.runner import probe
from ringlens.store import Store, StoreWriter

DRAWS = 1_000
"""Resamples of thoughts."""

ON_PATH = "on_path"
TOLD = ("text", "role", "is_backtrack", "is_hypothesis")
"""What is stored of a told step."""


@dataclass(frozen=True)
class Auc:
    """How well a measure tells steps on the path from others of the same thought.

    Attributes:
        measure: The measure.
        auc: The share of pairs of a step on the path and one that is not, both of one thought, in
            which the first measures more; 0.5 is chance.
        low: Lower end of its 95% interval over thoughts.
        high: Upper end.
        pairs: Pairs that were compared.
        thoughts: Thoughts that have both kinds.
    """

    measure: str
    auc: float
    low: float
    high: float
    pairs: int
    thoughts: int


def told(kinds: Sequence[str] = (), n: int | None = None) -> list[dict[str, Any]]:
    """Thoughts of held-out problems whose every step is known, as the generator told them.

    Args:
        kinds: Tasks; all if left out.
        n: The first so many that have steps of both kinds; all if left out.
    """
    lines = (path("thoughts.heldout.jsonl")).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if not kinds or row["task"] in kinds]
    both = [row for row in rows if len({step[ON_PATH] for step in row["steps"][:-1]}) == 2]
    return both[:n]


def store_of(
    lens: Lens,
    thoughts: Sequence[Mapping[str, Any]],
    address: Path,
    record: Sequence[str] = (),
) -> Store:
    """A store of told thoughts, cut into the steps that the generator told.

    Args:
        lens: A model with ring-nano's tokenizer.
        thoughts: The thoughts.
        address: Where the store goes.
        record: What to record of them.
    """
    texts = [
        lens.tokenizer.apply_chat_template(
            [{"role": "user", "content": each["prompt"]}], tokenize=False
        )
        + "<role>ASSISTANT</role>"
        + each["completion"]
        + "<|role_end|>"
        for each in thoughts
    ]
    replay(lens, texts, address, record=record).close()
    steps = {
        number: [{name: step[name] for name in TOLD} for step in each["steps"]]
        for number, each in enumerate(thoughts, 1)
    }
    with StoreWriter(address) as writer:
        import_steps(writer, steps, "told")
    return Store(address)


def path_auc(
    frame: pd.DataFrame, thoughts: Sequence[Mapping[str, Any]], measure: str, seed: int = 0
) -> Auc:
    """How well a measure tells steps on the path from the others.

    Args:
        frame: A table of `importance`, of a store of `store_of`.
        thoughts: The thoughts of the store, in order.
        measure: A column.
        seed: Seed of the resamples.
    """
    won, pairs = [], []
    for trace_id, own in frame.dropna(subset=[measure]).groupby("trace_id"):
        steps = thoughts[int(trace_id) - 1]["steps"]
        on_N = np.array([steps[int(step)][ON_PATH] for step in own["step"]])
        value_N = own[measure].to_numpy(np.float64)
        if on_N.all() or not on_N.any():
            continue
        on, off = value_N[on_N], value_N[~on_N]
        won.append(float((on[:, None] > off).sum() + (on[:, None] == off).sum() / 2))
        pairs.append(len(on) * len(off))
    won_U, pairs_U = np.array(won), np.array(pairs)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(won_U), (DRAWS, len(won_U)))
    aucs = won_U[drawn].sum(axis=1) / pairs_U[drawn].sum(axis=1)
    low, high = np.percentile(aucs, [2.5, 97.5])
    auc = float(won_U.sum() / pairs_U.sum())
    return Auc(measure, auc, float(low), float(high), int(pairs_U.sum()), len(won_U))


def beyond_place(frame: pd.DataFrame, measure: str) -> NDArray[np.float64]:
    """What is left of a measure's ranks within each thought when those of its place are taken away.

    Later steps count for more, because what is near is looked at, and are more often on the path.
    """
    found = pd.Series(np.nan, index=frame.index)
    for _, own in frame.dropna(subset=[measure]).groupby("trace_id"):
        if len(own) < 3:
            continue
        rank_N = average_ranks(own[measure].to_numpy())
        place_N2 = np.column_stack([np.ones(len(own)), average_ranks(own["step"].to_numpy())])
        fitted, *_ = np.linalg.lstsq(place_N2, rank_N, rcond=None)
        found[own.index] = np.round(rank_N - place_N2 @ fitted, 9)
    return found.to_numpy()


def main(words: Sequence[str] | None = None) -> None:
    """Print how well importance tells the steps that the answer goes on from."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="ring-nano", help="a model with its tokenizer")
    parser.add_argument("--n", type=int, help="thoughts; all if left out")
    parser.add_argument("--tasks", default="", help="tasks, comma-separated; all if left out")
    options = parser.parse_args(words)
    kinds = [name for name in options.tasks.split(",") if name]
    thoughts = told(kinds, options.n)
    if not thoughts:
        parser.error(f"no told thoughts of {options.tasks!r} have steps of both kinds.")
    lens = load(options.model)
    with tempfile.TemporaryDirectory() as folder:
        with store_of(lens, thoughts, Path(folder) / "told") as store:
            probe("suppression", lens, store)
        with Store(Path(folder) / "told") as store:
            frame = importance(store)
    names = ("reach", "suppression", "answer_suppression")
    for name in names:
        frame[f"{name} beyond place"] = beyond_place(frame, name)
    for name in (*names, *(f"{each} beyond place" for each in names), "position", "tokens"):
        found = path_auc(frame, thoughts, name)
        print(
            f"{name:32} AUC {found.auc:.3f} (95% interval {found.low:.3f} to {found.high:.3f}; "
            f"{found.pairs} pairs in {found.thoughts} thoughts)"
        )


if __name__ == "__main__":
    main()
