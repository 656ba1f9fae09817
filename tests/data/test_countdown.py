"""Countdown: its problems, the searches that are told of them, and its verifier."""

import random
from functools import cache
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlens.data import countdown, sets
from ringlens.prompts.problems import problems


def searches(n, seed=11):
    """Drawn searches: numbers, target, path, and the dead ends before it."""
    rng = random.Random(seed)
    for _ in range(n):
        numbers, target, path = countdown.sample(rng, rng.choice(countdown.SIZES))
        yield numbers, target, path, countdown.search(rng, numbers, target, path)


@cache
def known():
    return list(searches(400))


def test_paths_lead_to_the_target_and_compose_to_answers():
    for numbers, target, path, _ in known():
        state = numbers
        for move in path:
            assert countdown.value(f"{move.x} {move.op} {move.y}")[0] == move.result
            assert 1 <= move.result <= countdown.LARGEST
            state = countdown.after(state, move)
        assert state == (target,)
        assert countdown.verify(numbers, target, countdown.compose(numbers, path))


def test_dead_ends_are_moves_of_their_state_and_miss_the_target():
    for numbers, target, path, found in known():
        leaves = [(found.last, leaf) for leaf in found.dead_leaves]
        for branch in found.dead_branches:
            assert (branch.move, branch.left) in countdown.options(numbers)
            leaves += [(branch.left, leaf) for leaf in branch.dead_leaves]
        for state, leaf in leaves:
            assert leaf in countdown.options(state)
            assert not countdown.is_solvable(leaf[1], target)
        assert len(leaves) <= max(countdown.MOST_DEAD_LEAVES, len(countdown.DEAD_LEAVES_OF_THREE))
        assert found.last == (countdown.after(numbers, path[0]) if len(numbers) == 4 else numbers)


def test_tries_follow_the_ring_and_the_goal_is_the_next_that_leads_on():
    waited = 0
    for numbers, target, path, found in known():
        four = len(numbers) == 4
        tried = [branch.move for branch in found.dead_branches] if four else [
            move for move, _ in found.dead_leaves
        ]  # fmt: skip
        order = countdown.options(numbers)
        places = [[move for move, _ in order].index(move) for move in (*tried, path[-2 - four])]
        steps = [(later - first) % len(order) for first, later in pairwise(places)]
        assert sum(steps) < len(order)  # at most once around, so nothing is tried twice
        for place in range(1, steps[-1]) if steps else ():
            between = order[(places[-2] + place) % len(order)][1]
            assert not countdown.is_solvable(between, target)
            waited += 1
    assert waited > 100


def test_searches_walk_into_dead_ends_and_the_same_seed_into_the_same():
    dead = sum(bool(found.dead_branches or found.dead_leaves) for *_, found in known())
    assert 0.4 * len(known()) < dead < len(known())
    assert list(searches(50)) == known()[:50]
    assert list(searches(50, seed=12)) != known()[:50]


def test_dead_branches_that_could_lead_on_are_no_heldout_problems():
    solvable = 0
    for _, target, _, found in known():
        for branch in found.dead_branches:
            if countdown.is_solvable(branch.left, target):
                solvable += 1
                assert not countdown.is_heldout(branch.left, target)
    assert solvable > 20


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
