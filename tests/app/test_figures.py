"""Usage metrics and the figure made of them."""

import json

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ringlens.analysis.load.usage import METRICS, PHASE_CHOICES, Sums, Usage, gini, max_violation
from ringlens.plot import heatmap

LOADS = arrays.arrays(float, (3, 8), elements=st.integers(0, 50).map(float))


def usage(seed=0, layers=(2, 3, 4), experts=16, k=4, groups=4):
    """Random but consistent counts: k choices for each token and layer."""
    rng = np.random.default_rng(seed)
    tokens = np.array([20.0, 70.0, 10.0])
    n = np.zeros((3, len(layers), experts))
    for p, s in np.ndindex(n.shape[:2]):
        for _ in range(int(tokens[p])):
            n[p, s, rng.choice(experts - 1, k, replace=False)] += 1  # the last is never chosen
    tokens_PS = np.repeat(tokens[:, None], len(layers), axis=1)
    sums = Sums(tokens_PS, n, n / k, np.floor(n * 0.3), reasons=True)
    return Usage(tuple(layers), k, groups, sums, from_rollups=True)


def drawn(*arguments, **options):
    """The figure as plotly understands it: an unknown or wrong property raises."""
    made = heatmap.figure(*arguments, **options)
    return go.Figure(json.loads(json.dumps(made)))


def array(typed):
    """The numbers of a typed array."""
    import base64

    flat = np.frombuffer(base64.b64decode(typed["bdata"]), typed["dtype"])
    return flat.reshape([int(size) for size in typed["shape"].split(",")])


def test_shares_add_up():
    counts = usage()
    for phase in ("all", "prompt", "think", "answer"):
        np.testing.assert_allclose(counts.metric_SE("share", phase).sum(1), 4)
        np.testing.assert_allclose(counts.metric_SE("weight", phase).sum(1), 1)
    lift = counts.metric_SE("lift", "think")
    np.testing.assert_allclose(2**lift * 4 / 16, counts.metric_SE("share", "think"))
    assert np.isneginf(lift[:, -1]).all()
    assert np.isnan(counts.metric_SE("flips", "all")[:, -1]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_difference_is_think_minus_answer(metric):
    counts = usage()
    with np.errstate(invalid="ignore"):
        wanted = counts.metric_SE(metric, "think") - counts.metric_SE(metric, "answer")
    np.testing.assert_array_equal(counts.metric_SE(metric, "difference"), wanted)


@given(LOADS)
def test_gini_is_half_the_relative_mean_difference(n_SE):
    with np.errstate(invalid="ignore", divide="ignore"):
        differences = np.abs(n_SE[:, :, None] - n_SE[:, None, :]).mean((1, 2))
        wanted = differences / (2 * n_SE.mean(1))
    np.testing.assert_allclose(gini(n_SE), wanted, atol=1e-12)


def test_balance_at_its_ends():
    even, one = np.full((1, 8), 5.0), np.eye(8)[:1]
    assert max_violation(even) == gini(even) == 0
    assert max_violation(one) == 7
    assert gini(one) == pytest.approx(7 / 8)


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("phase", PHASE_CHOICES)
@pytest.mark.parametrize("metric", METRICS)
def test_heatmap_holds_the_metric(metric, phase, theme):
    counts = usage()
    figure = drawn(counts, metric, phase, layer=3, expert=6, theme=theme)
    cells, load, violation, spread = figure.data
    values = counts.metric_SE(metric, phase)
    values = np.where(np.isfinite(values), values, np.nan)
    np.testing.assert_allclose(array(cells.z), values, rtol=1e-6)
    assert cells.customdata is None
    if metric == "lift" or phase == "difference":
        assert cells.zmin == -cells.zmax
    else:
        assert 0 <= cells.zmin <= np.nanmin(values)
    assert list(cells.y) == [2, 3, 4]
    n_SE = counts.count_SE(phase)
    np.testing.assert_allclose(array(load.y).sum(), 4, rtol=1e-6)
    np.testing.assert_allclose(array(violation.x), max_violation(n_SE), rtol=1e-6)
    np.testing.assert_allclose(array(spread.x), gini(n_SE), rtol=1e-6)
    mark = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert [(m.x0, m.x1, m.y0, m.y1) for m in mark] == [(5.5, 6.5, 2.5, 3.5)]


def test_groups_are_marked_and_named():
    figure = drawn(usage(), "share", "all", layer=2, expert=None, theme="dark")
    lines = [shape.x0 for shape in figure.layout.shapes if shape.type == "line" and shape.x0 > 0]
    assert lines == [3.5, 7.5, 11.5]
    names = [a.text for a in figure.layout.annotations if a.text.startswith("group")]
    assert names == ["group 0", "group 1", "group 2", "group 3"]


def test_a_large_model_travels_as_a_typed_array():
    counts = usage(layers=tuple(range(4, 80)), experts=256, k=8, groups=8)
    figure = drawn(counts, "share", "think", layer=4, expert=0, theme="light")
    text = figure.to_json()
    assert len(text) < 76 * 256 * 4 * 4 / 3 + 40_000  # four bytes a cell in base64, and the rest
    assert figure.layout.height == heatmap.height(76)


def test_nothing_counted_is_an_empty_figure():
    empty = np.zeros((3, 2, 8))
    sums = Sums(np.zeros((3, 2)), empty, empty, empty, reasons=True)
    counts = Usage((0, 1), 2, 2, sums, from_rollups=True)
    for metric in METRICS:
        for phase in PHASE_CHOICES:
            figure = drawn(counts, metric, phase, 0, 3, "dark")
            assert not np.nan_to_num(array(figure.data[0].z)).any()
            heatmap.scale(counts, metric, phase, "dark")
