"""RayEngine: a pass over a store on the workers of a Ray cluster, as a Ray Data pipeline."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ringlens.errors import ConfigError, RinglensError

S = TypeVar("S")
R = TypeVar("R")


class RayEngine:
    """Ray's workers. A running cluster is used; else one is started on this machine's cores.

    The cluster is the one that this process is connected to, or that ``RAY_ADDRESS`` names. Its
    machines need ringlens, and must reach the store's address.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self) -> None:
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ConfigError("engine ray needs Ray: pip install 'ringlens[ray]'") from error
        if not ray.is_initialized():
            ray.init(log_to_driver=False)

    def map(self, function: Callable[[S], R], shares: Sequence[S]) -> Iterator[R]:
        """The function's results, as Ray Data streams them."""
        import ray.data
        from ray import cloudpickle

        if not shares:
            return
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"share": cloudpickle.dumps(share)} for share in shares]
        # A block for each share: blocks are what Ray hands out.
        shared = ray.data.from_items(rows, override_num_blocks=len(rows))
        for row in shared.map(_Call(cloudpickle.dumps(function))).iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, RinglensError):
                raise result
            yield result


class _Call:
    """A function from rows with a share to rows with its result, or with the error of ours."""

    def __init__(self, function: bytes) -> None:
        self._function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        from ray import cloudpickle

        function = pickle.loads(self._function)
        try:
            result = function(pickle.loads(row["share"]))
        except RinglensError as error:  # raised where it is awaited, without Ray's wrapping
            result = error
        return {"result": cloudpickle.dumps(result)}
