"""Head statistics against explicit float64 softmax, over shapes, masks, padding and caches."""

from types import SimpleNamespace

import pytest
import torch
from attention_reference import explicit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode

from ringlens.errors import ObservationError
from ringlens.observe.kernels import attention, attention_flash, attention_segments
from ringlens.observe.kernels.attention import Causal, CausalAt, head_statistics
from ringlens.observe.kernels.attention_interface import (
    attention_forward,
    attention_mask,
    left_padding,
    register_attention,
    take_statistics,
)
from ringlens.observe.kernels.attention_segments import (
    all_weights,
    offset_weights,
    segment_mass,
    top_positions,
)

NAMES = ("entropy", "first_weight", "previous_weight", "logsumexp")
DTYPES = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 2e-4, torch.float16: 2e-4}


@st.composite
def cases(draw):
    """Queries, keys, first keys (or None) and the scaling; heads grouped, cached keys before."""
    B, G, r = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 3]))
    T, C = draw(st.integers(1, 9)), draw(st.sampled_from([2, 8]))
    past = draw(st.integers(0, 6))
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scale = draw(st.sampled_from([0.1, 1.0, 6.0]))
    dtype = draw(st.sampled_from(list(DTYPES)))
    query = (torch.randn(B, G * r, T, C, generator=g) * scale).to(dtype)
    key = (torch.randn(B, past + T, G, C, generator=g) * scale).to(dtype).transpose(1, 2)
    pads = draw(st.none() | st.lists(st.integers(0, past + T), min_size=B, max_size=B))
    return query, key, None if pads is None else torch.tensor(pads), 0.5


@pytest.fixture(params=["one block", "a query a block"])
def blocks(request, monkeypatch):
    if request.param == "a query a block":
        monkeypatch.setattr(attention, "MAX_SCORES", 4)
        monkeypatch.setattr(attention_segments, "MAX_SCORES", 4)
        monkeypatch.setattr(attention_flash, "MAX_MASK", 4)
    return request.param


def masks(kind, first_B, T, S):
    """The same visibility as ``Causal(first_B)``, said in each kernel's way."""
    seen = torch.arange(S) <= torch.arange(S - T, S)[:, None]
    seen = seen[None, None] & (torch.arange(S) >= first_B[:, None, None, None])
    if kind == "causal":
        return Causal(first_B)
    if kind == "bool":
        return seen
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


def equal(got, want, dtype):
    torch.testing.assert_close(
        got.double(), want, atol=DTYPES[dtype], rtol=DTYPES[dtype], equal_nan=True
    )


@pytest.mark.usefixtures("blocks")
@settings(deadline=None, max_examples=60)
@given(cases(), st.sampled_from(["causal", "bool", "additive"]))
def test_equals_explicit_softmax(case, kind):
    query, key, first, scaling = case
    B, T, S = query.shape[0], query.shape[2], key.shape[2]
    mask = Causal() if first is None and kind == "causal" else None
    first = torch.zeros(B, dtype=torch.long) if first is None else first
    mask = mask or masks(kind, first, T, S)
    got = head_statistics(query, key, mask, scaling)
    want = explicit(query, key, first, scaling)
    for name in NAMES:
        equal(getattr(got, name), want[name], query.dtype)
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    assert got.entropy.dtype == wide


@pytest.mark.usefixtures("blocks")
@settings(deadline=None, max_examples=40)
@given(cases(), st.sampled_from(["causal", "bool"]), st.data())
def test_offsets_spans_and_top_positions(case, kind, data):
    query, key, first, scaling = case
    B, H, T, _ = query.shape
    S = key.shape[2]
    first = torch.zeros(B, dtype=torch.long) if first is None else first
    mask = masks(kind, first, T, S)
    p = explicit(query, key, first, scaling)["p"]  # [B, T, H, S]
    logsumexp = head_statistics(query, key, mask, scaling).logsumexp

    offsets = data.draw(st.lists(st.integers(0, S + 2), min_size=1, max_size=3))
    got = offset_weights(query, key, mask, scaling, logsumexp, offsets)
    own = torch.arange(S - T, S)
    for i, offset in enumerate(offsets):
        at = (own - offset).clamp(min=0)[None, :, None, None].expand(B, T, H, 1)
        want = p.gather(3, at)[..., 0] * (own >= offset)[None, :, None]
        equal(got[..., i], want, query.dtype)

    ends = st.tuples(st.integers(0, S), st.integers(0, S)).map(sorted)
    rows = data.draw(st.lists(st.lists(ends, min_size=3, max_size=3), min_size=B, max_size=B))
    spans = torch.tensor(rows)
    got = segment_mass(query, key, mask, scaling, spans)
    position = torch.arange(S)[:, None]
    inside = (position >= spans[:, None, :, 0]) & (position < spans[:, None, :, 1])
    equal(got, p @ inside.double()[:, None], query.dtype)
    torch.testing.assert_close(
        segment_mass(query, key, mask, scaling, spans[0])[:1], got[:1], equal_nan=True
    )

    k = data.draw(st.integers(1, S + 2))
    heads = data.draw(st.none() | st.lists(st.integers(0, H - 1), min_size=1, max_size=2))
    positions, weights = top_positions(query, key, mask, scaling, k, heads)
    chosen = p if heads is None else p[:, :, heads]
    equal(all_weights(query, key, mask, scaling, heads), chosen, query.dtype)
    ranked = chosen.nan_to_num(0.0).sort(dim=-1, descending=True).values
    ranked = torch.nn.functional.pad(ranked, (0, max(0, k - S)))[..., :k]
    equal(weights, ranked, query.dtype)
    found = positions >= 0
    n_seen = (own + 1 - first[:, None]).clamp(min=0)[..., None].expand(found.shape[:3])
    assert (found.sum(-1) == n_seen.clamp(max=k)).all()
    equal(chosen.nan_to_num(0.0).gather(3, positions.clamp(min=0)) * found, ranked, query.dtype)


@pytest.mark.usefixtures("blocks")
def test_queries_picked_from_a_text():
    g = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 9, 8, generator=g), torch.randn(2, 2, 9, 8, generator=g)
    own = torch.tensor([8, 0, 3, 3])
    want, mask = explicit(query, key, torch.zeros(2), 0.5), CausalAt(own)
    got = head_statistics(query[:, :, own], key, mask, 0.5)
    for name in NAMES:
        equal(getattr(got, name), want[name][:, own], torch.float32)
    picked = all_weights(query[:, :, own], key, mask, 0.5, [3])
    equal(picked, want["p"][:, own][:, :, [3]], torch.float32)


@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 7), (5, 5), (5, 9)])
def test_no_mask_is_causal_from_the_first_key(T, S):
    g = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, T, 8, generator=g), torch.randn(2, 2, S, 8, generator=g)
    got = head_statistics(query, key, None, 0.5)
    want = explicit(query, key[:, :, :T] if T > 1 else key, torch.zeros(2), 0.5)
    for name in NAMES:
        equal(getattr(got, name), want[name], torch.float32)


def test_block_mask():
    g = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 6, 8, generator=g), torch.randn(2, 2, 6, 8, generator=g)
    pad = torch.tensor([0, 2])
    mask = create_block_mask(
        lambda b, h, q, k: (q >= k) & (k >= pad[b]), 2, None, 6, 6, device="cpu"
    )
    got = head_statistics(query, key, mask, 0.5)
    want = explicit(query, key, pad, 0.5)
    for name in NAMES:
        equal(getattr(got, name), want[name], torch.float32)


def test_wrong_masks_are_refused():
    with pytest.raises(ObservationError, match="sdpa"):
        head_statistics(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), torch.ones(1, 3), 0.5)
    with pytest.raises(ObservationError, match="4 queries but 3 keys"):
        head_statistics(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 3, 4), Causal(), 0.5)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for x in output if isinstance(output, tuple | list) else [output]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().size():
                self.size = max(self.size, x.untyped_storage().size() // x.element_size())
        return output


@pytest.mark.parametrize("pads", [None, [7, 100]])
def test_memory_stays_linear(pads):
    """Nothing as large as the attention matrix is made, nor half of a quarter of it."""
    B, H, G, T, C = 2, 4, 2, 2048, 8
    g = torch.Generator().manual_seed(0)
    query, key = torch.randn(B, H, T, C, generator=g), torch.randn(B, G, T, C, generator=g)
    mask = Causal(None if pads is None else torch.tensor(pads))
    spans = torch.tensor([[0, 10], [10, 2000]])
    with Largest() as largest:
        found = head_statistics(query, key, mask, 0.5)
        offset_weights(query, key, mask, 0.5, found.logsumexp, [0, 5])
        segment_mass(query, key, mask, 0.5, spans)
    linear = max(query.numel() * 2, 2 * B * attention_flash.MAX_MASK)
    assert largest.size <= linear < T * T / 8


def test_other_masks_in_blocks(monkeypatch):
    """Where no fused kernel knows the mask, blocks hold at most MAX_SCORES scores."""
    monkeypatch.setattr(attention, "MAX_SCORES", 4096)
    query, key = torch.zeros(1, 2, 256, 4), torch.zeros(1, 1, 256, 4)
    seen = torch.ones(1, 1, 1, 256, dtype=torch.bool).expand(1, 1, 256, 256)
    with Largest() as largest:
        head_statistics(query, key, seen, 1.0)
    assert largest.size <= 4096


def test_ringlens_attention_is_sdpa_on_the_cpu():
    """Under its own name the model computes, padded and cached, what it does under sdpa."""
    from golden_data import load

    register_attention()
    ours, theirs = load(attention="ringlens"), load(attention="sdpa")
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    real = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with torch.inference_mode():
        for model in (ours, theirs):
            model.generation_config.eos_token_id = None
        options = {"attention_mask": real, "max_new_tokens": 4, "do_sample": False}
        assert torch.equal(ours.generate(ids, **options), theirs.generate(ids, **options))
        assert torch.equal(
            ours(ids, attention_mask=real).logits, theirs(ids, attention_mask=real).logits
        )


def test_left_padding():
    assert left_padding(torch.tensor([[1, 1], [1, 1]]).bool()) is None
    found = left_padding(torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 0]]).bool())
    assert found.tolist() == [1, 0, 3]
    with pytest.raises(ObservationError, match="left"):
        left_padding(torch.tensor([[1, 1, 0]]).bool())


def test_mask_of_the_fused_kernel(monkeypatch):
    """Where the kernel runs the mask is one number a row; what it cannot say is refused."""
    monkeypatch.setattr(attention, "triton_installed", lambda: True)
    half = {"dtype": torch.bfloat16, "device": "cuda"}
    assert attention_mask(2, 5, 5, **half) is None
    real = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    assert attention_mask(2, 5, 5, attention_mask=real, **half).tolist() == [1, 0]
    assert attention_mask(2, 2, 5, q_offset=3, attention_mask=real, **half).tolist() == [1, 0]
    with pytest.raises(ObservationError, match="growing cache"):
        attention_mask(2, 5, 9, **half)
    with pytest.raises(ObservationError, match="growing cache"):
        attention_mask(2, 5, 5, mask_function=lambda *_: True, **half)


def test_only_watched_modules_keep_statistics():
    module = SimpleNamespace(is_causal=True)
    query = torch.randn(1, 2, 3, 8)
    attention_forward(module, query, query, query, None)
    assert take_statistics(module) is None
