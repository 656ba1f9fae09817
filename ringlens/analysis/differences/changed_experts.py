"""Which experts a further training changed the use of, and whether it is the words or the router.

Two checkpoints answer the same problems. A problem's thoughts before and after are compared in
three ways, each by the contrast of Mantel and Haenszel (see `contrast`), within strata that are

    all tokens of the problem: what changed in all;
    its tokens of one id: what is not the choice of words (arXiv 2604.17182);
    single positions of one text, which both checkpoints read: what the router itself changed.

Shape letters: U problems, N tokens, R tokens with a choice on a layer, k experts per token, L
layers, E experts, X quantities that are tested (layers × experts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.differences.agreement import paired
from ringlens.analysis.differences.saturation import Checkpoint
from ringlens.analysis.scans.choices import Choices, Shape, Tokens, blocks, layers_of
from ringlens.analysis.scans.parts import each_of
from ringlens.analysis.selections.expert_counts import router_shape
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.same_token import Strata, paired_terms
from ringlens.analysis.selections.selection import Selection
from ringlens.analysis.statistics.bootstrap import DRAWS, enough_traces, intervals
from ringlens.analysis.statistics.fdr import q_values
from ringlens.analysis.statistics.permutation import SignFlips, p_values, smallest
from ringlens.analysis.trajectory.chosen_steps import of_thoughts
from ringlens.config import refuse_unknown, whole
from ringlens.errors import ConfigError, StoreError
from ringlens.store.maintain.engine import LOCAL, Engine

FOUND = 0.05
"""False discovery rate up to which a change counts as found."""

_KEYS = 2**32
"""Beyond every position."""


@refuse_unknown
def changed_experts(
    before: Checkpoint,
    after: Checkpoint,
    where: str | None = None,
    *,
    replay: Checkpoint | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Compare how often two checkpoints choose each expert, on the same problems and texts.

    Problems are the same if id and prompt are; those that one checkpoint lacks are left out, and
    counted in ``attrs``. Whole problems are exchanged and resampled.

    Args:
        before: The checkpoint before the training, and the store of its own thoughts.
        after: The one after it, with its own thoughts about the same problems.
        where: Which tokens of both, a predicate over `token_context`; thoughts only where it names
            no phase.
        replay: The texts of ``before``, replayed with the model of ``after``; None for none.
        draws: Resamples of problems for the intervals; 0 for no intervals.
        seed: Seed of permutations and resamples.
        engine: Scans the stores, in this process or on a cluster.

    Returns:
        A row per layer and expert, the largest changes first, those with q ≤ 0.05 before others:
        ``before`` and ``after``, the shares of tokens that chose it; ``difference``, after − before
        within problems, with its 95% interval ``low`` and ``high``; ``p`` by exchanging the two
        within whole problems; and ``q`` by Benjamini and Hochberg over all rows. The same with
        ``_words`` behind it compares equal token ids within a problem, and with ``_texts``, where
        there is a replay, the same positions of the same texts. ``attrs`` holds ``checkpoints``,
        the names of both; ``problems`` and ``left_out``; ``smallest_p``; ``found``, how many rows
        have q ≤ 0.05 under each control; and ``kept``, what part of the changes is left under it:
        the slope, through zero, of its differences over those in all.

    Raises:
        ConfigError: A predicate is wrong, the checkpoints hold one trace, or the replay is of the
            model before.
        StoreError: The checkpoints share no two problems, the replay has other texts, or the
            routers differ.
    """
    draws = whole("draws", draws, 0)
    own = [_side(checkpoint, where) for checkpoint in (before, after)]
    _refuse_one_trace(before, after, own)
    every, problems = (sorted(each) for each in _problems(own))
    enough_traces(
        len(problems), "what changed on problems that both checkpoints answered", "problem"
    )
    sides = own if replay is None else [*own, _replayed(replay, before, after, own, where)]
    shape = _shape([before, after] if replay is None else [before, after, replay], sides)
    layers = layers_of(before.store, own[0].selection.where)
    count = partial(_of_layers, sides=sides, problems=problems, shape=shape)
    parts = blocks(layers, sum(len(side.word_N) for side in sides), shape, engine)
    stores = [before.store, after.store, *([] if replay is None else [replay.store])]
    counted = [each for part in each_of(stores, count, parts, engine) for each in part]
    frame = _table(counted, layers, shape, draws, np.random.default_rng(seed))
    return described(
        _ordered(frame),
        own[0].selection,
        len(problems),
        None,
        checkpoints=(before.name, after.name),
        problems=len(problems),
        left_out=len(every) - len(problems),
        smallest_p=smallest(SignFlips(len(problems))),
        **_balance(frame),
    )


@dataclass(frozen=True)
class _Side:
    """Tokens of a checkpoint.

    Attributes:
        selection: Which they are.
        tokens: Where they stand.
        problem_U: Problems of their traces.
        word_N: Their ids.
        text_N: Ids of the traces whose texts they are; of a replay, those that it replays.
        pos_N: Their positions.
    """

    selection: Selection
    tokens: Tokens
    problem_U: list[str]
    word_N: NDArray[np.int64]
    text_N: NDArray[np.int64]
    pos_N: NDArray[np.int64]


def _side(checkpoint: Checkpoint, where: str | None) -> _Side:
    """Read the tokens of a checkpoint."""
    given = [f"({each}\n)" for each in (checkpoint.where, where) if each is not None]
    selection = of_thoughts(checkpoint.store, " and ".join(given) or None)
    table = checkpoint.store.sql(
        f"""select trace_id, pos, token_id from token_context where ({selection.where}\n)
        order by trace_id, pos"""
    ).to_arrow_table()
    trace_N, pos_N, word_N = (
        table[name].to_numpy().astype(np.int64) for name in ("trace_id", "pos", "token_id")
    )
    tokens = Tokens.of(table)
    query = "select trace_id, concat(problem_id, ': ', prompt) from traces"
    problem_of = dict(checkpoint.store.sql(query).fetchall())
    problem_U = [problem_of[trace] for trace in tokens.traces.tolist()]
    return _Side(selection, tokens, problem_U, word_N, trace_N, pos_N)


def _problems(own: list[_Side]) -> tuple[set[str], set[str]]:
    """Problems of either, and of both."""
    first, second = (set(side.problem_U) for side in own)
    return first | second, first & second


def _refuse_one_trace(before: Checkpoint, after: Checkpoint, own: list[_Side]) -> None:
    one = before.store.address == after.store.address
    if one and len(np.intersect1d(own[0].text_N, own[1].text_N)):
        raise ConfigError(
            f"checkpoints {before.name!r:.60} and {after.name!r:.60} hold the same traces of one "
            "store; give each a where, for example \"run_id = '…'\"."
        )


def _replayed(
    replay: Checkpoint,
    before: Checkpoint,
    after: Checkpoint,
    own: Sequence[_Side],
    where: str | None,
) -> _Side:
    """Read the tokens of a replay, each with the trace that it replays."""
    side = _side(replay, where)
    ours, theirs, again = (
        _models(each, which) for each, which in ((before, own[0]), (after, own[1]), (replay, side))
    )
    if again == ours != theirs:
        raise ConfigError(
            f"the replay is of {', '.join(again)!r:.80}, the model before; replay the texts of "
            f"{before.name!r:.60} with {', '.join(theirs)!r:.80}."
        )
    source = {pair.b: pair.a for pair in paired(before.store, replay.store)[0]}
    known = pd.Series(side.text_N).map(source)
    if known.isna().any() or not known.isin(own[0].text_N).all():
        raise StoreError(
            f"the replay {replay.name!r:.60} holds traces of other texts than those of "
            f"{before.name!r:.60}; give it a where, or replay the store of the latter."
        )
    return replace(side, text_N=known.to_numpy(np.int64))


def _models(checkpoint: Checkpoint, side: _Side) -> list[str]:
    query = f"select distinct model from runs where {side.selection.of_runs} order by 1"
    return [name for (name,) in checkpoint.store.sql(query).fetchall()]


def _shape(checkpoints: Sequence[Checkpoint], sides: Sequence[_Side]) -> Shape:
    """What the routers of all have in common.

    Raises:
        StoreError: They differ.
    """
    shapes = [
        router_shape(checkpoint.store, side.selection)
        for checkpoint, side in zip(checkpoints, sides, strict=True)
    ]
    for checkpoint, shape in zip(checkpoints, shapes, strict=True):
        if shape != shapes[0]:
            raise StoreError(
                f"checkpoint {checkpoint.name!r:.60} chooses {shape[1]} of {shape[0]} experts, and "
                f"{checkpoints[0].name!r:.60} {shapes[0][1]} of {shapes[0][0]}; compare "
                "checkpoints of one model."
            )
    return Shape(*shapes[0])


@dataclass(frozen=True)
class _Layer:
    """What is counted on one layer.

    Attributes:
        share_2E: Shares of the tokens of both checkpoints that chose each expert.
        terms: Residuals [U, E] and weights [U] under each control.
    """

    share_2E: NDArray[np.float64]
    terms: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def _of_layers(*given: Any, sides: list[_Side], problems: list[str], shape: Shape) -> list[_Layer]:
    """Count some layers, the last of what is given; the stores of all sides come before."""
    *stores, layers = given
    choices = [
        Choices.read(store, side.tokens, layers, shape)
        for store, side in zip(stores, sides, strict=True)
    ]
    u = [pd.Index(problems).get_indexer(side.problem_U)[side.tokens.trace_N] for side in sides]
    found = []
    for place in range(len(layers)):
        on_layer = [_OnLayer.of(*each, place) for each in zip(sides, choices, u, strict=True)]
        a, b = on_layer[0], on_layer[1]
        shares = [each.share(shape.experts) for each in (a, b)]
        pairs = {"": (a, b, None), "_words": (a, b, "word_R")}
        if len(on_layer) > 2:
            pairs["_texts"] = (a, on_layer[2], "place_R")
        terms = {
            name: _terms(first, second, within, len(problems), shape.experts)
            for name, (first, second, within) in pairs.items()
        }
        found.append(_Layer(np.stack(shares), terms))
    return found


@dataclass(frozen=True)
class _OnLayer:
    """Tokens of shared problems with a choice on a layer.

    Attributes:
        ids_kR: Chosen experts.
        u_R: Places of their problems.
        word_R: Their ids.
        place_R: Numbers of their places in the texts.
    """

    ids_kR: NDArray[np.unsignedinteger]
    u_R: NDArray[np.int64]
    word_R: NDArray[np.int64]
    place_R: NDArray[np.int64]

    @classmethod
    def of(cls, side: _Side, choices: Choices, u_N: NDArray[np.int64], place: int) -> _OnLayer:
        """Take the choices of a layer, by its place among those that were read."""
        ids_kR, there_N = choices.of(place)
        kept_R = u_N[there_N] >= 0
        place_N = side.text_N * _KEYS + side.pos_N
        return cls(
            ids_kR[:, kept_R],
            u_N[there_N][kept_R],
            side.word_N[there_N][kept_R],
            place_N[there_N][kept_R],
        )

    def share(self, experts: int) -> NDArray[np.float64]:
        """Shares of the tokens that chose each expert, [E]."""
        return np.bincount(self.ids_kR.ravel(), minlength=experts) / max(1, self.ids_kR.shape[1])


def _terms(
    before: _OnLayer, after: _OnLayer, within: str | None, U: int, E: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Residuals [U, E] of the tokens after, and weights [U], in strata of each problem."""
    both = (after, before)
    u_R = np.concatenate([each.u_R for each in both])
    finer_R = u_R * 0
    if within is not None:
        finer_R = np.concatenate([getattr(each, within) for each in both])
    _, stratum_R = np.unique(np.stack([u_R, finer_R]), axis=1, return_inverse=True)
    first_R = np.arange(len(u_R)) < len(after.u_R)
    ids_kR = np.concatenate([each.ids_kR for each in both], axis=1)
    return paired_terms(Strata.of(u_R, stratum_R.ravel(), first_R), ids_kR, U, E)


def _table(
    counted: list[_Layer], layers: list[int], shape: Shape, draws: int, rng: np.random.Generator
) -> pd.DataFrame:
    """All layers and experts, under every control."""
    share_2LE = np.stack([each.share_2E for each in counted], axis=1)
    frame = pd.DataFrame(
        {
            "layer": np.repeat(layers, shape.experts),
            "expert": np.tile(np.arange(shape.experts), len(layers)),
            "before": share_2LE[0].ravel(),
            "after": share_2LE[1].ravel(),
        }
    )
    for name in counted[0].terms:
        residual_ULE, weight_UL = (
            np.stack([each.terms[name][part] for each in counted], axis=1) for part in (0, 1)
        )
        for column, value_X in _compared(residual_ULE, weight_UL, draws, rng).items():
            frame[column + name] = value_X
    return frame


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """The largest changes first, behind all that are found those that are not."""
    order_X = np.lexsort((-frame["difference"].abs(), ~(frame["q"] <= FOUND)))
    return frame.iloc[order_X].reset_index(drop=True)


def _compared(
    residual_ULE: NDArray[np.float64],
    weight_UL: NDArray[np.float64],
    draws: int,
    rng: np.random.Generator,
) -> dict[str, NDArray[np.float64]]:
    """Differences of all layers and experts, with intervals, p and q."""
    U, L, E = residual_ULE.shape
    residual_UX, layer_X = residual_ULE.reshape(U, L * E), np.repeat(np.arange(L), E)

    def difference(times_BU: NDArray[np.float64], part: slice) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            weight_BX = (times_BU @ weight_UL)[:, layer_X[part]]
            return (times_BU @ residual_UX[:, part]) / weight_BX

    found = {"difference": difference(np.ones((1, U)), slice(0, L * E))[0]}
    if draws:
        found["low"], found["high"] = intervals(difference, [U], L * E, rng, draws)
    found["p"] = p_values(residual_UX, SignFlips(U), rng)
    found["q"] = q_values(found["p"])
    return found


def _balance(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """How many changes are found under each control, and what part of them is left."""
    names = {"all": "", "words": "_words", "texts": "_texts"}
    there = {name: end for name, end in names.items() if f"q{end}" in frame}
    whole_X = frame["difference"].to_numpy()
    norm = float(whole_X @ whole_X)
    return {
        "found": {name: int((frame[f"q{end}"] <= FOUND).sum()) for name, end in there.items()},
        "kept": {
            name: float(frame[f"difference{end}"].to_numpy() @ whole_X) / norm
            for name, end in there.items()
            if end and norm
        },
    }
