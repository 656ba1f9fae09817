"""Belief against plain forwards; the runner: resumed, shared out, refused."""

import json
import shutil

import numpy as np
import probed
import pytest
from click.testing import CliRunner

import ringlens as rl
from ringlens.analysis.importance.belief import belief
from ringlens.analysis.importance.convergence import convergence
from ringlens.analysis.importance.same_answer import grouped
from ringlens.cli.main import main
from ringlens.errors import ConfigError, StoreError
from ringlens.probes.chain.thought import read_thought
from ringlens.problem import Problem
from ringlens.store.check.check import check

SETTINGS = {"every": 3, "samples": 1, "candidates": 4, "max_answer_tokens": 8}


@pytest.fixture(scope="module")
def lens():
    return rl.load(probed.MODEL)


@pytest.fixture(scope="module")
def bare(lens, tmp_path_factory):
    """Thoughts without steps or results."""
    path = tmp_path_factory.mktemp("bare") / "s"
    probed.captured(lens, path).close()
    return path


@pytest.fixture(scope="module")
def plans():
    return []


@pytest.fixture(scope="module")
def store(lens, bare, plans, tmp_path_factory):
    """The same, probed in one go."""
    path = shutil.copytree(bare, tmp_path_factory.mktemp("probed") / "s")
    progress = []
    with rl.Store(path) as opened:
        rl.probe(
            "belief", lens, opened, on_plan=plans.append, on_progress=progress.append, **SETTINGS
        )
    plans.append(progress)
    with rl.Store(path) as opened:
        yield opened


def openings(lens, thought):
    """Tokens before an answer at each place that is probed."""
    places = [*thought.ends[::3], thought.ends[-1]] if len(thought.ends) % 3 != 1 else None
    for step, end in places or thought.ends[::3]:
        before = thought.token_ids[:end]
        newline = lens.tokenizer.decode([before[-1]]).endswith("\n")
        yield step, [*before, *lens.encode("</think>\n" if newline else "\n</think>\n")]


def test_probabilities_and_answers_are_those_of_plain_forwards(lens, store):
    thought = read_thought(store, 1)
    found = probed.rows(store, "belief")
    own = found[found["trace_id"] == 1]
    said = own[own["key"] == "candidate"].set_index("unit")["json"].map(json.loads)
    assert said[0]["final"] and said[0]["answer"] == thought.answer
    assert [each["final"] for each in said[1:]] == [False] * (len(said) - 1)
    asked = list(openings(lens, thought))
    assert sorted(own[own["key"] == "p"]["step"].unique()) == [step for step, _ in asked]
    for step, before in asked:
        here = own[own["step"] == step]
        p = here[here["key"] == "p"].set_index("unit")["value"]
        for unit in (0, len(said) - 1):
            text = [*lens.encode(said[unit]["answer"]), lens.eos_token_ids[0]]
            wanted = np.exp(probed.log_probability(lens, before, text))
            assert p[unit] == pytest.approx(wanted, abs=1e-5)
        (other,) = here[here["key"] == "other"]["value"]
        assert other == pytest.approx(1 - p.sum(), abs=1e-9)
        (greedy,) = here[here["key"] == "greedy"]["json"].map(json.loads)
        wrote = probed.written(lens, before, 8)
        ended = wrote[-1] in lens.eos_token_ids
        assert greedy["answer"] == (lens.tokenizer.decode(wrote[:-1]).strip() if ended else None)
        assert (here[here["key"] == "entropy"]["value"] >= 0).all()


def test_it_says_when_thoughts_had_decided(store):
    along, ends = belief(store), convergence(store)
    assert len(ends) == 2 and (ends["correct"] == True).all()  # noqa: E712  (a column)
    for row in ends.itertuples():
        own = along[along["trace_id"] == row.trace_id]
        final = (own["is_final"] & own["held"]).tolist()
        first = own["step"].tolist().index(row.converged_at)
        assert all(final[first:]) and not (first and final[first - 1])
        assert 0 < row.converged_at < row.steps and row.left == pytest.approx(
            1 - (row.converged_at + 1) / row.steps
        )
    before = (ends["converged_at"] < ends["last_step"]).mean()
    assert ends.attrs["before_last"] == before > 0
    assert f"of 2 thoughts, {before:.0%} converge before their last step" in ends.attrs["said"]
    # Early steps decide nothing: no answer has more than half.
    assert not along[along["step"] == -1]["held"].any()


def test_the_cost_is_said_before_and_kept(plans, store):
    plan, progress = plans
    assert (plan.traces, plan.kept, plan.processes) == (2, 0, 1)
    assert progress[0].most == plan.cost and progress[0].traces == 0
    last = progress[-1]
    assert last.traces == last.total == 2 and last.seconds_left == 0
    assert last.done == last.most
    assert 0 < last.done.forwards <= plan.cost.forwards
    assert 0 < last.done.tokens <= plan.cost.tokens


def test_what_was_killed_goes_on_and_equals_what_was_not(lens, bare, store, tmp_path):
    path = shutil.copytree(bare, tmp_path / "s")

    def stop(progress):
        if progress.traces == 1:
            raise KeyboardInterrupt

    with rl.Store(path) as opened:
        with pytest.raises(KeyboardInterrupt):
            rl.probe("belief", lens, opened, on_progress=stop, **SETTINGS)
        assert opened.sql("select distinct trace_id from probes").fetchall() == [(1,)]
        plans = []
        rl.probe("belief", lens, opened, on_plan=plans.append, batch_size=5, **SETTINGS)
        assert (plans[0].traces, plans[0].kept) == (1, 1)
        probed.same(probed.rows(opened, "belief"), probed.rows(store, "belief"), atol=1e-5)
        assert check(opened).findings == []
        with pytest.raises(ConfigError, match=r"results of belief with samples = 1 in place of 2"):
            rl.probe("belief", lens, opened, **SETTINGS | {"samples": 2})
        with pytest.raises(ConfigError, match=r"unknown setting 'sample'.* samples"):
            rl.probe("belief", lens, opened, sample=2)
        with pytest.raises(ConfigError, match=r"unknown probe 'believe'.* belief"):
            rl.probe("believe", lens, opened)
        with pytest.raises(StoreError, match=r"traces \[9\]"):
            rl.probe("belief", lens, opened, traces=[1, 9])


def test_answers_are_grouped_as_they_are_graded():
    text = Problem("p", "", "What is it?", "x")
    assert grouped(text, ["12", "$12$", " 13", "12."]) == [0, 0, 1, 0]
    sums = Problem("c", "countdown", "Make 5 from 2, 3, using each number once.", "2 + 3")
    assert grouped(sums, ["2 + 3", "3 + 2", "2+3"]) == [0, 1, 0]


def test_answers_in_latex_are_compared_by_math_verify():
    pytest.importorskip("math_verify")
    asked = Problem("m", "math-verify", "What is 1/2?", "0.5")
    assert grouped(asked, [r"\frac{1}{2}", "0.5", "2", r"\dfrac12"]) == [0, 0, 1, 0]


def test_the_command_says_what_it_costs_and_found(store):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]

    def run(*more):
        return CliRunner().invoke(main, ["probe", *more])

    done = run("belief", probed.MODEL, str(store.address), *words)
    assert done.exit_code == 0, done.output
    assert "0 traces to measure, 2 are measured already" in done.output
    assert "converge before their last step" in done.output
    assert "belief" in run("--help").output and "--samples" in run("belief", "--help").output
    wrong = run("belief", probed.MODEL, str(store.address), "--samples", "3")
    assert wrong.exit_code == 1 and "give again=True (--again)" in wrong.output
