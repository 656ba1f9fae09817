"""False discovery rate over all quantities of a table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def q_values(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p-values for their number (Benjamini and Hochberg, 1995).

    Of the quantities with q ≤ x, at most a share x is expected to be false discoveries.

    Args:
        p: p-values, of any shape; NaN was not tested and is not counted.

    Returns:
        q-values of the same shape; NaN where p is.
    """
    flat = p.ravel()
    tested = np.flatnonzero(~np.isnan(flat))
    order = tested[np.argsort(flat[tested], kind="stable")]
    scaled = flat[order] * len(order) / np.arange(1, len(order) + 1)
    q = np.full(flat.shape, np.nan)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return q.reshape(p.shape)
