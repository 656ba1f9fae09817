"""What writing a step anew does to the answers, beside the noise of so few samples.

Shape letters: A different answers, n samples, W draws.
"""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.differences.routing_shift import divergence as divergence_nats
from ringlens.analysis.importance.results import about_steps, problems_of, results
from ringlens.analysis.importance.same_answer import grouped
from ringlens.config import number, refuse_unknown, whole
from ringlens.problem import Problem

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

PROBE = "resampling"

ALIKE = 0.8
"""Part of their words that two texts of the same step have in common."""

DRAWS = 200
"""Random halves of the samples of a place."""


@refuse_unknown
def resampling(
    store: Source,
    run_id: str | None = None,
    *,
    alike: float = ALIKE,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Read how the answers behind each step differ from those before it.

    Args:
        store: The store, with results of the probe "resampling".
        run_id: The run; None for all runs.
        alike: Two steps are the same if so much of their words, in order, is (`difflib`).
        draws: Random halves of the samples, for the noise floor.
        seed: Seed of these.

    Returns:
        A row per trace and step (of several between two places, the last): ``trace_id``,
        ``problem_id``, ``step``, ``role``; ``n_before`` and ``n_after``, samples; ``accuracy`` of
        those before, and ``accuracy_change`` behind it; ``headroom``, the entropy of the answers
        before it, in nats; ``divergence`` of the answers behind it from those before it
        (Jensen–Shannon, bits); ``noise``, the mean divergence of two halves of the samples of one
        place, before and behind, which have half as many; ``kl``, KL(behind ‖ before) in nats, each
        count raised by ½; ``different``, the samples before it that put another step in its place;
        ``counterfactual``, KL(behind ‖ those), likewise (NaN where there are none); ``reproduced``,
        the share of samples before it whose next step has its role, or goes back if it does; and
        ``text``. ``attrs``: ``traces``, ``samples`` and ``said``.

    Raises:
        StoreError: The probe was not run.
    """
    alike = number("alike", alike, 0, 1)
    draws, rng = whole("draws", draws, 1), np.random.default_rng(seed)
    found = results(store, PROBE, run_id)
    samples = found[found["key"] == "rollout"]
    said = pd.DataFrame([json.loads(text) for text in samples["json"]], index=samples.index)
    samples = pd.concat([samples[["trace_id", "step"]].astype(int), said], axis=1)
    ids = [int(i) for i in samples["trace_id"].unique()]
    about = about_steps(store, ids).set_index(["trace_id", "step"])
    problems = problems_of(store, ids)
    rows = []
    for trace_id, own in samples.groupby("trace_id", sort=True):
        own = own.assign(answer_number=_numbers(problems[int(trace_id)], own["answer"]))
        places = list(own.groupby("step", sort=True))
        for (_, before), (step, after) in pairwise(places):
            known = about.loc[(trace_id, step)]
            place = {"trace_id": int(trace_id), "problem_id": known["problem_id"]}
            place |= {"step": int(step), "role": known["role"]}
            rows.append(place | _compared(before, after, known, alike, draws, rng))
    frame = pd.DataFrame(rows)
    traces = frame["trace_id"].nunique()
    above = float((frame["divergence"] > frame["noise"]).mean())
    frame.attrs |= {"traces": traces, "samples": len(samples)}
    frame.attrs["said"] = (
        f"{traces} thoughts, {len(samples):,} samples; {above:.0%} of {len(frame)} steps change "
        "the answers more than two halves of the same samples differ"
    )
    return frame


def counts(numbers: NDArray[np.int64], A: int) -> NDArray[np.float64]:
    """How often each answer was given [A]; -1, no answer, counts as one, the last."""
    return np.bincount(np.where(numbers < 0, A - 1, numbers), minlength=A).astype(np.float64)


def entropy(count_A: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of counts along the last axis, nats."""
    p_A = count_A / count_A.sum(axis=-1, keepdims=True)
    found: NDArray[np.float64] = (p_A * -np.log(np.where(p_A > 0, p_A, 1.0))).sum(axis=-1)
    return found


def divergence(first_A: NDArray[np.float64], second_A: NDArray[np.float64]) -> NDArray[np.float64]:
    """Jensen–Shannon divergence of two counts along the last axis, bits."""
    return divergence_nats(first_A, second_A) / np.log(2)


def kl(first_A: NDArray[np.float64], second_A: NDArray[np.float64]) -> float:
    """KL(first ‖ second) of two counts, nats; counts of answers that either has are raised by ½."""
    seen_A = first_A + second_A > 0
    p_A, q_A = first_A[seen_A] + 0.5, second_A[seen_A] + 0.5
    p_A, q_A = p_A / p_A.sum(), q_A / q_A.sum()
    return float((p_A * np.log(p_A / q_A)).sum())


def noise(numbers: NDArray[np.int64], A: int, draws: int, rng: np.random.Generator) -> float:
    """Mean divergence of two random halves of the samples of one place, bits; NaN of under four."""
    n = len(numbers)
    if n < 4:
        return float("nan")
    order_Wn = np.argsort(rng.random((draws, n)), axis=1)
    given_nA = np.eye(A)[np.where(numbers < 0, A - 1, numbers)]
    first_WA = given_nA[order_Wn[:, : n // 2]].sum(axis=1)
    second_WA = given_nA[order_Wn[:, n // 2 : 2 * (n // 2)]].sum(axis=1)
    return float(divergence(first_WA, second_WA).mean())


def _compared(
    before: pd.DataFrame,
    after: pd.DataFrame,
    step: pd.Series,
    alike: float,
    draws: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What a step did."""
    first_n, second_n = (each["answer_number"].to_numpy() for each in (before, after))
    A = int(max(first_n.max(), second_n.max())) + 2
    first_A, second_A = counts(first_n, A), counts(second_n, A)
    other = ~before["text"].map(lambda text: is_alike(text, step["text"], alike)).to_numpy(bool)
    same = before["role"].eq(step["role"])
    if step["is_backtrack"] == True:  # noqa: E712  (numpy's bool, or none)
        same = before["is_backtrack"].eq(True)
    accuracy = [_mean(each["correct"]) for each in (before, after)]
    return {
        "n_before": len(before),
        "n_after": len(after),
        "accuracy": accuracy[0],
        "accuracy_change": accuracy[1] - accuracy[0],
        "headroom": float(entropy(first_A)),
        "divergence": float(divergence(first_A, second_A)),
        "noise": float(np.mean([noise(first_n, A, draws, rng), noise(second_n, A, draws, rng)])),
        "kl": kl(second_A, first_A),
        "different": int(other.sum()),
        "counterfactual": kl(second_A, counts(first_n[other], A)) if other.any() else np.nan,
        "reproduced": float(same.mean()),
        "text": step["text"],
    }


def is_alike(first: str, second: str, least: float) -> bool:
    """Whether two texts share so much of their words, in order."""
    words = SequenceMatcher(None, first.split(), second.split(), autojunk=False)
    return words.ratio() >= least


def _mean(correct: pd.Series) -> float:
    known = correct.dropna()
    return float(known.astype(float).mean()) if len(known) else float("nan")


def _numbers(problem: Problem, answers: pd.Series) -> NDArray[np.int64]:
    """A number for each answer; -1 for none."""
    there = answers.notna()
    found = np.full(len(answers), -1)
    found[there.to_numpy()] = grouped(problem, answers[there].tolist())
    return found
