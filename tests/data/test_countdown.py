"""The generator of ring-nano's problems: every sentence true, every split disjoint."""

import random
import re
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlens.data import countdown, sets, tokenizer
from ringlens.prompts.problems import problems

TRACES = list(islice(countdown.traces(seed=11), 400))
OPENINGS = ("I need ", "Let me try ", "Wait, that is a dead end. Back to ", "Check: ")


def test_sentences_open_as_documented():
    for trace in TRACES:
        lines = trace.thinking.splitlines()
        assert [line for line in lines if not line.startswith(OPENINGS)] == []
        assert lines[0].startswith("I need ")
        assert lines[-1].startswith("Check: ")
        assert trace.thinking.count("Let me try") == len(trace.led_on)


def test_every_statement_is_true():
    for trace in TRACES:
        for x, op, y, result in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", trace.thinking):
            value, used = countdown.value(f"{x} {op} {y}")
            assert value == int(result)
            assert 1 <= value <= countdown.LARGEST
            assert used.total() == 2
        last = re.findall(
            r"leaving (\d+), (\d+)\. They give ([\d, ]+): (\d+) is (not )?there\.", trace.thinking
        )
        assert last
        for x, y, listed, target, absent in last:
            found = [move.result for move in countdown.moves(int(x), int(y))]
            assert listed == ", ".join(map(str, found))
            assert int(target) == trace.target
            assert (trace.target in found) == (not absent)


def test_states_follow_from_moves_and_ways_back_lead_to_states_seen():
    for trace in TRACES:
        start = tuple(sorted(trace.numbers, reverse=True))
        state, seen = start, {start}
        for line in trace.thinking.splitlines():
            if tried := re.match(r"Let me try (\d+) . (\d+) = (\d+), leaving ([\d, ]+)\.", line):
                x, y, result = int(tried[1]), int(tried[2]), int(tried[3])
                rest = list(state)
                rest.remove(x)
                rest.remove(y)
                state = tuple(sorted((*rest, result), reverse=True))
                assert tried[4] == ", ".join(map(str, state))
                seen.add(state)
            elif back := re.match(r"Wait, that is a dead end\. Back to ([\d, ]+)\.", line):
                state = tuple(map(int, back[1].split(", ")))
                assert state in seen
                assert len(state) > 2


def told(trace):
    """Every try of a trace: (state before it, state it leaves, whether it led on)."""
    state, led_on = tuple(sorted(trace.numbers, reverse=True)), iter(trace.led_on)
    for line in trace.thinking.splitlines():
        if tried := re.match(r"Let me try .*? = \d+, leaving ([\d, ]+)\.", line):
            left = tuple(map(int, tried[1].split(", ")))
            yield state, left, next(led_on)
            state = left
        elif back := re.match(r"Wait, that is a dead end\. Back to ([\d, ]+)\.", line):
            state = tuple(map(int, back[1].split(", ")))


def test_moves_that_lead_on_stand_last_and_reach_the_target():
    for trace in TRACES:
        on = len(trace.numbers) - 2
        flags = [led_on for _, _, led_on in told(trace)]
        assert flags.count(True) == on
        for _, left, led_on in told(trace):
            if led_on:
                assert countdown.is_solvable(left, trace.target)
            elif len(left) == 2:
                assert not countdown.is_solvable(left, trace.target)


def test_tries_follow_the_ring_and_the_goal_is_the_next_that_leads_on():
    waited = 0
    for trace in TRACES:
        start = tuple(sorted(trace.numbers, reverse=True))
        order = countdown.options(start)
        lefts = [left for state, left, _ in told(trace) if state == start]
        if len({left for _, left in order}) < len(order):
            continue  # two moves leave the same numbers: the text does not tell them apart
        places = [[left for _, left in order].index(left) for left in lefts]
        steps = [(later - first) % len(order) for first, later in pairwise(places)]
        assert sum(steps) < len(order)  # at most once around, so nothing is tried twice
        for place in range(1, steps[-1]) if steps else ():
            between = order[(places[-2] + place) % len(order)][1]
            assert not countdown.is_solvable(between, trace.target)
            waited += 1
    assert waited > 100


def test_answers_verify_and_the_check_repeats_the_moves():
    for trace in TRACES:
        assert countdown.verify(trace.numbers, trace.target, trace.answer)
        check = trace.thinking.splitlines()[-1]
        assert check.count("=") == len(trace.numbers) - 1
        assert check.endswith(f"= {trace.target}.")


def test_traces_are_short_enough_and_walk_into_dead_ends():
    tok = tokenizer.build()
    lengths = [len(tok.encode(tokenizer.render(t.prompt, t.completion)).ids) for t in TRACES]
    assert max(lengths) < 700
    assert sum(length < 400 for length in lengths) > 0.8 * len(lengths)
    assert sum(False in trace.led_on for trace in TRACES) > 0.4 * len(TRACES)


def test_same_seed_same_traces():
    assert list(islice(countdown.traces(seed=11), 50)) == TRACES[:50]
    assert list(islice(countdown.traces(seed=12), 50)) != TRACES[:50]


def test_training_never_sees_a_heldout_problem():
    heldout = {
        (tuple(sorted(problem.fields["numbers"])), problem.fields["target"])
        for problem in problems("countdown", split="heldout")
    }
    for trace in islice(countdown.traces(seed=3), 3000):
        key = (tuple(sorted(trace.numbers)), trace.target)
        assert key not in heldout
        assert not countdown.is_heldout(*key)
        for _, left, _ in told(trace):
            # Three numbers left on the way are a problem in themselves.
            if len(left) == 3 and countdown.is_solvable(left, trace.target):
                assert not countdown.is_heldout(left, trace.target)


def test_splits_are_disjoint_and_about_as_large_as_stated():
    rng = random.Random(5)
    drawn = {countdown.sample(rng, size)[:2] for size in countdown.SIZES for _ in range(4000)}
    share = sum(countdown.is_heldout(*problem) for problem in drawn) / len(drawn)
    assert 0.5 < share * countdown.HELDOUT_SHARE < 1.6


@given(st.lists(st.integers(1, 20), min_size=3, max_size=4), st.integers(10, 100), st.randoms())
def test_order_of_numbers_does_not_change_the_split(numbers, target, rng):
    shuffled = rng.sample(numbers, len(numbers))
    assert countdown.is_heldout(tuple(numbers), target) == countdown.is_heldout(
        tuple(shuffled), target
    )


@pytest.mark.parametrize("split", sets.SPLITS)
def test_bundled_files_are_what_the_generator_draws(split):
    bundled = problems("countdown", split=split)
    assert len(bundled) == sets.BUNDLED * len(countdown.SIZES)
    for size in countdown.SIZES:
        mine = [problem for problem in bundled if len(problem.fields["numbers"]) == size]
        drawn = list(islice(sets.draw(split, size), sets.BUNDLED))
        assert [problem.id for problem in mine] == [row["id"] for row in drawn]
        assert [problem.prompt for problem in mine] == [row["prompt"] for row in drawn]
    for problem in bundled:
        numbers, target = tuple(problem.fields["numbers"]), problem.fields["target"]
        assert countdown.is_heldout(numbers, target) == (split == "heldout")
        assert countdown.verify(numbers, target, problem.answer)
        assert countdown.parse_prompt(problem.prompt) == (numbers, target)


def _brute(state, target):
    """Slow reference: can the state make the target?"""
    if len(state) == 1:
        return state[0] == target
    for i, x in enumerate(state):
        for j, y in enumerate(state):
            if i == j:
                continue
            rest = [n for k, n in enumerate(state) if k not in (i, j)]
            results = [x + y, x - y, x * y] + ([x // y] if x % y == 0 else [])
            if any(1 <= r <= 999 and _brute([*rest, r], target) for r in results):
                return True
    return False


@given(st.lists(st.integers(1, 20), min_size=2, max_size=3), st.integers(1, 120))
def test_solvable_agrees_with_brute_force(numbers, target):
    state = tuple(sorted(numbers, reverse=True))
    assert countdown.is_solvable(state, target) == _brute(list(state), target)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("(7 - 3) * 5", True),
        ("5 * (7 - 3) = 20", True),
        ("5 × (7 − 3).", True),
        ("5 * (7 - 3) = 21", False),  # claims another target
        ("5 * 7 - 3", False),  # another value
        ("20", False),  # not the given numbers
        ("5 * 4", False),  # a result in place of the numbers
        ("(7 - 3) * 5 * 5 / 5", False),  # a number too often
        ("(7 - 3) * 5 + 0", False),  # a number that was not given
        ("5 * (7 - 3", False),
        ("(7 - 3) * 5.0", False),
        ("(7 - 3) * 5 / (3 - 3)", False),
        ("5 ** (7 - 3)", False),
        ("__import__('os').getcwd()", False),
        ("True", False),
        ("", False),
        ("(" * 5000, False),
        ("\0", False),
    ],
)
def test_verifier(answer, right):
    assert countdown.verify((3, 7, 5), 20, answer) is right


def test_verifier_is_exact():
    assert countdown.verify((8, 3, 8, 3), 24, "8 / (3 - 8 / 3)")  # 24 only in exact fractions
    assert not countdown.verify((10, 3, 9), 30, "10 / 3 * 9 + 0")


@given(st.text(max_size=60))
def test_verifier_never_fails_on_any_text(answer):
    assert countdown.verify((3, 7, 5), 9999, answer) is False
