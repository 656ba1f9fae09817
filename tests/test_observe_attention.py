"""Head statistics against explicit float64 softmax, over shapes, masks, padding and caches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from ringlens.errors import ObservationError
from ringlens.observe import attention
from ringlens.observe.attention import head_statistics


def explicit(query, key, seen, scaling):
    """Entropy, first and previous weight [B, T, H] with the whole matrix, in float64."""
    repeats = query.shape[1] // key.shape[1]
    scores = query.double() @ key.double().repeat_interleave(repeats, 1).transpose(2, 3) * scaling
    p = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    entropy = torch.special.entr(p).sum(-1)
    B, H, T, _ = p.shape
    first, previous = torch.zeros(B, H, T).double(), torch.zeros(B, H, T).double()
    for b in range(B):
        for t in range(T):
            keys = seen.expand(B, 1, T, -1)[b, 0, t].nonzero().flatten().tolist()
            if keys:
                first[b, :, t] = p[b, :, t, keys[0]]
            if len(keys) > 1:
                previous[b, :, t] = p[b, :, t, keys[-2]]
    return (x.transpose(1, 2) for x in (entropy, first, previous))


@st.composite
def cases(draw):
    B, G, r = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 3]))
    T, C = draw(st.integers(1, 9)), draw(st.sampled_from([2, 8]))
    past = draw(st.integers(0, 6))
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scale = draw(st.sampled_from([0.1, 1.0, 6.0]))
    query = torch.randn(B, G * r, T, C, generator=g) * scale
    key = torch.randn(B, G, past + T, C, generator=g) * scale
    pad = [draw(st.integers(0, max(0, past))) for _ in range(B)]
    S = past + T
    causal = torch.arange(S) <= torch.arange(past, S)[:, None]
    real = torch.arange(S) >= torch.tensor(pad)[:, None]
    return query, key, (causal[None] & real[:, None, :])[:, None]


@settings(deadline=None, max_examples=150)
@given(cases(), st.sampled_from(["bool", "additive"]), st.sampled_from([4, 2**25]))
def test_equals_explicit_softmax(case, kind, limit):
    query, key, seen = case
    additive = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    saved, attention.MAX_SCORES = attention.MAX_SCORES, limit  # 4: one query a block
    try:
        got = head_statistics(query, key, seen if kind == "bool" else additive, 0.5)
    finally:
        attention.MAX_SCORES = saved
    wanted = explicit(query, key, seen, 0.5)
    for name, want in zip(("entropy", "first_weight", "previous_weight"), wanted, strict=True):
        torch.testing.assert_close(getattr(got, name).double(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 7), (5, 5), (5, 9)])
def test_no_mask_is_causal_from_the_first_key(T, S):
    g = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, T, 8, generator=g), torch.randn(2, 2, S, 8, generator=g)
    seen = torch.ones(1, 1, 1, S, dtype=torch.bool)
    if T > 1:
        seen = (torch.arange(S) <= torch.arange(T)[:, None])[None, None]
    got = head_statistics(query, key, None, 0.5)
    for name, want in zip(
        ("entropy", "first_weight", "previous_weight"),
        explicit(query, key, seen, 0.5),
        strict=True,
    ):
        torch.testing.assert_close(getattr(got, name).double(), want, atol=2e-5, rtol=1e-4)


def test_block_mask():
    g = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 6, 8, generator=g), torch.randn(2, 2, 6, 8, generator=g)
    pad = torch.tensor([0, 2])

    def mod(b, h, q, k):
        return (q >= k) & (k >= pad[b])

    mask = create_block_mask(mod, 2, None, 6, 6, device="cpu")
    seen = (torch.arange(6) <= torch.arange(6)[:, None])[None, None] & (
        torch.arange(6) >= pad[:, None, None, None]
    )
    got = head_statistics(query, key, mask, 0.5)
    entropy, first, _ = explicit(query, key, seen, 0.5)
    real = torch.arange(6)[None] >= pad[:, None]
    torch.testing.assert_close(got.entropy.double()[real], entropy[real], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(got.first_weight.double()[real], first[real], atol=2e-5, rtol=1e-4)


def test_an_unknown_mask_is_refused():
    with pytest.raises(ObservationError, match="sdpa"):
        head_statistics(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), torch.ones(1, 3), 0.5)


def test_memory_stays_linear():
    """Blocks hold at most MAX_SCORES scores, however long the sequence."""
    query, key = torch.zeros(1, 2, 64, 4), torch.zeros(1, 1, 64, 4)
    seen = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    sizes = []
    original, saved = attention._statistics, attention.MAX_SCORES
    attention.MAX_SCORES = 1024
    attention._statistics = lambda scores, seen: (
        sizes.append(scores.numel()) or original(scores, seen)
    )
    try:
        head_statistics(query, key, seen, 1.0)
    finally:
        attention.MAX_SCORES, attention._statistics = saved, original
    assert max(sizes) <= 1024
    assert sum(sizes) == 2 * 64 * 64
