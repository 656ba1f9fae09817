"""Figures of thoughts' paths draw the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest
from drawn import array
from thoughts import Thought, opened

from ringlens.analysis import trajectory
from ringlens.errors import ConfigError
from ringlens.plot import trajectory as figures

HOSTILE = "<b onclick=1>&amp;</b>\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    texts = [f"The answer is {number}, {HOSTILE}" for number in (7, 24, 24, 8)]
    thoughts = [
        Thought([0, 1, 2, 3], texts, backtracks=frozenset({2})),
        Thought([0, 1, 5, 6, 2, 3], correct=False),
        Thought([4, 5, 6], problem="q"),
    ]
    with opened(tmp_path_factory.mktemp("s") / "s", thoughts, tokens=6) as store:
        yield store


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_map_has_a_line_for_each_trace(store, theme):
    frame = trajectory.step_map(store)
    figure = figures.step_map(frame, theme=theme)
    assert [line.name for line in figure.data] == ["trace 1, right", "trace 2, wrong"]
    for number, line in enumerate(figure.data):
        own = frame[frame["trace_id"] == number + 1]
        np.testing.assert_allclose(array(figure, number, "x"), own["pc1"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(array(figure, number, "y"), own["pc2"], rtol=1e-5, atol=1e-6)
        assert len(line.text) == len(own)
    assert list(figure.data[0].marker.line.width) == [0, 0, 2, 0]
    assert "<b onclick" not in figure.to_json().replace("\\u003c", "<")
    assert "% of the variance" in figure.layout.xaxis.title.text
    assert len(figures.step_map(frame, "q").data) == 1
    with pytest.raises(ConfigError, match="p, q are"):
        figures.step_map(frame, "r")


def test_partners_stand_in_one_row(store):
    frame = trajectory.alignment(store, 1, 2)
    figure = figures.alignment(frame)
    links = [line for line in figure.data if line.mode == "lines"]
    first, second = (line for line in figure.data if line.mode == "markers+text")
    paired = np.flatnonzero(frame["similarity"].notna())
    assert [link.y[0] for link in links] == paired.tolist()
    for lane, side in ((first, "first"), (second, "second")):
        assert list(lane.y)[1:] == np.flatnonzero(frame[side].notna()).tolist()
    hollow = {y for y, colour in zip(second.y, second.marker.color, strict=True) if y >= 0
              and colour != second.marker.line.color}  # fmt: skip
    assert hollow == set(np.flatnonzero(frame["first"].isna()))
    assert "have a partner" in figure.layout.title.text
    assert "<b onclick" not in figure.to_json().replace("\\u003c", "<")
    assert len(figures.alignment(frame, start=len(frame) - 1).data) <= 3


def test_a_ledger_has_a_mark_for_each_candidate(store):
    frame = trajectory.reflections(store)
    figure = figures.reflections(frame)
    found = {}
    for number, line in enumerate(figure.data):
        if line.mode == "markers":
            spots = zip(array(figure, number, "y"), array(figure, number, "x"), strict=True)
            found |= dict.fromkeys(spots, line.name)
    names = [label.removeprefix("trace ") for label in figure.layout.yaxis.ticktext]
    verdicts = {True: "right", False: "wrong"}
    expected = {
        (names.index(str(row.trace_id)), row.number): verdicts[row.correct]
        for row in frame.itertuples()
    }
    assert found == expected and len(expected) == 7
    assert "2 corrective" in figure.layout.title.text


@pytest.mark.parametrize("draw", [figures.step_map, figures.alignment, figures.reflections])
def test_what_is_no_such_table_is_refused(draw):
    with pytest.raises(ConfigError, match="give what"):
        draw(pd.DataFrame({"x": [1]}))
    with pytest.raises(ConfigError, match="Did you mean 'theme'"):
        draw(pd.DataFrame(), themes="dark")
