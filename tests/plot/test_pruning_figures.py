"""Figures of pruning draw the numbers of their tables."""

import json

import numpy as np
import pandas as pd
import pytest
from drawn import array

import ringlens as rl
from ringlens.errors import ConfigError

ROWS = [
    ("none", 1.0, 0.0, 0.8, 0.6, 0.9),
    *(("random", keep, 0.1 / keep, 0.5 * keep, 0.1, 0.6) for keep in (0.25, 0.5)),
    *(("reap", keep, 0.02 / keep, 0.7 * keep, 0.2, 0.8) for keep in (0.5, 0.25)),
]
FRAME = pd.DataFrame(
    ROWS, columns=["criterion", "keep", "loss_increase", "accuracy", "low", "high"]
).assign(problems=24)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_criterion_is_a_line_from_the_full_model(theme):
    figure = rl.plot.pruning_curve(FRAME, theme=theme)
    json.loads(figure.to_json())
    assert [trace.name for trace in figure.data] == ["random", "reap"] * 2
    for index, column in (
        (0, "loss_increase"),
        (1, "loss_increase"),
        (2, "accuracy"),
        (3, "accuracy"),
    ):
        rows = FRAME[FRAME.criterion.isin(["none", figure.data[index].name])]
        rows = rows.sort_values("keep", ascending=False)
        np.testing.assert_allclose(array(figure, index, "x"), [1.0, 0.5, 0.25])
        np.testing.assert_allclose(array(figure, index, "y"), rows[column], rtol=1e-6)
    assert figure.data[0].line.dash == "dot" and figure.data[1].line.dash == "solid"
    assert figure.layout.xaxis.autorange == "reversed"


def test_models_side_by_side():
    figure = rl.plot.evaluation(FRAME)
    np.testing.assert_allclose(array(figure, 0, "x"), FRAME.accuracy)
    assert figure.layout.yaxis.ticktext[:2] == ("full model", "random, 25% of the experts")
    named = rl.plot.evaluation(FRAME.assign(model=[*list("abcd"), "<i>"]))
    assert named.layout.yaxis.ticktext[0] == "a" and "<i>" not in named.layout.yaxis.ticktext


def test_what_is_no_such_table_is_refused():
    with pytest.raises(ConfigError, match="no column 'loss_increase'"):
        rl.plot.pruning_curve(FRAME.drop(columns="loss_increase"))
    many = pd.concat([FRAME.assign(criterion=f"c{i}") for i in range(7)])
    with pytest.raises(ConfigError, match="7 criteria"):
        rl.plot.pruning_curve(many)
    with pytest.raises(ConfigError, match="no column 'problems'"):
        rl.plot.evaluation(FRAME.drop(columns="problems"))
