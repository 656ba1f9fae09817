"""From a probe to a monitor: a linear probe with a threshold, which scores a model as it thinks.

The problems are divided in three. The probe is trained on half of them. A quarter gives the
threshold: the mean score of the last tokens that its traces pass, where they should not, with the
chance that is asked for (split conformal prediction: of n + 1 traces alike, the last is as likely
to be in any place). What remains says what the monitor then does on problems that nothing has seen.

Shape letters: S steps, D features, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.importance.alarms import Judged, judged, measured
from ringlens.analysis.importance.targets import BACKTRACK, CORRECT
from ringlens.analysis.trajectory.signatures import ROUTING
from ringlens.config import number, refuse_unknown, whole
from ringlens.errors import ConfigError, NotInStoreError, StoreError
from ringlens.observe.monitoring.monitor import FLAG, SHAPE, ModelMark, Monitor, mark_of
from ringlens.probes.linear import LOGITS, Examples, probe_score, problems_of, read_examples

if TYPE_CHECKING:
    from ringlens.store import Store

ALARMS = {BACKTRACK: "True", CORRECT: "False"}
"""What a monitor warns of, by target, where nothing else is asked for."""

TRAINED, CALIBRATED = 0.5, 0.25
"""Parts of the problems that the probe and the threshold come from."""


@refuse_unknown
def train_monitor(
    store: Store,
    target: str = BACKTRACK,
    *,
    layer: int,
    features: str = "resid_post",
    alarm: str | None = None,
    where: str | None = None,
    window: int = 8,
    false_alarms: float = 0.1,
    criterion: str = FLAG,
    strength: float = 1.0,
    seed: int = 0,
) -> Monitor:
    """Train a probe, find its threshold, and say what it does on problems that it has not seen.

    Of each problem one trace is judged, so that the numbers are of problems.

    Args:
        store: The store, cut into steps, with the features recorded of all tokens of thoughts.
        target: As in `ringlens.probes.linear.linear_probe`.
        layer: The layer that is read.
        features: A recorded point such as "resid_post" or "head_out", or "router_logits".
        alarm: The class that it warns of; None for going back, and for a wrong answer.
        where: Which tokens it learns from, a predicate over `token_context`; thoughts only where it
            names no phase. What other steps are it does not know, so that an alarm there counts
            as false.
        window: Tokens of a thought whose mean score is judged.
        false_alarms: Chance, at most, that a thought has an alarm where none is warranted.
        criterion: "flag" marks a trace that it warns of, "stop" ends it as well.
        strength: Inverse strength of the regularisation (scikit-learn's C).
        seed: Seed of the division.

    Returns:
        The monitor. ``calibrated`` has what was ``asked``, and the ``spread`` in which the chance
        of a false alarm lies for 95% of thresholds that as many problems give. ``held_out`` has of
        the problems that nothing has seen: ``traces``; ``false``, those with an alarm where none is
        warranted, their share ``per_trace`` with its 95% interval ``low`` and ``high`` (Wilson
        1927); ``per_1000_tokens``, such alarms by 1,000 tokens of thoughts; ``warranted``, steps
        (of a target of whole traces: traces) of the class, and ``caught``, the share of these with
        an alarm; and ``auc`` of the probe on steps.

    Raises:
        ConfigError: An unknown target, class or criterion, features that no running model has, or
            scikit-learn is missing.
        StoreError: The features are not recorded, the traces are of several models, or there are
            too few problems for the chance that is asked for.
    """
    if find_spec("sklearn") is None:
        raise ConfigError("monitors need scikit-learn: pip install scikit-learn.")
    if features == ROUTING:
        raise ConfigError(
            "shares of chosen experts are known of whole steps only; give router_logits, or a "
            "recorded point such as resid_post."
        )
    share = number("false_alarms", false_alarms, 1e-6, 0.999)
    examples = read_examples(store, target, features, [whole("layer", layer, 0)], where)
    wanted_S, warned = _wanted(examples, target, alarm)
    mark = _model(store, examples)
    group_S = problems_of(examples.steps)
    part_G = _parts(int(group_S.max()) + 1, seed)
    part_S = part_G[group_S]
    x_SD = examples.features[layer]
    draft = Monitor(
        target=target,
        alarm=warned,
        features=features,
        layer=layer,
        **_fitted(x_SD[part_S == 0], wanted_S[part_S == 0], strength),
        window=whole("window", window, 1),
        threshold=0.0,
        criterion=criterion,
        model=mark,
        trained={},
        calibrated={},
        held_out={},
    )
    steps = examples.steps.assign(wanted=wanted_S, problem=group_S, part=part_S)
    parts = [
        _scored_traces(store, draft, steps[steps["part"] == n], examples.of_traces) for n in (1, 2)
    ]
    threshold = _threshold(parts[0], share)
    trained = {
        "runs": sorted(_runs(store, examples)),
        "where": where,
        "problems": int((part_G == 0).sum()),
        "steps": int((part_S == 0).sum()),
        "warranted": int(wanted_S[part_S == 0].sum()),
    }
    logit_S = draft.scores(x_SD[part_S == 2]).astype(np.float64)
    told_S2 = np.stack([-logit_S, logit_S], axis=1)
    auc = probe_score(told_S2, wanted_S[part_S == 2].astype(np.int64))
    told = [measured(each, threshold) for each in parts]
    return replace(
        draft,
        threshold=threshold,
        trained=trained,
        calibrated={"asked": share, "spread": _spread(len(parts[0]), share), **told[0]},
        held_out={**told[1], "auc": None if np.isnan(auc) else auc},
    )


def said_of(monitor: Monitor) -> str:
    """What a monitor warns of, and how often in vain, in a sentence."""
    seen, caught = monitor.held_out, monitor.held_out["caught"]
    low, high = monitor.calibrated["spread"]
    hits = "" if caught is None else f"; {caught:.0%} of {seen['warranted']} warranted are caught"
    auc = "" if seen["auc"] is None else f"; AUC of its probe {seen['auc']:.3f}"
    return (
        f"warns of {monitor.target} = {monitor.alarm} from {monitor.features} of layer "
        f"{monitor.layer} above {monitor.threshold:.3f}; asked for false alarms in at most "
        f"{monitor.calibrated['asked']:.1%} of thoughts (one threshold of so few problems: "
        f"{low:.1%} to {high:.1%}), on {seen['traces']} held-out problems in "
        f"{seen['per_trace']:.1%} ({seen['low']:.1%} to {seen['high']:.1%}), "
        f"{seen['per_1000_tokens']:.2f} by 1,000 tokens{hits}{auc}"
    )


def _wanted(examples: Examples, target: str, alarm: str | None) -> tuple[NDArray[np.bool_], str]:
    """Which steps are of the class that is warned of, and its name."""
    names = [str(name) for name in examples.classes]
    warned = ALARMS.get(target) if alarm is None else str(alarm)
    if warned is None or warned not in names:
        raise ConfigError(
            f"alarm = {warned!r:.60}; {target} is {', '.join(map(repr, names))}: say which of them "
            "it shall warn of."
        )
    return examples.label_S == names.index(warned), warned


def _runs(store: Store, examples: Examples) -> set[str]:
    listed = ", ".join(map(str, sorted({int(i) for i in examples.steps["trace_id"]})))
    rows = store.sql(f"select distinct run_id from traces where trace_id in ({listed})").fetchall()
    return {run_id for (run_id,) in rows}


def _model(store: Store, examples: Examples) -> ModelMark:
    """The one model of the traces."""
    found = {_mark(store, run_id) for run_id in sorted(_runs(store, examples))}
    if len(found) > 1:
        names = ", ".join(sorted({each.name for each in found}))
        raise StoreError(
            f"the traces are of {len(found)} models ({names:.200}), and a monitor is of one; say "
            "which with where, as in where = \"model = '…'\"."
        )
    return found.pop()


def _mark(store: Store, run_id: str) -> ModelMark:
    """What the model of a run is known by."""
    (row,) = store.sql("select * from runs where run_id = ?", [run_id]).to_arrow_table().to_pylist()
    rows = store.sql(
        "select bias from experts where run_id = ? order by layer, expert", [run_id]
    ).fetchall()
    bias = np.array([np.nan if value is None else value for (value,) in rows], np.float32)
    names = ("model", "revision", "quantization", *SHAPE)
    return mark_of({name: row[name] for name in names} | {"expert_bias": bias})


def _parts(problems: int, seed: int) -> NDArray[np.int64]:
    """Part of each problem: 0 trains, 1 calibrates, 2 is held out."""
    order = np.random.default_rng(seed).permutation(problems)
    ends = round(TRAINED * problems), round((TRAINED + CALIBRATED) * problems)
    part_G = np.zeros(problems, np.int64)
    part_G[order[ends[0] : ends[1]]] = 1
    part_G[order[ends[1] :]] = 2
    if np.bincount(part_G, minlength=3).min() < 2:
        raise StoreError(
            f"there are {problems} problems; a monitor is trained on some, calibrated on others "
            "and judged on more: capture at least 8."
        )
    return part_G


def _fitted(
    x_SD: NDArray[np.float32], wanted_S: NDArray[np.bool_], strength: float
) -> dict[str, Any]:
    """Means, scales and weights of the numbers, and the bias: fields of a monitor."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if wanted_S.all() or not wanted_S.any():
        raise StoreError(
            "the problems that the probe learns from have one class only; capture more problems."
        )
    scaler = StandardScaler().fit(x_SD.astype(np.float64))
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2_000)
    model.fit(scaler.transform(x_SD), wanted_S)
    return {
        "mean": tuple(scaler.mean_.tolist()),
        "scale": tuple(scaler.scale_.tolist()),
        "weights": tuple(model.coef_[0].tolist()),
        "bias": float(model.intercept_[0]),
    }


def _scored_traces(
    store: Store, monitor: Monitor, steps: pd.DataFrame, of_traces: bool
) -> list[Judged]:
    """The first trace of each of some problems, scored."""
    first = steps.groupby("problem")["trace_id"].first()
    return [
        _scored(store, monitor, int(trace_id), steps[steps["trace_id"] == trace_id], of_traces)
        for trace_id in first
    ]


def _scored(
    store: Store, monitor: Monitor, trace_id: int, steps: pd.DataFrame, of_traces: bool
) -> Judged:
    """Score a stored trace as it would be while it runs."""
    pos_T, vector_TD = _vectors(store, monitor, trace_id)
    rows = store.sql(
        "select pos, phase = 'think', coalesce(step, -1) from token_context where trace_id = ? "
        "order by pos",
        [trace_id],
    ).fetchall()
    think_T = np.array([row[1] for row in rows])
    step_T = np.array([row[2] for row in rows], np.int64)
    score_T = np.zeros(len(rows), np.float32)
    score_T[pos_T] = monitor.scores(vector_TD)
    lost_T = think_T.copy()
    lost_T[pos_T] = False
    if lost_T.any():
        raise StoreError(
            f"{monitor.features} of layer {monitor.layer} is not recorded at token "
            f"{int(np.flatnonzero(lost_T)[0])} of trace {trace_id}; record it at all positions."
        )
    wanted = steps.loc[steps["wanted"], "step"].tolist()
    recent_T = monitor.recent(score_T, think_T)
    return judged(recent_T, step_T, wanted, monitor.window, of_traces=of_traces)


def _vectors(
    store: Store, monitor: Monitor, trace_id: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Positions, and the vectors that were recorded there [T, D]."""
    trace = store.trace(trace_id)
    try:
        if monitor.features == LOGITS:
            logits_TE = trace.router_logits(monitor.layer)
            return np.arange(len(logits_TE)), logits_TE
        pos_T, values, _ = trace.vectors(monitor.features, monitor.layer)
    except NotInStoreError as error:
        raise StoreError(
            f"trace {trace_id} has no record of {monitor.features} in layer {monitor.layer}; "
            "select traces that have it."
        ) from error
    return pos_T.astype(np.int64), values.reshape(len(pos_T), -1)


def _spread(n: int, share: float) -> list[float]:
    """Where the chance of a false alarm lies in 95% of thresholds that n traces give.

    The chance that is asked for is that of all such thresholds together; that of one follows a beta
    distribution (Vovk 2012, arXiv 1209.2673).
    """
    from scipy.stats import beta

    place = ceil((n + 1) * (1 - share))
    low, high = beta.ppf([0.025, 0.975], n + 1 - place, place)
    return [float(low), float(high)]


def _threshold(traces: Sequence[Judged], share: float) -> float:
    """The score that a trace like these passes in vain with this chance at most."""
    n = len(traces)
    place = ceil((n + 1) * (1 - share))
    if place > n:
        raise StoreError(
            f"{n} problems calibrate the threshold, and false alarms in at most {share:.1%} of "
            f"thoughts can be promised of {ceil(1 / share) - 1} or more; capture about "
            f"{ceil((ceil(1 / share) - 1) / CALIBRATED)} problems, or allow more false alarms."
        )
    found = float(np.sort([each.worst for each in traces])[place - 1])
    if not np.isfinite(found):
        raise StoreError(
            "too few thoughts have as many tokens as are judged together where no alarm is "
            "warranted; give a smaller window."
        )
    return found
