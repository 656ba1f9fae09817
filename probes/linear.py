"""Linear probes: what can be read of a thought's future from how its steps were computed.

A logistic regression reads features of each step and foretells something of it. It is judged on
problems that it has not seen, beside two controls: the same regression on shuffled labels, and one
that reads no activations, but only which tokens the thought has written so far and how many.

Shape letters: S steps, D features, G problems, K classes, V token ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.importance.agreement import average_ranks
from ringlens.analysis.importance.foresight import PROBE
from ringlens.analysis.importance.targets import CORRECT, TARGETS, values_of
from ringlens.analysis.trajectory.signatures import ROUTING, signatures
from ringlens.config import known_only, refuse_unknown, whole
from ringlens.errors import ConfigError, NotInStoreError, StoreError
from ringlens.store import StoreWriter

if TYPE_CHECKING:
    from ringlens.store import Store

BAG, SHUFFLED = "tokens so far", "shuffled labels"
"""Names of the controls."""

LOGITS = "router_logits"
FEATURES = ("routing", LOGITS, "head_out", "resid_post")
"""Features that are asked for most; any recorded point is one."""

FOLDS = 5
"""Most parts that the problems are divided into."""

DRAWS = 1_000
"""Resamples of problems."""


@dataclass(frozen=True)
class Examples:
    """What a probe learns from.

    Attributes:
        steps: The steps, as `ringlens.analysis.trajectory.signatures` gives them.
        features: Features of each step by layer, [S, D].
        label_S: What is to be foretold of each step: numbers of classes.
        classes: Names of the classes.
        of_traces: Whether all steps of a trace have one label.
    """

    steps: pd.DataFrame
    features: dict[int, NDArray[np.float32]]
    label_S: NDArray[np.int64]
    classes: tuple[Any, ...]
    of_traces: bool


@refuse_unknown
def linear_probe(
    store: Store,
    target: str = "backtrack",
    *,
    features: str = ROUTING,
    layers: Sequence[int] | None = None,
    where: str | None = None,
    strength: float = 1.0,
    shuffles: int = 3,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Train a probe on each layer, and judge it on problems that it has not seen.

    The results are kept in the table ``probes``, with the newest run whose steps were read; those
    of the same target, features and ``where`` are replaced.
    `ringlens.analysis.importance.foresight.foresight` reads them.

    Args:
        store: The store, in a folder that can be written, cut into steps, with the features
            recorded.
        target: "correct" (the answer in the end), "next_role" (what the next step does),
            "backtrack" (whether the next step goes back), or a column of `token_context` (of the
            first token of the step).
        features: "routing" (shares of chosen experts), "router_logits" (their means), or a recorded
            point, such as "resid_post" or "head_out" (mean vectors), over the tokens of a step.
        layers: The layers, each probed alone; None for all that are recorded.
        where: Which tokens, a predicate over `token_context`; thoughts only where it names no
            phase.
        strength: Inverse strength of the regularisation (scikit-learn's C).
        shuffles: How often labels are shuffled for the first control.
        draws: Resamples of problems for the intervals.
        seed: Seed of shuffles and resamples.

    Returns:
        A row per layer, and one for the bag of tokens so far: ``features``, ``layer`` (missing for
        the bag); ``score`` on unseen problems, the area under the curve of two classes or the
        balanced accuracy of more, with its 95% interval ``low`` and ``high`` over problems;
        ``shuffled``, the mean score with shuffled labels; ``beyond_tokens``, score less that of the
        bag, with its interval ``beyond_low`` and ``beyond_high``. ``attrs``: ``target``,
        ``classes`` and their ``counts``, ``steps``, ``problems``, ``measure`` and ``said``.

    Raises:
        ConfigError: An unknown target, or scikit-learn is missing.
        StoreError: The features are not recorded, there are fewer than two problems with each
            class, or only one class; or the store cannot be written.
    """
    if find_spec("sklearn") is None:
        raise ConfigError("probes need scikit-learn: pip install scikit-learn.")
    shuffles, draws = whole("shuffles", shuffles, 1), whole("draws", draws, 1)
    examples = read_examples(store, target, features, layers, where)
    group_S = problems_of(examples.steps)
    folds = _folds(examples, group_S)
    rng = np.random.default_rng(seed)
    resampled = [rng.integers(0, group_S.max() + 1, group_S.max() + 1) for _ in range(draws)]
    bag_SK = _foretold(_bag(store, examples.steps), examples.label_S, folds, strength)
    bag, bag_W = _judged(bag_SK, examples.label_S, group_S, resampled)
    rows = []
    for layer, x_SD in examples.features.items():
        told_SK = _foretold(x_SD, examples.label_S, folds, strength)
        score, score_W = _judged(told_SK, examples.label_S, group_S, resampled)
        null = [
            probe_score(_foretold(x_SD, label_S, folds, strength), label_S)
            for label_S in _shuffled(examples, rng, shuffles)
        ]
        rows.append(
            {
                **_row(features, layer, score, score_W),
                "shuffled": float(np.nanmean(null)),
                "beyond_tokens": score - bag,
                **dict(zip(("beyond_low", "beyond_high"), _ends(score_W - bag_W), strict=True)),
            }
        )
    frame = pd.DataFrame([*rows, _row(BAG, None, bag, bag_W)])
    frame["layer"] = frame["layer"].astype("Int64")
    frame.attrs |= _about(examples, target, group_S, frame)
    _keep(store, examples, frame, features, where)
    return frame


def _keep(
    store: Store, examples: Examples, frame: pd.DataFrame, features: str, where: str | None
) -> None:
    """Keep a table with the newest run of its steps, in the place of an earlier one of its kind."""
    listed = ", ".join(map(str, sorted({int(i) for i in examples.steps["trace_id"]})))
    run_id = store.sql(
        f"select max_by(run_id, started) from runs where run_id in "
        f"(select run_id from traces where trace_id in ({listed}))"
    ).fetchall()[0][0]
    told = {name: frame.attrs[name] for name in ("target", "measure", "steps", "problems", "said")}
    key = f"{told['target']} from {features}" + (f" where {where}" if where else "")
    rows = store.sql(
        "select layer, key, value, json from probes where probe = ? and run_id = ? "
        "and key not in (?, ?)",
        [PROBE, run_id, key, f"{key}: {BAG}"],
    ).fetchall()
    names = ("layer", "key", "value", "json")
    kept = [{"probe": PROBE, **dict(zip(names, row, strict=True))} for row in rows]
    for row in frame.to_dict("records"):
        layer, score = row.pop("layer"), row.pop("score")
        own = {name: None if pd.isna(value) else value for name, value in row.items()}
        of_tokens = pd.isna(layer)
        kept.append(
            {
                "probe": PROBE,
                "layer": None if of_tokens else int(layer),
                "key": f"{key}: {BAG}" if of_tokens else key,
                "value": float(score),
                "json": json.dumps({**own, **told, "where": where, "probed": features}),
            }
        )
    with StoreWriter(store.address) as writer:
        if not writer.owns(run_id):
            raise StoreError(f"another process writes to run {run_id}: wait for it, or stop it.")
        writer.replace_rows(run_id, "probes", kept)


def read_examples(
    store: Store,
    target: str,
    features: str = ROUTING,
    layers: Sequence[int] | None = None,
    where: str | None = None,
) -> Examples:
    """Read what a probe learns from; see `linear_probe`.

    Raises:
        ConfigError: An unknown target.
        StoreError: The features are not recorded, or only one class is there.
    """
    known_only([target], TARGETS, "target")
    found = dict(_features(store, features, layers, where))
    steps = next(iter(found.values()))[0]
    values = values_of(store, target, steps)
    known = values.notna().to_numpy()
    if not known.any():
        raise StoreError(f"no step has a known {target}; label the steps, or take another target.")
    codes, classes = pd.factorize(values[known], sort=True)
    if len(classes) < 2:
        raise StoreError(f"{target} is {classes[0]!r:.40} of all steps: there is nothing to tell.")
    return Examples(
        steps[known].reset_index(drop=True),
        {layer: vector_SD[known] for layer, (_, vector_SD) in found.items()},
        codes.astype(np.int64),
        tuple(classes),
        target == CORRECT,
    )


def _features(
    store: Store, features: str, layers: Sequence[int] | None, where: str | None
) -> Iterator[tuple[int, tuple[pd.DataFrame, NDArray[np.float32]]]]:
    """Steps and features [S, D] of each layer."""
    if features in (LOGITS, "head_out"):
        steps = signatures(store, where).steps
        for layer in _recorded(store, features, layers):
            vector_SD = _means(store, features, layer, steps)
            yield layer, (steps, vector_SD)
        return
    found = signatures(store, where, layers=layers, point=features)
    of_layer = np.split(found.vector_SD, len(found.layers), axis=1)
    for layer, vector_SD in zip(found.layers, of_layer, strict=True):
        yield layer, (found.steps, vector_SD)


def _recorded(store: Store, features: str, layers: Sequence[int] | None) -> list[int]:
    """Layers whose router logits or head outputs were recorded, of those that are asked for."""
    table, which = (
        (LOGITS, "") if features == LOGITS else ("activations", " and point = 'head_out'")
    )
    rows = store.sql(
        f"select distinct layer from {table} where layer is not null{which} order by layer"
    ).fetchall()
    there = [int(layer) for (layer,) in rows]
    chosen = there if layers is None else [int(layer) for layer in layers]
    if not there or (lost := [layer for layer in chosen if layer not in there]):
        raise StoreError(
            f"{features} is recorded of layers {there or 'none'}, not of {lost if there else 'any'}"
            "; record it when you capture or replay."
        )
    return chosen


def _means(store: Store, features: str, layer: int, steps: pd.DataFrame) -> NDArray[np.float32]:
    """Mean router logits, or outputs of all recorded heads, over the tokens of each step."""
    found = []
    ends = steps["pos"] + steps["tokens"]
    for trace_id, own in steps.assign(end=ends).groupby("trace_id", sort=False):
        trace = store.trace(int(trace_id))
        pos_T: NDArray[Any]
        try:
            if features == LOGITS:
                value_TD = trace.router_logits(layer)
                pos_T = np.arange(len(value_TD))
            else:
                pos_T, value_THC, _ = trace.vectors("head_out", layer)
                value_TD = value_THC.reshape(len(pos_T), -1)
        except NotInStoreError as error:
            raise StoreError(
                f"trace {trace_id} has no record of {features} in layer {layer}; select traces "
                "that have it."
            ) from error
        for first, end in zip(own["pos"], own["end"], strict=True):
            inside_T = (pos_T >= first) & (pos_T < end)
            if not inside_T.any():
                raise StoreError(
                    f"{features} of layer {layer} is recorded at no token of a step of trace "
                    f"{trace_id}; record it at all positions, or select other tokens."
                )
            found.append(value_TD[inside_T].mean(axis=0))
    return np.asarray(found, np.float32)


def problems_of(steps: pd.DataFrame) -> NDArray[np.int64]:
    """A number for the problem of each step; a trace without one stands for itself."""
    own = "trace " + steps["trace_id"].astype(str)
    named = ("problem " + steps["problem_id"].astype(str)).where(steps["problem_id"].notna(), own)
    return pd.factorize(named)[0].astype(np.int64)


def _bag(store: Store, steps: pd.DataFrame) -> Any:
    """What a thought has written up to the end of each step: ln(1 + counts), and its length."""
    from scipy.sparse import csr_matrix, hstack

    rows, lengths = [], []
    for trace_id, own in steps.groupby("trace_id", sort=False):
        tokens = store.trace(int(trace_id)).tokens()
        begin = int(np.argmax(np.array(tokens["phase"]) != "prompt"))
        for end in own["pos"] + own["tokens"]:
            rows.append(tokens["token_id"][begin : int(end)])
            lengths.append(int(end) - begin)
    place = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    ids, column = np.unique(np.concatenate(rows), return_inverse=True)
    ones = np.ones(len(column), np.float32)
    counts_SV = csr_matrix((ones, (place, column)), shape=(len(rows), len(ids)))
    counts_SV.data = np.log1p(counts_SV.data)
    return hstack([counts_SV, csr_matrix(np.log(np.array(lengths)[:, None]))]).tocsr()


def _folds(examples: Examples, group_S: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Steps of each part of the problems, which share no problem."""
    from sklearn.model_selection import StratifiedGroupKFold

    G = int(group_S.max()) + 1
    least = min(len(set(group_S[examples.label_S == k])) for k in range(len(examples.classes)))
    if G < 2 or least < 2:
        raise StoreError(
            f"there are {G} problems, and one class is in only {least}: a probe is judged on "
            "problems that it has not seen, so capture more."
        )
    parts = StratifiedGroupKFold(min(FOLDS, G, least), shuffle=True, random_state=0)
    return [test for _, test in parts.split(group_S[:, None], examples.label_S, group_S)]


def _foretold(
    x_SD: Any, label_S: NDArray[np.int64], folds: Sequence[NDArray[np.int64]], strength: float
) -> NDArray[np.float64]:
    """Probability of each class [S, K], each step by a probe that has not seen its problem."""
    from scipy.sparse import issparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    told_SK = np.zeros((len(label_S), int(label_S.max()) + 1))
    for test in folds:
        train = np.setdiff1d(np.arange(len(label_S)), test)
        if len(set(label_S[train])) < 2:
            told_SK[test, label_S[train][0]] = 1.0
            continue
        model = make_pipeline(
            StandardScaler(with_mean=not issparse(x_SD)),
            LogisticRegression(C=strength, class_weight="balanced", max_iter=2_000),
        )
        model.fit(x_SD[train], label_S[train])
        told_SK[np.ix_(test, model.classes_)] = model.predict_proba(x_SD[test])
    return told_SK


def probe_score(told_SK: NDArray[np.float64], label_S: NDArray[np.int64]) -> float:
    """Area under the curve of two classes, balanced accuracy of more; NaN if one is missing."""
    n_K = np.bincount(label_S, minlength=told_SK.shape[1])
    if told_SK.shape[1] == 2:
        if not n_K.all():
            return float("nan")
        rank_S = average_ranks(told_SK[:, 1])
        return float((rank_S[label_S == 1].sum() - n_K[1] * (n_K[1] + 1) / 2) / n_K.prod())
    right_S = told_SK.argmax(axis=1) == label_S
    right_K = np.bincount(label_S, right_S, minlength=len(n_K))
    return float((right_K[n_K > 0] / n_K[n_K > 0]).mean())


def _judged(
    told_SK: NDArray[np.float64],
    label_S: NDArray[np.int64],
    group_S: NDArray[np.int64],
    resampled: Sequence[NDArray[np.int64]],
) -> tuple[float, NDArray[np.float64]]:
    """The score, and those of resampled problems."""
    members = [np.flatnonzero(group_S == g) for g in range(int(group_S.max()) + 1)]
    scores = []
    for groups in resampled:
        own = np.concatenate([members[g] for g in groups])
        scores.append(probe_score(told_SK[own], label_S[own]))
    return probe_score(told_SK, label_S), np.array(scores)


def _shuffled(
    examples: Examples, rng: np.random.Generator, shuffles: int
) -> Iterator[NDArray[np.int64]]:
    """Labels in random order: of whole traces where these have one label, else of steps."""
    for _ in range(shuffles):
        if examples.of_traces:
            trace_S = pd.factorize(examples.steps["trace_id"])[0]
            _, first = np.unique(trace_S, return_index=True)
            yield rng.permutation(examples.label_S[first])[trace_S]
        else:
            yield rng.permutation(examples.label_S)


def _ends(values_W: NDArray[np.float64]) -> tuple[float, float]:
    """Ends of the 95% interval; resamples that lack a class are left out."""
    low, high = np.nanpercentile(values_W, [2.5, 97.5])
    return float(low), float(high)


def _row(
    features: str, layer: int | None, score: float, score_W: NDArray[np.float64]
) -> dict[str, Any]:
    low, high = _ends(score_W)
    return {"features": features, "layer": layer, "score": score, "low": low, "high": high}


def _about(
    examples: Examples, target: str, group_S: NDArray[np.int64], frame: pd.DataFrame
) -> dict[str, Any]:
    """What the table is about."""
    counts = np.bincount(examples.label_S).tolist()
    measure = "AUC" if len(counts) == 2 else "balanced accuracy"
    layers = frame[frame["layer"].notna()]
    best = layers.loc[layers["score"].idxmax()]
    bag = frame[frame["layer"].isna()].iloc[0]
    G = int(group_S.max()) + 1
    said = (
        f"{target} of {len(group_S)} steps of {G} problems: {measure} {best['score']:.3f} "
        f"({best['low']:.3f} to {best['high']:.3f}) from {best['features']} of layer "
        f"{best['layer']}, the best of {len(layers)}; shuffled labels {best['shuffled']:.3f}, "
        f"tokens so far {bag['score']:.3f}"
    )
    return {
        "target": target,
        "classes": examples.classes,
        "counts": counts,
        "steps": len(group_S),
        "problems": G,
        "measure": measure,
        "said": said,
    }
