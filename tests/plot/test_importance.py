"""Figures of what mattered draw the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest
from drawn import array

from ringlens.errors import ConfigError
from ringlens.plot import importance as figures

HOSTILE = "<b onclick=1>&amp;</b>"


def believed(trace, final):
    K = len(final)
    return pd.DataFrame(
        {
            "trace_id": trace,
            "step": range(-1, K - 1),
            "answer": HOSTILE,
            "p": 0.9,
            "p_final": final,
            "is_final": pd.array([p > 0.5 for p in final], "boolean"),
            "held": True,
            "entropy": np.linspace(3, 0, K),
        }
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_belief_has_a_line_for_each_thought_and_fills_what_is_decided(theme):
    frame = pd.concat([believed(1, [0.1, 0.2, 0.9, 1.0]), believed(4, [0.0, 0.7])])
    figure = figures.belief(frame, theme=theme)
    assert [line.name for line in figure.data] == ["trace 1"] * 2 + ["trace 4"] * 2
    np.testing.assert_allclose(array(figure, 0, "y"), [0.1, 0.2, 0.9, 1.0])
    np.testing.assert_allclose(array(figure, 1, "y"), [3, 2, 1, 0])
    colours = figure.data[0].marker.color
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert "<b onclick" not in figure.to_json().replace("\\u003c", "<")
    with pytest.raises(ConfigError, match="give what `belief` returns"):
        figures.belief(frame.drop(columns="held"))


def test_a_matrix_has_a_row_for_each_changed_step():
    pairs = [(2, 0, 1.0), (5, 0, -2.0), (5, 2, 2.0)]
    frame = pd.DataFrame(pairs, columns=["step", "changed_step", "effect"])
    frame = frame.assign(trace_id=7, log_kl=-1.0)
    figure = figures.suppression_matrix(frame)
    values = array(figure, 0, "z")
    np.testing.assert_array_equal(values, [[1, np.nan], [-2, 2]])
    assert list(figure.layout.yaxis.ticktext) == [2, 5]
    assert list(figure.layout.xaxis.ticktext) == [0, 2]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-2, 2)
    with pytest.raises(ConfigError, match="trace 8 is not in the table"):
        figures.suppression_matrix(frame, 8)


def test_agreement_fills_what_leaves_out_zero():
    frame = pd.DataFrame(
        {
            "first": ["suppression", "suppression", "belief"],
            "second": ["answer_suppression", "headroom", "reach"],
            "rank": [0.5, -0.2, np.nan],
            "low": [0.3, -0.4, np.nan],
            "high": [0.7, 0.1, np.nan],
            "partial": [0.1, np.nan, np.nan],
            "partial_low": [-0.1, np.nan, np.nan],
            "partial_high": [0.3, np.nan, np.nan],
        }
    )
    frame.attrs["controls"] = ("headroom",)
    figure = figures.importance_agreement(frame)
    assert list(figure.layout.yaxis.ticktext) == [
        "suppression · answer suppression",
        "suppression · headroom",
    ]
    as_it_is, beyond = figure.data
    assert as_it_is.marker.color[0] != as_it_is.marker.color[1] == beyond.marker.color[0]
    np.testing.assert_allclose(array(figure, 0, "x"), [0.5, -0.2])
    assert "beyond headroom" in figure.to_json()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_steering_draws_what_changes_most_beside_random_directions(theme):
    names = ["accuracy", "backtracks", "a", HOSTILE, "c", "thought", "stopped"]
    beyond = dict(zip(names, (0.1, 0.2, 0.01, -0.5, 0.3, 40, 0.9), strict=True))
    rows = [
        {
            "measure": name, "strength": s, "plain": 0.5, "steered": 0.5 + s / 10,
            "change": s / 10, "low": s / 10 - 0.05, "high": s / 10 + 0.1, "random": 0.01,
            "random_least": -0.02, "random_most": 0.03, "beyond": beyond[name],
            "beyond_low": 0.0, "beyond_high": 1.0,
        }
        for name in names
        for s in (2.0, -1.0)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    figure = figures.steering(frame, theme=theme)
    assert len(figure.data) == 8
    np.testing.assert_allclose(array(figure, 0, "x"), [-1, 2])
    np.testing.assert_allclose(array(figure, 0, "y"), [-0.1, 0.2])
    np.testing.assert_allclose(array(figure, 1, "y"), [0.01, 0.01])
    shown = " ".join(note.text for note in figure.layout.annotations)
    assert "change of accuracy, as it is 50.0%" in shown
    assert "change of c," in shown and "change of a," not in shown
    assert "<b onclick" not in figure.to_json().replace("\\u003c", "<")
    with pytest.raises(ConfigError, match="give what `steering` returns"):
        figures.steering(frame.drop(columns="beyond"))
