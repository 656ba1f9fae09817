"""How well a label of an expert predicts where the expert is chosen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelScore:
    """Agreement of predictions with what happened.

    Attributes:
        precision: Share of predicted contexts that were chosen; 0 if none was predicted.
        recall: Share of chosen contexts that were predicted; 0 if none was chosen.
        f1: Harmonic mean of the two; 0 if both are.
        accuracy: Share of contexts that were predicted right.
    """

    precision: float
    recall: float
    f1: float
    accuracy: float


def label_score(predicted: Iterable[bool], chosen: Iterable[bool]) -> LabelScore:
    """Score predictions of held-out contexts.

    Args:
        predicted: Whether the label says that the expert is chosen, for each context.
        chosen: Whether it is.
    """
    pairs = list(zip(map(bool, predicted), map(bool, chosen), strict=True))
    both = sum(p and c for p, c in pairs)
    said, true = sum(p for p, _ in pairs), sum(c for _, c in pairs)
    precision, recall = both / said if said else 0.0, both / true if true else 0.0
    f1 = 2 * both / (said + true) if both else 0.0
    return LabelScore(precision, recall, f1, sum(p == c for p, c in pairs) / len(pairs))
