"""Export of traces in the layout of math-rollouts, for the tools of Thought Anchors and its kin."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ringlens.errors import StoreError
from ringlens.rollouts.layout import BASE, PROBLEM, ROLLOUTS, SOLUTIONS
from ringlens.store import Store
from ringlens.store.maintain.export import whole
from ringlens.store.read.trace import Trace
from ringlens.store.storage.failure import store_errors

_NAME = re.compile(r"problem_[\w-]{1,100}", re.ASCII)
_RESAMPLED = re.compile(r"(.+)/chunk_(\d{1,6})", re.DOTALL)

Steps = list[dict[str, Any]]


def to_rollouts(
    store: Store, trace_ids: Sequence[int], out: Path, on_progress: Callable[[int, int], None]
) -> None:
    """Export traces, the folder of a problem each.

    Chunks are the steps of the thought; of a trace without one, all steps. Traces of a problem
    "problem_N/chunk_i", as an import makes them, become its rollouts in ``chunk_i``. Other files of
    the layout hold results of resampling, and are not written.

    Args:
        store: The store.
        trace_ids: The traces, one of each problem.
        out: Folder to write; must not be there yet.
        on_progress: Called with the number of problems done and in total.

    Raises:
        StoreError: A trace has no steps, a problem has several traces, a rollout lacks the trace
            that it was made from, or the folder could not be written; then nothing is left of it.
    """
    bases, resampled = _sorted(store, trace_ids)
    failed = f"{out} was not written"
    with whole(out) as folder, store_errors(store.folder, failed):
        folder.mkdir()
        for done, (problem, trace) in enumerate(bases.items(), start=1):
            place = folder / (problem if _NAME.fullmatch(problem) else f"problem_{trace.trace_id}")
            place.mkdir()
            steps = _thought(store, trace)
            _write(place / PROBLEM, _problem(trace, problem))
            _write(place / BASE, _solution(trace))
            chunks = [step["text"].strip() for step in steps]
            thought = _span(trace, steps)
            _write(
                place / "chunks.json",
                {"source_text": trace.text, "solution_text": thought, "chunks": chunks},
            )
            _write(place / ROLLOUTS, [_chunk(index, steps) for index in range(len(steps))])
            for index, own in sorted(resampled.get(problem, {}).items()):
                _write_rollouts(store, place / f"chunk_{index}", own, trace, chunks)
            on_progress(done, len(bases))


def _sorted(
    store: Store, trace_ids: Sequence[int]
) -> tuple[dict[str, Trace], dict[str, dict[int, list[Trace]]]]:
    """Traces by problem, and rollouts by problem and step."""
    bases: dict[str, Trace] = {}
    resampled: dict[str, dict[int, list[Trace]]] = defaultdict(lambda: defaultdict(list))
    for trace_id in trace_ids:
        trace = store.trace(trace_id)
        problem = trace.summary["problem_id"] or f"problem_{trace_id}"
        if match := _RESAMPLED.fullmatch(problem):
            resampled[match[1]][int(match[2])].append(trace)
        elif problem in bases:
            raise StoreError(
                f"the traces {bases[problem].trace_id} and {trace_id} are of one problem, "
                f"{problem!r:.60}, "
                'and its folder holds one: choose it by --trace, or --where "sample = 0"'
            )
        else:
            bases[problem] = trace
    for problem in resampled.keys() - bases.keys():
        raise StoreError(f"rollouts of {problem!r:.60} are chosen without its trace: choose it too")
    return bases, resampled


def _thought(store: Store, trace: Trace) -> Steps:
    """The steps of the thought; of a trace without one all."""
    rows: Steps = (
        store.sql(
            'select step, start, "end", token_start, role, parent, text from steps '
            "where trace_id = ? order by step",
            [trace.trace_id],
        )
        .to_arrow_table()
        .to_pylist()
    )
    if not rows:
        raise StoreError(f"trace {trace.trace_id} has no steps: cut it by `ringlens steps` first")
    phase = trace.tokens()["phase"]
    within = [row for row in rows if phase[min(row["token_start"], len(phase) - 1)] == "think"]
    return within or rows


def _span(trace: Trace, steps: Steps) -> str:
    return trace.text[steps[0]["start"] : steps[-1]["end"]].strip()


def _chunk(index: int, steps: Steps) -> dict[str, Any]:
    """A step as a chunk."""
    numbers = {step["step"]: place for place, step in enumerate(steps)}
    step = steps[index]
    return {
        "chunk": step["text"].strip(),
        "chunk_idx": index,
        "function_tags": [step["role"] or "unknown"],
        "depends_on": [str(numbers[step["parent"]])] if step["parent"] in numbers else [],
    }


def _problem(trace: Trace, problem: str) -> dict[str, Any]:
    row = trace.summary
    return {"problem": row["prompt"], "gt_answer": row["expected"] or "", "nickname": problem}


def _solution(trace: Trace) -> dict[str, Any]:
    cut = _written_at(trace)
    text = trace.text
    return {"prompt": text[:cut], "solution": text[cut:], "full_cot": text, **_grade(trace)}


def _write_rollouts(
    store: Store, folder: Path, traces: Sequence[Trace], base: Trace, chunks: Sequence[str]
) -> None:
    folder.mkdir()
    index = int(folder.name.removeprefix("chunk_"))
    prompt = base.text[: _written_at(base)]
    rows = []
    for trace in sorted(traces, key=lambda each: (each.summary["sample"] or 0, each.trace_id)):
        cut = _written_at(trace)
        rows.append(
            {
                "chunk_removed": chunks[index] if index < len(chunks) else "",
                "prefix_without_chunk": trace.text[:cut].removeprefix(prompt),
                "chunk_resampled": _thought(store, trace)[0]["text"].strip(),
                "rollout": trace.text[cut:],
                "full_cot": trace.text,
                **_grade(trace),
            }
        )
    _write(folder / SOLUTIONS, rows)


def _written_at(trace: Trace) -> int:
    """The first character that was written, behind the prompt."""
    tokens = trace.tokens()
    own = [
        at for at, name in zip(tokens["start"], tokens["phase"], strict=True) if name != "prompt"
    ]
    return int(own[0]) if own else len(trace.text)


def _grade(trace: Trace) -> dict[str, Any]:
    return {"answer": trace.summary["answer"] or "", "is_correct": trace.summary["correct"]}


def _write(file: Path, found: Any) -> None:
    text = json.dumps(found, ensure_ascii=False, indent=2, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
