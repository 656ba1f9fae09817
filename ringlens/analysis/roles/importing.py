"""Labels from files: JSON lines, and the layout of published rollouts of mathematical problems."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ringlens.analysis.roles.cues import ROLES
from ringlens.analysis.roles.labelling import place_rows
from ringlens.analysis.steps.segmentation import Step
from ringlens.config import known_only
from ringlens.errors import ConfigError, NotInStoreError
from ringlens.store import Store, StoreWriter
from ringlens.strict_json import parsed_object

ROLLOUTS = "chunks_labeled.json"
"""Name of the file of labels in the layout of math-rollouts (arXiv 2506.19143)."""

_OPTIONAL: Mapping[str, tuple[type, ...]] = {
    "is_backtrack": (bool,),
    "is_hypothesis": (bool,),
    "confidence": (int, float),
    "parent": (int,),
}
_KEYS = ("trace_id", "text", "role", *_OPTIONAL)

Steps = list[dict[str, Any]]
"""Steps of one trace in order: ``text``, ``role``, and what else is known of each."""


def read_lines(path: str | Path) -> dict[int, Steps]:
    """Read labels from JSON lines, a step each.

    Args:
        path: The file. A line has ``trace_id``, ``text`` and ``role``, and may have
            ``is_backtrack``, ``is_hypothesis``, ``confidence`` and ``parent``. Steps of a trace
            stand in their order.

    Returns:
        Steps by trace.

    Raises:
        ConfigError: A line is no such object; the message names it.
    """
    found: dict[int, Steps] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        row = parsed_object(line, place, ConfigError)
        known_only(row, _KEYS, f"key ({place})")
        if type(row.get("trace_id")) is not int:
            raise ConfigError(f"{place}: trace_id is {row.get('trace_id')!r:.40}; give its number.")
        found.setdefault(row["trace_id"], []).append(_checked(row, place))
    if not found:
        raise ConfigError(f"{path} holds no labels; write a line for each step.")
    return found


def read_rollout(path: str | Path) -> Steps:
    """Read the labels of one trace in the layout of math-rollouts.

    Args:
        path: The folder of a problem, or its ``chunks_labeled.json``: a list of objects with
            ``chunk``, ``function_tags``, of which the first counts, and ``depends_on``, of which
            the last earlier one becomes the parent.

    Raises:
        ConfigError: There is no such file, or it holds something else.
    """
    file = Path(path) / ROLLOUTS if Path(path).is_dir() else Path(path)
    try:
        rows = json.loads(_text(file))
        steps = [
            {
                "text": row["chunk"],
                "role": (row["function_tags"] or ["unknown"])[0],
                "parent": _parent(row.get("depends_on") or (), number),
            }
            for number, row in enumerate(rows)
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(
            f"{file} is no list of objects with chunk, function_tags and depends_on "
            f"({type(error).__name__}: {error!s:.80})."
        ) from None
    return [_checked(step, f"{file}, chunk {number}") for number, step in enumerate(steps)]


def import_steps(writer: StoreWriter, by_trace: Mapping[int, Steps], source: str) -> int:
    """Store labels of traces, in place of the steps that these have.

    The texts of the steps are looked for in the text of their trace, one behind the other; white
    space between two belongs to the first.

    Args:
        writer: The store, open for writing.
        by_trace: Steps by trace.
        source: What to store as source of the labels.

    Returns:
        Number of steps.

    Raises:
        NotInStoreError: There is no such trace.
        ConfigError: A step is not in the text of its trace; nothing of any trace was stored.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    with Store(writer.folder.address) as store:
        for trace_id, steps in sorted(by_trace.items()):
            run_id = store.trace(trace_id).summary["run_id"]
            rows.setdefault(run_id, []).extend(_rows(store, trace_id, steps, source))
    for run_id, own in rows.items():
        writer.replace_rows(run_id, "steps", own)
    return sum(map(len, rows.values()))


def trace_of(store: Store, steps: Steps) -> int:
    """Find the one trace whose text holds some steps in their order.

    Raises:
        NotInStoreError: None holds them, or several do.
    """
    first = steps[0]["text"]
    query = "select trace_id, text from traces where contains(text, ?) order by trace_id"
    rows = store.sql(query, [first]).fetchall()
    ids = [trace_id for trace_id, text in rows if spans_of(text, steps) is not None]
    if len(ids) != 1:
        raise NotInStoreError(
            f"{len(ids)} traces of {store.address} hold these {len(steps)} steps, the first of "
            f"which is {first!r:.60}; name the trace."
        )
    return int(ids[0])


def _rows(store: Store, trace_id: int, steps: Steps, source: str) -> list[dict[str, Any]]:
    trace = store.trace(trace_id)
    text, start_T = trace.text, np.asarray(trace.tokens()["start"])
    spans = spans_of(text, steps)
    if spans is None:
        missing = next(i for i in range(len(steps)) if spans_of(text, steps[: i + 1]) is None)
        raise ConfigError(
            f"step {missing} of trace {trace_id}, {steps[missing]['text']!r:.60}, is not in the "
            "trace's text behind the step before it; the labels are of another text."
        )
    places = place_rows(trace_id, text, start_T, spans, source)
    return [step | place for step, place in zip(steps, places, strict=True)]


def spans_of(text: str, steps: Steps) -> list[Step] | None:
    """Find where steps are in a text, one behind the other; None if one is not there."""
    begins, at = [], 0
    for step in steps:
        at = text.find(step["text"], at)
        if at < 0:
            return None
        begins.append(at)
        at += len(step["text"])
    spans = []
    for number, (begin, step) in enumerate(zip(begins, steps, strict=True)):
        end = begin + len(step["text"])
        after = begins[number + 1] if number + 1 < len(steps) else end
        spans.append(Step(begin, after if text[end:after].isspace() else end))
    return spans


def _checked(row: dict[str, Any], place: str) -> dict[str, Any]:
    """The columns of a step, with its values checked."""
    text, role = row.get("text"), row.get("role")
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{place}: the text is {text!r:.40}; give the text of the step.")
    if not isinstance(role, str):
        raise ConfigError(f"{place}: the role is {role!r:.40}; give one of {', '.join(ROLES)}.")
    known_only([role], ROLES, f"role ({place})")
    for name, kinds in _OPTIONAL.items():
        value = row.get(name)
        if value is not None and type(value) not in kinds:
            words = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigError(f"{place}: {name} is {value!r:.40}; it must be {words}.")
    return {"text": text, "role": role} | {name: row.get(name) for name in _OPTIONAL}


def _parent(depends_on: Sequence[Any], number: int) -> int | None:
    """The last earlier step that one depends on."""
    earlier = [int(each) for each in depends_on if 0 <= int(each) < number]
    return max(earlier, default=None)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the labels {str(path)!r:.200}: {error}") from error
