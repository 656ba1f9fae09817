"""What paths look like if the layers do not know of each other.

The choices of each layer of each trace are shifted along the trace, around its end, each layer by a
random number of tokens. So every layer keeps its loads, and how long it stays with an expert; what
one layer has to do with another is gone.

Shape letters: N tokens, L layers of a band, U traces, X paths, B draws, E experts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def coverages(
    path_NL: NDArray[np.int64],
    trace_N: NDArray[np.int64],
    top: int,
    rng: np.random.Generator,
    draws: int,
) -> NDArray[np.float64]:
    """Compute the coverage of the most frequent paths in shifted traces.

    Args:
        path_NL: Paths of the tokens, in order of trace and position.
        trace_N: Their traces.
        top: How many paths.
        rng: Source of the shifts.
        draws: Number of shifts.

    Returns:
        Shares of tokens on the 1, 2, … most frequent paths, [B, top].
    """
    N, L = path_NL.shape
    starts_U = np.flatnonzero(np.diff(trace_N, prepend=trace_N[0] - 1))
    length_U = np.diff(starts_U, append=N)
    start_N, length_N = np.repeat(starts_U, length_U), np.repeat(length_U, length_U)
    # A path is known by the sum of random numbers of its steps (Zobrist hashing).
    mark_LE = rng.integers(0, 2**63, (L, int(path_NL.max()) + 1), dtype=np.uint64)
    marks_LN = np.stack([mark_LE[layer][path_NL[:, layer]] for layer in range(L)])
    found_BX = np.ones((draws, top))
    for b in range(draws):
        sum_N = np.zeros(N, np.uint64)
        for layer in range(L):
            shift_N = np.repeat(rng.integers(0, length_U), length_U)
            sum_N += marks_LN[layer][start_N + (np.arange(N) - start_N + shift_N) % length_N]
        n_X = np.sort(np.unique(sum_N, return_counts=True)[1])[::-1][:top]
        found_BX[b, : len(n_X)] = n_X.cumsum() / N
    return found_BX
