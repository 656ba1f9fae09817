"""Forks, windows of confidence, bursts, loops and outcomes: planted, and by chance."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoughts import Thought, opened

from ringlens.analysis.trajectory import (
    backtrack_bursts,
    confidence_windows,
    correct_against_wrong,
    fork_tokens,
    loops,
    trace_measures,
)
from ringlens.analysis.trajectory.backtracks import burstiness
from ringlens.analysis.trajectory.confidence import window_means
from ringlens.analysis.trajectory.loops import content_of, repeats, state_of
from ringlens.errors import ConfigError, StoreError

ROUND = [f"Step {n}: go to {n % 3}. " for n in range(3)]
TEXTS = ["Let me begin here. ", *ROUND, *ROUND, *[text.upper() for text in ROUND], "Done with it. "]
"""Twice round a circle of three steps, after the first time."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    unsure = [0.2] * 4 + [2.0] * 3 + [0.2] * 4
    thoughts = [
        Thought([0] * 11, TEXTS, backtracks=frozenset({2, 3, 4, 5}), entropy=unsure),
        Thought([0] * 11, backtracks=frozenset({0, 5, 10}), entropy=[0.5] * 11),
        *(
            Thought(
                [0] * (4 + 3 * (number % 2)),
                problem="q" if number < 8 else "r",
                correct=number % 2 == 0,
                backtracks=frozenset(range(1, 1 + 2 * (number % 2))),
            )
            for number in range(12)
        ),
    ]
    with opened(tmp_path_factory.mktemp("s") / "s", thoughts, tokens=8) as store:
        yield store


def test_forks_are_the_tokens_of_highest_entropy(store):
    frame = fork_tokens(store, "phase = 'think'", least=1)
    query = "select token_id, entropy from tokens where phase = 'think' and entropy is not null"
    rows = store.sql(query).df()
    threshold = np.sort(rows["entropy"])[int(np.ceil(0.8 * len(rows))) - 1]
    assert frame["threshold"].unique() == pytest.approx([threshold])
    forks = rows[rows["entropy"] > threshold]
    assert frame["n"].sum() == len(forks) <= 0.2 * len(rows)
    for row in frame.itertuples():
        assert row.n == (forks["token_id"] == row.token_id).sum()
        assert row.tokens == (rows["token_id"] == row.token_id).sum()
    # Words are drawn round and round, whatever the entropy.
    assert frame["lift"].between(0.5, 1.5).all() and (frame["q"] > 0.05).all()
    both = fork_tokens(store, by="correct", least=1)
    assert set(both["phase"]) == {"think", "answer"} and both["n"].sum() > 0


def test_words_that_are_forks_stand_out(tmp_path):
    """Every second word of ten traces is unsure."""
    thoughts = [Thought([0] * 14, entropy=[2.0 if s % 7 == 3 else 0.1 for s in range(14)])] * 10
    with opened(tmp_path / "s", thoughts, tokens=1) as store:
        frame = fork_tokens(store, "phase = 'think'").set_index("token_id")
    planted = frame.loc[4]
    assert planted["share"] == 1 and planted["lift"] > 5 and planted["q"] < 0.05
    assert (frame.drop(index=4)["lift"] < 1).all()


def test_the_least_confident_window_is_where_it_was_planted(store):
    frame = confidence_windows(store, "trace_id <= 2", window=24).set_index("trace_id")
    rows = store.sql(
        "select pos, entropy from tokens where trace_id = 1 and phase = 'think' order by pos"
    ).df()
    c_T = -rows["entropy"].to_numpy(np.float64)
    means = [c_T[start : start + 24].mean() for start in range(len(c_T) - 23)]
    first = frame.loc[1]
    assert first["lowest"] == pytest.approx(min(means)) and first["lowest_pos"] == 33
    assert first["tail"] == pytest.approx(means[-1]) and first["windows"] == len(means)
    assert first["bottom"] == pytest.approx(np.sort(means)[: len(means) // 10].mean())
    assert first["confidence"] == pytest.approx(c_T.mean())
    assert first["p"] < 0.05 < frame.loc[2, "p"]
    by_token = confidence_windows(store, "trace_id = 2", measure="logprob", draws=0)
    (mean,) = store.sql(
        "select avg(logprob) from tokens where trace_id = 2 and phase = 'think'"
    ).fetchall()[0]
    assert by_token["confidence"][0] == pytest.approx(mean)
    assert by_token["windows"][0] == 1 and by_token["lowest"][0] == by_token["tail"][0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_window_means_are_means_of_windows(length, window, seed):
    c_T = np.random.default_rng(seed).normal(size=length)
    width = min(window, length)
    plain = [c_T[start : start + width].mean() for start in range(length - width + 1)]
    np.testing.assert_allclose(window_means(c_T, window), plain, atol=1e-9)


def test_a_planted_burst_is_found(store):
    frame = backtrack_bursts(store, "trace_id <= 2")
    (row,) = frame.to_dict("records")
    assert (row["trace_id"], row["first"], row["last"], row["backtracks"]) == (1, 2, 5, 4)
    assert row["text"] == TEXTS[2] and row["pos"] == 17
    assert frame.attrs["backtracks"] == 7 and frame.attrs["followed"] == 3
    close = backtrack_bursts(store, "trace_id = 1", within=1).attrs
    assert close["p"] < 0.05 and close["burstiness"] == -1
    apart = backtrack_bursts(store, "trace_id = 2", within=1).attrs
    assert apart["followed"] == 0 and apart["p"] == 1
    assert np.isnan(burstiness(np.array([3])))


def test_a_planted_circle_is_found(store):
    frame = loops(store, "trace_id <= 2")
    (row,) = frame.to_dict("records")
    assert (row["step"], row["earlier"], row["period"], row["length"]) == (4, 1, 3, 6)
    assert row["turns"] == 2 and row["pos"] == 33
    assert frame.attrs["looped"] == 6 and frame.attrs["p"] < 0.05
    assert frame.attrs["repeated"] == pytest.approx(6 / 22)
    none = loops(store, "trace_id = 2")
    assert none.empty and none.attrs["p"] == 1 and none.attrs["repeated"] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=25), st.integers(1, 3))
def test_loops_are_true_and_do_not_overlap(path, least):
    end = 0
    for start, length, period in repeats(path, least):
        assert start >= end and length >= least and 1 <= period <= start
        assert path[start : start + length] == [
            path[i - period] for i in range(start, start + length)
        ]
        end = start + length
    alone = sum(loop.length for loop in repeats(path))
    assert alone == len(path) - len(set(path))


@given(st.text(max_size=60))
def test_states_are_those_of_plain_words(text):
    assert state_of(f"  {text}\n") == state_of(text) == state_of(state_of(text))


def test_right_and_wrong_traces_are_compared_within_problems(store):
    measures = trace_measures(store)
    assert measures.loc[0, "backtracks"] == 4 / 11 and measures.loc[0, "repeated"] == 6 / 11
    assert measures["role_active_computation"].eq(1).all()
    frame = correct_against_wrong(measures)
    assert frame.attrs["within"] == "problem"
    assert (frame.attrs["right"], frame.attrs["wrong"], frame.attrs["problems"]) == (6, 6, 2)
    found = frame.set_index("measure")
    assert found.loc["steps", "difference"] == -3
    assert np.isnan(found.loc["steps", "effect"])  # they do not vary within an outcome
    assert found.loc["steps", "p"] == pytest.approx(2 / (70 * 6))
    assert found.loc["steps", "q"] < 0.05 < found.loc["entropy", "p"]


def test_effects_are_those_of_plain_arithmetic_and_their_null_is_even():
    rng = np.random.default_rng(0)
    right = np.repeat([True, False], 30)
    measures = pd.DataFrame(
        {"trace_id": range(60), "problem_id": "p", "correct": right, "x": rng.normal(size=60)}
    )
    measures["y"] = measures["x"] + 1.3 * right
    found = correct_against_wrong(measures, draws=200).set_index("measure")
    a, b = measures["y"][right], measures["y"][~right]
    spread = np.sqrt((a.var() + b.var()) / 2)
    d = (a.mean() - b.mean()) / spread * (1 - 3 / (4 * 58 - 1))
    assert found.loc["y", "effect"] == pytest.approx(d)
    assert found.loc["y", "low"] < d < found.loc["y", "high"]
    assert found.loc["y", "p"] < 0.01 < 0.05 < found.loc["x", "p"]
    assert found.loc["x", "low"] < 0 < found.loc["x", "high"]
    p = []
    for seed in range(40):
        null = measures.assign(y=np.random.default_rng(seed).normal(size=60))
        p.append(correct_against_wrong(null, draws=0).set_index("measure").loc["y", "p"])
    assert 0.3 < np.mean(p) < 0.7


def test_hard_problems_do_not_pass_for_wrong_thinking():
    """Long traces are those of one problem, which is seldom solved."""
    rng = np.random.default_rng(1)
    hard = np.repeat([True, False], 40)
    right = rng.random(80) < np.where(hard, 0.2, 0.8)
    measures = pd.DataFrame(
        {
            "trace_id": range(80),
            "problem_id": np.where(hard, "hard", "easy"),
            "correct": right,
            "steps": rng.normal(10, 1, 80) + 20 * hard,
        }
    )
    within = correct_against_wrong(measures, draws=0).iloc[0]
    assert abs(within["wrong"] - within["right"]) > 5
    assert within["p"] > 0.05 and abs(within["difference"]) < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: fork_tokens(s, share=2), "share = 2"),
        (lambda s: fork_tokens(s, least=10**6), "smaller least"),
        (lambda s: confidence_windows(s, measure="entropi"), "Did you mean 'entropy'"),
        (lambda s: confidence_windows(s, window=0), "window = 0"),
        (lambda s: confidence_windows(s, "pos = 0 and phase = 'prompt'"), "record of entropy"),
        (lambda s: backtrack_bursts(s, within=0), "within = 0"),
        (lambda s: loops(s, "phase = 'answer'"), "is in a step"),
        (lambda s: loops(s, leest=2), "Did you mean 'least'"),
        (lambda s: correct_against_wrong(trace_measures(s, "trace_id < 3")), "two of each"),
    ],
)
def test_what_cannot_be_answered_is_refused(store, call, message):
    with pytest.raises((ConfigError, StoreError), match=message):
        call(store)


def test_the_content_of_a_step_is_what_it_handles_in_whatever_words():
    assert content_of("Let me try 4 * 6 = 24, leaving 24.") == content_of("I get 4 * 6 = 24, so 24")
    assert content_of("Go to C: A-B-C.") == content_of("maybe C, a step: A-B-C")
    assert content_of("Go to C: A-B-C.") != content_of("Go to C: A-D-C.")
    assert content_of("Hmm, I doubt it.") == state_of("Hmm, I doubt it.")
