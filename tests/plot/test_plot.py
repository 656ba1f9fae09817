"""Figures for notebooks hold the numbers of the store; their titles say what is pooled."""

from dataclasses import replace
from html import escape

import numpy as np
import plotly.io as pio
import pytest
from drawn import array
from records import random_run, random_trace

import ringlens as rl
from ringlens.errors import ConfigError, NotInStoreError, StoreError
from ringlens.store import ChoiceArrays, Store, StoreWriter

RUN = random_run(record=("logprobs", "routing", "heads"))
EVIL = "<b>&<a href='x'>"


def add(path, run, *traces):
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        writer.commit(run_id, traces)
        writer.finish_run(run_id)
    return run_id


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "store"
    hostile = random_trace(RUN, 80, seed=2, problem_id=EVIL)
    tokens, end = hostile.tokens, hostile.tokens.end.copy()
    end[-1] += len(EVIL)
    tokens = replace(tokens, text=[*tokens.text[:-1], tokens.text[-1] + EVIL], end=end)
    hostile = replace(hostile, tokens=tokens, text=hostile.text + EVIL)
    add(
        path,
        RUN,
        random_trace(RUN, 150),
        random_trace(RUN, 90, seed=1),
        hostile,
    )
    with Store(path) as store:
        yield store


def text(figure):
    return figure.layout.title.text


@pytest.mark.parametrize(
    ("phase", "where"),
    [("all", None), ("think", None), ("think", "entropy > 0.4"), ("answer", "correct")],
)  # fmt: skip
def test_usage_is_counted_from_the_routing(store, phase, where):
    figure = rl.plot.usage(store, phase=phase, where=where)
    predicate = " and ".join(
        [*([f"({where})"] if where else []), *([] if phase == "all" else [f"phase = '{phase}'"])]
    )
    wanted = []
    for layer in RUN.sparse_layers:
        ids = store.routing(layer, predicate or None)["expert_ids"]
        wanted.append(np.bincount(ids.ravel(), minlength=RUN.experts) / len(ids))
    np.testing.assert_allclose(array(figure, 0, "z"), wanted, rtol=1e-5)
    pooled = "prompt, think and answer pooled" if phase == "all" else phase
    assert pooled in text(figure)
    assert (where is None) == (" where " not in text(figure))
    assert "1 run (live)" in text(figure)


def test_the_load_of_a_layer_stands_above(store):
    figure = rl.plot.usage(store, layer=3)
    np.testing.assert_allclose(array(figure, 1, "y"), array(figure, 0, "z")[2], rtol=1e-5)
    assert any("Load of layer 3" in note.text for note in figure.layout.annotations)


def test_margins_and_entropy_along_a_trace(store):
    trace = store[2]
    figure = rl.plot.trace(trace)
    np.testing.assert_array_equal(array(figure, 0, "y"), trace.tokens()["entropy"])
    margin = np.stack([trace.routing(layer)["margin"] for layer in RUN.sparse_layers])
    margin = np.where(np.isfinite(margin), margin, np.nan)
    np.testing.assert_allclose(array(figure, 1, "y"), np.nanmean(margin, axis=0), rtol=1e-5)
    one = rl.plot.trace(trace, layer=2)
    np.testing.assert_array_equal(array(one, 1, "y"), margin[1])
    assert [round(shape.x1 - shape.x0) for shape in figure.layout.shapes] == [18, 54, 18]
    assert {note.text for note in figure.layout.annotations} == {"prompt", "think", "answer"}


@pytest.mark.parametrize(
    ("phase", "where"),
    [("all", None), ("think", None), ("all", "pos % 2 = 0"), ("answer", "entropy > 0.3")],
)  # fmt: skip
def test_means_of_heads(store, phase, where):
    trace = store[1]
    kept = trace.where(where)
    if phase != "all":
        kept = kept & (np.array(trace.tokens()["phase"]) == phase)
    figure = rl.plot.heads(trace, phase=phase, where=where)
    for panel, name in enumerate(("entropy", "first_weight", "previous_weight", "output_norm")):
        wanted = [trace.heads(layer)[name][kept].mean(axis=0) for layer in range(RUN.layers)]
        np.testing.assert_allclose(array(figure, panel, "z"), wanted, rtol=2e-3)
    assert f"mean over {kept.sum():,} tokens" in text(figure)


def test_text_of_strangers_is_no_markup(store):
    figure = rl.plot.trace(store[3])
    for shown in (text(figure), figure.data[0].text[-1], figure.data[1].text[-3]):
        assert escape(EVIL, quote=False) in shown
        assert "<a" not in shown


@pytest.mark.parametrize("draw", [rl.plot.trace, rl.plot.heads])
@pytest.mark.parametrize(
    ("theme", "colour"), [("dark", "#111317"), ("light", "#ffffff"), (None, "#111317")]
)
def test_themes(store, monkeypatch, draw, theme, colour):
    monkeypatch.setattr(pio.templates, "default", "plotly_dark")
    for figure in (draw(store[1], theme=theme), rl.plot.usage(store, theme=theme)):
        assert figure.layout.paper_bgcolor == colour


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda s: rl.plot.usage(s, metric="shre"), ConfigError, "Did you mean 'share'"),
        (lambda s: rl.plot.usage(s, phase="thnk"), ConfigError, "Did you mean 'think'"),
        (lambda s: rl.plot.usage(s, phse="think"), ConfigError, "Did you mean 'phase'"),
        (lambda s: rl.plot.usage(s, where="phse = 'think'"), ConfigError, "Did you mean 'phase'"),
        (lambda s: rl.plot.usage(s, where="pos < 0"), NotInStoreError, "no token selected"),
        (lambda s: rl.plot.usage(s, layer=0), NotInStoreError, "recorded of layers 1–3"),
        (lambda s: rl.plot.usage(s, theme="drak"), ConfigError, "Did you mean 'dark'"),
        (lambda s: rl.plot.heads(s[1], where="pos < 0"), NotInStoreError, "no token of trace 1"),
        (lambda s: rl.plot.trace(s[1], layer=0), NotInStoreError, "routing has no layer 0"),
        (lambda s: rl.plot.trace(s[1], layre=0), ConfigError, "Did you mean 'layer'"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said(store, ask, error, said):
    with pytest.raises(error, match=said):
        ask(store)


def test_runs_that_do_not_fit_together_are_not_pooled(tmp_path):
    one = add(tmp_path, RUN, random_trace(RUN, 24))
    add(tmp_path, RUN, random_trace(RUN, 24, seed=1))
    other = random_run(experts=8)
    with Store(tmp_path) as store:
        assert "2 runs (live)" in text(rl.plot.usage(store))
    last = add(tmp_path, other, random_trace(other, 24, seed=1))
    with Store(tmp_path) as store:
        with pytest.raises(StoreError, match=r"different routers .*: take one"):
            rl.plot.usage(store)
        assert array(rl.plot.usage(store, where=f"run_id = '{last}'"), 0, "z").shape == (3, 8)
        assert array(rl.plot.usage(store, where=f"run_id = '{one}'"), 0, "z").shape == (3, 16)


def test_a_run_and_its_replay_are_not_pooled(tmp_path):
    live = random_trace(RUN, 24)
    add(tmp_path, RUN, live)
    add(tmp_path, random_run(record=RUN.record, mode="replay"), replace(live, source_trace_id=1))
    with Store(tmp_path) as store:
        with pytest.raises(ConfigError, match="holds replays beside other traces"):
            rl.plot.usage(store)
        for mode in ("live", "replay"):
            figure = rl.plot.usage(store, where=f"mode = '{mode}'")
            assert f"24 tokens · random · 1 run ({mode})" in text(figure)
        assert "48 tokens" in text(rl.plot.usage(store, where="mode is not null"))


def test_layers_that_were_not_recorded_stay_blank(tmp_path):
    """Here 1 and 3 of three that route were."""
    run = random_run(record=("routing@1+3",))
    full = random_trace(run, 24, router_logits=None, heads=None)
    arrays = {n: v[[0, 2]] for n, v in vars(full.routing).items() if isinstance(v, np.ndarray)}
    add(tmp_path, run, replace(full, routing=replace(full.routing, layers=(1, 3), **arrays)))
    with Store(tmp_path) as store:
        figure = rl.plot.usage(store)
        assert list(figure.data[0].y) == [1, 2, 3]
        values = array(figure, 0, "z")
        assert np.isnan(values[1]).all()
        np.testing.assert_allclose(values[[0, 2]].sum(axis=1), run.experts_per_token, rtol=1e-5)
        with pytest.raises(NotInStoreError, match="layer 2: routing was recorded of layers 1, 3"):
            rl.plot.usage(store, layer=2)


def test_what_was_not_recorded_is_left_out_or_said(tmp_path):
    full = random_trace(RUN, 24)
    choices = ChoiceArrays(full.routing.layers, full.routing.expert_ids[:, :23], 0)
    unknown = np.full(24, np.nan, np.float32)
    silent = replace(full.tokens, entropy=unknown, logprob=unknown)
    served = replace(full, routing=choices, router_logits=None, heads=None)
    imported = random_run(
        mode="imported", record=("routing",), expert_bias=np.full((3, 16), np.nan)
    )
    add(tmp_path, imported, served, replace(served, tokens=silent))
    bare = random_run(record=())
    add(tmp_path, bare, replace(full, routing=None, router_logits=None, heads=None))
    with Store(tmp_path) as store:
        assert "router margin was not recorded" in text(rl.plot.trace(store[1]))
        with pytest.raises(NotInStoreError, match="neither log-probabilities nor routing"):
            rl.plot.trace(store[2])
        with pytest.raises(NotInStoreError, match="heads was not recorded"):
            rl.plot.heads(store[1])
        with pytest.raises(NotInStoreError, match="not why"):
            rl.plot.usage(store, metric="flips", where="mode = 'imported'")
        with pytest.raises(NotInStoreError, match="no routing was recorded"):
            rl.plot.usage(store, where="mode = 'live'")
