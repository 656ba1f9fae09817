"""lens.attention: the softmax of the model's own queries and keys, whole or the heaviest of it."""

import numpy as np
import pytest
import tiny_lens
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from placed import placed_model
from traced import SHORT, TEXT, state

import ringlens as rl
from ringlens.errors import ConfigError, ObservationError
from ringlens.interact import attention
from ringlens.lens import Lens
from ringlens.observe.kernels import attention_segments

IDS = torch.randint(4, 384, (1, 40), generator=torch.Generator().manual_seed(3))


def eager(model, ids, **options):
    """What transformers returns for output_attentions, numpy [layers, H, T, T] of the last row."""
    kernel = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            found = model(ids, output_attentions=True, use_cache=False, **options).attentions
    finally:
        model.set_attn_implementation(kernel)
    return np.stack([layer[-1].float().numpy() for layer in found])


def plain(lens, layer, ids):
    """The same from weights alone: norms and rotation written out here, one head at a time."""
    _, cache = lens.run_with_cache(ids, ("resid_pre", layer))
    config, block = lens.config, lens.model.model.layers[layer]
    with torch.inference_mode():
        qkv = block.attention.query_key_value(block.input_layernorm(cache["resid_pre", layer][0]))
    H, G, C = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    R = config.rotary_dim
    theta = config.rope_parameters["rope_theta"]
    angle_TR = torch.outer(
        torch.arange(ids.shape[1]).double(), theta ** -(torch.arange(0, R, 2).double() / R)
    )
    turn_TR = torch.polar(torch.ones_like(angle_TR), angle_TR)

    def head(index, norm):
        x_TC = qkv[:, index * C : (index + 1) * C].detach().double()
        x_TC = x_TC / (x_TC.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()
        x_TC = x_TC * norm.weight.detach().double()
        turned = torch.complex(x_TC[:, : R // 2], x_TC[:, R // 2 : R]) * turn_TR
        return torch.cat((turned.real, turned.imag, x_TC[:, R:]), dim=-1)

    future = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
    rows = []
    for h in range(H):
        query = head(h, block.attention.query_layernorm)
        key = head(H + h // (H // G), block.attention.key_layernorm)
        scores = (query @ key.T / C**0.5).masked_fill(future, -torch.inf)
        rows.append(scores.softmax(-1))
    return torch.stack(rows).numpy()


def test_equals_eager_attention_at_every_layer(any_lens):
    wanted = eager(any_lens.model, IDS)
    before = state(any_lens.model)
    for layer in range(any_lens.sizes.layers):
        found = any_lens.attention(IDS, layer)
        assert found.weights.dtype == np.float32
        assert found.weights.shape == (any_lens.sizes.heads, 40, 40)
        np.testing.assert_allclose(found.weights, wanted[layer], atol=2e-6)
        np.testing.assert_allclose(found.weights.sum(-1), 1, atol=1e-5)
        assert (np.triu(found.weights, 1) == 0).all()
    assert state(any_lens.model) == before


def test_equals_weights_written_out_by_hand(lens):
    for layer in range(4):
        found = lens.attention(IDS, layer).weights
        np.testing.assert_allclose(found, plain(lens, layer, IDS), atol=2e-6)


@pytest.mark.parametrize("kernel", ["eager", "ringlens"])
def test_is_the_same_on_every_kernel(lens, kernel):
    from ringlens.observe.kernels.attention_interface import register_attention

    register_attention()
    other = tiny_lens.lens(attention=kernel)
    found = other.attention(IDS, 2).weights
    np.testing.assert_allclose(found, lens.attention(IDS, 2).weights, atol=2e-6)


def test_padding_on_either_side_changes_nothing(lens):
    ids = IDS[0, :9].tolist()
    wanted = lens.attention(ids, 3)
    for padded, mask in (([0] * 5 + ids, [0] * 5 + [1] * 9), (ids + [0] * 5, [1] * 9 + [0] * 5)):
        found = lens.attention({"input_ids": padded, "attention_mask": mask}, 3)
        assert np.array_equal(found.weights, wanted.weights)
    batch, mask = torch.zeros(2, 40, dtype=torch.long), torch.ones(2, 40, dtype=torch.long)
    batch[0], batch[1, 31:], mask[1, :31] = IDS[0], IDS[0, :9], 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    rows = eager(lens.model, batch, attention_mask=mask, position_ids=positions)
    np.testing.assert_allclose(wanted.weights, rows[3][:, 31:, 31:], atol=2e-6)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_parts_and_the_heaviest_are_those_of_the_whole(lens, whole, data):
    """For any heads and queries, in blocks of any size."""
    heads = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=3))
    queries = data.draw(st.lists(st.integers(-40, 39), min_size=1, max_size=6))
    k = data.draw(st.integers(1, 60))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_segments, "MAX_SCORES", data.draw(st.sampled_from([4, 300, 2**25])))
        part = lens.attention(IDS, 1, heads, queries=queries)
        top = lens.attention(IDS, 1, heads, queries=queries, top=k)
    pos = np.array(queries) % 40
    assert part.heads == top.heads == tuple(heads)
    assert np.array_equal(part.pos, pos)
    assert np.array_equal(top.pos, pos)
    wanted = whole.weights[heads][:, pos]
    np.testing.assert_allclose(part.weights, wanted, atol=1e-6)
    k = min(k, 40)
    assert top.positions.shape == top.weights.shape == (len(heads), len(pos), k)
    seen = top.positions >= 0
    assert np.array_equal(seen, np.broadcast_to(np.arange(k) <= pos[:, None], seen.shape))
    assert (top.weights[~seen] == 0).all()
    there = np.take_along_axis(wanted, np.where(seen, top.positions, 0), axis=-1)
    np.testing.assert_allclose(top.weights[seen], there[seen], atol=1e-6)
    np.testing.assert_allclose(top.weights, -np.sort(-wanted, axis=-1)[..., :k], atol=1e-6)
    positions, weights = top.of(heads[0])
    assert np.array_equal(positions, top.positions[0])
    assert np.array_equal(weights, top.weights[0])
    assert np.array_equal(part.of(heads[0]), part.weights[0])


@pytest.fixture(scope="module")
def whole(lens):
    return lens.attention(IDS, 1)


def test_the_text_beside_the_weights(lens):
    found = lens.attention(SHORT, -1, 5, queries=slice(1, None))
    assert found.layer == 3
    assert found.heads == (5,)
    assert "".join(found.tokens) == lens.tokenizer.decode(lens.encode(SHORT))
    assert found.pos.tolist() == [1, 2]
    assert repr(found) == "AttentionPattern(layer 3, head 5, float32, 2 × 3 weights)"
    top = lens.attention(SHORT, 0, top=2)
    assert repr(top) == "TopPositions(layer 0, 8 heads, float32, the 2 heaviest of 3 tokens for 3)"


def test_what_is_recorded_is_the_same(lens, tmp_path):
    store = rl.replay(lens, [TEXT], tmp_path / "store", record=["attention:3@2/1+4"])
    with store:
        trace = store.trace(1)
        top = lens.attention(trace.tokens()["token_id"], 2, [1, 4], top=3)
        for head in (1, 4):
            recorded, (positions, weights) = trace.attention(2, head), top.of(head)
            assert np.array_equal(recorded.pos, top.pos)
            np.testing.assert_allclose(recorded.weights, weights, atol=1e-3)
            apart = np.abs(np.diff(weights, axis=1)).min(axis=1) > 1e-3
            assert np.array_equal(recorded.positions[apart], positions[apart])


@pytest.mark.parametrize("placed", ["all on disk", "int8"])
def test_offloaded_and_quantised(placed, tmp_path):
    other = Lens(placed_model(placed, tmp_path), tiny_lens.tokenizer(), "ring-tiny")
    for layer in (1, 3):
        found = other.attention(IDS, layer, 2).weights[0]
        np.testing.assert_allclose(found, eager(other.model, IDS)[layer, 2], atol=1e-5)


def test_of_a_model_in_16_bits_the_type_is_said(lens):
    half = Lens(tiny_lens.lens().model.to(torch.bfloat16), lens.tokenizer, "ring-tiny")
    found = half.attention(IDS, 1)
    assert found.dtype == "bfloat16"
    assert found.weights.dtype == np.float32
    np.testing.assert_allclose(found.weights.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(found.weights, eager(half.model, IDS)[1], atol=0.02)


def test_what_is_too_large_is_refused_before_the_model_runs(lens, monkeypatch):
    monkeypatch.setattr(attention, "forward", pytest.fail)
    monkeypatch.setattr(attention, "LARGEST", 8 * 40 * 40 * 4 - 1)
    with pytest.raises(ConfigError, match=r"8 heads for 40 of 40 tokens .* Give top=16"):
        lens.attention(IDS, 0)
    monkeypatch.setattr(attention, "LARGEST", 8 * 40 * 8 * 3 - 1)
    with pytest.raises(ConfigError, match=r"the 3 heaviest positions .* smaller top="):
        lens.attention(IDS, 0, top=3)
    monkeypatch.undo()
    assert lens.attention(IDS, 0).weights.nbytes == 8 * 40 * 40 * 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": 4}, "layer 4 is not there: attn_out exists in layers 0-3"),
        ({"layer": "3"}, "layer = '3'"),
        ({"heads": 8}, "head = 8; it must be a whole number, 0 to 7"),
        ({"heads": []}, "heads names no head"),
        ({"heads": "1"}, "head = '1'"),
        ({"queries": 40}, "query = 40; it must be a whole number, -40 to 39"),
        ({"queries": slice(9, 9)}, "names none of the 40 tokens"),
        ({"queries": slice("a")}, "queries = slice"),
        ({"top": 0}, "top = 0"),
        ({"text_or_ids": [TEXT, SHORT]}, "one text, not 2"),
    ],
)
def test_what_is_not_there_is_refused(lens, options, said):
    with pytest.raises((ConfigError, ObservationError), match=said):
        lens.attention(**{"text_or_ids": IDS, "layer": 1, **options})


def test_a_head_that_was_not_asked_for_is_refused(lens):
    for found in (lens.attention(IDS, 0, [1, 2]), lens.attention(IDS, 0, [1, 2], top=4)):
        with pytest.raises(ObservationError, match="head 3 is not among those asked for: 1, 2"):
            found.of(3)
