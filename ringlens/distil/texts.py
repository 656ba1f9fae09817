"""What a student learns from: the traces of a store, as batches of token ids.

Shape letters: B texts of a batch, T tokens of its longest, P positions that are learnt at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ringlens.errors import ConfigError

if TYPE_CHECKING:
    from ringlens.store import Store

_ALIKE = 64
"""Texts among which those of like length are put together, to save padding."""


@dataclass(frozen=True, eq=False)
class Text:
    """The tokens of a trace.

    Attributes:
        problem: Its problem, or a name of its own where it has none.
        ids_T: Token ids, int64 [T].
        learnt_T: Positions whose next token the teacher wrote, bool [T].
    """

    problem: str
    ids_T: NDArray[np.int64]
    learnt_T: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts side by side, padded on the right, where causal attention never looks.

    Attributes:
        ids_BT: Token ids, int64 [B, T]; padding repeats a text's last token.
        inside_BT: What is no padding, bool [B, T].
        learnt_BT: Positions that are learnt at, bool [B, T].
    """

    ids_BT: NDArray[np.int64]
    inside_BT: NDArray[np.bool_]
    learnt_BT: NDArray[np.bool_]

    @property
    def tokens(self) -> int:
        """Tokens that are no padding."""
        return int(self.inside_BT.sum())

    def part(self, rank: int, size: int) -> Batch | None:
        """The texts of one of several processes; None where there are none for it."""
        own = slice(rank, None, size)
        if rank >= len(self.ids_BT):
            return None
        return Batch(self.ids_BT[own], self.inside_BT[own], self.learnt_BT[own])


def texts_of(store: Store) -> list[Text]:
    """Read the finished traces of a store that a model wrote; not their replays.

    Raises:
        ConfigError: There is none with a token behind its prompt.
    """
    rows = store.sql(
        "select coalesce(problem_id, 'trace ' || trace_id) as problem, "
        "list(token_id order by pos) as ids, list(phase <> 'prompt' order by pos) as written "
        "from tokens join traces using (trace_id) "
        "where finish_reason <> 'running' and source_trace_id is null "
        "group by trace_id, problem order by trace_id"
    ).to_arrow_table()
    found = []
    for row in rows.to_pylist():
        written = np.array(row["written"], bool)
        learnt_T = np.append(written[1:], False)  # nothing follows the last token
        if learnt_T.any():
            found.append(Text(row["problem"], np.array(row["ids"], np.int64), learnt_T))
    if not found:
        raise ConfigError(
            f"{store.address} holds no finished trace that goes beyond its prompt: capture the "
            "teacher's thoughts first, with ringlens capture."
        )
    return found


def digest(texts: Sequence[Text]) -> str:
    """Digest texts: with the same digest, the same is learnt."""
    found = hashlib.sha256()
    for text in texts:
        found.update(f"{text.problem!r} {len(text.ids_T)} ".encode())
        found.update(text.ids_T.tobytes() + text.learnt_T.tobytes())
    return found.hexdigest()


def split(texts: Sequence[Text], share: float, seed: int) -> tuple[list[Text], list[Text]]:
    """Hold the texts of some problems out, at least of one unless ``share`` is 0.

    Returns:
        Texts to learn from, and texts to measure on.

    Raises:
        ConfigError: There is one problem only.
    """
    problems = sorted({text.problem for text in texts})
    if not share:
        return list(texts), []
    if len(problems) < 2:
        raise ConfigError(
            "the store holds traces of one problem, so none can be held out: capture more "
            "problems, or set held_out = 0 to measure nothing."
        )
    n = min(math.ceil(share * len(problems)), len(problems) - 1)
    chosen = np.random.default_rng(seed).permutation(len(problems))[:n]
    held_out = {problems[i] for i in chosen}
    return (
        [text for text in texts if text.problem not in held_out],
        [text for text in texts if text.problem in held_out],
    )


def batches(texts: Sequence[Text], most: int, seed: int) -> Iterator[Batch]:
    """Batches without end, every text once before any comes again; a seed gives the same ones."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(texts))
        alike = [order[at : at + _ALIKE] for at in range(0, len(order), _ALIKE)]
        made = [batch for some in alike for batch in ordered([texts[i] for i in some], most)]
        for i in rng.permutation(len(made)):
            yield made[i]


def ordered(texts: Sequence[Text], most: int) -> Iterator[Batch]:
    """Batches of ``most`` tokens at most, padding counted, the shortest texts first."""
    waiting: list[Text] = []
    for text in sorted(texts, key=lambda each: len(each.ids_T)):
        if waiting and (len(waiting) + 1) * len(text.ids_T) > most:
            yield _batch(waiting)
            waiting = []
        waiting.append(text)
    if waiting:
        yield _batch(waiting)


def _batch(texts: Sequence[Text]) -> Batch:
    shape = (len(texts), max(len(text.ids_T) for text in texts))
    ids_BT, inside_BT = np.zeros(shape, np.int64), np.zeros(shape, bool)
    learnt_BT = np.zeros(shape, bool)
    for row, text in enumerate(texts):
        n = len(text.ids_T)
        ids_BT[row] = text.ids_T[-1]
        ids_BT[row, :n], inside_BT[row, :n], learnt_BT[row, :n] = text.ids_T, True, text.learnt_T
    return Batch(ids_BT, inside_BT, learnt_BT)
