"""Vectors and top attention positions of a session against plain hooks on the same text."""

import numpy as np
import pytest
import tiny_lens
import torch
from sessions import PROMPTS

import ringlens as rl
from ringlens.config import TopAttention, Vectors
from ringlens.errors import RinglensError
from ringlens.observe.hooks import attach
from ringlens.observe.points import POINTS
from ringlens.store.schema.instruments import recordable

RECORD = (
    Vectors("resid_post", layers=(1, 3)),
    Vectors("head_out", layers=(2,), heads=(1, 6), span=(3, 12)),
    Vectors("final_norm"),
    "mlp_out@0[5:]",
    "attention:3@0+2/0+5",
)


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


@pytest.fixture(scope="module", params=["live", "replay"])
def store(request, lens, tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors")
    live = rl.capture(lens, PROMPTS, path / "a", max_new_tokens=12, record=RECORD, commit_every=0)
    if request.param == "live":
        return live
    return rl.replay(lens, live, path / "b", record=RECORD)


def forward(lens, trace, point, layer):
    """A point's tensor [T, …] of a plain forward over the trace alone."""
    seen = []
    with torch.inference_mode(), attach(lens.model, [(POINTS[point], layer, seen.append)]):
        lens.model(input_ids=torch.tensor([trace.tokens()["token_id"].tolist()]))
    return seen[0][0].numpy()


def close_to_half(actual, wanted):
    np.testing.assert_allclose(actual, wanted, rtol=2**-10, atol=3e-5)


@pytest.mark.parametrize("trace_id", [1, 2, 3])
def test_vectors_are_those_of_a_plain_forward(lens, store, trace_id):
    trace = store.trace(trace_id)
    for layer in (1, 3):
        found = trace.vectors("resid_post", layer=layer)
        assert found.pos.tolist() == list(range(len(trace)))
        close_to_half(found.values, forward(lens, trace, "resid_post", layer))
    found = trace.vectors("head_out", layer=2, head=6)
    assert found.pos.tolist() == list(range(3, min(12, len(trace))))
    close_to_half(found.values, forward(lens, trace, "head_out", 2)[3:12, 6])
    close_to_half(trace.vectors("final_norm").values, forward(lens, trace, "final_norm", None))
    found = trace.vectors("mlp_out", layer=0)
    assert found.pos[0] == 5
    close_to_half(found.values, forward(lens, trace, "mlp_out", 0)[5:])


@pytest.mark.parametrize("trace_id", [1, 3])
def test_top_attention_is_that_of_the_weights(store, trace_id):
    trace = store.trace(trace_id)
    eager = tiny_lens.lens(attention="eager")
    with torch.inference_mode():
        out = eager.model(
            input_ids=torch.tensor([trace.tokens()["token_id"].tolist()]), output_attentions=True
        )
    for layer in (0, 2):
        for head in (0, 5):
            weights = out.attentions[layer][0, head].numpy()
            found = trace.attention(layer=layer, head=head)
            assert found.pos.tolist() == list(range(len(trace)))
            for pos in range(len(trace)):
                keys = [k for k in found.positions[pos].tolist() if k >= 0]
                best = np.sort(weights[pos, : pos + 1])[::-1][:3]
                assert len(keys) == min(3, pos + 1)
                assert max(keys) <= pos
                close_to_half(np.sort(weights[pos, keys])[::-1], best)
                close_to_half(found.weights[pos, : len(keys)], weights[pos, keys])


def test_the_run_says_what_was_recorded(store):
    recorded = store.sql("select record from runs").fetchall()[-1][0]
    assert recorded == [
        "resid_post@1+3",
        "head_out@2/1+6[3:12]",
        "final_norm@",
        "mlp_out@0[5:]",
        "attention:3@0+2/0+5",
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (["resid_post"], "resid_post@3"),
        (["resid_pots@1"], "resid_post"),
        (["router_choice@1"], "record 'routing'"),
        (["expert_out@0"], "dense"),
        (["head_out@1/9"], "heads 0 to 7"),
        (["resid_post@1/0"], "only head_out"),
        (["resid_post@9"], "0-3"),
        (["resid_post@1[4:2]"], "start:stop"),
        (["resid_post@1", "resid_post@2"], "twice"),
        (["attention:4"], "names no layers"),
        (["attention:0@1"], "k = 0; it must be a whole number, 1 or more"),
        (["resid_post@1+x"], "cannot record"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_written(
    lens, tmp_path, record, message
):
    with pytest.raises(RinglensError, match=message.replace("[", r"\[")):
        rl.capture(lens, PROMPTS[:1], tmp_path / "s", record=record)
    assert not (tmp_path / "s").exists()


def test_text_and_object_are_the_same():
    for item in (*RECORD[:2], TopAttention((0, 1), (3,), 2, (4, None))):
        assert recordable([str(item)]) == (item,)
