"""Training data of ring-nano: traces drawn in worker processes, as token arrays and batches.

Shape letters: B traces of a batch, T tokens of its longest, P positions that a loss is taken at.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ringlens.data import tokenizer
from ringlens.data.tasks import mix, story

TRACES_IN_SHARD = 8192
UNLEARNT = np.uint16(1 << 15)
"""Bit of a token that no loss is taken on; token ids are smaller."""


@dataclass(frozen=True)
class Shard:
    """Traces end to end.

    Attributes:
        tokens: Token ids of all traces, uint16; those with the bit ``UNLEARNT`` are context only.
        lengths: Tokens of each trace, int64.
    """

    tokens: NDArray[np.uint16]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Traces padded on the right.

    Attributes:
        input_ids_BT: Token ids, int64.
        lengths_B: Tokens of each trace.
        positions_P: Flat positions in [B, T] whose next token is learnt, int64.
        targets_P: Those next tokens, int64.
    """

    input_ids_BT: NDArray[np.int64]
    lengths_B: NDArray[np.int64]
    positions_P: NDArray[np.int64]
    targets_P: NDArray[np.int64]


def shards(seed: int, workers: int) -> Generator[Shard]:
    """Endless shards, drawn ahead by ``workers`` processes; which shard comes when is fixed.

    Every process draws at most two shards ahead of the reader.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_stay_single) as pool:

        def order(index: int) -> Any:
            return pool.apply_async(draw, (seed, index, TRACES_IN_SHARD))

        ahead = [order(index) for index in range(3 * workers)]
        index = len(ahead)
        while True:
            shard = ahead.pop(0).get()
            ahead.append(order(index))
            index += 1
            yield shard


def draw(seed: int, index: int, traces: int) -> Shard:
    """Shard number ``index`` of the corpus ``seed``, of so many traces."""
    drawn = mix.traces(seed * 1_000_000 + index)
    return encode(_tokenizer(), list(islice(drawn, traces)))


def _stay_single() -> None:
    """Keep a worker's tokenizer from starting threads: the workers themselves are the threads."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@cache
def _tokenizer() -> Tokenizer:
    return tokenizer.build()


def encode(tok: Tokenizer, traces: Sequence[story.Trace]) -> Shard:
    """Tokens of traces. No loss is taken on the prompt, nor on what a trace marks as context.

    So the model learns what follows from a wrong choice, and how to turn back from it, but never
    learns to choose wrongly: the dead ends it walks into are its own.
    """
    texts = [tokenizer.render(trace.prompt, trace.completion) for trace in traces]
    encodings = tok.encode_batch(texts)
    shard = _shard(tok, [np.array(encoding.ids, np.uint16) for encoding in encodings])
    begin = 0
    for trace, text, encoding, length in zip(traces, texts, encodings, shard.lengths, strict=True):
        if trace.unlearnt:
            shift = text.index(trace.completion)
            starts, ends = np.array(encoding.offsets).T
            for start, end in trace.unlearnt:
                inside = (starts < end + shift) & (ends > start + shift)
                shard.tokens[begin : begin + length][inside] |= UNLEARNT
        begin += length
    return shard


def _shard(tok: Tokenizer, rows: list[NDArray[np.uint16]]) -> Shard:
    """Rows end to end, learnt from the first token of the thought on."""
    tokens = np.concatenate(rows)
    lengths = np.array([len(row) for row in rows])
    given = np.flatnonzero(tokens == tok.token_to_id(tokenizer.THINK)) + 1  # <think>, line end
    starts = np.cumsum(lengths) - lengths
    position = np.arange(len(tokens)) - np.repeat(starts, lengths)
    unlearnt = position <= np.repeat(given - starts, lengths)
    return Shard(tokens | np.where(unlearnt, UNLEARNT, np.uint16(0)), lengths)


def batches(shard: Shard, batch_tokens: int, pad: int, rng: np.random.Generator) -> Iterator[Batch]:
    """All traces of a shard once, in batches of traces of like length, in random order.

    Args:
        shard: The traces.
        batch_tokens: Largest B·T.
        pad: Token id of the padding.
        rng: Source of the order.
    """
    starts = np.cumsum(shard.lengths) - shard.lengths
    order = np.lexsort((rng.random(len(starts)), shard.lengths))
    groups: list[NDArray[np.int64]] = []
    end = len(order)
    while end:  # from the longest down, so that the first of a group sets its width
        size = max(1, batch_tokens // int(shard.lengths[order[end - 1]]))
        groups.append(order[max(0, end - size) : end])
        end = max(0, end - size)
    for group in rng.permutation(len(groups)):
        yield _pad(shard, starts, groups[group], pad)


def _pad(shard: Shard, starts: NDArray[np.int64], traces: NDArray[np.int64], pad: int) -> Batch:
    lengths = shard.lengths[traces]
    column = np.arange(lengths.max())
    inside = column < lengths[:, None]
    flat = np.minimum(starts[traces][:, None] + column, len(shard.tokens) - 1)
    tokens = shard.tokens[flat]
    learnt = inside & (tokens < UNLEARNT)
    ids = np.where(inside, tokens & ~UNLEARNT, pad).astype(np.int64)
    positions = np.flatnonzero(learnt[:, 1:].ravel())
    row, before = np.divmod(positions, len(column) - 1)
    return Batch(
        input_ids_BT=ids,
        lengths_B=lengths,
        positions_P=row * len(column) + before,
        targets_P=ids[row, before + 1],
    )
