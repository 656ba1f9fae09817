"""What a model does without the experts that a plan drops, beside the full model.

The full model thinks about some problems. The masked model then reads the same texts, which gives
its loss and how far its choices agree, and thinks about the problems itself, which gives its
accuracy and how long its thoughts are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.observe.session import capture, replay
from ringlens.prune.masked import masked
from ringlens.store import Store

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel
    from ringlens.problem import Problem
    from ringlens.prune.plan import PruningPlan

RECORD = ("logprobs", "routing")
NORMAL = 1.959964
"""Quantile of a 95% interval."""

OnPlan = Callable[[int, int], None]
"""Called with the models that were evaluated, and how many there are."""


@dataclass(frozen=True)
class Evaluation:
    """What a model did.

    Attributes:
        loss: Mean negative log-probability of the tokens that the full model wrote, in nats.
        perplexity: e to that.
        agreement: Of the choices that the full model made among experts that stay, the share that
            this model makes too.
        accuracy: Share of graded problems that it solves; NaN where none is graded.
        low: Lower end of the 95% interval of that over problems (Wilson 1927).
        high: Upper end.
        problems: Problems that it was graded on.
        thought: Mean tokens of a thought.
        stopped: Share of traces that it ended by itself.
    """

    loss: float
    perplexity: float
    agreement: float
    accuracy: float
    low: float
    high: float
    problems: int
    thought: float
    stopped: float


@refuse_unknown
def evaluate(
    lens: LoadedModel,
    plans: PruningPlan | Iterable[PruningPlan],
    problems: Sequence[Problem],
    *,
    max_new_tokens: int = 512,
    batch_size: int = 16,
    on_plan: OnPlan | None = None,
) -> pd.DataFrame:
    """Evaluate plans on problems, by masking the experts that they drop.

    Nothing is drawn: tokens are the most likely ones. Choose problems that the plans were not made
    of, or the smaller model is flattered.

    Args:
        lens: The full model.
        plans: One plan, or several.
        problems: The problems.
        max_new_tokens: Most tokens of an answer.
        batch_size: Problems side by side.
        on_plan: Called when a model was evaluated.

    Returns:
        A row for the full model and for each plan: ``criterion`` ("none" for the full model),
        ``keep``, the share of experts that stay, ``experts_left`` of a layer, the fields of
        `Evaluation`, and ``loss_increase`` over the full model.

    Raises:
        ConfigError: There are no plans or problems, or a plan is of another model.
        ObservationError: The model cannot be masked, or runs in several processes.
    """
    asked = [plans] if not isinstance(plans, Iterable) else list(plans)
    if not asked or not problems:
        raise ConfigError("nothing to evaluate: give at least one plan and one problem.")
    for each in asked:
        _check(lens, each)
    rows = []
    with TemporaryDirectory(prefix="ringlens-prune-") as home:
        settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
        reference = capture(lens, problems, Path(home) / "full", record=RECORD, **settings)
        for number, plan in enumerate([None, *asked]):
            folder = Path(home) / str(number)
            with nullcontext() if plan is None else masked(lens, plan):
                again = replay(lens, reference, folder / "read", record=RECORD)
                written = reference
                if plan is not None:
                    written = capture(lens, problems, folder / "own", record=(), **settings)
            rows.append(_named(plan, lens) | asdict(_evaluation(reference, again, written, plan)))
            if on_plan is not None:
                on_plan(number + 1, len(asked) + 1)
    frame = pd.DataFrame(rows)
    frame["loss_increase"] = frame["loss"] - frame["loss"][0]
    return frame


def _check(lens: LoadedModel, plan: PruningPlan) -> None:
    rule, sparse = lens.router, lens.sizes.sparse_layers
    if (plan.experts, plan.groups, plan.layers) != (rule.experts, rule.groups, sparse):
        raise ConfigError(
            f"{plan!r:.80}… is about another model than {lens.name}, whose {rule.experts} experts "
            f"lie in {rule.groups} groups on layers {list(sparse)}."
        )


def _named(plan: PruningPlan | None, lens: LoadedModel) -> dict[str, object]:
    experts = lens.router.experts
    left = experts if plan is None else plan.left
    criterion = "none" if plan is None else plan.criterion
    return {"criterion": criterion, "keep": left / experts, "experts_left": left}


def _evaluation(
    reference: Store, again: Store, written: Store, plan: PruningPlan | None
) -> Evaluation:
    loss = _loss(again)
    right, graded, thought, stopped = written.sql(
        "select count(*) filter (correct), count(correct), avg(n_think), "
        "avg((finish_reason = 'stop')::int) from traces"
    ).fetchall()[0]
    low, high = wilson(right, graded)
    return Evaluation(
        loss=loss,
        perplexity=float(np.exp(loss)),
        agreement=_agreement(reference, again, plan),
        accuracy=right / graded if graded else float("nan"),
        low=low,
        high=high,
        problems=graded,
        thought=float(thought),
        stopped=float(stopped),
    )


def _loss(again: Store) -> float:
    """Mean loss over the tokens that the full model wrote."""
    (loss,) = again.sql(
        "select -avg(logprob) from tokens where phase <> 'prompt' and logprob is not null"
    ).fetchall()[0]
    if loss is None:
        raise ConfigError("the full model wrote nothing to compare with; give other problems.")
    return float(loss)


def _agreement(reference: Store, again: Store, plan: PruningPlan | None) -> float:
    """Share of the full model's choices among kept experts that were made again."""
    made = kept = 0
    for layer, before, after in _choices(reference, again):
        stays_Tk = (
            np.ones(before.shape, bool) if plan is None else np.isin(before, plan.kept[layer])
        )
        again_Tk = (before[:, :, None] == after[:, None, :]).any(axis=2)
        made += int((stays_Tk & again_Tk).sum())
        kept += int(stays_Tk.sum())
    return made / kept if kept else float("nan")


def _choices(reference: Store, again: Store) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Layer, and choices [T, k] of the two on the same tokens."""
    pairs = again.sql("select source_trace_id, trace_id from traces order by trace_id").fetchall()
    for source, trace_id in pairs:
        first, second = reference.trace(source), again.trace(trace_id)
        for layer in first.layers("routing"):
            yield (
                layer,
                first.routing(layer)["expert_ids"],
                second.routing(layer)["expert_ids"],
            )


def wilson(right: int, of: int) -> tuple[float, float]:
    """Compute the 95% interval of a share (Wilson 1927); NaN of nothing."""
    if not of:
        return float("nan"), float("nan")
    share, square = right / of, NORMAL**2
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = NORMAL * sqrt(share * (1 - share) / of + square / (4 * of * of)) / (1 + square / of)
    return max(middle - half, 0.0), min(middle + half, 1.0)
