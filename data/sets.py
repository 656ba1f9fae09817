"""The bundled problem sets: distinct problems of either split, the same for everyone.

python -m ringlens.data.sets
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from ringlens.data import countdown, path

SPLITS = ("heldout", "train")
BUNDLED = 200
"""Problems of each size in a bundled file."""
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
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path(f"{countdown.TASK}.{split}.jsonl").write_text(text)


if __name__ == "__main__":
    for split in SPLITS:
        write(split)
