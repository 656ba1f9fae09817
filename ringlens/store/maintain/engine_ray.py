"""RayEngine: runs a pass over a store on a Ray cluster, as a Ray Data pipeline."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ringlens.errors import ConfigError, RinglensError

S = TypeVar("S")
R = TypeVar("R")


class RayEngine:
    """Runs shards on Ray's workers; starts Ray on this machine if no cluster is running.

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

    def map(self, function: Callable[[S], R], shards: Sequence[S]) -> Iterator[R]:
        """Yield the results of the shards, as Ray Data streams them."""
        import ray.data
        from ray import cloudpickle

        if not shards:
            return
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"shard": cloudpickle.dumps(shard)} for shard in shards]
        # Ray distributes its own blocks, so each shard gets one.
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        for row in dataset.map(_Call(cloudpickle.dumps(function))).iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, RinglensError):
                raise result
            yield result


class _Call:
    """Maps a row with a shard to a row with its result, or with the RinglensError it raised."""

    def __init__(self, function: bytes) -> None:
        self._function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        from ray import cloudpickle

        function = pickle.loads(self._function)
        try:
            result = function(pickle.loads(row["shard"]))
        except RinglensError as error:  # returned, as Ray would wrap an error that is raised
            result = error
        return {"result": cloudpickle.dumps(result)}
