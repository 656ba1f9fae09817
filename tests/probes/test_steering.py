"""Steering against plain generations under the same interventions; what it counts, and refuses."""

import json
from contextlib import nullcontext

import numpy as np
import probed
import pytest
import torch
from click.testing import CliRunner
from records import random_run, random_trace

import ringlens as rl
from ringlens.analysis.importance.steering import steering
from ringlens.cli.main import main
from ringlens.errors import ConfigError, StoreError
from ringlens.probes.direction import difference_of_means
from ringlens.store import StoreWriter
from ringlens.store.check.check import check

EARLY, LATE = "rel_pos < 0.7", "rel_pos >= 0.7"
SETTINGS = {"a": EARLY, "b": LATE, "layer": 3, "strengths": (1.5,), "randoms": 1}
LIMIT = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def lens():
    return rl.load(probed.MODEL)


@pytest.fixture(scope="module")
def address(lens, tmp_path_factory):
    """Two thoughts about each of three problems."""
    store = rl.capture(
        lens, rl.problems("countdown", n=3), tmp_path_factory.mktemp("s") / "s", samples=2,
        temperature=0.7, max_new_tokens=20, record=["logprobs", "resid_post@3"],
    )  # fmt: skip
    store.close()
    return store.address


@pytest.fixture(scope="module")
def frame(lens, address):
    plans = []
    with rl.Store(address) as store:
        found = rl.probe("steering", lens, store, on_plan=plans.append, **SETTINGS, **LIMIT)
    assert (plans[0].traces, plans[0].cost.forwards) == (3, 3 * (1 + 12))
    return found


def vectors(store, trace_ids, first, last):
    """All recorded vectors of thoughts in a part of their traces."""
    found = []
    for trace_id in trace_ids:
        trace = store.trace(trace_id)
        pos, values, _ = trace.vectors("resid_post", 3)
        rel = pos / len(trace)
        think = np.array(trace.tokens()["phase"])[pos] == "think"
        found.append(values[think & (rel >= first) & (rel < last)].astype(np.float64))
    return np.concatenate(found)


def test_a_direction_comes_from_the_other_problems(address):
    with rl.Store(address) as store:
        found = difference_of_means(store, EARLY, LATE, layer=3)
        names = store.sql("select problem_id from traces order by trace_id").df()["problem_id"]
        assert found.problems == tuple(f"problem {name}" for name in names[::2])
        for own, others in ((None, range(1, 7)), (found.problems[1], (1, 2, 5, 6))):
            wanted = vectors(store, others, 0, 0.7).mean(0) - vectors(store, others, 0.7, 2).mean(0)
            np.testing.assert_allclose(found.without(own), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found.vector, found.without("problem nobody"))


def test_texts_are_those_of_plain_generations(lens, address, frame):
    with rl.Store(address) as store:
        rows = store.sql("select * from probes where key <> 'settings'").df()
        direction = difference_of_means(store, EARLY, LATE, layer=3)
        thought = store.trace(3)
        prompt = thought.tokens()["token_id"][: thought.summary["n_prompt"]].tolist()
        own = direction.without(f"problem {thought.summary['problem_id']}")
        assert check(store).findings == []
    assert sorted(rows["trace_id"]) == [1, 1, 1, 3, 3, 3, 5, 5, 5]  # each problem once
    act = rl.Steer(3, own, by=1.5, span=(len(prompt), None))
    for unit, acts in ((-1, ()), (0, (act,))):
        with lens.intervene(*acts) if acts else nullcontext():
            ids = lens.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
        own = rows[(rows["trace_id"] == 3) & (rows["unit"].fillna(-1) == unit)]
        told = json.loads(own["json"].iloc[0])
        assert told["thought"] == ids.shape[1] - len(prompt)
        assert told["stopped"] is False and told["strength"] == (1.5 if acts else 0.0)
    drawn = rows[rows["unit"] == 1]
    assert len(drawn) == 3 and set(rows["layer"]) == {3}
    assert frame.attrs["problems"] == 3 and "1 random directions" in frame.attrs["said"]


def test_what_was_steered_is_not_steered_again(lens, address, frame):
    def again(**given):
        plans = []
        with rl.Store(address) as store:
            found = rl.probe(
                "steering", lens, store, on_plan=plans.append, **SETTINGS | LIMIT | given
            )
        return found, plans[0]

    same, plan = again()
    assert same.equals(frame) and (plan.traces, plan.kept) == (0, 3)
    with pytest.raises(ConfigError, match=r"strengths = .*again=True"):
        again(strengths=2)


def planted(path, texts):
    """A store of given texts by problem: unit, strength, whether right, steps, and checks."""
    run = random_run()
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        writer.commit(run_id, [random_trace(run, 40, seed=i) for i in range(len(texts))])
        settings = {"a": "x", "b": "y", "layer": 1, "strengths": [2.0], "randoms": 2}
        for trace_id, own in enumerate(texts, 1):
            place = {"probe": "steering", "trace_id": trace_id}
            rows = [{**place, "key": "settings", "json": json.dumps(settings)}]
            for unit, strength, right, steps, checks in own:
                said = {"strength": strength, "steps": steps, "roles": {"self_checking": checks},
                        "backtracks": 0, "thought": 10, "stopped": True}  # fmt: skip
                rows.append({**place, "unit": unit, "key": f"written:{strength}", "layer": 1,
                             "value": right, "json": json.dumps(said)})  # fmt: skip
            writer.replace_rows(run_id, "probes", rows)
        writer.finish_run(run_id)
    return rl.Store(path)


def test_shares_and_changes_are_counted_over_problems(tmp_path):
    one = [(None, 0.0, 1.0, 4, 1), (0, 2.0, 0.0, 4, 3), (1, 2.0, 1.0, 4, 1), (2, 2.0, 1.0, 4, 2)]
    two = [(None, 0.0, 1.0, 6, 1), (0, 2.0, 0.0, 6, 6), (1, 2.0, 1.0, 6, 1), (2, 2.0, 0.0, 6, 1)]
    with planted(tmp_path / "s", [one, two]) as store:
        found = steering(store, draws=200).set_index("measure")
    right, checks = found.loc["accuracy"], found.loc["self_checking"]
    assert (right["plain"], right["steered"], right["change"]) == (1, 0, -1)
    assert (right["random"], right["random_least"], right["random_most"]) == (-0.25, -0.5, 0)
    assert right["beyond"] == -0.75 and right["p"] == pytest.approx(1 / 3)
    assert (right["low"], right["high"]) == (-1, -1) and right["beyond_low"] == -1
    assert checks["plain"] == pytest.approx(0.2) and checks["steered"] == pytest.approx(0.9)
    assert checks["low"] == pytest.approx(0.5) and checks["high"] == pytest.approx(5 / 6)
    assert checks["random"] == pytest.approx(0.05)
    assert found.loc["thought", "change"] == 0 and found.loc["thought", "p"] == 1


def test_what_cannot_be_steered_is_refused(lens, address):
    for given, error, said in (
        ({"layer": 5}, StoreError, r"recorded of layers \[3\], not of 5"),
        ({"a": "trace_id < 3"}, StoreError, "recorded tokens of 1 problems"),
        ({"a": LATE, "b": LATE}, StoreError, "the same mean vector"),
        ({"a": "mood = 3"}, ConfigError, "mood"),
        ({"strengths": (0,)}, ConfigError, "that are not 0"),
        ({"randoms": 0}, ConfigError, "randoms = 0"),
    ):
        with rl.Store(address) as store, pytest.raises(error, match=said):
            rl.probe("steering", lens, store, **SETTINGS | LIMIT | given)
    with rl.Store(address) as store, pytest.raises(ConfigError, match="steering needs a, b, layer"):
        rl.probe("steering", lens, store)


def test_the_command_goes_on_and_prints_the_effects(address, frame):
    words = ["probe", "steering", probed.MODEL, str(address), "--a", EARLY, "--b", LATE]
    more = ["--layer", "3", "--strengths", "1.5", "--randoms", "1", "--max-new-tokens", "12"]
    done = CliRunner().invoke(main, [*words, *more])
    assert done.exit_code == 0, done.output
    assert "0 traces to measure, 3 are measured already" in done.output
    assert "steered" in done.output and "3 problems steered in layer 3" in done.output
    assert "Missing option '--layer'" in CliRunner().invoke(main, words).output
