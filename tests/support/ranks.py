"""Several ranks that write one trace together."""

import numpy as np
from same_rows import assert_same
from workers import (
    RUN,
    Piped,
    processes,
)
from writers import drain, start


def run_ranks(target, path, size, *args, primary=0, each=lambda rank: ()):
    """Run one process a rank; return what each reported and its exit code."""
    pipes = [processes().Pipe() for _ in range(size - 1)]
    ends = [[ours for ours, _ in pipes], *([theirs] for _, theirs in pipes)]
    started = []
    for rank in range(size):
        peers = Piped(rank, size, primary, ends[rank])
        started.append(start(target, path, peers, *args, *each(rank)))
    for pipe in pipes:
        for end in pipe:
            end.close()
    found = [drain(reports) for _, reports in started]
    for process, _ in started:
        process.join(300)
    return found, [process.exitcode for process, _ in started]


def assert_rich(trace, expected):
    assert_same(trace, expected, RUN)
    residual, embedding = expected.vectors
    found = trace.vectors("residual", layers=residual.layers)
    np.testing.assert_array_equal(found.values, residual.values)
    np.testing.assert_array_equal(trace.vectors("embedding").values, embedding.values[0])
    for i, layer in enumerate(expected.attention.layers):
        for j, head in enumerate(expected.attention.heads):
            weights = trace.attention(layer, head).weights
            np.testing.assert_array_equal(weights, expected.attention.weights[i, :, j])
