"""Monitors are trained, calibrated and judged on problems that they have not seen."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from thoughts import Thought, opened

from ringlens.analysis.importance.alarms import judged, measured
from ringlens.cli.main import main
from ringlens.errors import ConfigError, StoreError
from ringlens.observe.monitoring.monitor import read_monitor
from ringlens.probes import monitor as module
from ringlens.probes.linear import problems_of, read_examples
from ringlens.probes.monitor import said_of, train_monitor

RNG = np.random.default_rng(0)
LEARNT = {"layer": 2, "false_alarms": 0.3, "window": 3}


def thought(problem):
    """Steps of two states; behind a step of state 1 comes one that goes back."""
    states = RNG.integers(0, 2, 10).tolist()
    back = {at + 1 for at, state in enumerate(states[:-1]) if state == 1}
    roles = [("self_checking", "plan_generation")[at in back] for at in range(10)]
    texts = ["All steps say the same here. "] * 10
    return Thought(states, texts, roles, frozenset(back), bool(states[0]), f"p{problem}")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    thoughts = [thought(problem) for problem in range(24)]
    with opened(tmp_path_factory.mktemp("s") / "s", thoughts, tokens=6, strength=2) as store:
        yield store


@pytest.fixture(scope="module")
def monitor(store):
    return train_monitor(store, "backtrack", **LEARNT)


def test_a_step_scores_as_the_mean_of_its_tokens(store, monitor):
    examples = read_examples(store, "backtrack", "resid_post", [2])
    step = examples.steps.iloc[5]
    pos, values, _ = store.trace(int(step["trace_id"])).vectors("resid_post", 2)
    inside = (pos >= step["pos"]) & (pos < step["pos"] + step["tokens"])
    scored = monitor.scores(values)[inside].mean()
    plain = (examples.features[2][5] - monitor.mean) / monitor.scale @ np.array(monitor.weights)
    assert scored == pytest.approx(plain + monitor.bias, abs=1e-3)


def test_the_threshold_keeps_its_promise_where_it_was_made(store, monitor):
    made, held = monitor.calibrated, monitor.held_out
    assert (monitor.trained["problems"], made["traces"], held["traces"]) == (12, 6, 6)
    # Of 7 traces alike the last is as likely anywhere: the 5th of 6 is passed by 2 of 7 at most.
    assert made["false"] == 1 and made["asked"] == 0.3
    assert held["caught"] > 0.3 and held["auc"] > 0.95 and held["warranted"] > 10
    assert held["low"] <= held["per_trace"] <= held["high"]
    assert "6 held-out problems" in said_of(monitor) and monitor.criterion == "flag"
    low, high = made["spread"]
    assert (low, high) == pytest.approx((0.0433, 0.6412), abs=1e-4)  # Beta(2, 5)
    other = train_monitor(store, "backtrack", seed=1, **LEARNT)
    assert other.threshold != monitor.threshold


def test_no_problem_is_in_two_parts(store, monkeypatch):
    seen = []
    fitted, scored = module._fitted, module._scored
    monkeypatch.setattr(module, "_fitted", lambda *g: seen.append(len(g[0])) or fitted(*g))
    monkeypatch.setattr(module, "_scored", lambda *g: seen.append(g[2]) or scored(*g))
    train_monitor(store, "backtrack", **LEARNT)
    examples = read_examples(store, "backtrack", "resid_post", [2])
    part = module._parts(24, 0)[problems_of(examples.steps)]
    traces = examples.steps["trace_id"]
    assert seen[0] == (part == 0).sum()
    assert set(seen[1:7]) == set(traces[part == 1]) and set(seen[7:]) == set(traces[part == 2])


def test_whole_traces_are_a_target_too(store):
    found = train_monitor(store, "correct", features="resid_post", **LEARNT)
    assert found.alarm == "False" and found.held_out["warranted"] <= 6
    roles = train_monitor(store, "next_role", alarm="plan_generation", criterion="stop", **LEARNT)
    assert roles.stops and roles.held_out["auc"] > 0.95


def test_alarms_are_counted_where_none_is_warranted():
    step = np.array([-1, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    low = -np.inf
    recent = np.array([low, low, 5, 1, 4, 4, 4, 4, 4, 9], np.float32)
    one = judged(recent, step, [1], 2, of_traces=False)
    assert one.units[0].tolist() == [False] * 4 + [True] * 4 + [False] * 2
    assert one.worst == 9 and one.onsets(3).nonzero()[0].tolist() == [2, 4]
    two = judged(np.full(10, 0.0, np.float32), step, [0, 2], 1, of_traces=False)
    found = measured([one, two], 3)
    assert (found["traces"], found["false"], found["per_trace"]) == (2, 1, 0.5)
    assert found["tokens"] == 4 + 4 and found["per_1000_tokens"] == 1000 * 1 / 8
    assert (found["warranted"], found["caught"]) == (3, 1 / 3)
    whole = judged(recent, step, [0, 1, 2], 1, of_traces=True)
    assert len(whole.units) == 1 and whole.worst == low


def test_what_cannot_be_a_monitor_is_refused(store):
    for given, error, said in (
        ({"features": "routing"}, ConfigError, "known of whole steps only"),
        ({"target": "next_role"}, ConfigError, "say which of them"),
        ({"alarm": "maybe"}, ConfigError, "say which of them"),
        ({"target": "mood"}, ConfigError, "unknown target 'mood'"),
        ({"layer": 7}, ConfigError, "recorded of layers"),
        ({"false_alarms": 0.05}, StoreError, "promised of 19 or more; capture about 76 problems"),
        ({"where": "trace_id < 6"}, StoreError, "capture at least 8"),
        ({"criterion": "shout"}, ConfigError, "criterion = 'shout'"),
        ({"window": 90}, StoreError, "smaller window"),
    ):
        with pytest.raises(error, match=said):
            train_monitor(store, **{"target": "backtrack", **LEARNT, **given})


def test_the_command_keeps_it_in_a_file(store, monitor, tmp_path):
    path = tmp_path / "m.json"
    words = ["probe", "monitor", str(store.address), "--layer", "2", "--window", "3"]
    done = CliRunner().invoke(main, [*words, "--false-alarms", "0.3", "--out", str(path)])
    assert done.exit_code == 0, done.output
    assert "warns of backtrack = True" in done.output and "by 1,000 tokens" in done.output
    assert read_monitor(path) == monitor
    assert json.loads(path.read_text())["trained"]["problems"] == 12
    words = ["capture", "ring-nano", "--store", str(tmp_path / "s"), "--monitor", f"{path}x"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1 and "cannot read the monitor" in done.output
