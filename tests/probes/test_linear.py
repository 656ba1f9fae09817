"""Linear probes read what is planted in the activations, and no more than there is elsewhere."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from drawn import array
from thoughts import Thought, opened

from ringlens.analysis.importance.foresight import foresight
from ringlens.cli.main import main
from ringlens.errors import ConfigError, StoreError
from ringlens.plot import importance as figures
from ringlens.probes.linear import linear_probe, read_examples
from ringlens.store import Store
from ringlens.store.check.check import check

RNG = np.random.default_rng(0)


def thought(problem):
    """Steps of two states; behind a step of state 1 comes one that goes back."""
    states = RNG.integers(0, 2, 12).tolist()
    back = {at + 1 for at, state in enumerate(states[:-1]) if state == 1}
    texts = ["All steps say the same here. "] * 12
    roles = [("self_checking", "plan_generation")[at in back] for at in range(12)]
    correct = bool(states[0])
    return Thought(states, texts, roles, frozenset(back), correct, f"p{problem}")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    thoughts = [thought(problem) for problem in range(12)]
    with opened(tmp_path_factory.mktemp("s") / "s", thoughts, tokens=6, strength=2) as store:
        yield store


@pytest.mark.parametrize("features", ["routing", "resid_post"])
def test_what_is_planted_is_read_and_words_do_not_tell_it(store, features):
    frame = linear_probe(store, "backtrack", features=features, layers=[2], shuffles=2, draws=50)
    own, bag = frame.iloc[0], frame.iloc[1]
    assert own["score"] > 0.9 and own["low"] > 0.85 and own["layer"] == 2
    assert 0.35 < own["shuffled"] < 0.65 and bag["score"] < 0.65
    assert own["beyond_low"] > 0.2 and own["beyond_tokens"] == own["score"] - bag["score"]
    said = frame.attrs
    assert (said["measure"], said["problems"], said["steps"]) == ("AUC", 12, 132)
    assert sum(said["counts"]) == 132 and "shuffled labels" in said["said"]


def test_results_are_kept_beside_those_of_other_targets(store):
    own = {"features": "resid_post", "layers": [1, 2], "shuffles": 1, "draws": 9}
    first = linear_probe(store, "backtrack", **own)
    linear_probe(store, "next_role", **own)
    again = linear_probe(store, "backtrack", **own)
    with Store(store.address) as after:
        found = foresight(after)
        assert check(after).findings == []
    kept = found[(found["target"] == "backtrack") & (found["probed"] == "resid_post")]
    pd.testing.assert_frame_equal(
        kept[list(first.columns)].reset_index(drop=True), again, check_dtype=False
    )
    assert set(found["target"]) >= {"backtrack", "next_role"} and set(found["problems"]) == {12}
    assert found.attrs["said"].startswith("next_role of ")
    figure = figures.foresight(again)
    np.testing.assert_allclose(array(figure, 0, "y"), again["score"][:2])
    np.testing.assert_allclose(array(figure, 1, "y"), again["shuffled"][:2])
    assert figure.layout.shapes[0].y0 == again["score"][2]
    with pytest.raises(ConfigError, match="two of one"):
        figures.foresight(pd.concat([again, again]))


def test_roles_and_answers_are_targets_too(store):
    frame = linear_probe(store, "next_role", features="resid_post", layers=[1], shuffles=1, draws=9)
    assert frame["score"][0] > 0.9 and set(frame.attrs["classes"]) == {
        "plan_generation",
        "self_checking",
    }
    examples = read_examples(store, "correct", layers=[1])
    assert examples.of_traces and len(examples.label_S) == 144
    where = read_examples(store, "problem_id", layers=[1], where="trace_id < 4")
    assert where.classes == ("p0", "p1", "p2")


def test_no_step_is_judged_by_a_probe_that_has_seen_its_problem(store, monkeypatch):
    from ringlens.probes import linear

    seen = []
    foretold = linear._foretold

    def watched(x_SD, label_S, folds, strength):
        seen.append(folds)
        return foretold(x_SD, label_S, folds, strength)

    monkeypatch.setattr(linear, "_foretold", watched)
    linear_probe(store, "backtrack", layers=[1], shuffles=1, draws=5)
    problems = read_examples(store, "backtrack", layers=[1]).steps["problem_id"].to_numpy()
    for folds in seen:
        assert sorted(np.concatenate(folds)) == list(range(len(problems)))
        parts = [set(problems[test]) for test in folds]
        assert sum(map(len, parts)) == 12 == len(set.union(*parts))


def test_what_cannot_be_learnt_is_refused(store):
    for given, error, said in (
        ({"target": "mood"}, ConfigError, "unknown target 'mood'"),
        ({"target": "phase"}, StoreError, "there is nothing to tell"),
        ({"target": "entropy"}, ConfigError, "at most 20"),
        ({"features": "router_logits"}, StoreError, "router_logits is recorded of layers none"),
        ({"features": "resid_mid"}, ConfigError, "unknown recorded point"),
        ({"where": "trace_id = 1"}, StoreError, "there are 1 problems"),
    ):
        with pytest.raises(error, match=said):
            linear_probe(store, layers=[1], **given)


def test_the_command_prints_both_controls(store):
    words = ["probe", "linear", str(store.address), "--layer", "1", "--shuffles", "1"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "backtrack of 132 steps of 12 problems: AUC" in done.output
    assert "shuffled labels" in done.output and "tokens so far" in done.output
    assert "linear" in CliRunner().invoke(main, ["probe", "--help"]).output
