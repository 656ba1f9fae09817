"""What a model does without the experts that a plan drops, beside the full model.

The full model thinks about some problems. The masked model then reads the same texts, which gives
its loss and how far its choices agree, and thinks about the problems itself, which gives its
accuracy and how long its thoughts are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ringlens.analysis.statistics.share import wilson
from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.model.loaded import LoadedModel
from ringlens.model.loading import load_model
from ringlens.observe.pipeline.ranks import rank_role
from ringlens.observe.session import capture, replay
from ringlens.prune.checkpoint import pruning_of
from ringlens.prune.masked import ablations
from ringlens.prune.plan import PruningPlan
from ringlens.store import Store

if TYPE_CHECKING:
    from ringlens.interventions import Intervention
    from ringlens.problem import Problem
    from ringlens.store.write.peers import Peers

RECORD = ("logprobs", "routing")

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


@dataclass(frozen=True)
class _Model:
    """A model that is evaluated.

    Attributes:
        criterion: What ranked its experts; "none" for the full model.
        plan: What it lacks; None for the full model.
        folder: Its checkpoint; None for the full model, masked or not.
    """

    criterion: str
    plan: PruningPlan | None = None
    folder: Path | None = None

    def loaded(self, full: LoadedModel) -> LoadedModel:
        """The full model, which is masked while it runs, or the one of the checkpoint."""
        if self.folder is None:
            return full
        kind: dict[str, Any] = {"dtype": full.model.dtype, "device": full.device}
        return LoadedModel(*load_model(str(self.folder), **kind), name=str(self.folder))

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """What masks the full model."""
        return () if self.plan is None or self.folder is not None else ablations(self.plan)


@refuse_unknown
def evaluate(
    lens: LoadedModel,
    plans: PruningPlan | Iterable[PruningPlan],
    problems: Sequence[Problem],
    *,
    checkpoints: Iterable[str | os.PathLike[str]] = (),
    max_new_tokens: int = 512,
    batch_size: int = 16,
    on_plan: OnPlan | None = None,
) -> pd.DataFrame:
    """Evaluate plans on problems by masking what they drop, and checkpoints that are written.

    Nothing is drawn: tokens are the most likely ones. Choose problems that the plans were not made
    of, or the smaller model is flattered. Under torchrun or ``accelerate launch`` on one machine
    the processes share the problems out, and each returns the same table.

    Args:
        lens: The full model.
        plans: One plan, or several.
        problems: The problems.
        checkpoints: Folders that `export` wrote; merged experts can be tried this way alone.
        max_new_tokens: Most tokens of an answer.
        batch_size: Problems side by side.
        on_plan: Called when a model was evaluated.

    Returns:
        A row for the full model, each plan and each checkpoint: ``criterion`` ("none" for the full
        model, with " + merge" where experts are merged), ``keep``, the share of experts that stay,
        ``experts_left`` of a layer, the fields of `Evaluation`, and ``loss_increase`` over the full
        model.

    Raises:
        ConfigError: There is nothing to evaluate, a plan is of another model, or a folder was not
            written by `export`.
        ObservationError: The model cannot be masked.
    """
    masks = [_Model(plan.criterion, plan) for plan in _listed(plans)]
    written = [_of_checkpoint(Path(folder)) for folder in checkpoints]
    models = [_Model("none"), *masks, *written]
    if len(models) == 1 or not problems:
        raise ConfigError("nothing to evaluate: give at least one plan and one problem.")
    for model in models:
        _check(lens, model.plan)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    rows = []
    with _shared_folder(rank_role(lens).everyone) as home:
        reference = capture(lens, problems, home / "full", record=RECORD, **settings)
        for number, model in enumerate(models):
            folder, tried = home / str(number), model.loaded(lens)
            acts = model.interventions
            again = replay(tried, reference, folder / "read", record=RECORD, interventions=acts)
            own = reference
            if model.plan is not None:
                own = capture(
                    tried, problems, folder / "own", record=(), interventions=acts, **settings
                )
            found = _evaluation(reference, again, own, model)
            rows.append(_named(model, lens) | asdict(found))
            if on_plan is not None:
                on_plan(number + 1, len(models))
    frame = pd.DataFrame(rows)
    frame["loss_increase"] = frame["loss"] - frame["loss"][0]
    return frame


@contextmanager
def _shared_folder(everyone: Peers) -> Iterator[Path]:
    """A folder for a while, the same for all processes of a run, which leave it together."""
    with TemporaryDirectory(prefix="ringlens-prune-") as own:
        yield Path(everyone.broadcast(own))
        everyone.broadcast(everyone.gather(None))


def _listed(plans: PruningPlan | Iterable[PruningPlan]) -> list[PruningPlan]:
    return [plans] if isinstance(plans, PruningPlan) else list(plans)


def _of_checkpoint(folder: Path) -> _Model:
    pruned = pruning_of(folder)
    if pruned is None:
        raise ConfigError(
            f"{folder} has no pruning.json, so what it lacks is not known; give a folder that "
            "export (or ringlens prune --export) wrote."
        )
    merged = "" if pruned.plan.merged is None else " + merge"
    return _Model(pruned.plan.criterion + merged, pruned.plan, folder)


def _check(lens: LoadedModel, plan: PruningPlan | None) -> None:
    if plan is None:
        return
    rule, sparse = lens.router, lens.sizes.sparse_layers
    if not plan.fits(lens.sizes):
        raise ConfigError(
            f"{plan!r:.80}… is about another model than {lens.name}, whose {rule.experts} experts "
            f"lie in {rule.groups} groups on layers {list(sparse)}."
        )


def _named(model: _Model, lens: LoadedModel) -> dict[str, object]:
    experts = lens.router.experts
    left = experts if model.plan is None else model.plan.left
    return {"criterion": model.criterion, "keep": left / experts, "experts_left": left}


def _evaluation(reference: Store, again: Store, written: Store, model: _Model) -> Evaluation:
    loss = _loss(again)
    right, graded, thought, stopped = written.sql(
        "select count(*) filter (correct), count(correct), avg(n_think), "
        "avg((finish_reason = 'stop')::int) from traces"
    ).fetchall()[0]
    low, high = wilson(right, graded)
    return Evaluation(
        loss=loss,
        perplexity=float(np.exp(loss)),
        agreement=_agreement(reference, again, model),
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


def _agreement(reference: Store, again: Store, model: _Model) -> float:
    """Share of the full model's choices among kept experts that were made again."""
    made = kept = 0
    for layer, before, after in _choices(reference, again):
        stays_Tk = np.ones(before.shape, bool)
        if model.plan is not None:
            stays_Tk = np.isin(before, model.plan.kept[layer])
            if model.folder is not None:  # its experts are numbered anew
                after = np.array(model.plan.kept[layer])[after]
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
