"""The interval of a share."""

from __future__ import annotations

from math import sqrt

NORMAL = 1.959964
"""Quantile of a 95% interval."""


def wilson(right: int, of: int) -> tuple[float, float]:
    """Compute the 95% interval of a share (Wilson 1927); NaN of nothing."""
    if not of:
        return float("nan"), float("nan")
    share, square = right / of, NORMAL**2
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = NORMAL * sqrt(share * (1 - share) / of + square / (4 * of * of)) / (1 + square / of)
    return max(middle - half, 0.0), min(middle + half, 1.0)
