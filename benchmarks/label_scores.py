"""How well the automatic labels of a layer's experts predict held-out contexts.

A label is chosen on half of the traces and scored on the other half, on as many contexts that chose
the expert as that did not: a label that fits everything has an F1 of 0.67 and is right in half.
Labels that language models wrote, scored alike, are read from the published table if it is given.

python benchmarks/label_scores.py STORE [--where SQL] [--layers 1 4] [--published CSV]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from ringlens import analysis
from ringlens.analysis.experts.expert_label import expert_label
from ringlens.store import Store

SCORES = ["precision", "recall", "f1", "accuracy"]


def main() -> None:
    """Print the mean scores of the labels of each layer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--where", default="phase = 'think'")
    parser.add_argument("--layers", type=int, nargs="*")
    parser.add_argument("--published", type=Path)
    given = parser.parse_args()
    with Store(given.store) as store:
        load = analysis.expert_load(store, given.where)
        layers = given.layers or sorted(load["layer"].unique())
        for source, name in ((store, "labels"), (analysis.Shuffled(store), "of shuffled choices")):
            for layer in layers:
                show(f"{name}, layer {layer}", of_layer(source, layer, given.where, load))
    if given.published:
        table = pd.read_csv(given.published)
        for name, rows in table.groupby("model_layer"):
            show(f"published, {name}", rows)


def of_layer(source, layer: int, where: str, load: pd.DataFrame) -> pd.DataFrame:
    """Scores of the labels of a layer's experts; those without a score are left out."""
    experts = load.loc[load["layer"] == layer, "expert"]
    labels = [expert_label(source, layer, int(expert), where) for expert in experts]
    return pd.DataFrame([vars(label.score) for label in labels if label.score], columns=SCORES)


def show(name: str, rows: pd.DataFrame) -> None:
    """Print one line."""
    means = "  ".join(f"{score} {rows[score].mean():.3f}" for score in SCORES)
    print(f"{name:45} {len(rows):4} experts  {means}", flush=True)


if __name__ == "__main__":
    main()
