"""Heads over the steps of real thoughts: as explicit attention has them, and what they say."""

import numpy as np
import probed
import pytest

import ringlens as rl
from ringlens.analysis.importance.receiver_heads import receiver_heads
from ringlens.errors import ConfigError, StoreError
from ringlens.plot.importance.receiver_figure import receiver_heads as draw
from ringlens.probes.chain.thought import read_thought
from ringlens.store.check.check import check


@pytest.fixture(scope="module")
def lens():
    return rl.load(probed.MODEL)


@pytest.fixture(scope="module")
def store(lens, tmp_path_factory):
    asked = rl.problems("countdown", n=2)
    path = tmp_path_factory.mktemp("s") / "s"
    with rl.capture(lens, asked, path, max_new_tokens=250, record=probed.RECORD) as store:
        rl.probe("receivers", lens, store, chunk=50, gaps=(1, 4))
        yield store


def explicit(lens, thought, layer):
    """M [H, S, S] from all attention weights of a layer."""
    ids = list(thought.token_ids[: thought.steps[-1].end])
    weights = lens.attention(ids, layer).weights
    spans = [(step.first, step.end) for step in thought.steps]
    return np.array(
        [[[w[a:b, c:d].sum(1).mean() for c, d in spans] for a, b in spans] for w in weights]
    )


def test_step_attention_is_that_of_all_weights(lens, store):
    thought = read_thought(store, 1)
    pairs = store.sql("select * from head_steps where trace_id = 1").df()
    layers, heads, S = lens.sizes.layers, lens.sizes.heads, len(thought.steps)
    assert len(pairs) == layers * (heads + 1) * S * (S + 1) // 2
    for layer in (0, layers - 1):
        M = explicit(lens, thought, layer)
        own = pairs[pairs["layer"] == layer].sort_values(["step_from", "step_to"])
        for head in (0, heads - 1):
            found = own[own["head"] == head]["mass"]
            np.testing.assert_allclose(found, M[head][np.tril_indices(S)], atol=1e-5)
        mean = own[own["head"].isna()]["mass"]
        np.testing.assert_allclose(mean, M.mean(0)[np.tril_indices(S)], atol=1e-5)
        recency = (np.trace(M, axis1=1, axis2=2) + np.trace(M, -1, 1, 2)) / M.sum((1, 2))
        told = probed.rows(store, "receivers").query(
            f"trace_id == 1 and layer == {layer} and key == 'recency'"
        )
        np.testing.assert_allclose(told.sort_values("unit")["value"], recency, atol=1e-5)


def test_the_table_ranks_all_heads_behind_the_first_layer(lens, store):
    frame = receiver_heads(store)
    assert len(frame) == (lens.sizes.layers - 1) * lens.sizes.heads and frame["layer"].min() == 1
    assert frame["score"].is_monotonic_decreasing and (frame["traces"] > 0).all()
    assert ((frame["p"] >= 1 / 200) & (frame["q"] >= frame["p"])).all()
    assert ((frame["low"] <= frame["recency"]) & (frame["recency"] <= frame["high"])).all()
    assert f"of {len(frame)} heads" in frame.attrs["said"]
    drawn = draw(frame, theme="dark")
    assert sorted(drawn.data[-1].y + drawn.data[-2].y) == sorted(frame["score"])


def test_what_was_not_measured_is_refused(lens, store):
    with pytest.raises(ConfigError, match="gap = 8 was not measured: there are 1, 4"):
        receiver_heads(store, gap=8)
    with pytest.raises(StoreError, match="no results of the probe 'receivers'"):
        receiver_heads(store, "another")
    for wrong in ({"gaps": ()}, {"gaps": (4, 4)}, {"gaps": (0,)}, {"permutations": 3}):
        with pytest.raises(ConfigError):
            rl.probe("receivers", lens, store, **wrong)


def test_pairs_are_kept_as_far_as_they_may(lens, store, tmp_path):
    with probed.captured(lens, tmp_path / "s", n=1) as other:
        for most, kept in ((1000, [None]), (10, [])):
            rl.probe("receivers", lens, other, gaps=(4,), pairs=most, again=True)
            heads = other.sql("select distinct head from head_steps").fetchall()
            assert [head for (head,) in heads] == kept
        said = receiver_heads(other).attrs["said"]
        assert said.startswith("no thought has steps enough")
        assert check(other).findings == []
