"""What happens without each expert, as a map of layer × expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import known_only, refuse_unknown
from ringlens.plot.forms import maps
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import check, grid

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

KEYS = {
    "loss": "rise of the loss, in nats a token",
    "answer": "rise of the log-probability of the answer, in nats",
}
"""What may be drawn, with its meaning."""


@refuse_unknown
def ablation_effects(frame: pd.DataFrame, *, key: str = "loss", theme: str | None = None) -> Figure:
    """Draw what a model does without each of its experts, on average over traces.

    Args:
        frame: A row per layer, expert and key: ``layer``, ``expert``, ``key``, ``traces`` and
            ``mean``.
        key: One of `KEYS`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a map of the mean effect; experts that were not measured are blank.

    Raises:
        ConfigError: It is no such table, or there is no such key.
    """
    check(frame, "ablation_effects", "layer", "expert", "key", "traces", "mean")
    known_only([key], KEYS, "key")
    own = frame[frame["key"] == key]
    layers = sorted(int(layer) for layer in own["layer"].unique())
    experts = int(own["expert"].max()) + 1
    high = maps.row_height(len(layers)) * len(layers)
    below = f"{KEYS[key]} · mean over traces · blank: not measured"
    canvas = Canvas(theme, "What happens without each expert", below, [high], bottom=maps.ROOM)
    panel = canvas.panel(0)
    maps.layer_axes(canvas, panel, layers, experts, "expert")
    shown = [grid(own, "layer", "expert", name, layers, experts) for name in ("mean", "traces")]
    hover = said("<b>L%{y:d} · E%{x}</b><br>{0:.4f} nats<br>{1:.0f} traces", shown)
    maps.draw_map(canvas, panel, shown[0], layers, hover)
    edge = float(np.nanmax(np.abs(shown[0]))) or 1.0
    maps.colour_scale(canvas, maps.Scale(-edge, edge, KEYS[key], True, form="~g"))
    return canvas.figure()
