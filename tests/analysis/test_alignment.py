"""Two traces step beside step: laws of alignments, and detours that were planted."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import RUN
from records import random_trace
from thoughts import Thought, opened, write_thoughts

from ringlens.analysis import Shuffled
from ringlens.analysis.trajectory import alignment
from ringlens.analysis.trajectory.alignment import needleman_wunsch, random_scores
from ringlens.errors import ConfigError, StoreError
from ringlens.store import Store, StoreWriter

MATRICES = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1))
GAPS = st.sampled_from([0.0, 0.05, 0.4, 3.0])
ROUTE = list(range(12))
DETOUR = [0, 1, 2, 3, 20, 21, 22, 4, 5, 6, 7, 8, 9, 11]
"""Three steps more, and one less."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    thoughts = [Thought(ROUTE), Thought(DETOUR), Thought(ROUTE), Thought(ROUTE, problem="q")]
    with opened(tmp_path_factory.mktemp("s") / "s", thoughts) as store:
        yield store


def scores(shape):
    rows, columns, seed = shape
    return np.random.default_rng(seed).normal(size=(rows, columns))


def best(score_IJ, gap):
    """The greatest sum, by trying every alignment."""
    if 0 in score_IJ.shape:
        return -gap * sum(score_IJ.shape)
    return max(
        score_IJ[0, 0] + best(score_IJ[1:, 1:], gap),
        best(score_IJ[1:], gap) - gap,
        best(score_IJ[:, 1:], gap) - gap,
    )


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1)), GAPS)
def test_the_sum_is_the_greatest_there_is(shape, gap):
    score_IJ = scores(shape)
    pairs, total = needleman_wunsch(score_IJ, gap)
    assert total == pytest.approx(best(score_IJ, gap))
    paired = [pair for pair in pairs if None not in pair]
    own = sum(score_IJ[pair] for pair in paired) - gap * (len(pairs) - len(paired))
    assert own == pytest.approx(total)


@settings(max_examples=25, deadline=None)
@given(MATRICES, GAPS)
def test_every_step_stands_once_and_in_order(shape, gap):
    pairs, total = needleman_wunsch(scores(shape), gap)
    for side in (0, 1):
        assert [pair[side] for pair in pairs if pair[side] is not None] == list(range(shape[side]))
    assert (None, None) not in pairs
    gaps = sum(None in pair for pair in pairs)
    assert gaps >= abs(shape[0] - shape[1]) and (gaps - shape[0] - shape[1]) % 2 == 0
    dearer, less = needleman_wunsch(scores(shape), gap + 0.5)
    assert less <= total and sum(None in pair for pair in dearer) <= gaps


@settings(max_examples=25, deadline=None)
@given(MATRICES, GAPS)
def test_to_change_sides_changes_sides(shape, gap):
    pairs, total = needleman_wunsch(scores(shape), gap)
    turned, again = needleman_wunsch(scores(shape).T, gap)
    assert again == pytest.approx(total)
    assert {(j, i) for i, j in turned} == set(pairs)
    _, again = needleman_wunsch(scores(shape)[::-1, ::-1], gap)
    assert again == pytest.approx(total)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1), GAPS)
def test_a_sequence_aligns_with_itself(length, seed, gap):
    vector_SD = np.random.default_rng(seed).normal(size=(length, 4))
    vector_SD /= np.linalg.norm(vector_SD, axis=1, keepdims=True)
    similarity_SS = vector_SD @ vector_SD.T
    pairs, _ = needleman_wunsch(similarity_SS - similarity_SS.mean(), gap)
    assert pairs == [(i, i) for i in range(length)]


@settings(max_examples=15, deadline=None)
@given(MATRICES, GAPS)
def test_scores_of_random_orders_are_those_of_alignments(shape, gap):
    score_IJ = scores(shape)
    found_B = random_scores(score_IJ, gap, 3, np.random.default_rng(1))
    order_BJ = np.argsort(np.random.default_rng(1).random((3, shape[1])), axis=1)
    for order_J, found in zip(order_BJ, found_B, strict=True):
        assert found == pytest.approx(needleman_wunsch(score_IJ[:, order_J], gap)[1])


@pytest.mark.parametrize("point", ["routing", "resid_post"])
def test_a_detour_has_no_partner(store, point):
    frame = alignment(store, 1, 2, point=point)
    paired = frame.dropna(subset=["first", "second"])
    found = set(zip(paired["first"], paired["second"], strict=True))
    expected = {(ROUTE.index(z), DETOUR.index(z)) for z in set(ROUTE) & set(DETOUR)}
    assert found == expected
    assert frame.attrs["paired"] == 2 * len(expected) / (len(ROUTE) + len(DETOUR))
    assert frame.attrs["p"] == pytest.approx(1 / 101)
    assert frame.attrs["score"] > 1.5 * frame.attrs["null"] > 0
    assert frame["score"].sum() == pytest.approx(frame.attrs["score"])
    assert (frame["score"][frame["first"].isna()] == -0.05).all()


def test_distances_are_those_of_the_shares_of_experts(store):
    frame = alignment(store, 1, 2, draws=0, role_weight=0)
    paired = frame.dropna()
    np.testing.assert_allclose(paired["distance"] ** 2, 1 - paired["similarity"], atol=1e-6)
    row = paired.iloc[3]

    def shares(trace, step):
        query = f"""select layer, expert, count(*) as n from router_choices
            join token_context using (trace_id, pos)
            where trace_id = {trace} and step = {step} group by all"""
        n = store.sql(query).df().set_index(["layer", "expert"])["n"]
        return n / n.groupby("layer").sum()

    p, q = shares(1, row["first"]), shares(2, row["second"])
    layers = p.index.get_level_values("layer").nunique()
    alike = np.sqrt(p * q).dropna().sum() / layers
    assert row["distance"] == pytest.approx(np.sqrt(1 - alike), rel=1e-5)
    assert paired["distance"].mean() < frame.attrs["distance"] < 1
    assert alignment(store, 1, 2, point="resid_post", draws=0)["distance"].isna().all()


def test_traces_of_two_models_are_refused(tmp_path):
    path = tmp_path / "s"
    write_thoughts(path, [Thought([0, 1])])
    with StoreWriter(path) as writer:
        run = writer.start_run(replace(RUN, model="another"))
        writer.commit(run, [random_trace(RUN, 30, problem_id="p", router_logits=None, heads=None)])
    with Store(path) as store, pytest.raises(ConfigError, match="'another', whose experts"):
        alignment(store, 1, 2)


def test_two_thoughts_of_one_way_are_paired_step_by_step(store):
    frame = alignment(store, 1, 3, draws=0)
    assert frame["first"].tolist() == frame["second"].tolist() == list(range(12))
    assert frame.attrs["paired"] == 1 and "p" not in frame.attrs
    assert (frame["similarity"] > frame.attrs["chance"]).all()
    turned = alignment(store, 3, 1, draws=0)
    assert turned.attrs["score"] == pytest.approx(frame.attrs["score"])
    assert frame["text_first"][2] == "Step 2 of this thought. "
    for earlier, later in pairwise(frame["first"]):
        assert earlier < later


def test_shuffled_choices_align_no_better_than_chance(store):
    frame = alignment(Shuffled(store), 1, 2, role_weight=0)
    assert frame.attrs["p"] > 0.02


def test_roles_alone_align(tmp_path):
    roles = ["plan_generation", "active_computation", "self_checking"]
    thoughts = [
        Thought([0, 0, 0], roles=roles),
        Thought([0] * 4, roles=["uncertainty_management", *roles]),
    ]
    with opened(tmp_path / "s", thoughts, strength=0) as store:
        frame = alignment(store, 1, 2, role_weight=1, draws=0)
    assert frame["second"].tolist() == [0, 1, 2, 3]
    assert frame["role_first"].isna().tolist() == [True, False, False, False]
    assert frame["role_first"].tolist()[1:] == roles


@pytest.mark.parametrize(
    ("first", "second", "more", "message"),
    [
        (1, 1, {}, "give two traces"),
        (1, 4, {}, "of one problem"),
        (1, 99, {}, "trace 99 has no step"),
        (1, 2, {"gap": -1}, "gap = -1"),
        (1, 2, {"role_weight": 2}, "role_weight = 2"),
        (1, 2, {"where": "phase = 'answer'"}, "is in a step"),
        (1, 2, {"where": "true) or (true"}, "is no predicate"),
        (1, 2, {"draw": 3}, "Did you mean 'draws'"),
    ],
)
def test_what_cannot_be_aligned_is_refused(store, first, second, more, message):
    with pytest.raises((ConfigError, StoreError), match=message):
        alignment(store, first, second, **more)
