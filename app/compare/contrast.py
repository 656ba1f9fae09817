"""Encodes the comparison of two selections: shares, difference, what is told from chance.

Shape letters: L layers, E experts.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ringlens import analysis
from ringlens.app.shared.frames import records
from ringlens.app.shared.made import made
from ringlens.plot.typed_arrays import encode
from ringlens.store import Store
from ringlens.store.read.selection import Source

Row = dict[str, Any]

DRAWS = 400
"""Resamples of traces for the intervals."""

NUMBERS = ("share_a", "share_b", "difference", "low", "high", "p", "q")


def contrast(source: Source, a: str, b: str, *, store: Store, within: str | None) -> Row:
    """Encode how differently two selections choose each expert.

    Args:
        source: What is asked.
        a: First selection.
        b: Second selection.
        store: The store, which the program opens.
        within: "token" for equal tokens only.

    Returns:
        ``groups``, one for each phase where no selection names it: ``name``, ``layers``, and
        arrays [L, E]; and what the comparison rests on.
    """
    found = analysis.contrast(source, a, b, within=within, draws=DRAWS)
    equal = "" if within is None else f", within={within!r}"
    program = f"found = analysis.contrast(store, {a!r}, {b!r}{equal}, draws={DRAWS})"
    return _encoded(found) | {
        "made": made(store, found.attrs["sql"], program, "ringlens.analysis"),
    }


def nothing(source: Source, a: str, b: str, *, store: Store, within: str | None) -> Row:
    """Encode the same of choices in random order within each layer of each trace."""
    shuffled = analysis.Shuffled(source)
    found = analysis.contrast(shuffled, a, b, within=within, draws=0)
    equal = "" if within is None else f", within={within!r}"
    program = (
        "null = analysis.Shuffled(store)\n"
        f"found = analysis.contrast(null, {a!r}, {b!r}{equal}, draws=0)"
    )
    return _encoded(found) | {"made": made(store, None, program, "ringlens.analysis")}


def shift(source: Source, a: str, b: str, *, store: Store) -> Row:
    """Encode how far the routing of each layer moves, beside what chance gives."""
    found = analysis.routing_shift(source, a, b)
    groups = [
        {"name": name, "rows": records(part)} for name, part in _grouped(found, found.attrs["by"])
    ]
    program = f"found = analysis.routing_shift(store, {a!r}, {b!r})"
    return {
        "groups": groups,
        "made": made(store, found.attrs["sql"], program, "ringlens.analysis"),
    }


def _encoded(found: pd.DataFrame) -> Row:
    attrs = found.attrs
    groups = []
    for name, part in _grouped(found, attrs["by"]):
        rows = part.sort_values(["layer", "expert"])
        groups.append(
            {
                "name": name,
                "layers": rows["layer"].unique().tolist(),
                "experts": int(rows["expert"].max()) + 1,
                "tokens_a": int(rows["tokens_a"].max()),
                "tokens_b": int(rows["tokens_b"].max()),
                **{
                    number: encode(rows[number].to_numpy(), "f4")
                    for number in NUMBERS
                    if number in rows
                },
            }
        )
    return {
        "groups": groups,
        "traces": attrs["traces"],
        "paired": all(attrs["paired"]),
        "left_out": attrs["left_out"],
        "smallest_p": attrs["smallest_p"],
        "source": attrs["source"],
    }


def _grouped(found: pd.DataFrame, by: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """Name and rows of each group; one without a name if there are none."""
    if not by:
        return [("", found)]
    grouped = found.groupby(by, dropna=False, sort=False)
    return [(" ".join(map(str, key)), part) for key, part in grouped]
