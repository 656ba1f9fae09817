"""Figures of analyses draw the numbers of their tables, and say what these are."""

import json
import re
from dataclasses import replace
from inspect import isfunction

import numpy as np
import pandas as pd
import pytest
from drawn import array, numbers
from hostile import HOSTILE
from records import random_run, random_trace
from small_store import write_run

import ringlens as rl
from ringlens import analysis
from ringlens.errors import ConfigError
from ringlens.plot.theme import PHASE_COLOURS
from ringlens.store import Store

THINK, ANSWER = "phase = 'think'", "phase = 'answer'"
PHASES = ("prompt", "think", "answer")


COMMITTEES = pd.DataFrame(
    {
        "layer": [1, 2, 2],
        "members": [[0, 1, 2], [5, 9, 12], [3, 4, 6]],
        "size": 3,
        "groups": [[0], [0], [0]],
        "n": [50, 90, 20],
        "expected": [20.0, 30.0, 18.0],
        "lift": [2.5, 3.0, 1.11],
        "held_out": [2.0, np.nan, 1.0],
        "share": [0.2, 0.3, 0.1],
        "stability": [0.9, 0.8, 0.5],
    }
)
"""As of `committees`, which finds none in random choices."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    run = random_run(record=("logprobs", "routing"), heads=1)
    with Store(write_run(tmp_path_factory.mktemp("s") / "store", run, traces_of(run))) as store:
        yield store


def traces_of(run):
    return [random_trace(run, 100, seed=seed, heads=None, router_logits=None) for seed in range(6)]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same tokens, half of which an engine routed otherwise."""
    run = random_run(record=("logprobs", "routing"), heads=1)
    traces = traces_of(run)
    for i, there in enumerate(traces[:3]):
        traces[i] = replace(there, routing=traces[i + 3].routing)
    with Store(write_run(tmp_path_factory.mktemp("o") / "store", run, traces)) as store:
        yield store


@pytest.fixture(scope="module")
def tables(store, other):
    return {
        "expert_load": analysis.expert_load(store, draws=50),
        "layer_balance": analysis.layer_balance(store),
        "selection_causes": analysis.selection_causes(store),
        "group_displacements": analysis.group_displacements(store),
        "router_entropy": analysis.router_entropy(store),
        "token_experts": analysis.token_experts(store, THINK),
        "coactivation": analysis.coactivation(store, "phase <> 'prompt'", "phase"),
        "transitions": analysis.transitions(store, THINK),
        "association": analysis.association(store, "phase"),
        "contrast": analysis.contrast(store, THINK, ANSWER, draws=50),
        "routing_shift": analysis.routing_shift(store, THINK, ANSWER, draws=50),
        "shift_along": analysis.shift_along(store, 2, 20),
        "agreement": analysis.agreement(store, other),
        "predictability": analysis.predictability(store, THINK, draws=50),
        "expert_card": analysis.expert_card(store, 2, 3),
        "bias_audit": analysis.bias_audit(store, draws=50),
        "expert_bias": analysis.expert_bias(store, THINK),
        "expert_importance": analysis.expert_importance(store, THINK),
        "routing_path": analysis.routing_path(store, THINK, draws=0),
        "path_clusters": analysis.path_clusters(store, draws=0, apart=2),
        "saturation": analysis.saturation(
            [analysis.Checkpoint("early", other), analysis.Checkpoint("late", store)], draws=50
        ),
        "committees": COMMITTEES,
        "changed_experts": analysis.changed_experts(
            analysis.Checkpoint("early", store, "problem_id < 'countdown-3'"),
            analysis.Checkpoint("late", other, "problem_id < 'countdown-3'"),
            draws=50,
        ),
    }


def of_type(figure, kind):
    """Places of a figure's traces of a kind."""
    return [i for i, trace in enumerate(figure.data) if trace.type == kind]


def check_map(figure, index, rows, column, value, row="layer"):
    """A map holds these rows and nothing else, and the pointer is told the same."""
    z = array(figure, index, "z")
    y = list(figure.data[index].y)
    wanted = np.full(z.shape, np.nan)
    for at, place, number in zip(rows[row], rows[column], value, strict=True):
        wanted[y.index(at), place] = number
    np.testing.assert_allclose(z, wanted, rtol=1e-5, atol=1e-7)


def log2(lift):
    with np.errstate(divide="ignore"):
        return np.clip(np.log2(np.asarray(lift, float)), -2, 2)


def check_said(figure, index, columns):
    """The numbers under the pointer are these, and each is named."""
    found = array(figure, index, "customdata")
    assert found.shape[-1] == len(columns)
    named = {int(n) for n in re.findall(r"customdata\[(\d+)\]", figure.data[index].hovertemplate)}
    assert named == set(range(len(columns)))
    for place, column in enumerate(columns):
        np.testing.assert_allclose(
            found[..., place].ravel(), np.asarray(column, float).ravel(), rtol=1e-5, atol=1e-6
        )


def test_every_analysis_has_its_figure():
    functions = {n for n in analysis.__all__ if isfunction(getattr(analysis, n))}
    functions.discard("Checkpoint")
    assert functions <= set(rl.plot.__all__)


def test_load(tables):
    frame = tables["expert_load"]
    figure = rl.plot.expert_load(frame)
    assert [note.text for note in figure.layout.annotations] == list(PHASES)
    for index, phase in enumerate(PHASES):
        rows = frame[frame.phase == phase]
        check_map(figure, index, rows, "expert", log2(rows.lift))
        names = ("share", "n", "tokens", "lift", "baseline", "low", "high")
        check_said(figure, index, [rows[name] for name in names])
    assert figure.layout.coloraxis.colorbar.ticktext == ("≤ ¼", "½", "1", "2", "≥ 4")
    assert "6 traces" in figure.layout.title.text and "even load" in figure.layout.title.text


def test_load_against_a_baseline(store):
    frame = analysis.expert_load(store, THINK, baseline=ANSWER)
    figure = rl.plot.expert_load(frame)
    assert len(figure.data) == 1
    check_map(figure, 0, frame, "expert", log2(frame.lift))
    assert "against phase = 'answer'" in figure.layout.title.text


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("layer_balance", ("max_violation", "gini", "never")),
        ("router_entropy", ("entropy", "weight_entropy")),
        ("selection_causes", ("bias_flips", "group_flips", "margin_50", "group_margin_50")),
    ],
)
def test_lines_over_layers(tables, name, columns):
    frame = tables[name]
    if "never_chosen" in frame:
        frame = frame.assign(never=frame["never_chosen"].map(len))
    figure = getattr(rl.plot, name)(tables[name], theme="light")
    drawn = {
        (line.yaxis, line.name): (array(figure, i, "y"), [round(x) for x in line.x])
        for i, line in enumerate(figure.data)
    }
    assert len(drawn) == len(figure.data) == 3 * len(columns)
    for place, column in enumerate(columns):
        for phase in PHASES:
            rows = frame[frame.phase == phase]
            y, x = drawn[f"y{place + 1}" if place else "y", phase]
            np.testing.assert_allclose(y, rows[column], rtol=1e-5)
            assert x == rows["layer"].tolist()
    assert [line.name for line in figure.data if line.showlegend] == list(PHASES)
    colours = {line.name: line.line.color for line in figure.data}
    assert colours == PHASE_COLOURS["light"]
    assert len({line.line.dash for line in figure.data}) == 3


def test_bars_of_lines_are_the_ends(tables):
    frame = tables["selection_causes"].query("phase == 'think'")
    figure = rl.plot.selection_causes(tables["selection_causes"])
    lines = [i for i, t in enumerate(figure.data) if t.name == "think" and t.yaxis == "y3"]
    above, below = (
        numbers(figure.to_plotly_json()["data"][lines[0]]["error_y"][side])
        for side in ("array", "arrayminus")
    )
    np.testing.assert_allclose(above, frame.margin_95 - frame.margin_50, rtol=1e-4)
    np.testing.assert_allclose(below, frame.margin_50 - frame.margin_05, rtol=1e-4)


def test_what_is_infinite_is_left_out(tables):
    frame = tables["selection_causes"].copy()
    frame[["group_margin_05", "group_margin_50", "group_margin_95"]] = np.inf
    figure = rl.plot.selection_causes(frame)
    lines = [i for i, t in enumerate(figure.data) if t.yaxis == "y4"]
    assert all(np.isnan(array(figure, i, "y")).all() for i in lines)


def test_displacements(tables):
    frame = tables["group_displacements"]
    figure = rl.plot.group_displacements(frame, layer=3)
    assert "layer 3" in figure.layout.title.text
    for index, phase in enumerate(PHASES):
        rows = frame[(frame.phase == phase) & (frame.layer == 3)]
        check_map(figure, index, rows, "stand_in", rows.n, row="expert")
    most = frame.groupby("layer")["n"].sum().idxmax()
    assert f"layer {most}" in rl.plot.group_displacements(frame).layout.title.text


def test_pairs(tables):
    for name, other in (("coactivation", "other"), ("transitions", "next")):
        frame = tables[name]
        figure = getattr(rl.plot, name)(frame, layer=2)
        parts = [rows for _, rows in frame.groupby("phase")] if "phase" in frame else [frame]
        parts = parts[::-1]  # think comes before answer
        assert len(figure.data) == len(parts)
        for index, part in enumerate(parts):
            rows = part[(part.layer == 2) & (part.n >= 10)]
            check_map(figure, index, rows, other, log2(rows.lift), row="expert")
        assert "fewer than 10" in figure.layout.title.text
    few = frame[frame.n < 10]
    with pytest.raises(ConfigError, match="no pair of layer 2 occurred 10 times"):
        rl.plot.transitions(few, layer=2)


def test_words(tables):
    frame = tables["token_experts"]
    layer = int(frame.groupby("layer")["n"].sum().idxmax())
    figure = rl.plot.token_experts(frame)
    rows = frame[frame.layer == layer]
    z, labels = array(figure, 0, "z"), figure.layout.yaxis.ticktext
    assert len(labels) == rows.token_id.nunique() <= 24
    for place, label in enumerate(labels):
        share_E = np.zeros(16)
        (text,) = {t for t in rows.text if repr(t) == label}
        mine = rows[rows.text == text]
        share_E[mine.expert] = mine.share
        np.testing.assert_allclose(z[place], share_E, rtol=1e-5)
    assert (np.diff(z.argmax(axis=1)) >= 0).all()


def test_words_of_one_expert(store):
    frame = analysis.token_experts(store, layer=2, expert=3)
    figure = rl.plot.token_experts(frame, theme="dark")
    best = frame.sort_values(["share", "occurrences"], ascending=False, kind="stable").head(24)
    drawn = {}
    for index in of_type(figure, "bar"):
        values = array(figure, index, "x")
        phase = figure.data[index].name
        drawn |= {y: (x, phase) for y, x in zip(figure.data[index].y, values, strict=True)}
    assert len(drawn) == len(best)
    for place, row in enumerate(best.itertuples()):
        assert drawn[place][0] == pytest.approx(row.share, rel=1e-5)
        assert drawn[place][1] == row.phase
    assert "Words of expert 2/3" in figure.layout.title.text


def test_a_contrast(tables):
    frame = tables["contrast"]
    figure = rl.plot.contrast(frame)
    check_map(figure, 0, frame, "expert", frame.difference)
    check_said(figure, 0, [frame[c] for c in ("difference", "share_a", "share_b", "q")])
    points = of_type(figure, "scatter")[-1]
    best = frame.sort_values(["p", "difference"], key=np.abs, ascending=[True, False]).head(14)
    np.testing.assert_allclose(array(figure, points, "x"), best.difference, rtol=1e-5)
    bars = figure.to_plotly_json()["data"][points]["error_x"]
    np.testing.assert_allclose(numbers(bars["array"]), best.high - best.difference, rtol=1e-4)
    np.testing.assert_allclose(numbers(bars["arrayminus"]), best.difference - best.low, rtol=1e-4)
    labels = [f"L{row.layer} · E{row.expert}" for row in best.itertuples()]
    assert list(figure.layout.yaxis2.ticktext) == labels
    assert "phase = 'think' against" in figure.layout.title.text


def test_dots_are_where_q_is_small(tables):
    frame = tables["contrast"].copy()
    frame["q"] = np.where(frame.expert % 5 == frame.layer, 0.05, 0.051)
    for figure in (
        rl.plot.contrast(frame),
        rl.plot.association(frame.assign(event="x", npmi=0.1, lift=1.0)),
    ):
        dots = figure.data[1]
        found = set(zip(dots.y, dots.x, strict=True))
        marked = frame[frame.q <= 0.05]
        assert found == set(zip(marked.layer, marked.expert, strict=True))


def test_associations(tables):
    frame = tables["association"]
    figure = rl.plot.association(frame)
    assert [note.text for note in figure.layout.annotations] == list(PHASES)
    for index, phase in zip(of_type(figure, "heatmap"), PHASES, strict=True):
        rows = frame[frame.event == phase]
        check_map(figure, index, rows, "expert", rows.npmi)
        check_said(figure, index, [rows[c] for c in ("npmi", "lift", "q")])


def test_a_shift(tables):
    frame = tables["routing_shift"]
    figure = rl.plot.routing_shift(frame)
    measured, chance = figure.data
    assert (measured.name, chance.name) == ("measured", "by chance")
    np.testing.assert_allclose(array(figure, 0, "y"), frame.divergence, rtol=1e-5)
    np.testing.assert_allclose(array(figure, 1, "y"), frame["null"], rtol=1e-5)
    check_said(figure, 0, [frame[c] for c in ("divergence", "low", "high", "p")])


def test_a_shift_along_a_trace(tables):
    frame = tables["shift_along"]
    figure = rl.plot.shift_along(frame)
    for index, column in enumerate(("from_first", "from_previous")):
        wanted = frame.pivot(index="layer", columns="start", values=column)
        np.testing.assert_allclose(array(figure, index, "z"), wanted, rtol=1e-5)
        assert list(figure.data[index].y) == wanted.index.tolist()
        assert (figure.data[index].x0, figure.data[index].dx) == (10, 20)
        wanted = [frame[c] for c in (column, "tokens", "start")]
        check_said(figure, index, wanted)
    with pytest.raises(ConfigError, match="one window"):
        rl.plot.shift_along(frame[frame.start == 0])


def test_agreement_and_what_it_lacks(tables):
    frame = tables["agreement"]
    assert 0.3 < frame.tokens_differ.min() <= frame.tokens_differ.max() <= 0.5
    figure = rl.plot.agreement(frame)
    for index, column in enumerate(("tokens_differ", "mismatch", "order_differs", "weight_error")):
        np.testing.assert_allclose(array(figure, index, "y"), frame[column], rtol=1e-5)
    assert (
        f"{frame.attrs['any_layer']:.1%} of tokens differ on some layer" in figure.layout.title.text
    )
    imported = frame.assign(order_differs=np.nan, weight_error=np.nan)
    names = [line.name for line in rl.plot.agreement(imported).data]
    assert names[:2] == ["tokens with other experts", "experts that differ"] and len(names) == 3


def test_predictors(tables):
    frame = tables["predictability"]
    figure = rl.plot.predictability(frame)
    known = [name for name in frame.known.unique() if name != "nothing"]
    names = [line.name.replace("layer before", "previous_layer") for line in figure.data]
    assert names == known
    for index, name in enumerate(known):
        rows = frame[frame.known == name]
        np.testing.assert_allclose(array(figure, index, "y"), rows.gain, rtol=1e-4, atol=1e-7)
        check_said(figure, index, [rows[c] for c in ("gain", "low", "high", "overlap", "unseen")])


def bars_of(figure, axis):
    """Lengths of a panel's bars by place."""
    found = {}
    for index in of_type(figure, "bar"):
        if figure.data[index].yaxis == axis:
            values = array(figure, index, "x")
            found |= dict(zip(figure.data[index].y, values, strict=True))
    return [found[place] for place in sorted(found)]


def test_a_card(tables):
    card = tables["expert_card"]
    figure = rl.plot.expert_card(card)
    load, causes = card.load.set_index("phase"), card.causes.set_index("phase")
    np.testing.assert_allclose(bars_of(figure, "y"), load.loc[list(PHASES), "share"], rtol=1e-5)
    wanted = causes.loc[list(PHASES), ["bias_flips", "stand_ins"]].to_numpy().ravel()
    np.testing.assert_allclose(bars_of(figure, "y2"), wanted, rtol=1e-5)
    np.testing.assert_allclose(bars_of(figure, "y3"), card.tokens["share"].head(12), rtol=1e-5)
    others = card.displacements.head(10)
    assert bars_of(figure, "y4") == others["n"].tolist()
    assert list(figure.layout.yaxis4.ticktext) == [
        f"{'for' if row.event == 'stands in for' else 'by'} E{row.other}"
        for row in others.itertuples()
    ]
    assert "Expert 2/3 · 6 traces" in figure.layout.title.text
    colours = {t.name: t.marker.color for t in figure.data}
    assert set(colours) == set(PHASES)


def test_what_the_bias_does(tables):
    frame = tables["bias_audit"]
    figure = rl.plot.bias_audit(frame)
    drawn = {(t.yaxis, t.name): array(figure, i, "y") for i, t in enumerate(figure.data)}
    assert len(drawn) == 9
    names = {"y": "flips", "y2": "max_violation", "y3": "max_violation_unbiased"}
    for (axis, phase), y in drawn.items():
        rows = frame[frame.phase == phase]
        np.testing.assert_allclose(y, rows[names[axis]].astype(float), rtol=1e-5)
    frame = tables["expert_bias"]
    assert frame.change.isna().all()  # no logits here: the bias is drawn
    figure = rl.plot.expert_bias(frame)
    check_map(figure, 0, frame, "expert", frame.bias)
    check_said(figure, 0, [frame[c] for c in ("bias", "n", "tokens", "flips")])
    known = frame.assign(change=frame.bias / 2, unbiased=1.0)
    figure = rl.plot.expert_bias(known)
    check_map(figure, 0, known, "expert", known.change)
    columns = ("bias", "n", "tokens", "flips", "unbiased", "change")
    check_said(figure, 0, [known[c] for c in columns])


def test_importance(tables):
    frame = tables["expert_importance"]
    figure = rl.plot.expert_importance(frame, measure="weight")
    check_map(figure, 0, frame, "expert", frame.weight)
    with pytest.raises(ConfigError, match="reap was not recorded"):
        rl.plot.expert_importance(frame)
    with pytest.raises(ConfigError, match="Did you mean 'weight'"):
        rl.plot.expert_importance(frame, measure="wieght")
    known = frame.assign(reap=frame.n / 7, super_expert=frame.expert == 5)
    figure = rl.plot.expert_importance(known)
    check_map(figure, 0, known, "expert", known.reap)
    assert sorted(zip(figure.data[1].y, figure.data[1].x, strict=True)) == [(1, 5), (2, 5), (3, 5)]


def test_committees(tables):
    figure = rl.plot.committees(tables["committees"])
    np.testing.assert_allclose(bars_of(figure, "y"), [0.3, 0.2, 0.1], rtol=1e-5)
    assert figure.layout.yaxis.ticktext == ("L2: 5, 9, 12", "L1: 0–2", "L2: 3–4, 6")


def test_paths(tables):
    frame = tables["routing_path"]
    figure = rl.plot.routing_path(frame)
    best = frame.sort_values("share", ascending=False, kind="stable").head(20)
    np.testing.assert_allclose(bars_of(figure, "y"), best.share, rtol=1e-5)
    wanted = [" → ".join(map(str, path)) for path in best.path]
    assert list(figure.layout.yaxis.ticktext) == wanted
    frame = tables["path_clusters"]
    figure = rl.plot.path_clusters(frame)
    assert figure.layout.xaxis.ticktext == PHASES
    z = array(figure, 0, "z")
    for row in frame[frame.cluster <= 20].itertuples():
        drawn = z[row.cluster - 1, PHASES.index(row.phase)]
        assert drawn == pytest.approx(float(log2([row.lift])[0]), rel=1e-5)
    assert len(z) == min(20, frame.cluster.nunique())


def test_saturation(tables):
    frame = tables["saturation"]
    figure = rl.plot.saturation(frame)
    assert len(figure.data) == 3
    for index, phase in enumerate(PHASES):
        rows = frame[frame.phase == phase]
        np.testing.assert_allclose(array(figure, index, "y"), rows.saturation, rtol=1e-5)
        check_said(figure, index, [rows[c] for c in ("saturation", "chance", "beyond", "tokens")])
        assert figure.data[index].name == "early"
    many = pd.concat([frame.assign(checkpoint=f"step {i}") for i in range(7)])
    with pytest.raises(ConfigError, match="7 checkpoints"):
        rl.plot.saturation(many)


def test_changed_experts(tables):
    frame = tables["changed_experts"]
    figure = rl.plot.changed_experts(frame)
    check_map(figure, 0, frame, "expert", frame.difference)
    by_place = frame.sort_values(["layer", "expert"])
    check_said(figure, 0, [by_place[c] for c in ("before", "after", "difference", "q")])
    best, points = frame.head(10), of_type(figure, "scatter")[-2:]
    for index, end in zip(points, ("", "_words"), strict=True):
        np.testing.assert_allclose(array(figure, index, "x"), best[f"difference{end}"], rtol=1e-5)
        bars = figure.to_plotly_json()["data"][index]["error_x"]
        wanted = best[f"high{end}"] - best[f"difference{end}"]
        np.testing.assert_allclose(numbers(bars["array"]), wanted, rtol=1e-4, atol=1e-9)
        check_said(
            figure, index, [best[c] for c in (f"difference{end}", f"q{end}", "layer", "expert")]
        )
    labels = [f"L{row.layer} · E{row.expert}" for row in best.itertuples()]
    assert list(figure.layout.yaxis2.ticktext) == labels
    assert "early to late" in figure.layout.title.text
    third = frame.assign(difference_texts=0.1, q_texts=0.01, low_texts=0.05, high_texts=0.2)
    names = [trace.name for trace in rl.plot.changed_experts(third).data if trace.name]
    assert names == ["own thoughts", "equal tokens of a problem", "the same texts"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_is_plotlys_and_of_its_theme(tables, theme):
    surface = {"light": "#ffffff", "dark": "#111317"}[theme]
    for name, table in tables.items():
        options = {"measure": "share"} if name == "expert_importance" else {}
        figure = getattr(rl.plot, name)(table, theme=theme, **options)
        assert figure.layout.paper_bgcolor == surface, name
        json.loads(figure.to_json())


EVIL = (*HOSTILE, "\ud83d", "\u202e", "\x1b[31m", "%{x}", "<b>")


def test_texts_of_strangers_are_no_markup(tables):
    frame = tables["token_experts"]
    ids = sorted(frame.token_id.unique())

    def other(frame, column, names):
        # Of object type: pandas' own type of texts holds no half of a surrogate pair.
        return pd.Series([names[value] for value in frame[column]], frame.index, object)

    evil = {t: EVIL[i % len(EVIL)] for i, t in enumerate(ids)}
    hostile = frame.assign(text=other(frame, "token_id", evil))
    one = hostile[(hostile.layer == 2) & (hostile.expert == 3)]
    load = tables["expert_load"].copy()
    load["phase"] = other(load, "phase", dict(zip(PHASES, EVIL[:3], strict=True)))
    load.attrs["where"] = "text = '\ud83d<img src=x>'"
    event = tables["association"].copy()
    names = {phase: f"{phase}<img src=x>" for phase in PHASES}
    event["event"] = other(event, "event", names)
    figures = [
        rl.plot.token_experts(hostile), rl.plot.token_experts(one),
        rl.plot.expert_load(load), rl.plot.association(event),
    ]  # fmt: skip
    for figure in figures:
        text = json.dumps(json.loads(figure.to_json()), ensure_ascii=False)
        text.encode("utf-8")
        for mark in ("<script", "<img", "<svg", "\u202e", "\x1b"):
            assert mark not in text
    assert any("\\ud83d" in label for label in figures[0].layout.yaxis.ticktext)


OF_THOUGHTS = ("alignment", "reflections", "step_map")  # tests/plot/test_trajectory.py has these


@pytest.mark.parametrize(
    "name", [n for n in rl.plot.__all__ if n in analysis.__all__ and n not in OF_THOUGHTS]
)
def test_what_is_no_such_table_is_refused(tables, name):
    draw = getattr(rl.plot, name)
    for wrong in (pd.DataFrame({"layer": [1]}), [1], None):
        with pytest.raises(ConfigError, match=r"no (column|table|card)"):
            draw(wrong)
    with pytest.raises(ConfigError, match="Did you mean 'theme'"):
        draw(tables[name], thme="dark")
    if name != "expert_card":
        with pytest.raises(ConfigError, match="has no rows"):
            draw(tables[name].head(0))


def test_too_many_groups_and_rows_of_two_are_refused(store):
    many = analysis.expert_load(store, by=["problem_id", "phase"])
    with pytest.raises(ConfigError, match="18 groups"):
        rl.plot.expert_load(many)
    assert len(rl.plot.expert_load(many[many.phase == "think"]).data) == 6
    pooled = many.drop(columns=["phase", "problem_id"])
    with pytest.raises(ConfigError, match="two rows for layer 1, expert 0"):
        rl.plot.expert_load(pooled)
    with pytest.raises(ConfigError, match="layer 9 is not in the table"):
        rl.plot.coactivation(analysis.coactivation(store, THINK), layer=9)
