"""What a model answers without some experts: how many of the stored problems it still solves.

The prompt of a trace is run once, and its cache serves all: as many rows as fit a batch go on from
it, each without other experts, and write their own thoughts and answers.

Shape letter: P tokens of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ringlens.analysis.importance.results import problems_of
from ringlens.analysis.statistics.bootstrap import ratio_interval
from ringlens.analysis.statistics.share import wilson
from ringlens.config import refuse_unknown, whole
from ringlens.errors import ConfigError, StoreError
from ringlens.observe.interventions.resolve import resolve_rows
from ringlens.observe.pipeline.ranks import rank_role
from ringlens.observe.session import one_thread_if_tiny
from ringlens.observe.text import token_text
from ringlens.observe.turns import markup
from ringlens.probes.ablation import (
    DRAWS,
    Expert,
    OnProgress,
    check_measurable,
    live_traces,
    named_experts,
    without,
)
from ringlens.probes.chain.intervened import written_under
from ringlens.probes.sharing import shared_out
from ringlens.problem import Problem, grade
from ringlens.store import StoreWriter

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel
    from ringlens.store import Store

PROBE = "ablated_answers"

Lacking = tuple[Expert, ...]
"""The experts that a model lacks, ascending; none for the model as it is."""

OnCost = Callable[[int, int], None]
"""Called before anything is written, with the answers that are to be, and their most tokens."""


@dataclass(frozen=True)
class Answered:
    """An answer that a model without some experts gave.

    Attributes:
        correct: Whether it is right.
        thought: Tokens of the thought before it.
        stopped: Whether the model ended it itself.
    """

    correct: bool
    thought: int
    stopped: bool


@refuse_unknown
def ablated_answers(
    lens: LoadedModel,
    store: Store,
    sets: Sequence[Sequence[Expert]],
    *,
    traces: Iterable[int] | None = None,
    max_new_tokens: int = 512,
    batch_size: int = 16,
    seed: int = 0,
    on_cost: OnCost | None = None,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Let a model without some experts think about the problems of a store, and grade it.

    Experts are kept from being chosen behind the prompt, as in `ringlens.probes.ablation.ablate`.
    Tokens are the most likely ones. The model as it is answers too, so that a store of drawn
    thoughts is compared with nothing that was drawn. Answers are committed problem by problem in
    the table ``probes``; those that are there are not written again. Under torchrun or ``accelerate
    launch`` the processes share the problems out.

    Args:
        lens: The model that wrote the traces.
        store: The store, in a folder that can be written.
        sets: Sets of experts, as layers and experts; each is left out together.
        traces: Ids of live traces, whose problems are asked again, each once; None for all of the
            newest run with routing.
        max_new_tokens: Most tokens of an answer.
        batch_size: Answers side by side.
        seed: Seed of the resampling.
        on_cost: Called before the start with what is left to write.
        on_progress: Called when a problem is done.

    Returns:
        A row per set, in their order: ``set``, its experts as layer/expert; ``problems``;
        ``accuracy``, the share that it solves, with its 95% interval over problems, ``low`` and
        ``high`` (Wilson 1927); ``plain``, that of the model as it is; ``change`` = accuracy −
        plain, with its 95% interval over resampled problems, ``change_low`` and ``change_high``
        (NaN of one); ``thought``, the mean tokens of a thought; and ``stopped``, the share of
        answers that it ended itself.

    Raises:
        ConfigError: No set is given, or the model has no such layer or expert.
        ObservationError: The model is divided over processes, or cannot be without a set.
        StoreError: There are no such traces, none of a problem whose answer can be verified, or the
            store cannot be written.
    """
    check_measurable(lens, store)
    lacking = [_lacking(lens, each) for each in sets]
    if not lacking:
        raise ConfigError("there is no set of experts to leave out; name one at least.")
    limit, rows = whole("max_new_tokens", max_new_tokens, 1), whole("batch_size", batch_size, 1)
    resolve_rows(lens, [without(each) for each in lacking])  # refused before anything is written
    run_id, ids = live_traces(store, traces)
    problems = _problems(store, ids)
    known = {each: _known(store, run_id, each) for each in problems}
    asked = [(), *dict.fromkeys(lacking)]

    def left(trace_id: int) -> list[Lacking]:
        return [each for each in asked if (limit, each) not in known[trace_id]]

    def answered(trace_id: int) -> dict[Lacking, Answered]:
        told = _answers(lens, store, trace_id, problems[trace_id], left(trace_id), limit, rows)
        return dict(zip(left(trace_id), told, strict=True))

    answers = sum(len(left(each)) for each in problems)
    if on_cost is not None:
        on_cost(answers, answers * limit)
    here = rank_role(lens)
    with one_thread_if_tiny(lens), StoreWriter(store.address, here.everyone) as writer:
        done = 0
        for turn in shared_out(here, list(problems), answered):
            for trace_id, new in turn.items():
                known[trace_id] |= {(limit, each): found for each, found in new.items()}
            written = [each for each, new in turn.items() if new]
            if kept := [row for each in written for row in _rows(each, known[each])]:
                writer.replace_rows(run_id, "probes", kept)
            done += len(turn)
            if on_progress is not None:
                on_progress(done, len(problems))
    rng = np.random.default_rng(seed)
    return pd.DataFrame([_summed(each, limit, list(known.values()), rng) for each in lacking])


def name_of(lacking: Iterable[Expert]) -> str:
    """Name a set of experts: layer/expert, with spaces between."""
    return " ".join(f"{layer}/{expert}" for layer, expert in lacking)


def _lacking(lens: LoadedModel, experts: Sequence[Expert]) -> Lacking:
    """A set in order, each expert once; the model has them all."""
    if not experts:
        raise ConfigError("a set of experts is empty; name one at least.")
    for layer, expert in experts:
        named_experts(lens, [layer], [expert])
    return tuple(sorted({(int(layer), int(expert)) for layer, expert in experts}))


def _problems(store: Store, trace_ids: Sequence[int]) -> dict[int, Problem]:
    """By trace the problem that it is about, each problem once, where answers can be verified."""
    found: dict[int, Problem] = {}
    asked: set[tuple[str, str]] = set()
    for trace_id, problem in problems_of(store, trace_ids).items():
        if (problem.id, problem.prompt) in asked or grade(problem, "").correct is None:
            continue
        asked.add((problem.id, problem.prompt))
        found[trace_id] = problem
    if not found:
        raise StoreError(
            "no trace is of a problem whose answer can be verified, so accuracy cannot be told: "
            "capture problems with an answer, such as those of rl.problems('countdown')."
        )
    return found


def _known(store: Store, run_id: str, trace_id: int) -> dict[tuple[int, Lacking], Answered]:
    """The answers that the store has, by most tokens and by what the model lacked."""
    rows = store.sql(
        "select key, value, json from probes where probe = ? and run_id = ? and trace_id = ?",
        [PROBE, run_id, trace_id],
    ).fetchall()
    return dict(_read(*row) for row in rows)


def _read(key: str, value: float, text: str) -> tuple[tuple[int, Lacking], Answered]:
    limit, *words = key.split(" ")
    places = (word.split("/") for word in words)
    lacking = tuple((int(layer), int(expert)) for layer, expert in places)
    told: dict[str, Any] = json.loads(text)
    return (int(limit), lacking), Answered(bool(value), told["thought"], told["stopped"])


def _rows(
    trace_id: int, known: Mapping[tuple[int, Lacking], Answered]
) -> Iterator[dict[str, object]]:
    """Rows of ``probes``: the key has the most tokens, and the experts that were left out."""
    for (limit, lacking), each in known.items():
        alone = lacking[0] if len(lacking) == 1 else (None, None)
        yield {
            "probe": PROBE,
            "trace_id": trace_id,
            "layer": alone[0],
            "unit": alone[1],
            "key": f"{limit} {name_of(lacking)}".strip(),
            "value": float(each.correct),
            "json": json.dumps({"thought": each.thought, "stopped": each.stopped}),
        }


def _answers(
    lens: LoadedModel,
    store: Store,
    trace_id: int,
    problem: Problem,
    sets: Sequence[Lacking],
    limit: int,
    batch_size: int,
) -> Iterator[Answered]:
    """What the model answers without each of some sets, in their order."""
    if not sets:
        return
    tokens = store.trace(trace_id).tokens()
    P = int(np.flatnonzero(np.array(tokens["phase"]) != "prompt")[0])
    # What stands in the prompt is as it was when the model wrote.
    acts = [[replace(act, span=(P, None)) for act in without(each)] for each in sets]
    prompt_ids = tokens["token_id"][:P].tolist()
    for row in written_under(lens, prompt_ids, acts, limit, batch_size):
        yield _graded(lens, problem, row, P)


def _graded(lens: LoadedModel, problem: Problem, ids: list[int], n_prompt: int) -> Answered:
    """Grade an answer, as a capture does."""
    text = token_text(lens.tokenizer, ids)
    reading = markup(lens.tokenizer).read(text, n_prompt, question=problem.prompt)
    correct = grade(problem, reading.transcript).correct
    return Answered(bool(correct), reading.phase.count("think"), ids[-1] in lens.eos_token_ids)


def _summed(
    lacking: Lacking,
    limit: int,
    known: Sequence[Mapping[tuple[int, Lacking], Answered]],
    rng: np.random.Generator,
) -> dict[str, object]:
    """The row of a set."""
    mine = [each[limit, lacking] for each in known]
    right_U = np.array([each.correct for each in mine], np.float64)
    plain_U = np.array([each[limit, ()].correct for each in known], np.float64)
    low, high = wilson(int(right_U.sum()), len(mine))
    change_low = change_high = float("nan")
    if len(mine) > 1:
        ones_U = np.ones(len(mine))
        change_low, change_high = ratio_interval(right_U - plain_U, ones_U, rng, DRAWS)
    return {
        "set": name_of(lacking),
        "problems": len(mine),
        "accuracy": float(right_U.mean()),
        "low": low,
        "high": high,
        "plain": float(plain_U.mean()),
        "change": float((right_U - plain_U).mean()),
        "change_low": change_low,
        "change_high": change_high,
        "thought": float(np.mean([each.thought for each in mine])),
        "stopped": float(np.mean([each.stopped for each in mine])),
    }
