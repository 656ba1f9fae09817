"""The processes of a run: which layers each watches, which problems each works on.

Two ways to use several processes under torchrun or ``accelerate launch``. A model that is sharded
over them (tensor, expert or pipeline parallelism) runs the same traces on all; they divide the
layers among them and commit together. A model that each process holds whole (data parallelism)
runs other problems in each, and each commits on its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from ringlens.errors import ObservationError
from ringlens.model.parallel import control_group, owned_layers, parallel_of
from ringlens.observe.points import POINTS, in_this_process
from ringlens.store.write.peers import ALONE, Peers

if TYPE_CHECKING:
    import torch.distributed as dist

    from ringlens.model.loaded import LoadedModel

T = TypeVar("T")

# Seconds that a process waits for the others. Those that share problems out may finish hours
# apart; one that dies is noticed at once all the same, as its connections close.
PATIENCE = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Ranks:
    """Messages between the processes of a run; see `ringlens.store.write.peers.Peers`.

    Raises:
        ObservationError: Another process is gone.
    """

    group: dist.ProcessGroup
    rank: int
    size: int
    primary: int = 0

    def broadcast(self, value: T) -> T:
        """Rank 0's value."""
        import torch.distributed as dist

        box = [value]
        with gone_peers(self.rank):
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def gather(self, value: T) -> list[T] | None:
        """Everyone's values on rank 0, None elsewhere."""
        everyone = self.all_gather(value)
        return everyone if self.rank == 0 else None

    def all_gather(self, value: T) -> list[T]:
        """Everyone's values."""
        import torch.distributed as dist

        everyone: list[T] = [value] * self.size
        with gone_peers(self.rank):
            dist.all_gather_object(everyone, value, group=self.group)
        return everyone


@dataclass(frozen=True)
class RankRole:
    """What this process does in a run.

    Attributes:
        layers: Layers that it watches.
        is_primary: Whether the model's logits are here: it writes text and tokens.
        writers: The processes that commit the same traces.
        everyone: All processes of the run.
        share: It works on items i with i % share[1] == share[0].
        processes: All processes of the run.
    """

    layers: tuple[int, ...]
    is_primary: bool = True
    writers: Peers = ALONE
    everyone: Peers = ALONE
    share: tuple[int, int] = (0, 1)
    processes: int = 1


def rank_role(lens: LoadedModel) -> RankRole:
    """The role of this process among those that a launcher started, or on its own.

    All processes of a run call this together.
    """
    layers = owned_layers(lens.model)
    is_primary = in_this_process(lens.model, POINTS["logits"], None)
    group = _group()
    if group is None:
        return RankRole(layers, is_primary)
    import torch.distributed as dist

    ranks = Ranks(group, dist.get_rank(), dist.get_world_size())
    if parallel_of(lens.model).world_size == 1:
        share = (ranks.rank, ranks.size)
        return RankRole(layers, is_primary, everyone=ranks, share=share, processes=ranks.size)
    owned = ranks.all_gather((layers, is_primary))
    primary = next(rank for rank, (_, has_logits) in enumerate(owned) if has_logits)
    ranks = Ranks(group, ranks.rank, ranks.size, primary)
    mine = watched([layers for layers, _ in owned])[ranks.rank]
    return RankRole(mine, is_primary, writers=ranks, everyone=ranks, processes=ranks.size)


def sharers(lens: LoadedModel) -> Peers:
    """The processes that a model is divided over; this one alone where it is whole.

    All of them call this together.
    """
    return rank_role(lens).everyone if parallel_of(lens.model).world_size > 1 else ALONE


def watched(owned: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Layers each rank watches: every layer once, in turn by those ranks that have it."""
    mine: list[list[int]] = [[] for _ in owned]
    for layer in sorted(set().union(*owned)):
        owners = [rank for rank, layers in enumerate(owned) if layer in layers]
        mine[owners[layer % len(owners)]].append(layer)
    return [tuple(layers) for layers in mine]


@contextmanager
def gone_peers(rank: int) -> Iterator[None]:
    """Turn what torch.distributed raises when a process is gone into one sentence.

    Raises:
        ObservationError: Another process is gone, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("onnection", "imed out", "gloo", "NCCL")):
            raise
        raise ObservationError(
            f"rank {rank}: another process of this run has ended or hangs, so the run stops here. "
            "What was committed is safe; start the same command again to go on from there. "
            f"({str(error).strip().splitlines()[0].split('. ')[0]})"
        ) from error


def _group() -> dist.ProcessGroup | None:
    """A group of all processes that a launcher started; None in a single process."""
    import torch.distributed as dist

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE))
    return control_group(PATIENCE)
