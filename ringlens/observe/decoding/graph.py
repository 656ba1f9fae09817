"""A decoding step as a CUDA graph: launched at once, whatever it consists of."""

from __future__ import annotations

import torch

from ringlens.observe.decoding.step import Step


class AsGraph:
    """Runs a step: the first time as it stands, then as a graph.

    The first run compiles what is compiled at run time, and has libraries make their handles. A
    graph then holds addresses alone, so it is laid down anew when memory has moved.

    Args:
        step: The step.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._graph: torch.cuda.CUDAGraph | None = None
        self._has_run = False

    def run(self) -> None:
        """Run it once more."""
        if not self._has_run:
            self._step.run()
            self._has_run = True
            return
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            # The recording thread calls CUDA meanwhile, which is none of the graph's business.
            with (
                torch.cuda.device(self._step.device),
                torch.cuda.graph(graph, capture_error_mode="thread_local"),
            ):
                self._step.run()
            self._graph = graph
        self._graph.replay()

    def forget(self) -> None:
        """Its memory is about to move."""
        torch.cuda.synchronize(self._step.device)
        self._graph, self._has_run = None, False
