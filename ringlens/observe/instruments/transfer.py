"""From the device to the host without stopping the model.

On CUDA the results are computed where the model runs and copied to pinned memory on a stream of
their own; on the CPU they are computed by whoever opens them, which is the recording thread.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def bring(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for what that is doing."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


class PendingTensors:
    """Named tensors on their way to the host.

    Attributes:
        bytes: Memory that they hold until they are opened.
    """

    def __init__(self, contents: Callable[[], Tensors], size: int) -> None:
        self._contents = contents
        self.bytes = size

    def open(self) -> Tensors:
        """The tensors, on the CPU; waits for them. They are opened once."""
        with torch.inference_mode():
            contents = self._contents()
        del self._contents  # what it was made from may go now
        return contents


class Transfer:
    """Brings tensors to the host; one stream of its own for each CUDA device."""

    # On the CPU, inputs above this are not kept for later but used at once.
    keeps = 2**25

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def send(
        self,
        compute: Callable[..., Tensors],
        *inputs: Tensor,
        finish: Callable[[Tensors], Tensors] | None = None,
    ) -> PendingTensors:
        """Send ``finish(compute(*inputs))``.

        Args:
            compute: Runs on the inputs' device and must not wait for it.
            *inputs: Tensors that nobody writes to any more.
            finish: Runs on the host, when they are opened.
        """
        size = sum(x.nbytes for x in inputs)
        if inputs[0].is_cuda:
            contents, size = self._copied(compute(*inputs))
        elif size > self.keeps:
            results = compute(*inputs)
            contents, size = (lambda: results), sum(x.nbytes for x in results.values())
        else:
            contents = lambda: compute(*inputs)  # noqa: E731
        return PendingTensors((lambda: finish(contents())) if finish else contents, size)

    def _copied(self, results: Tensors) -> tuple[Callable[[], Tensors], int]:
        device = next(iter(results.values())).device
        stream = self._streams.setdefault(device, torch.cuda.Stream(device))
        stream.wait_stream(torch.cuda.current_stream(device))
        host: Tensors = {}
        with torch.cuda.stream(stream):
            for name, x in results.items():
                host[name] = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
                host[name].copy_(x, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(stream)

        def contents() -> Tensors:
            arrived.synchronize()
            results.clear()  # kept until here: their memory must not be reused under the copy
            return host

        return contents, sum(x.nbytes for x in host.values())
