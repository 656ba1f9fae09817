"""The bundled problem sets: distinct problems of either split, the same for everyone.

Beside them, thoughts about held-out problems with what is true of every step.

python -m ringlens.data.sets
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from ringlens.data import countdown, path
from ringlens.data.tasks import mix

SPLITS = ("heldout", "train")
BUNDLED = 200
"""Problems of each size in a bundled file."""
THOUGHTS = 24
"""Thoughts of each kind of problem in the bundled file."""
PATIENCE = 100_000
"""After so many draws without a new problem there are no more."""


def draw(split: str, size: int) -> Iterator[dict[str, Any]]:
    """Distinct problems of one split and size, as lines of a problem file, while there are any."""
    rng = random.Random(f"{countdown.TASK} {split} {size}")
    seen: set[tuple[countdown.State, int]] = set()
    misses = 0
    while misses < PATIENCE:
        numbers, target, moves = countdown.sample(rng, size)
        wanted = countdown.is_heldout(numbers, target) == (split == "heldout")
        if not wanted or (numbers, target) in seen:
            misses += 1
            continue
        misses = 0
        seen.add((numbers, target))
        shuffled = tuple(rng.sample(numbers, size))
        yield {
            "id": f"{countdown.TASK}-{split}-{size}-{len(seen):04d}",
            "task": countdown.TASK,
            "prompt": countdown.prompt(shuffled, target),
            "answer": countdown.compose(numbers, moves),
            "fields": {"numbers": list(shuffled), "target": target},
        }


def write(split: str) -> None:
    """Write ``countdown.SPLIT.jsonl``, sizes in turn."""
    columns = [islice(draw(split, size), BUNDLED) for size in countdown.SIZES]
    rows = [row for rows in zip(*columns, strict=True) for row in rows]
    write_rows(f"{countdown.TASK}.{split}.jsonl", rows)


def draw_kind(split: str, kind: mix.Kind) -> Iterator[dict[str, Any]]:
    """Distinct problems of one split and kind, as lines of a problem file."""
    rng = random.Random(f"{kind.name} {split} prompts")
    drawn = mix.distinct_problems(kind, heldout=split == "heldout", seed=f"set {split}")
    for number, fields in enumerate(drawn, 1):
        yield {
            "id": f"{kind.task}-{split}-{number:04d}",
            "task": kind.task,
            "prompt": kind.prompt(rng, fields),
            "answer": kind.solution(fields),
            "fields": fields,
        }


def thoughts() -> Iterator[dict[str, Any]]:
    """Traces of held-out problems, kinds in turn, as lines of JSON."""
    drawn = [mix.distinct_problems(kind, heldout=True, seed="thoughts") for kind in mix.KINDS]
    for number in range(1, THOUGHTS + 1):
        for kind, problems in zip(mix.KINDS, drawn, strict=True):
            name = f"{kind.name.replace(' ', '-')}-{number:02d}"
            rng = random.Random(name)
            yield kind.tell(rng, next(problems)).row(name)


def write_rows(name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write a bundled file, one object a line."""
    path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    for split in SPLITS:
        write(split)
        for kind in mix.KINDS:
            if kind.task != countdown.TASK:
                write_rows(f"{kind.task}.{split}.jsonl", islice(draw_kind(split, kind), BUNDLED))
    write_rows("thoughts.heldout.jsonl", thoughts())
