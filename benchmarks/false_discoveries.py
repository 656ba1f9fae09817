"""How often a contrast finds what is not there: random halves of the traces of a real store.

Each contrast holds one random half of the traces against the other, so every discovery is false.
The second row takes the tokens for independent: a z-test of two shares.

python benchmarks/false_discoveries.py STORE [--contrasts 200] [--level 0.05]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd

from ringlens import analysis
from ringlens.analysis.statistics.fdr import q_values
from ringlens.store import Store

PHASE = "phase = 'think'"


def main() -> None:
    """Print how many contrasts of nothing have a discovery."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--contrasts", type=int, default=200)
    parser.add_argument("--level", type=float, default=0.05)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    found = {"whole traces": [], "tokens as if independent": []}
    with Store(given.store) as store:
        query = f"select distinct trace_id from token_context where {PHASE} order by 1"
        traces = np.array([row[0] for row in store.sql(query).fetchall()])
        for seed in range(given.contrasts):
            frame = halves(store, rng.permutation(traces)[: len(traces) // 2], seed)
            found["whole traces"].append(int((frame["q"] <= given.level).sum()))
            naive = q_values(tokenwise(frame))
            found["tokens as if independent"].append(int((naive <= given.level).sum()))
    print(
        f"{given.contrasts} contrasts of random halves of {len(traces)} traces, {len(frame)} tests"
    )
    for name, counts in found.items():
        hit = sum(n > 0 for n in counts)
        print(
            f"{name:26s} with a discovery at q ≤ {given.level}: {hit} of {len(counts)} "
            f"({hit / len(counts):.1%}); discoveries in all: {sum(counts):,}"
        )


def halves(store: Store, half: np.ndarray, seed: int) -> pd.DataFrame:
    """Contrast some traces with the others."""
    listed = ", ".join(map(str, half))
    a, b = (f"{PHASE} and trace_id {word} in ({listed})" for word in ("", "not"))
    return analysis.contrast(store, a, b, draws=0, seed=seed)


def tokenwise(frame: pd.DataFrame) -> np.ndarray:
    """Two-sided p-values of a z-test of two shares."""
    n, m = frame["tokens_a"].to_numpy(), frame["tokens_b"].to_numpy()
    both = (frame["share_a"] * n + frame["share_b"] * m) / (n + m)
    error = np.sqrt(both * (1 - both) * (1 / n + 1 / m)).to_numpy()
    z = np.abs(frame["share_a"] - frame["share_b"]).to_numpy() / np.where(error > 0, error, np.inf)
    return np.array([math.erfc(value / math.sqrt(2)) for value in z])


if __name__ == "__main__":
    main()
