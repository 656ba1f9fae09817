"""Communities of a graph with weights: nodes that hang together.

Shape letters: N nodes, X edges, each in both directions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def communities(weight_NN: NDArray[np.float64], seed: int, least: int) -> list[NDArray[np.int64]]:
    """Divide a graph into communities of high modularity, by the Leiden method.

    Args:
        weight_NN: Weights of the edges between N nodes, symmetric; 0 where there is none.
        seed: Seed of the search.
        least: Fewest nodes of a community; smaller ones are left out.

    Returns:
        The nodes of each community, ascending; the largest communities first (Traag, Waltman and
        van Eck, Sci. Rep. 9, 5233, 2019).
    """
    from graspologic_native import leiden_csr  # only those who look for communities need it

    from_X, to_X = np.divmod(np.flatnonzero(weight_NN > 0), len(weight_NN))
    edges_N = np.bincount(from_X, minlength=len(weight_NN))
    linked = np.flatnonzero(edges_N)
    if not len(linked):
        return []
    place_N = np.cumsum(edges_N > 0) - 1
    starts = np.concatenate([[0], edges_N[linked].cumsum()]).astype(np.int64)
    ends = place_N[to_X].astype(np.int32)
    _, labels = leiden_csr(starts, ends, weight_NN[from_X, to_X], len(linked), seed=seed)
    label_N = np.array([labels[node] for node in range(len(linked))])
    found = [linked[label_N == label] for label in np.unique(label_N)]
    large = [nodes for nodes in found if len(nodes) >= least]
    return sorted(large, key=lambda nodes: (-len(nodes), nodes[0]))
