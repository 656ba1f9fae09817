"""Router saturation: when, in training, the routers settle on the experts that they end with.

Shape letters: P pairs of traces, N tokens, R tokens with choices on a layer, X groups of pairs, k
experts per token, E experts, B draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.scans.choices import Choices, Shape, Tokens, blocks, layers_of
from ringlens.analysis.scans.parts import each_of
from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.grouped_choices import grouped_tokens, loads
from ringlens.analysis.selections.router import router_shape
from ringlens.analysis.selections.selection import Selection, read, traces_of
from ringlens.analysis.statistics.bootstrap import DRAWS, enough_traces, ratio_interval
from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError, StoreError
from ringlens.store.maintain.engine import LOCAL, Engine
from ringlens.store.schema.views import literal

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

_POS = 2**32
"""Beyond every position."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a model, and the store with its routing.

    Attributes:
        name: What the table calls it, for example "step 5000".
        store: The store. Replays of one set of texts with each checkpoint hold equal tokens.
        where: Which of the store's traces are the checkpoint's, a predicate over `token_context`,
            for example ``run_id = '…'``; None for all.
    """

    name: str
    store: Source
    where: str | None = None


class _Pair(NamedTuple):
    """A trace of a checkpoint, and the one of the last that begins with the same tokens."""

    earlier: int
    last: int


@refuse_unknown
def saturation(
    checkpoints: Sequence[Checkpoint],
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    draws: int = DRAWS,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure how much of the last checkpoint's routing earlier ones have.

    Traces are paired if all their tokens are equal, and if there are none, those with equal prompts
    (the same problems, which each checkpoint answers in its own words); positions are compared up
    to the first token that differs.

    Args:
        checkpoints: Two or more, in order of training.
        where: The tokens of the last checkpoint, a predicate over `token_context`; None for all.
        by: Columns of its `token_context` to group by; the phase is added where nothing names it.
        draws: Resamples of traces for the intervals; 0 for no intervals.
        seed: Seed of the resampling.
        engine: Scans the stores, in this process or on a cluster.

    Returns:
        A row per checkpoint but the last, group and layer: ``tokens`` compared; ``saturation``, the
        mean of |E_t ∩ E_T| / k over tokens, with E_t the experts of this checkpoint and E_T those
        of the last (arXiv 2409.02060), and its 95% interval over traces ``low`` and ``high``;
        ``chance``, what it would be if the choices within each layer and trace were in another
        order (the mean over all `Shuffled`; k / E if all experts are used evenly); and ``beyond`` =
        (saturation − chance) / (1 − chance), 0 by chance and 1 for equal choices. ``attrs`` holds
        ``unpaired``, traces without a partner for each checkpoint, in its order and that of the
        last, and the SQL where all checkpoints lie in one store.

    Raises:
        ConfigError: There are fewer than two checkpoints, two have one name or hold one trace, or a
            predicate is wrong.
        StoreError: A checkpoint has no trace of the same tokens, the routers differ, or there are
            too few traces for an interval.
    """
    *earlier, last = _checked(checkpoints)
    selection = read(last.store, _both(last.where, where), by)
    shape, _ = router_shape(last.store, selection), traces_of(last.store, selection)
    rng = np.random.default_rng(seed)
    tables, queries, unpaired, traces = [], [], {}, 0
    for checkpoint in earlier:
        pairs, unpaired[checkpoint.name] = _paired(checkpoint, last, selection)
        counted = _counted(checkpoint, last, selection, pairs, shape, engine)
        traces = max(traces, len(pairs))
        tables.append(_table(checkpoint.name, counted, selection, rng, draws))
        queries.append(_sql(checkpoint, selection, counted))
    frame = pd.concat(tables, ignore_index=True)
    one_store = all(each.store is last.store for each in earlier)
    sql = "\nunion all\n".join(queries) if one_store else None
    return described(frame, replace(selection, sums=""), traces, sql, unpaired=unpaired)


def _checked(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Refuse checkpoints that cannot be compared or told apart."""
    given = list(checkpoints)
    if len(given) < 2 or not all(isinstance(each, Checkpoint) for each in given):
        raise ConfigError(
            f"checkpoints = {given!r:.100}; give two or more `Checkpoint(name, store)`, the last "
            "of the training at the end."
        )
    names = [each.name for each in given]
    if len(set(names)) < len(names):
        raise ConfigError(f"two checkpoints have one name, {names!r:.200}; name them apart.")
    return given


def _both(first: str | None, second: str | None) -> str | None:
    given = [f"({each}\n)" for each in (first, second) if each is not None]
    return " and ".join(given) or None


def _paired(
    checkpoint: Checkpoint, last: Checkpoint, selection: Selection
) -> tuple[list[_Pair], tuple[int, int]]:
    """Pair traces of equal tokens, or else of equal prompts; and count those without a partner."""
    own = read(checkpoint.store, checkpoint.where, "phase")
    ours, theirs = _traces(checkpoint.store, own.where), _traces(last.store, selection.where)
    for kind in ("tokens", "prompt"):
        a, b = (each.dropna(subset=kind).copy() for each in (ours, theirs))
        for each in (a, b):  # of traces with equal tokens the first is paired with the first
            each["place"] = each.groupby(kind).cumcount()
        found = a.merge(b, on=[kind, "place"], suffixes=("_a", "_b")).sort_values("trace_id_b")
        if len(found):
            break
    pairs = [
        _Pair(int(x), int(y)) for x, y in zip(found["trace_id_a"], found["trace_id_b"], strict=True)
    ]
    if not pairs:
        raise StoreError(
            f"no trace of checkpoint {checkpoint.name!r:.60} has the tokens or the prompt of one "
            f"of {last.name!r:.60}; replay the same texts with both."
        )
    one = type(checkpoint.store) is type(last.store)  # not a shuffled one and its own
    one = one and checkpoint.store.address == last.store.address
    if one and any(a == b for a, b in pairs):
        raise ConfigError(
            f"checkpoints {checkpoint.name!r:.60} and {last.name!r:.60} hold the same traces of "
            "one store; give each a where, for example \"run_id = '…'\"."
        )
    return pairs, (len(ours) - len(pairs), len(theirs) - len(pairs))


def _traces(store: Source, where: str) -> pd.DataFrame:
    """Traces with fingerprints of their tokens and of their prompt."""
    return store.sql(
        f"""select trace_id, md5(string_agg(token_id::varchar, ' ' order by pos)) as tokens,
            md5(string_agg(token_id::varchar, ' ' order by pos) filter (phase = 'prompt')) as prompt
        from tokens where trace_id in (select trace_id from token_context where ({where}
        )) group by trace_id order by trace_id"""
    ).df()


@dataclass(frozen=True)
class _Counted:
    """What is summed over tokens.

    Attributes:
        rows: A row per group, layer and pair: the grouping columns, ``layer``, ``pair``, ``tokens``
            and ``overlap``, the sum of |E_t ∩ E_T| / k.
        chance_X: The sum of overlaps if each trace's choices were in another order.
        common: Positions before which the tokens of each pair are equal.
    """

    rows: pd.DataFrame
    chance_X: NDArray[np.float64]
    common: dict[_Pair, int]


def _counted(
    checkpoint: Checkpoint,
    last: Checkpoint,
    selection: Selection,
    pairs: Sequence[_Pair],
    shape: tuple[int, int],
    engine: Engine,
) -> _Counted:
    """Compare the choices of a checkpoint with those of the last, some layers at a time."""
    other_shape = router_shape(checkpoint.store, Selection(checkpoint.where or "true", (), ""))
    if other_shape != shape:
        raise StoreError(
            f"checkpoint {checkpoint.name!r:.60} chooses {other_shape[1]} of {other_shape[0]} "
            f"experts, and {last.name!r:.60} {shape[1]} of {shape[0]}; compare checkpoints of one "
            "model."
        )
    common_P = _common(checkpoint.store, last.store, pairs)
    texts = _Texts(np.array(pairs, np.int64), common_P)
    count = partial(_compared, selection=selection, texts=texts, shape=Shape(*shape))
    query = f"select count(*) from token_context where ({selection.where}\n)"
    ((tokens,),) = last.store.sql(query).fetchall()
    layers = layers_of(last.store, selection.where)
    # The choices of both are held.
    parts = blocks(layers, 2 * tokens, Shape(*shape), engine)
    found = each_of((checkpoint.store, last.store), count, parts, engine)
    units = [unit for part in found for unit in part]
    if not units:
        raise StoreError(
            f"no token that is selected has equal tokens before it and routing in both "
            f"{checkpoint.name!r:.60} and {last.name!r:.60}; replay the same texts with both."
        )
    rows, chance = zip(*units, strict=True)
    common = dict(zip(pairs, common_P.tolist(), strict=True))
    return _Counted(pd.concat(rows, ignore_index=True), np.concatenate(chance), common)


class _Texts(NamedTuple):
    """Pairs of traces, and how far their tokens are equal.

    Attributes:
        pair_P2: Ids of the earlier trace and the last one.
        common_P: Positions before which their tokens are equal.
    """

    pair_P2: NDArray[np.int64]
    common_P: NDArray[np.int64]


def _compared(
    store: Source,
    last: Source,
    layers: tuple[int, ...],
    *,
    selection: Selection,
    texts: _Texts,
    shape: Shape,
) -> list[tuple[pd.DataFrame, NDArray[np.float64]]]:
    """Compare the choices on some layers: rows of `_Counted`, and their chance."""
    listed = ", ".join(map(str, texts.pair_P2[:, 1]))
    narrowed = replace(selection, where=f"({selection.where}\n) and trace_id in ({listed})")
    grouped = grouped_tokens(last, narrowed)
    trace_N, pos_N = (grouped.table[name].to_numpy() for name in ("trace_id", "pos"))
    pair_N = pd.Index(texts.pair_P2[:, 1]).get_indexer(trace_N)
    ours_N = texts.pair_P2[pair_N, 0]
    order_N = np.lexsort((pos_N, ours_N))
    ours = Tokens.of(pa.table({"trace_id": ours_N[order_N], "pos": pos_N[order_N]}))
    place_N = np.empty_like(order_N)
    place_N[order_N] = np.arange(len(order_N))
    a, b = (Choices.read(*each, layers, shape) for each in ((store, ours), (last, grouped.tokens)))
    P, E = len(texts.pair_P2), shape.experts
    found = []
    for place, layer in enumerate(layers):
        both_N = a.there_LN[place, place_N] & b.there_LN[place] & (pos_N < texts.common_P[pair_N])
        if not both_N.any():
            continue
        a_kR = np.ascontiguousarray(a.ids_LNk[place, place_N[both_N]].T)
        b_kR = np.ascontiguousarray(b.ids_LNk[place, both_N].T)
        units, unit_R = np.unique(grouped.group_N[both_N] * P + pair_N[both_N], return_inverse=True)
        X = len(units)
        tokens_X = np.bincount(unit_R, minlength=X)
        shared_X = np.bincount(unit_R, _shared(a_kR, b_kR), minlength=X)
        rows = grouped.groups.iloc[units // P].reset_index(drop=True)
        rows["layer"], rows["tokens"] = np.uint16(layer), tokens_X
        rows["pair"], rows["overlap"] = texts.pair_P2[units % P, 1], shared_X / shape.k
        loads_a, loads_b = (loads(each_kR, unit_R, X, E) for each_kR in (a_kR, b_kR))
        chance_X = (loads_a * loads_b).sum(axis=1) / tokens_X / shape.k
        found.append((rows, chance_X))
    return found


def _common(store: Source, last: Source, pairs: Sequence[_Pair]) -> NDArray[np.int64]:
    """Positions before which the tokens of each pair are equal, [P]."""
    tables = []
    for side, each in enumerate((store, last)):
        ids = ", ".join(str(pair[side]) for pair in pairs)
        query = f"select trace_id, pos, token_id from tokens where trace_id in ({ids})"
        table = each.sql(query).df()
        place = {pair[side]: p for p, pair in enumerate(pairs)}
        tables.append(table.assign(pair=table["trace_id"].map(place)).drop(columns="trace_id"))
    both = tables[0].merge(tables[1], on=["pair", "pos"], how="outer")
    differs = both[both["token_id_x"].ne(both["token_id_y"])]
    common_P = np.full(len(pairs), _POS)
    np.minimum.at(common_P, differs["pair"].to_numpy(), differs["pos"].to_numpy())
    return common_P


def _shared(
    a_kR: NDArray[np.unsignedinteger], b_kR: NDArray[np.unsignedinteger]
) -> NDArray[np.uint16]:
    """|A ∩ B| of each token, [R]: the experts of a token are distinct."""
    shared_R = np.zeros(a_kR.shape[1], np.uint16)
    for a_R in a_kR:  # rows of equal rank are compared many at a time, and nothing of k × k is held
        for b_R in b_kR:
            shared_R += a_R == b_R
    return shared_R


def _table(
    name: str, counted: _Counted, selection: Selection, rng: np.random.Generator, draws: int
) -> pd.DataFrame:
    """All groups and layers of one checkpoint."""
    rows = counted.rows.assign(chance=counted.chance_X)
    keys = selection.keys("layer")
    found = []
    for values, index in rows.groupby(keys, dropna=False, sort=True).indices.items():
        own = rows.iloc[index]
        tokens_U, overlap_U = own["tokens"].to_numpy(), own["overlap"].to_numpy()
        measured = overlap_U.sum() / tokens_U.sum()
        chance = own["chance"].sum() / tokens_U.sum()
        key = dict(zip(keys, values if isinstance(values, tuple) else (values,), strict=True))
        row = {"checkpoint": name, **key, "tokens": tokens_U.sum(), "saturation": measured}
        if draws:
            enough_traces(len(own), f"the saturation of {name!r:.60} in {key}")
            row["low"], row["high"] = ratio_interval(overlap_U, tokens_U, rng, draws)
        with np.errstate(invalid="ignore", divide="ignore"):
            beyond = np.float64(measured - chance) / (1 - chance)
        found.append(row | {"chance": chance, "beyond": beyond})
    return pd.DataFrame(found)


def _sql(checkpoint: Checkpoint, selection: Selection, counted: _Counted) -> str:
    """SQL of one checkpoint's saturation, for checkpoints in one store."""
    listed = ", ".join(f"({a}, {b}, {common})" for (a, b), common in counted.common.items())
    return f"""(
with pairs(earlier, last, common) as (values {listed})
select {literal(checkpoint.name)} as checkpoint, {selection.listed("layer", prefix="b.")},
       count(*) as tokens,
       avg(len(list_intersect(a.expert_ids, b.expert_ids)) / len(b.expert_ids)) as saturation
from pairs join {chosen_tokens(selection)} as b on b.trace_id = last and b.pos < common
join (select trace_id, layer, pos, expert_ids from routing) as a
on a.trace_id = earlier and a.layer = b.layer and a.pos = b.pos
group by all order by all)"""
