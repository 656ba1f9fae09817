"""Answers without experts against plain generations under the same interventions."""

import json

import pytest
import torch
from click.testing import CliRunner

import ringlens as rl
from ringlens.cli.main import main
from ringlens.errors import ConfigError, RinglensError, StoreError
from ringlens.interventions import Ablate
from ringlens.observe.text import token_text
from ringlens.observe.turns import markup
from ringlens.probes import ablated_answers as module
from ringlens.probes.ablated_answers import ablated_answers
from ringlens.problem import grade
from ringlens.store.check.check import check

PROBLEMS = rl.problems("countdown", n=3)
LIMIT = 48
SETS = [[(5, 30)], [(3, 6), (2, 1), *((4, e) for e in range(16))]]


@pytest.fixture(scope="module")
def lens():
    return rl.load("ring-nano")


@pytest.fixture(scope="module")
def address(lens, tmp_path_factory):
    store = rl.capture(
        lens, PROBLEMS, tmp_path_factory.mktemp("s") / "store", max_new_tokens=4,
        record=("routing",),
    )  # fmt: skip
    store.close()
    return store.address


@pytest.fixture(scope="module")
def frame(lens, address):
    with rl.Store(address) as store:
        return ablated_answers(lens, store, SETS, max_new_tokens=LIMIT, batch_size=2)


def plainly(lens, problem, lacking):
    """Whether the answer is right, and the tokens of its thought."""
    ids = lens.encode_prompt(problem.prompt)
    by_layer = {}
    for layer, expert in lacking:
        by_layer.setdefault(layer, []).append(expert)
    acts = [Ablate(layer, each, span=(len(ids), None)) for layer, each in by_layer.items()]
    asked, settings = torch.tensor([ids]), {"max_new_tokens": LIMIT, "do_sample": False}
    if acts:
        with lens.intervene(*acts):
            written = lens.model.generate(asked, **settings)[0].tolist()
    else:
        written = lens.model.generate(asked, **settings)[0].tolist()
    reading = markup(lens.tokenizer).read(
        token_text(lens.tokenizer, written), len(ids), question=problem.prompt
    )
    return grade(problem, reading.transcript).correct, reading.phase.count("think")


def test_answers_are_those_of_plain_generations(lens, address, frame):
    wanted = {
        (): [plainly(lens, problem, ()) for problem in PROBLEMS],
        **{tuple(each): [plainly(lens, problem, each) for problem in PROBLEMS] for each in SETS},
    }
    assert frame["set"].tolist()[0] == "5/30" and frame["set"][1].startswith("2/1 3/6 4/0 ")
    plain = sum(right for right, _ in wanted[()]) / 3
    for row, each in zip(frame.to_dict("records"), SETS, strict=True):
        right = [right for right, _ in wanted[tuple(each)]]
        assert row["problems"] == 3 and row["plain"] == pytest.approx(plain)
        assert row["accuracy"] == pytest.approx(sum(right) / 3)
        assert row["change"] == pytest.approx(row["accuracy"] - plain)
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["change_low"] <= row["change"] <= row["change_high"]
        assert row["thought"] == pytest.approx(sum(n for _, n in wanted[tuple(each)]) / 3)
    with rl.Store(address) as store:
        kept = store.sql(
            "select trace_id, layer, unit, key, value, json from probes order by all"
        ).fetchall()
        assert check(store).findings == []
    assert len(kept) == 9
    for trace_id, layer, unit, key, value, text in kept:
        lacking = {str(LIMIT): (), f"{LIMIT} 5/30": tuple(SETS[0])}.get(key, tuple(SETS[1]))
        right, thought = wanted[lacking][trace_id - 1]
        assert (value, json.loads(text)["thought"]) == (right, thought)
        assert (layer, unit) == ((5, 30) if key.endswith("5/30") else (None, None))


def test_what_was_answered_is_not_asked_again(lens, address, frame, monkeypatch):
    asked, cost, answers = [], [], module._answers

    def counted(*given):
        asked.append((given[2], given[4]))
        return answers(*given)

    monkeypatch.setattr(module, "_answers", counted)

    def again(sets, **given):
        with rl.Store(address) as store:
            return ablated_answers(
                lens, store, sets, on_cost=lambda *told: cost.append(told), **given
            )

    same = again(SETS, max_new_tokens=LIMIT)
    assert same.equals(frame) and cost == [(0, 0)]
    assert all(not sets for _, sets in asked)
    asked.clear()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again([[(1, 4)]], max_new_tokens=6, on_progress=stop, batch_size=1)
    assert cost[-1] == (6, 36)  # two models, three problems
    again([[(1, 4)]], max_new_tokens=6)
    assert cost[-1] == (4, 24)
    assert asked[-2:] == [(2, [(), ((1, 4),)]), (3, [(), ((1, 4),)])]


def test_what_cannot_be_answered_is_refused(lens, address, tmp_path):
    with rl.Store(address) as store:
        for sets, error, said in (
            ([], ConfigError, "no set of experts"),
            ([[]], ConfigError, "set of experts is empty"),
            ([[(0, 1)]], ConfigError, r"no layer or expert \[0\]"),
            ([[(3, e) for e in range(31)]], RinglensError, "layer 3"),
        ):
            with pytest.raises(error, match=said):
                ablated_answers(lens, store, sets)
    with (
        rl.capture(
            lens, "Tell me about two.", tmp_path / "s", max_new_tokens=3, record=("routing",)
        ) as store,
        pytest.raises(StoreError, match="no trace is of a problem whose answer can be verified"),
    ):
        ablated_answers(lens, store, [[(1, 1)]])


def test_the_command_says_what_it_costs_and_adds_the_accuracy(address):
    words = ["ablate", "ring-nano", str(address), "--accuracy", "--max-new-tokens", "6"]
    done = CliRunner().invoke(main, [*words, "--layers", "1", "--expert-ids", "4-5"])
    assert done.exit_code == 0, done.output
    assert "answers to write, of 6 tokens at most" in done.output
    assert "accuracy_high" in done.output and "the model as it is solves" in done.output
    done = CliRunner().invoke(main, [*words, "--against", "1/4", "--trace", "1"])
    assert done.exit_code == 0 and "the model as it is" in done.output, done.output
    csv = CliRunner().invoke(main, [*words, "--against", "1/4", "--trace", "1", "--format", "csv"])
    assert "change_low" in csv.stdout.splitlines()[0]
