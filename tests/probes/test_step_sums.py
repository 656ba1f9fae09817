"""What heads pay to steps, summed chunk by chunk, against the whole matrix of weights.

Shape letters: H heads, G kv heads, T tokens, C head dimension, S steps.
"""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kurtosis

from ringlens.probes.heads.step_sums import LEAST, LEFT_OUT, Steps, StepSums, chunk_of

GAPS = (1, 4)


def weights_of(query_1HTC, key_1GTC):
    """Attention weights [H, T, T] in full."""
    H, T = query_1HTC.shape[1:3]
    key_1HTC = key_1GTC.repeat_interleave(H // key_1GTC.shape[1], dim=1)
    scores = (query_1HTC @ key_1HTC.transpose(2, 3))[0]
    return scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(dim=-1)


def matrix_of(weights_HTT, steps):
    """M [H, S, S] of the definition, one pair of steps after the other."""
    M = weights_HTT.new_zeros(len(weights_HTT), len(steps), len(steps))
    for i, (first, end) in enumerate(zip(steps.first, steps.end, strict=True)):
        for j, (start, stop) in enumerate(zip(steps.first, steps.end, strict=True)):
            M[:, i, j] = weights_HTT[:, first:end, start:stop].sum(dim=2).mean(dim=1)
    return M


def received(M_SS, gap):
    """v of one head, by the definition."""
    S = len(M_SS)
    return [float(M_SS[j + gap :, j].mean()) if j + gap < S else float("nan") for j in range(S)]


def summed(query_1HTC, key_1GTC, steps, cuts, *, keep=(), permutations=3):
    """Sums over chunks that end at ``cuts``."""
    sums = StepSums(steps, GAPS, permutations, query_1HTC, keep)
    for start, stop in pairwise((steps.first[0], *cuts, steps.end[-1])):
        chunk = chunk_of(steps, start, stop, GAPS, permutations, seed=0)
        sums.add(query_1HTC[:, :, start:stop], key_1GTC[:, :, :stop], 1.0, chunk)
    return sums.scores()


def texts(seed, S, T_of=3, prompt=5):
    """Steps of a few tokens each, and random queries and keys."""
    rng = torch.Generator().manual_seed(seed)
    ends = (prompt + torch.randint(1, 2 * T_of, (S,), generator=rng).cumsum(0)).tolist()
    steps = Steps((prompt, *ends[:-1]), tuple(ends))
    query = 2 * torch.randn(1, 4, ends[-1], 8, generator=rng, dtype=torch.float64)
    key = torch.randn(1, 2, ends[-1], 8, generator=rng, dtype=torch.float64)
    return steps, query, key


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(9, 16), st.data())
def test_sums_equal_the_whole_matrix_wherever_the_text_is_cut(seed, S, data):
    steps, query, key = texts(seed, S)
    inner = st.integers(steps.first[0] + 1, steps.end[-1] - 1)
    cuts = sorted(data.draw(st.sets(inner, max_size=4)))
    weights = weights_of(query, key)
    M = matrix_of(weights, steps)
    found = summed(query, key, steps, cuts, keep=(None, 2))
    torch.testing.assert_close(found.matrices[0], M.mean(dim=0))
    torch.testing.assert_close(found.matrices[1], M[2])
    for g, gap in enumerate(GAPS):
        for h in range(4):
            v = received(M[h], gap)
            torch.testing.assert_close(
                found.received_gHS[g, h], torch.tensor(v).double(), equal_nan=True
            )
            counted = v[: S - max(gap, LEFT_OUT)]
            expected = kurtosis(counted) if len(counted) >= LEAST else float("nan")
            score = float(found.kurtosis_gH[g, h])
            assert score == pytest.approx(expected, abs=1e-9, nan_ok=True)
    near = M.diagonal(dim1=1, dim2=2).sum(1) + M.diagonal(-1, dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(found.recency_H, near / M.sum(dim=(1, 2)))
    prompt = [
        weights[:, a:b, : steps.first[0]].sum(2).mean(1)
        for a, b in zip(steps.first, steps.end, strict=True)
    ]
    torch.testing.assert_close(found.prompt_H, torch.stack(prompt).mean(dim=0))


def test_the_null_does_not_depend_on_where_the_text_is_cut():
    steps, query, key = texts(1, 14)
    whole, cut = (summed(query, key, steps, cuts) for cuts in ([], [9, 17, 18, 30]))
    torch.testing.assert_close(whole.null_gPH, cut.null_gPH)
    assert whole.null_gPH[0].std(dim=0).min() > 0  # the draws differ


def test_tokens_between_steps_belong_to_none():
    steps, query, key = texts(2, 12)
    holes = Steps(steps.first, tuple(end - (n == 4) for n, end in enumerate(steps.end)))
    holes = Steps(holes.first, holes.end) if holes.end[4] > holes.first[4] else steps
    assert holes != steps
    M = matrix_of(weights_of(query, key), holes)
    found = summed(query, key, holes, [steps.end[6]], keep=(1,))
    torch.testing.assert_close(found.matrices[0], M[1])


def planted(S, paid):
    """Queries and keys, of one token a step, whose weights are softmax of ``paid`` (i, j)."""
    steps = Steps(tuple(range(1, S + 1)), tuple(range(2, S + 2)))
    key = torch.eye(S + 1, dtype=torch.float64)[None, None]
    query = torch.zeros(1, 1, S + 1, S + 1, dtype=torch.float64)
    for i in range(S):
        for j in range(i + 1):
            query[0, 0, i + 1, j + 1] = paid(i, j)
    return summed(query, key, steps, [S // 2], permutations=99)


def p_of(found, gap=1):
    return float((1 + (found.null_gPH[gap, :, 0] >= found.kurtosis_gH[gap, 0]).sum()) / 100)


def test_a_head_that_looks_back_at_one_step_is_told_from_recency():
    noise = torch.randn(60, 60, generator=torch.Generator().manual_seed(3)).tolist()
    receiver = planted(60, lambda i, j: noise[i][j] + 4.0 * (j == 20))
    recent = planted(60, lambda i, j: noise[i][j] - 0.5 * (i - j))
    nothing = planted(60, lambda i, j: noise[i][j])
    assert p_of(receiver) == pytest.approx(0.01)
    assert p_of(nothing) > 0.05
    assert float(receiver.beyond_recency_gH[1, 0]) > 20
    assert float(recent.beyond_recency_gH[1, 0]) < 8
    assert float(recent.recency_H[0]) > 0.5 > float(receiver.recency_H[0])
