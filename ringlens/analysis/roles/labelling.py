"""Labels the traces of a store: cuts what the model wrote into steps, and says what each does.

Shape letter: T tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringlens.analysis.roles import rules
from ringlens.analysis.roles.label import Label
from ringlens.analysis.steps.segmentation import Step, segment
from ringlens.store import Store, StoreWriter

GROUP_TOKENS = 200_000
"""Tokens of the traces that are labelled in one commit, about."""

# What opens and closes thoughts and turns is no part of a step.
_MARK = r"(?:</?think>|<\|[^|<>\s]{1,40}\|>|<role>[A-Z]{1,20}</role>)"
_BEGIN, _END = re.compile(rf"(?:\s*{_MARK})*\s*"), re.compile(rf"\s*(?:{_MARK}\s*)+\Z")

_NEW = """
select trace_id, run_id, n_prompt + n_think + n_answer as tokens from traces
where finish_reason <> 'running' and {which} order by run_id, trace_id
"""
_WHICH = {
    False: "trace_id not in (select trace_id from steps)",
    True: "trace_id not in (select trace_id from steps where label_source is null "
    "or not starts_with(label_source, 'rules-'))",
}

Labeller = Callable[[Sequence[str], str | None], Sequence[Label]]
"""Labels the texts of one trace's steps, given the prompt."""


class Labelled(NamedTuple):
    """What was done.

    Attributes:
        traces: Traces that were labelled.
        steps: Steps that were written.
        left: Traces of runs that another process writes to, which were left to it.
    """

    traces: int
    steps: int
    left: int = 0


def label_store(
    writer: StoreWriter,
    *,
    again: bool = False,
    labeller: Labeller = rules.label,
    source: str = rules.SOURCE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Labelled:
    """Cut and label the traces of a store that have ended and have no steps yet.

    Traces are committed in groups, each wholly or not at all, with the sums by role. What was
    stopped goes on with the rest. A run that another process writes to is left to it.

    Args:
        writer: The store, open for writing.
        again: Whether traces are labelled again that rules have labelled before; labels of other
            sources stay.
        labeller: Labels the steps of a trace.
        source: What to store as source of the labels.
        on_progress: Called with the traces done and in total.

    Raises:
        StoreError: A file is damaged, or the disk is full; what was committed before stays.
    """
    with Store(writer.folder.address) as store:
        rows = store.sql(_NEW.format(which=_WHICH[again])).fetchall()
        done = steps = left = 0
        for run_id, ids in _groups(rows):
            if not writer.owns(run_id):
                left += len(ids)
                continue
            found = [row for i in ids for row in step_rows(store, i, labeller, source)]
            if found:
                writer.replace_rows(run_id, "steps", found)
            done, steps = done + len(ids), steps + len(found)
            on_progress(done, len(rows))
    return Labelled(done, steps, left)


def label_stored(
    writer: StoreWriter,
    run_id: str,
    trace_ids: Sequence[int],
    labeller: Labeller = rules.label,
    source: str = rules.SOURCE,
) -> None:
    """Cut and label some traces of a run, in one commit.

    It fits ``on_stored`` of a capture. Of several writers that write together, all call it.

    Args:
        writer: The store, open for writing.
        run_id: The run.
        trace_ids: The traces.
        labeller: Labels the steps of a trace.
        source: What to store as source of the labels.

    Raises:
        StoreError: A file is damaged, or the disk is full; nothing was labelled.
    """
    found: list[dict[str, Any]] = []
    if writer.peers.rank == 0:
        with Store(writer.folder.address) as store:
            found = [row for i in trace_ids for row in step_rows(store, i, labeller, source)]
    writer.replace_rows(run_id, "steps", found)


def step_rows(
    store: Store, trace_id: int, labeller: Labeller = rules.label, source: str = rules.SOURCE
) -> list[dict[str, Any]]:
    """Rows of ``steps`` of one trace: what the model wrote, thoughts and answers."""
    trace = store.trace(trace_id)
    tokens = trace.tokens()
    text, start_T, phase_T = trace.text, np.asarray(tokens["start"]), list(tokens["phase"])
    steps = list(written_steps(text, start_T, phase_T))
    labels = labeller([text[step.start : step.end] for step in steps], trace.summary["prompt"])
    places = place_rows(trace_id, text, start_T, steps, source)
    if labeller is rules.label:
        last = len(phase_T) - 1
        labels = _with_answers(
            labels, [phase_T[min(place["token_start"], last)] for place in places]
        )
    return [place | label._asdict() for place, label in zip(places, labels, strict=True)]


def place_rows(
    trace_id: int, text: str, start_T: NDArray[np.int64], steps: Sequence[Step], source: str
) -> list[dict[str, Any]]:
    """Rows of ``steps`` of one trace, without their labels.

    Args:
        trace_id: The trace.
        text: Its text.
        start_T: First character of each token.
        steps: Where its steps are.
        source: Source of their labels.
    """
    spans = [token_span(step, start_T) for step in steps]
    return [
        {
            "trace_id": trace_id,
            "step": number,
            "start": step.start,
            "end": step.end,
            "token_start": first,
            "token_end": last,
            "text": text[step.start : step.end],
            "label_source": source,
        }
        for number, (step, (first, last)) in enumerate(zip(steps, spans, strict=True))
    ]


def _with_answers(labels: Sequence[Label], phases: Sequence[str]) -> list[Label]:
    """Labels in which an answer of one step is the final answer, whatever its words are."""
    found = list(labels)
    if phases[-1:] == ["answer"] and phases[-2:-1] != ["answer"]:
        found[-1] = found[-1]._replace(role="final_answer_emission", confidence=None)
    return found


def written_steps(text: str, start_T: NDArray[np.int64], phases: Sequence[str]) -> Iterator[Step]:
    """Steps of what the model wrote, in order; no step is in two phases.

    Args:
        text: Text of the trace.
        start_T: First character of each token.
        phases: Phase of each token.
    """
    first = 0
    for phase, group in groupby(phases):
        last = first + len(list(group))
        if phase != "prompt":
            begin = int(start_T[first])
            end = int(start_T[last]) if last < len(start_T) else len(text)
            begin, end = _trimmed(text, begin, end)
            yield from (Step(begin + s.start, begin + s.end) for s in segment(text[begin:end]))
        first = last


def token_span(step: Step, start_T: NDArray[np.int64]) -> tuple[int, int]:
    """First token of a step and the token after its last; a token is where it begins."""
    first, last = np.searchsorted(start_T, [step.start, step.end])
    return int(first), int(last)


def _trimmed(text: str, begin: int, end: int) -> tuple[int, int]:
    """Part of a text without marks at its beginning and its end."""
    opening = _BEGIN.match(text, begin, end)
    begin = begin if opening is None else opening.end()
    closing = _END.search(text, max(begin, end - 200), end)
    return begin, end if closing is None else closing.start()


def _groups(rows: Sequence[tuple[int, str, int]]) -> Iterator[tuple[str, list[int]]]:
    """Traces of one run that are labelled in one commit."""
    for run_id, own in groupby(rows, key=lambda row: row[1]):
        ids: list[int] = []
        size = 0
        for trace_id, _, tokens in own:
            if ids and size + tokens > GROUP_TOKENS:
                yield run_id, ids
                ids, size = [], 0
            ids.append(trace_id)
            size += tokens
        yield run_id, ids
