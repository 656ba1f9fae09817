"""Thoughts of two checkpoints whose difference is known."""

import pandas as pd
import pytest
from thoughts import Thought, opened

from ringlens.analysis.trajectory import changed_measures, trace_measures
from ringlens.errors import ConfigError, StoreError

PROBLEMS = 10


def measures(path, checks, wrong=(), problems=range(PROBLEMS)):
    """Thoughts with so many checks each, as `trace_measures` has them."""
    thoughts = [
        Thought(
            [0] * (4 + checks),
            roles=["active_computation"] * 4 + ["self_checking"] * checks,
            problem=f"p{number}",
            correct=number not in wrong,
        )
        for number in problems
    ]
    with opened(path, thoughts, tokens=3 + checks % 2) as store:
        return trace_measures(store)


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return measures(tmp_path_factory.mktemp("s") / "before", 0, wrong=(1, 2, 3, 4, 5, 6, 7))


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    return measures(tmp_path_factory.mktemp("s") / "after", 2, problems=range(1, PROBLEMS + 1))


def test_planted_changes_are_found_and_only_these(before, after):
    frame = changed_measures(before, after).set_index("measure")
    assert frame.attrs == {"problems": 9, "left_out": 2}
    assert frame.loc["steps", ["before", "after", "difference", "low", "high"]].tolist() == [
        4, 6, 2, 2, 2,
    ]  # fmt: skip
    assert frame.loc["role_self_checking", ["before", "after"]].tolist() == pytest.approx(
        [0, 1 / 3]
    )
    assert frame.loc["correct", ["before", "after"]].tolist() == pytest.approx([2 / 9, 1])
    assert frame.loc["correct", "p"] == pytest.approx(2 / 2**7)  # seven problems that differ
    assert frame.loc["steps", "p"] == pytest.approx(2 / 2**9)
    found = set(frame.index[frame["q"] <= 0.05])
    roles = {"role_self_checking", "role_active_computation"}
    assert {"steps", "tokens", "correct", *roles} <= found
    assert not {"backtracks", "hypotheses", "entropy"} & found


def test_nothing_changed_and_nothing_is_found(before):
    frame = changed_measures(before, before)
    assert (frame["difference"] == 0).all() and (frame["p"] == 1).all()
    assert frame["effect"].isna().all()


def test_samples_of_a_problem_count_once(before, after):
    twice = pd.concat([after, after.assign(steps=after["steps"] + 2)])
    frame = changed_measures(before, twice, draws=0).set_index("measure")
    assert frame.loc["steps", "difference"] == 3 and "low" not in frame.columns


def test_checks_are_counted(after):
    late = after.assign(steps=after["steps"] * 2)
    frame = changed_measures(after, late, draws=0).set_index("measure")
    assert frame.loc["checks", ["before", "after"]].tolist() == [2, 4]


def test_what_is_no_such_table_is_refused(before):
    with pytest.raises(ConfigError, match="no column 'problem_id'"):
        changed_measures(before, before.drop(columns="problem_id"))
    with pytest.raises(StoreError, match="comes from 0 problems"):
        changed_measures(before, before.assign(problem_id="other"))
    with pytest.raises(ConfigError, match="Did you mean 'seed'"):
        changed_measures(before, before, sead=1)
