"""Intervals, p-values and q-values by themselves."""

from contextlib import ExitStack
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from ringlens.analysis.statistics import permutation
from ringlens.analysis.statistics.bootstrap import intervals
from ringlens.analysis.statistics.fdr import q_values
from ringlens.analysis.statistics.permutation import Exchanges, SignFlips, p_values, smallest
from ringlens.analysis.statistics.side_by_side import side_by_side


@given(st.integers(2, 7), st.integers(0, 2**32 - 1))
def test_exact_p_values_are_shares_of_all_permutations(traces, seed):
    rng = np.random.default_rng(seed)
    terms_UX = rng.integers(-3, 4, (traces, 5)).astype(float)
    flips = np.array(list(product((1, -1), repeat=traces)))
    expected = (np.abs(flips @ terms_UX) >= np.abs(terms_UX.sum(axis=0))).mean(axis=0)
    np.testing.assert_allclose(p_values(terms_UX, SignFlips(traces), rng), expected)

    first = int(rng.integers(1, traces))
    centred_UX = terms_UX - terms_UX.mean(axis=0)
    sums = [np.abs(centred_UX[list(c)].sum(axis=0)) for c in combinations(range(traces), first)]
    expected = (np.array(sums) >= np.abs(centred_UX[:first].sum(axis=0)) - 1e-9).mean(axis=0)
    found = p_values(centred_UX, Exchanges(traces, first), rng)
    np.testing.assert_allclose(found, expected)
    assert (found >= smallest(Exchanges(traces, first)) - 1e-12).all()


@pytest.mark.parametrize("scheme", [SignFlips(12), Exchanges(12, 5)])
def test_drawn_p_values_are_near_the_exact_ones(monkeypatch, scheme):
    rng = np.random.default_rng(0)
    terms_UX = rng.normal(0, 1, (12, 40)) + np.linspace(0, 1, 40)
    if isinstance(scheme, Exchanges):
        terms_UX -= terms_UX.mean(axis=0)
        terms_UX[:5] += np.linspace(0, 1, 40)
        terms_UX -= terms_UX.mean(axis=0)
    exact = p_values(terms_UX, scheme, rng)
    monkeypatch.setattr(permutation, "EXACT", 1)
    drawn = p_values(terms_UX, scheme, rng)
    # A p-value of twenty exceedances has a relative error of 1 / sqrt(20).
    assert (np.abs(np.log(drawn / np.maximum(exact, 1 / 20_001))) < 1).all()
    assert np.corrcoef(drawn, exact)[0, 1] > 0.98


@pytest.mark.parametrize("seed", range(4))
def test_draws_that_are_picked_give_the_p_values_of_all(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    shift = rng.choice([0, 0.5, 1, 3], 600)
    terms_UX = rng.normal(0, 1, (15, 600)) * rng.gamma(1, 1, (15, 1)) + shift
    monkeypatch.setattr(permutation, "_FEW", 200)
    monkeypatch.setattr(permutation, "_ALIKE", 1)
    picked = p_values(terms_UX, SignFlips(15), np.random.default_rng(1))
    monkeypatch.setattr(permutation, "_BITS", 0)
    every = p_values(terms_UX, SignFlips(15), np.random.default_rng(1))
    assert (picked == every).all()
    assert len(np.unique(picked)) > 50 and picked.min() < 0.001


@pytest.mark.parametrize("scheme", [SignFlips(20), Exchanges(20, 10)])
def test_p_values_of_nothing_are_uniform(scheme):
    """Traces that differ widely and are alike in nothing: p ≤ x with a probability of at most x."""
    rng = np.random.default_rng(0)
    terms_UX = rng.normal(0, 1, (20, 4_000)) * rng.gamma(1, 1, (20, 1))
    if isinstance(scheme, Exchanges):
        terms_UX -= terms_UX.mean(axis=0)
    p = p_values(terms_UX, scheme, rng)
    for level in (0.01, 0.05, 0.2, 0.5):
        error = np.sqrt(level * (1 - level) / 4_000)
        assert abs((p <= level).mean() - level) < 4 * error + 1 / 400


def test_nothing_at_all_is_no_discovery():
    p = p_values(np.zeros((20, 3)), SignFlips(20), np.random.default_rng(0))
    assert (p == 1).all()


@given(st.lists(st.one_of(st.floats(1e-6, 1), st.just(float("nan"))), min_size=1, max_size=30))
def test_q_values_by_their_definition(given_p):
    p = np.array(given_p)
    q = q_values(p)
    known = p[~np.isnan(p)]
    for value, adjusted in zip(p, q, strict=True):
        if np.isnan(value):
            assert np.isnan(adjusted)
            continue
        larger = known[known >= value]
        expected = min(x * len(known) / (known <= x).sum() for x in larger)
        assert adjusted == pytest.approx(expected)


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_intervals_are_percentiles_of_the_draws(draws, seed):
    drawn_BX = np.random.default_rng(seed).normal(size=(draws, 5))
    drawn_BX[draws // 2, 3] = np.nan
    found = intervals(lambda _, part: drawn_BX[:, part], [3], 5, np.random.default_rng(0), draws)
    expected = np.percentile(drawn_BX, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.isnan(found[0]).tolist() == [False, False, False, True, False]


def test_intervals_cover_as_often_as_they_say():
    """Means of 30 traces of unequal size, 300 times: 95% of the intervals hold the truth, about."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        tokens_U = rng.integers(20, 200, 30).astype(float)
        n_U = tokens_U * np.clip(rng.normal(0.3, 0.1, 30), 0, 1)

        def share(times_BU, part, n_U=n_U, tokens_U=tokens_U):
            return ((times_BU @ n_U) / (times_BU @ tokens_U))[:, None]

        low, high = intervals(share, [30], 1, rng, 400)
        covered += low[0] <= 0.3 <= high[0]
    assert 0.89 < covered / 300 < 0.98


def test_products_take_one_thread_while_threads_compute_side_by_side():
    """Whoever leaves first gives nothing back that another still holds."""

    def threads():
        return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        first, second = ExitStack(), ExitStack()
        first.enter_context(side_by_side(2))
        pool = second.enter_context(side_by_side(2))
        assert threads() == {1}
        first.close()
        assert threads() == {1} == pool.submit(threads).result()
        second.close()
        assert threads() == {2}
