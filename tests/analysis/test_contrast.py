"""Contrasts against plain arithmetic, planted structures and data without any."""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from planted import LAYERS, RUN, planted
from records import WORDS, random_run, random_trace

from ringlens.analysis import (
    bias_audit,
    contrast,
    expert_bias,
    path_clusters,
    routing_path,
    routing_shift,
)
from ringlens.analysis.selections.expert_counts import count, count_apart
from ringlens.analysis.selections.paired_counts import exclusive
from ringlens.errors import ConfigError, StoreError
from ringlens.store import Store, StoreWriter

THINK, ANSWER = "phase = 'think'", "phase = 'answer'"
RIGHT, WRONG = "correct and phase = 'think'", "not correct and phase = 'think'"


def in_thought(number, phase_T, token_T):
    """Expert 3 of the second layer is preferred while thinking."""
    effect_STE = np.zeros((len(LAYERS), len(phase_T), RUN.experts))
    effect_STE[1, phase_T == "think", 3] = 2
    return effect_STE


def for_a_word(number, phase_T, token_T):
    """Expert 5 of the second layer is preferred for one word, whatever the phase."""
    effect_STE = np.zeros((len(LAYERS), len(phase_T), RUN.experts))
    effect_STE[1, token_T == WORDS.index(" Wait"), 5] = 4
    return effect_STE


def in_correct(number, phase_T, token_T):
    """Expert 7 of the first layer is preferred in correct traces."""
    effect_STE = np.zeros((len(LAYERS), len(phase_T), RUN.experts))
    effect_STE[0, :, 7] = 3 * (number % 2 == 0)
    return effect_STE


def more_of_a_word_in_thought(rng, phase_T):
    """Every second word of a thought is that word, and one in ten elsewhere."""
    words = rng.integers(0, len(WORDS), len(phase_T))
    share = np.where(phase_T == "think", 0.5, 0.1)
    words[rng.random(len(phase_T)) < share] = WORDS.index(" Wait")
    return words


def found(frame, q=0.05):
    """Layers and experts that are called different."""
    hits = frame[frame["q"] <= q]
    return {(row.layer, row.expert): row.difference for row in hits.itertuples()}


@pytest.fixture(scope="module")
def thought(tmp_path_factory):
    with Store(planted(tmp_path_factory.mktemp("s") / "thought", in_thought)) as store:
        yield store


@pytest.fixture(scope="module")
def word(tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "word"
    with Store(planted(path, for_a_word, words=more_of_a_word_in_thought)) as store:
        yield store


def test_a_planted_phase_is_found_and_only_there(thought):
    frame = contrast(thought, THINK, ANSWER)
    hits = found(frame)
    assert hits[2, 3] > 0.2
    assert {layer for layer, _ in hits} == {2}  # what it displaces on that layer differs too
    row = frame[(frame.layer == 2) & (frame.expert == 3)].iloc[0]
    assert 0 < row.low < row.difference < row.high
    attrs = frame.attrs
    assert (attrs["traces"], attrs["paired"], attrs["left_out"]) == (16, [True], 0)


def test_the_word_is_told_from_what_is_done_with_it(thought, word):
    assert found(contrast(word, THINK, ANSWER))[2, 5] > 0.1
    assert found(contrast(word, THINK, ANSWER, within="token")) == {}
    assert found(contrast(thought, THINK, ANSWER, within="token"))[2, 3] > 0.2


@pytest.mark.parametrize("within", [None, "token"])
def test_whole_traces_are_compared_where_none_is_in_both(tmp_path, within):
    with Store(planted(tmp_path / "s", in_correct)) as store:
        frame = contrast(store, RIGHT, WRONG, within=within)
    hits = found(frame)
    assert hits[1, 7] > 0.2
    assert {layer for layer, _ in hits} == {1}
    assert frame.attrs["paired"] == [False]


@pytest.mark.parametrize("within", [None, "token"])
def test_differences_and_p_values_by_plain_arithmetic(tmp_path, within):
    """Few and short traces: strata by hand, all permutations by hand."""
    with Store(planted(tmp_path / "s", in_thought, traces=6, tokens=30)) as store:
        for a, b in ((THINK, ANSWER), (RIGHT, WRONG)):
            rows = store.sql(
                f"""select trace_id, token_id, expert, case when {a} then 0 else 1 end
                from router_choices join token_context using (trace_id, pos)
                where layer = 2 and (({a}) or ({b}))"""
            ).fetchall()
            frame = contrast(store, a, b, within=within)
            frame = frame[frame.layer == 2].set_index("expert")
            for expert in (0, 3, 9):
                difference, p = by_hand(rows, expert, a == THINK, within)
                assert frame.loc[expert, "difference"] == pytest.approx(difference)
                assert frame.loc[expert, "p"] == pytest.approx(p)


def by_hand(rows, expert, paired, within):
    """Mantel and Haenszel's risk difference, and its exact p-value by exchanging traces."""
    traces = sorted({trace for trace, *_ in rows})

    def difference(side_of):
        tokens, chosen = Counter(), Counter()
        for trace, token, chosen_expert, side in rows:
            key = (trace if paired else 0, token if within else 0, side_of(trace, side))
            tokens[key] += 1 / RUN.experts_per_token
            chosen[key] += chosen_expert == expert
        top = bottom = 0.0
        for stratum in {key[:2] for key in tokens}:
            n, m = tokens[(*stratum, 0)], tokens[(*stratum, 1)]
            if n > 0 and m > 0:
                rates = chosen[(*stratum, 0)] / n - chosen[(*stratum, 1)] / m
                top, bottom = top + rates * n * m / (n + m), bottom + n * m / (n + m)
        return top, top / bottom

    observed, estimate = difference(lambda trace, side: side)
    own = {trace: side for trace, _, _, side in rows}
    extreme = total = 0
    for flips in product((0, 1), repeat=len(traces)):
        if paired or sum(flips) == sum(own.values()):
            new = dict(zip(traces, flips, strict=True))
            moved, _ = difference(lambda t, s, new=new: s ^ new[t] if paired else new[t])
            extreme += abs(moved) >= abs(observed) - 1e-9
            total += 1
    return estimate, extreme / total


def test_traces_that_differ_from_each_other_are_no_discovery(tmp_path):
    """Random halves of traces: each contrast with a hit is a false discovery."""
    rng, false, contrasts = np.random.default_rng(0), 0, 40
    with Store(planted(tmp_path / "s", traces=16)) as store:
        for _ in range(contrasts):
            half = ", ".join(map(str, rng.permutation(16)[:8] + 1))
            where = f"phase = 'think' and trace_id {{}} in ({half})"
            frame = contrast(store, where.format(""), where.format("not"), draws=2)
            false += bool(found(frame, 0.1))
    assert false <= 10  # of 40 at q = 0.1: more has a probability of 0.002


def test_phases_are_compared_apart_where_nothing_names_them(thought):
    frame = contrast(thought, "correct", "not correct")
    assert sorted(frame["phase"].unique()) == ["answer", "prompt", "think"]
    alone = contrast(thought, RIGHT, WRONG)
    both = frame[frame["phase"] == "think"].reset_index(drop=True)
    np.testing.assert_array_equal(both["difference"], alone["difference"])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (THINK, "entropy > 0 and phase = 'think'", "are in both selections"),
        (THINK, "correct", "pools the phases"),
        ("trace_id = 1 and phase = 'think'", "trace_id = 2 and phase = 'think'", "from 1 trace"),
        ("trace_id = 1 and phase = 'think'", "trace_id = 1 and phase = 'answer'", "from 1 trace"),
        (THINK, "phase = 'nothing'", "no token is selected"),
        (THINK, "phaze = 'answer'", "Did you mean 'phase'"),
    ],
)
def test_what_cannot_be_compared_is_refused(thought, a, b, message):
    with pytest.raises((ConfigError, StoreError), match=message):
        contrast(thought, a, b)


@pytest.fixture(scope="module")
def ungraded(tmp_path_factory):
    """Half of the traces have no verdict."""
    run = random_run(record=("routing",), heads=1)
    traces = [
        replace(
            random_trace(run, 60, seed=seed, heads=None, router_logits=None),
            correct=None if seed % 2 else True,
        )
        for seed in range(8)
    ]
    path = tmp_path_factory.mktemp("s") / "s"
    with StoreWriter(path) as writer:
        writer.commit(writer.start_run(run), traces)
    with Store(path) as store:
        yield store


@pytest.mark.parametrize("where", ["", " and pos >= 0"])
@pytest.mark.parametrize("within", [None, "token"])
def test_a_null_is_a_group_of_its_own(ungraded, where, within):
    """By sums and by scan."""
    frame = contrast(ungraded, THINK + where, ANSWER + where, "correct", within=within, draws=2)
    null = frame[frame["correct"].isna()].drop(columns=["correct", "q"]).reset_index(drop=True)
    alone = contrast(
        ungraded, f"{THINK} and correct is null", f"{ANSWER} and correct is null", within=within,
        draws=2,
    ).drop(columns="q")  # fmt: skip
    assert len(null) == len(frame) / 2
    for name in ("layer", "expert", "tokens_a", "tokens_b", "difference", "p"):
        np.testing.assert_allclose(null[name], alone[name], rtol=1e-9)


def test_a_null_number_is_too(ungraded):
    """Steps are null without a cut; numpy's NaN of one table is not that of another."""
    frame = contrast(ungraded, THINK, ANSWER, "step", draws=2)
    assert frame["step"].isna().all()
    whole = contrast(ungraded, THINK, ANSWER, draws=2)
    np.testing.assert_array_equal(frame["difference"], whole["difference"])


def test_both_kinds_of_analyses_give_nulls_a_row(ungraded):
    shift = routing_shift(ungraded, THINK, ANSWER, "correct", draws=20)
    assert shift["correct"].isna().sum() == 3 == shift["correct"].notna().sum()
    for frame in (
        routing_path(ungraded, THINK, "correct", draws=20),
        path_clusters(ungraded, THINK, over="correct", draws=20, layers=(1, 2)),
        bias_audit(ungraded, THINK, "correct"),
        expert_bias(ungraded, THINK, "correct"),
    ):
        assert frame["correct"].isna().any() and frame["correct"].notna().any()
    paths = routing_path(ungraded, THINK, "correct", draws=20)
    null = paths[paths["correct"].isna()]
    alone = routing_path(ungraded, f"{THINK} and correct is null", draws=20)
    assert null["path"].tolist() == alone["path"].tolist()
    assert null["low"].notna().all() and null["n"].tolist() == alone["n"].tolist()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (THINK, ANSWER),
        ("correct", "correct is null -- of all phases"),
        ("token_context.trace_id < 2", "trace_id > 2 or problem_id is null"),
        ("phase = 'think' and entropy > 0.5", "phase = 'think' and entropy <= 0.5"),
    ],
)
def test_sums_of_two_selections_are_those_of_each(ungraded, a, b):
    first, second = exclusive(ungraded, a, b, "correct")
    for together, alone in zip(
        count_apart(ungraded, first, second),
        (count(ungraded, each) for each in (first, second)),
        strict=True,
    ):
        pd.testing.assert_frame_equal(together.rows, alone.rows)
        assert (together.n_RE == alone.n_RE).all()
        assert len(together.rows)
