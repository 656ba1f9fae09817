"""What a run will write: said before it begins, with the room on the disk, and how fast it can.

The bytes of a number are measured ones (docs/recording.md); stores of a few short traces have more.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ringlens.config import Chosen, OnLayers, Recorded, Vectors
from ringlens.store.schema.instruments import declaration_of, default_names, layers_asked

if TYPE_CHECKING:
    from ringlens.model.sizes import Sizes

log = logging.getLogger(__name__)

TOKEN = 20.0
"""Bytes of a token's row and its share of the trace's: id, text, span, phase."""

FIRST = 1.0
"""Seconds of recording behind which its rate is told."""


@dataclass(frozen=True)
class Forecast:
    """What a run will write.

    Attributes:
        tokens: Tokens of all its traces, at most.
        bytes: Bytes in files, about.
    """

    tokens: int
    bytes: float

    @property
    def rate(self) -> str:
        """The rate of data, for people."""
        return f"about {_size(1000 * self.bytes / max(self.tokens, 1))} per 1,000 tokens"


def forecast(record: Sequence[Recorded], model: Sizes, lengths: Sequence[int]) -> Forecast:
    """Count what a record takes.

    Args:
        record: What is recorded, resolved for the model.
        model: The model's sizes.
        lengths: Tokens of each trace, at most.
    """
    total = TOKEN * sum(lengths)
    for item in record:
        if isinstance(item, Chosen):
            start, stop = item.span
            positions = sum(len(range(start, min(n, stop or n))) for n in lengths)
            total += positions * _of_chosen(item, model)
        else:
            total += sum(lengths) * _of_name(item, model)
    return Forecast(sum(lengths), total)


def _of_name(item: str | OnLayers, model: Sizes) -> float:
    """Bytes of a token on all layers."""
    declared = declaration_of(item)
    has = model.sparse_layers if declared.table.is_sparse else tuple(range(model.layers))
    layers = len(layers_asked(declared.name, [item], has)) if declared.table.has("layer") else 1
    router = model.router
    sizes = {"H": model.heads, "E": router.experts, "k": router.experts_per_token, "": 1}
    return layers * sum(sizes[letter] * size for letter, size in declared.stored.items())


def _of_chosen(item: Chosen, model: Sizes) -> float:
    """Bytes of a token at a point, or of where heads look."""
    (size,) = declaration_of(item).stored.values()
    layers = len(item.layers or (0,))
    if not isinstance(item, Vectors):
        return layers * len(item.heads or ()) * item.k * size
    return layers * (len(item.heads) * model.head_dim if item.heads else model.hidden_size) * size


def say(
    plan: Forecast, record: Sequence[Recorded], folder: Path | None, *, chosen: str, encoded: str
) -> None:
    """Say what a run will write, and warn where the disk has no room for it.

    Args:
        plan: What it will write.
        record: What is recorded.
        folder: Where it writes; None where that is no disk of this machine.
        chosen: What the default left out; "" if it left nothing, or was not asked for.
        encoded: Where it is encoded.
    """
    free = None if folder is None else shutil.disk_usage(folder).free
    room = "" if free is None else f"; {_size(free)} are free"
    log.info(
        "recording %s%s: %s, %s for %s tokens at most%s; encoded %s",
        ", ".join(map(str, record)) or "tokens alone",
        f" ({chosen})" if chosen else "",
        plan.rate,
        _size(plan.bytes),
        f"{plan.tokens:,}",
        room,
        encoded,
    )
    if free is not None and plan.bytes > free:
        log.warning(
            "this run may write %s (%s, %s tokens at most), and %s are free at %s: record less "
            "(record=…), allow fewer tokens, or write to another disk. It begins all the same; "
            "what is committed stays if the disk fills.",
            _size(plan.bytes),
            plan.rate,
            f"{plan.tokens:,}",
            _size(free),
            folder,
        )


def left_out(model: Sizes) -> str:
    """What the default leaves out of a large model, and why; "" of one of which it records all."""
    heads = model.layers * model.heads
    names = [name for name in default_names() if name not in default_names(heads)]
    return f"without {', '.join(names)}, as the model has {heads:,}" if names else ""


class Pace:
    """Tells once what this machine records a second: from the first second of work on it.

    Work that several threads do at a time counts once.
    """

    def __init__(self) -> None:
        self._seconds, self._told = 0.0, False
        self._busy, self._begin = 0, 0.0
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """Seconds of work so far."""
        with self._lock:
            return self._seconds + (time.perf_counter() - self._begin if self._busy else 0)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time of a piece of work."""
        with self._lock:
            self._begin = self._begin if self._busy else time.perf_counter()
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                self._seconds += 0 if self._busy else time.perf_counter() - self._begin

    def committed(self, tokens: int) -> None:
        """Tell the rate where there was enough work by now.

        Args:
            tokens: Tokens that were committed so far, all of them.
        """
        seconds = self.seconds
        if not self._told and seconds >= FIRST and tokens:
            self._told = True
            log.info(
                "this machine records about %s tokens a second (first %.1f s of work on it); a "
                "model that makes more waits",
                f"{tokens / seconds:,.0f}",
                seconds,
            )


def _size(count: float) -> str:
    """Bytes for people."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
