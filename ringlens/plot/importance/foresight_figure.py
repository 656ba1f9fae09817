"""What linear probes foretell by layer, beside their controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.lines import draw_line, line_axes
from ringlens.plot.forms.table import MOST, check
from ringlens.plot.theme import safe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HIGH = 260
"""Pixels of the panel."""


@refuse_unknown
def foresight(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw how well a probe of each layer foretells, beside its controls.

    Args:
        frame: A table of `ringlens.probes.linear.linear_probe`, or of
            `ringlens.analysis.importance.foresight.foresight`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a panel for each of the first six targets and kinds of features: the score
        over layers with its 95% interval over problems, the mean score with shuffled labels, and a
        dotted line where the tokens so far lie.

    Raises:
        ConfigError: It is no such table, or has two rows for a layer of one panel.
    """
    check(frame, "linear_probe", "features", "layer", "score", "low", "high", "shuffled")
    about = frame.attrs
    below = ""
    if "target" in about:
        below = f"{about['target']} of {about['steps']} steps of {about['problems']} problems"
    parts = _parts(frame)
    heights = [HIGH] * len(parts)
    canvas = Canvas(theme, "What can be seen coming", safe(below, 120), heights, legend=True)
    for row, (name, part) in enumerate(parts):
        _draw(canvas, row, name or str(about.get("measure", "score")), part)
    return canvas.figure()


def _parts(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The first tables of several, each with its name; one alone has none."""
    keys = ["target", "probed", "where"]
    if not set(keys) <= set(frame.columns):
        return [("", frame)]
    groups = frame.groupby(keys, dropna=False, sort=False)
    return [
        (f"{target} from {probed}: {part['measure'].iloc[0]}", part)
        for (target, probed, _), part in groups
    ][:MOST]


def _draw(canvas: Canvas, row: int, name: str, part: pd.DataFrame) -> None:
    """One table in one panel."""
    layers = part[part["layer"].notna()].sort_values("layer")
    if layers.empty or layers["layer"].duplicated().any():
        raise ConfigError(
            "the table has no row with a layer, or two of one; give what `linear_probe` returns."
        )
    bag = part.loc[part["layer"].isna(), "score"]
    panel, at = canvas.panel(row), layers["layer"].astype(int).tolist()
    ends = {each: layers[each].to_numpy(np.float64) for each in ("low", "high")}
    shuffled = layers["shuffled"].to_numpy(np.float64)
    hover = said(
        "<b>%{text}</b><br>score %{y:.3f}<br>95% interval {0:.3f} to {1:.3f}<br>shuffled labels "
        "{2:.3f}",
        [ends["low"], ends["high"], shuffled],
    )
    first = row == 0
    scores = layers["score"].to_numpy()
    draw_line(canvas, panel, at, scores, ("the probe", 0), hover, legend=first, **ends)
    draw_line(canvas, panel, at, shuffled, ("shuffled labels", 1), hover, legend=first)
    told = f"{name} on unseen problems"
    if len(bag):
        canvas.line(panel, y=float(bag.iloc[0]))
        told += f"; dotted: tokens so far, {float(bag.iloc[0]):.3f}"
    least = min(0.4, float(np.nanmin([*ends["low"], *shuffled, *bag])) - 0.05)
    line_axes(canvas, panel, at, told, ".2f", range=[least, 1.03])
