"""How far two captures of the same tokens agree, over layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.display import plural
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.lines import draw_line, line_axes
from ringlens.plot.forms.table import check, scope

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SHARES = {
    "tokens_differ": ("tokens with other experts", "{0:.2%} of tokens chose other experts"),
    "mismatch": ("experts that differ", "{0:.2%} of a token's experts differ, on average"),
    "order_differs": (
        "tokens with another order of weights",
        "{0:.2%} of tokens have them in another order",
    ),
}


@refuse_unknown
def agreement(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw what two captures route differently, over layers.

    Args:
        frame: A table of `ringlens.analysis.agreement`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure of two panels: shares of tokens that differ, and the largest error of a weight.

    Raises:
        ConfigError: It is no such table.
    """
    check(frame, "agreement", "layer", "tokens", "weight_error", *_SHARES)
    attrs = frame.attrs
    facts = []
    if "any_layer" in attrs:
        facts.append(f"{attrs['any_layer']:.1%} of tokens differ on some layer")
    if np.isfinite(attrs.get("logprob_error", np.nan)):
        facts.append(f"mean log-probability error {attrs['logprob_error']:.2g} nats")
    below = scope(pd.DataFrame(), plural(attrs["traces"], "trace"), *facts) if attrs else ""
    canvas = Canvas(theme, "Agreement of two captures", below, [280], 2, legend=True)
    left, right = canvas.panel(0), canvas.panel(0, 1)
    rows = frame.sort_values("layer")
    layers, tokens = rows["layer"].to_list(), rows["tokens"].to_numpy()
    most = max(0.01, 1.1 * float(np.nanmax(rows[list(_SHARES)].to_numpy())))
    line_axes(canvas, left, layers, "share that differs", ".1%", range=[0, most])
    line_axes(canvas, right, layers, "largest error of a weight", "~g")
    for number, (column, (name, words)) in enumerate(_SHARES.items()):
        values = rows[column].to_numpy()
        if np.isfinite(values).any():  # imported captures know no order
            hover = said(f"<b>%{{text}}</b><br>{words}<br>of {{1:,}} tokens", [values, tokens])
            draw_line(canvas, left, layers, values, (name, number), hover, legend=True)
    error = rows["weight_error"].to_numpy()
    hover = said("<b>%{text}</b><br>at most {0:.4f}", [error])
    draw_line(canvas, right, layers, error, ("", len(_SHARES)), hover)
    return canvas.figure()
