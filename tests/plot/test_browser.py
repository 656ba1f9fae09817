"""Figures of tables in a browser: what the pointer is told, and texts that are no markup."""

import json

import numpy as np
import pandas as pd
import pytest
from browser import WAIT, browser, page
from hostile import HOSTILE
from plotly.offline import get_plotlyjs

import ringlens as rl

DRAW = """async figure => {
  document.body.innerHTML = '<div id="plot"></div>';
  await Plotly.newPlot("plot", figure.data, {...figure.layout, width: 900});
}"""
POINT = """([axis, other, x, y]) => {
  const layout = document.getElementById("plot")._fullLayout, size = layout._size;
  const box = document.getElementById("plot").getBoundingClientRect();
  const across = layout["xaxis" + axis], down = layout["yaxis" + axis];
  return [box.x + across._offset + across.d2p(x), box.y + down._offset + down.d2p(y)];
}"""


@pytest.fixture(scope="module")
def tab():
    with browser() as chrome, page(chrome, viewport={"width": 920, "height": 900}) as (tab, _):
        tab.add_script_tag(content=get_plotlyjs())
        yield tab


def draw(tab, figure):
    tab.evaluate(DRAW, json.loads(figure.to_json()))


def pointed(tab, x, y, axis=""):
    """What is said of a place of the axes."""
    tab.mouse.move(1, 1)
    tab.mouse.move(*tab.evaluate(POINT, [axis, axis, x, y]))
    said = tab.locator("#plot .hoverlayer .hovertext")
    said.first.wait_for(timeout=WAIT)
    return said.first.text_content()


def contrasts(text="x"):
    """A table of three layers and four experts."""
    cell = {"layer": np.repeat([1, 2, 3], 4), "expert": np.tile(np.arange(4), 3)}
    frame = pd.DataFrame(cell)
    frame["difference"] = frame["layer"] / 100 + frame["expert"] / 1000
    frame["share_a"], frame["share_b"], frame["p"] = 0.5, 0.25, 0.01
    frame["q"] = np.where(frame["expert"] == 2, 0.04, 0.5)
    frame.attrs |= {"a": text, "b": "y", "by": [], "traces": 7}
    return frame


def test_a_cell_says_what_it_means(tab):
    draw(tab, rl.plot.contrast(contrasts(), theme="light"))
    said = pointed(tab, 3, 2)
    assert said == "L2 · E3difference +2.30%first 50.00%, second 25.00%q = 0.500"
    assert pointed(tab, 2, 1).startswith("L1 · E2difference +1.20%")  # beneath a dot
    assert tab.locator("#plot .scatterlayer path.point").count() == 3


def test_texts_are_drawn_as_they_are(tab):
    words = [*HOSTILE, "\ud83d", "\n", "%{x}"]
    frame = pd.DataFrame({"layer": 1, "expert": 0, "token_id": range(len(words))})
    frame["text"] = pd.Series(words, dtype=object)
    frame["occurrences"], frame["n"], frame["lift"] = 10, 5, 2.0
    frame["share"] = np.linspace(1, 0.1, len(words))
    frame.attrs |= {"by": [], "traces": 2, "where": f"text = '{HOSTILE[0]}'"}
    draw(tab, rl.plot.token_experts(frame, theme="dark"))
    labels = tab.locator("#plot .yaxislayer-above .ytick text").all_text_contents()
    assert labels == [repr(word[:20] + "…" if len(word) > 20 else word) for word in words]
    assert HOSTILE[0] in tab.locator("#plot .g-gtitle").text_content()
    assert pointed(tab, 0.3, 1).startswith("87.1% of its occurrences (5 of 10)")
    draw(tab, rl.plot.contrast(contrasts(HOSTILE[1])))
    assert HOSTILE[1] in tab.locator("#plot .g-gtitle").text_content()
    assert tab.evaluate("window.hit") is None
    assert tab.locator("#plot img, #plot script, #plot a[href^=javascript]").count() == 0
