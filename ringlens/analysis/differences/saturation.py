"""Router saturation: when, in training, the routers settle on the experts that they end with.

Shape letters: P pairs of traces, R rows (a token on a layer), X rows of a table of pairs, k experts
per token, E experts, B draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.selections.expert_counts import chosen_tokens, router_shape
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.selection import Selection, read
from ringlens.analysis.statistics.bootstrap import DRAWS, enough_traces, intervals
from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError, StoreError
from ringlens.store.encode.columns import matrix
from ringlens.store.schema.views import literal

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

_ROWS = 600_000
"""Rows of a checkpoint that are compared at a time; a trace that has more is compared whole."""

_POS = 2**32
_LAYER = 2**12


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
    shape = router_shape(last.store, selection)
    rng = np.random.default_rng(seed)
    tables, queries, unpaired, traces = [], [], {}, 0
    for checkpoint in earlier:
        pairs, unpaired[checkpoint.name] = _paired(checkpoint, last, selection)
        counted = _counted(checkpoint, last, selection, pairs, shape)
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
) -> _Counted:
    """Compare the choices of a checkpoint with those of the last, some traces at a time."""
    other_shape = router_shape(checkpoint.store, Selection(checkpoint.where or "true", (), ""))
    if other_shape != shape:
        raise StoreError(
            f"checkpoint {checkpoint.name!r:.60} chooses {other_shape[1]} of {other_shape[0]} "
            f"experts, and {last.name!r:.60} {shape[1]} of {shape[0]}; compare checkpoints of one "
            "model."
        )
    found = [
        _compared(checkpoint.store, last.store, selection, part, shape[0])
        for part in _parts(last.store, pairs)
    ]
    rows = pd.concat([each.rows for each in found], ignore_index=True)
    if rows.empty:
        raise StoreError(
            f"no token that is selected has equal tokens before it and routing in both "
            f"{checkpoint.name!r:.60} and {last.name!r:.60}; replay the same texts with both."
        )
    common = {pair: end for each in found for pair, end in each.common.items()}
    return _Counted(rows, np.concatenate([each.chance_X for each in found]), common)


def _parts(store: Source, pairs: Sequence[_Pair]) -> Iterator[list[_Pair]]:
    """Pairs, as many at a time as have about `_ROWS` rows."""
    query = "select trace_id, count(*) from routing group by trace_id"
    rows = dict(store.sql(query).fetchall())
    part: list[_Pair] = []
    held = 0
    for pair in pairs:
        if part and held + rows.get(pair.last, 0) > _ROWS:
            yield part
            part, held = [], 0
        part.append(pair)
        held += rows.get(pair.last, 0)
    yield part


def _compared(
    store: Source, last: Source, selection: Selection, pairs: Sequence[_Pair], experts: int
) -> _Counted:
    """Compare the choices of some pairs of traces."""
    ids_a, ids_b = (", ".join(str(pair[side]) for pair in pairs) for side in (0, 1))
    common_P = _common(store, last, pairs)
    narrowed = replace(selection, where=f"({selection.where}\n) and trace_id in ({ids_b})")
    b = last.sql(f"from {chosen_tokens(narrowed)}").to_arrow_table()
    query = f"select trace_id, layer, pos, expert_ids from routing where trace_id in ({ids_a})"
    a = store.sql(query).to_arrow_table()
    key_a, _ = _keys(a, [pair.earlier for pair in pairs])
    key_b, pair_b = _keys(b, [pair.last for pair in pairs])
    own_b = np.flatnonzero(b["pos"].to_numpy() < common_P[pair_b])
    _, in_a, in_b = np.intersect1d(key_a, key_b[own_b], assume_unique=True, return_indices=True)
    in_b = own_b[in_b]
    names = selection.keys("layer")
    units = b.select(names).take(pa.array(in_b)).to_pandas().assign(pair=pair_b[in_b])
    grouped = units.groupby([*names, "pair"], dropna=False, sort=True)
    unit_R = grouped.ngroup().to_numpy()
    a_Rk, b_Rk = matrix(a["expert_ids"])[in_a], matrix(b["expert_ids"])[in_b]
    X = grouped.ngroups
    tokens_X = np.bincount(unit_R, minlength=X)
    rows = grouped.size().rename("tokens").reset_index()
    rows["pair"] = [pairs[p].last for p in rows["pair"]]
    rows["overlap"] = np.bincount(unit_R, _overlaps(a_Rk, b_Rk), minlength=X)
    a_XE, b_XE = (_loads(unit_R, each_Rk, X, experts) for each_Rk in (a_Rk, b_Rk))
    k = max(1, a_Rk.shape[1])
    chance_X = (a_XE * b_XE).sum(axis=1) / np.maximum(tokens_X, 1) / k
    return _Counted(rows, chance_X, dict(zip(pairs, common_P.tolist(), strict=True)))


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


def _keys(table: pa.Table, traces: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair, layer and position of each row as one number, and the place of its pair."""
    pair_R = pd.Index(traces).get_indexer(table["trace_id"].to_numpy()).astype(np.int64)
    layer_R = table["layer"].to_numpy().astype(np.int64)
    return (pair_R * _LAYER + layer_R) * _POS + table["pos"].to_numpy(), pair_R


def _overlaps(a_Rk: NDArray, b_Rk: NDArray) -> NDArray[np.float64]:
    """|A ∩ B| / k of each row, [R]."""
    shared_R = np.zeros(len(a_Rk))
    for rank in range(a_Rk.shape[1]):  # a table of k × k comparisons would be k times the memory
        shared_R += (b_Rk == a_Rk[:, rank : rank + 1]).any(axis=1)
    return shared_R / max(1, a_Rk.shape[1])


def _loads(
    unit_R: NDArray[np.int64], ids_Rk: NDArray, units: int, experts: int
) -> NDArray[np.float64]:
    """How often each expert was chosen in each group, layer and pair, [X, E]."""
    place_Rk = unit_R[:, None] * experts + ids_Rk.astype(np.int64)
    found = np.bincount(place_Rk.ravel(), minlength=units * experts)
    return found.reshape(units, experts).astype(np.float64)


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
            row["low"], row["high"] = _interval(overlap_U, tokens_U, rng, draws)
        with np.errstate(invalid="ignore", divide="ignore"):
            beyond = np.float64(measured - chance) / (1 - chance)
        found.append(row | {"chance": chance, "beyond": beyond})
    return pd.DataFrame(found)


def _interval(
    overlap_U: NDArray[np.float64],
    tokens_U: NDArray[np.int64],
    rng: np.random.Generator,
    draws: int,
) -> tuple[float, float]:
    """Ends of the interval of a mean overlap."""

    def mean(times_BU: NDArray[np.float64], _: slice) -> NDArray[np.float64]:
        return ((times_BU @ overlap_U) / (times_BU @ tokens_U))[:, None]

    low, high = intervals(mean, [len(tokens_U)], 1, rng, draws)
    return low[0], high[0]


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
