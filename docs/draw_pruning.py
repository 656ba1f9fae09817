"""Draw the pictures of docs/acting.md from what benchmarks measured.

python docs/draw_pruning.py

curve.csv holds the table of the guide (benchmarks/pruning_curve.py writes one of all criteria),
recovery.csv what benchmarks/recovery.py said.
"""

from pathlib import Path

import make_gallery
import pandas as pd
import plotly.io
from browser import browser, page
from plotly.offline import get_plotlyjs

import ringlens as rl

IMAGES = Path(__file__).parent / "images" / "acting"


def main() -> None:
    """Photograph the curve, and the models side by side."""
    plotly.io.templates.default = "plotly_white"
    figures = {
        "curve": rl.plot.pruning_curve(pd.read_csv(IMAGES / "curve.csv")),
        "recovery": rl.plot.evaluation(pd.read_csv(IMAGES / "recovery.csv")),
    }
    with browser() as chrome:
        look = {
            "viewport": {"width": make_gallery.WIDTH + 40, "height": 900},
            "device_scale_factor": 1.5,
        }
        with page(chrome, **look) as (tab, _):
            tab.add_script_tag(content=get_plotlyjs())
            for name, figure in figures.items():
                make_gallery.photograph(tab, figure, IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
