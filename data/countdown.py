"""Countdown: make a target from three or four numbers.

A problem gives numbers and a target; a solution combines two numbers at a time with + - * / until
the target is left. Every intermediate result is a whole number from 1 to 999. `search` draws the
dead ends that a search walks into; `ringlens.data.tasks.numbers` tells it.

A state is a tuple of numbers in descending order; a move replaces two of them by its result.
"""

from __future__ import annotations

import ast
import random
import re
import zlib
from collections import Counter
from fractions import Fraction
from functools import cache
from typing import NamedTuple

State = tuple[int, ...]

TASK = "countdown"
LARGEST = 999
"""Largest intermediate result; every number up to it is one token of ring-nano."""
NUMBERS = range(1, 21)
TARGETS = range(10, 101)
SIZES = (3, 4)
HELDOUT_SHARE = 40
"""One problem in so many is held out."""

# How many dead ends a trace walks into, as weights of 0, 1, 2, … of them.
DEAD_LEAVES_OF_THREE = (34, 18, 13, 10, 8, 6, 4, 3, 2, 1, 1)
DEAD_BRANCHES = (34, 18, 13, 10, 8, 6, 5, 4, 2)
DEAD_LEAVES_IN_DEAD_BRANCH = (0, 88, 9, 3)
DEAD_LEAVES_IN_LAST_BRANCH = (84, 12, 4)
MOST_DEAD_LEAVES = 8
"""Of four numbers, so that traces stay under 700 tokens."""


# Numbers of so few digits that any tool takes them.
_PROMPT = re.compile(r"Make (\d{1,18}) from (\d{1,18}(?:, \d{1,18})*), using each number once\.")


class Move(NamedTuple):
    """One operation, the larger operand first."""

    x: int
    op: str
    y: int
    result: int

    def __str__(self) -> str:
        return f"{self.x} {self.op} {self.y} = {self.result}"


class DeadBranch(NamedTuple):
    """A first move of four numbers that is given up, and the moves tried after it."""

    move: Move
    left: State
    dead_leaves: list[tuple[Move, State]]


class Search(NamedTuple):
    """The dead ends of a search: branches of four numbers, then leaves of the last three."""

    dead_branches: list[DeadBranch]
    last: State
    dead_leaves: list[tuple[Move, State]]


def prompt(numbers: State, target: int) -> str:
    """The text of a problem.

    >>> prompt((3, 7, 5), 26)
    'Make 26 from 3, 7, 5, using each number once.'
    """
    return f"Make {target} from {listed(numbers)}, using each number once."


def parse_prompt(text: str) -> tuple[State, int] | None:
    """Numbers and target of a prompt that `prompt` wrote; None for any other text."""
    found = _PROMPT.fullmatch(text.strip())
    if found is None:
        return None
    return tuple(int(number) for number in found[2].split(", ")), int(found[1])


def is_heldout(numbers: State, target: int) -> bool:
    """Whether the problem belongs to the held-out split, whatever the order of its numbers."""
    key = f"{sorted(numbers)}:{target}"
    return zlib.crc32(key.encode()) % HELDOUT_SHARE == 0


@cache
def moves(x: int, y: int) -> tuple[Move, ...]:
    """Legal operations on two numbers, x ≥ y: sum, difference, product, quotient."""
    found = [Move(x, "+", y, x + y), Move(x, "-", y, x - y), Move(x, "*", y, x * y)]
    if x % y == 0:
        found.append(Move(x, "/", y, x // y))
    return tuple(move for move in found if 1 <= move.result <= LARGEST)


@cache
def results(x: int, y: int) -> frozenset[int]:
    """What two numbers can give, x ≥ y."""
    return frozenset(move.result for move in moves(x, y))


@cache
def partners(number: int, target: int) -> frozenset[int]:
    """Numbers that give the target together with ``number``."""
    wanted = {target - number, target + number, number - target, target * number}
    if target % number == 0:
        wanted.add(target // number)
    if number % target == 0:
        wanted.add(number // target)
    return frozenset(other for other in wanted if 1 <= other <= LARGEST)


def options(state: State) -> list[tuple[Move, State]]:
    """Every move from a state with the state it leaves; equal moves once."""
    found: dict[Move, State] = {}
    for i in range(len(state)):
        for j in range(i + 1, len(state)):
            rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
            for move in moves(state[i], state[j]):
                if move not in found:
                    found[move] = tuple(sorted((*rest, move.result), reverse=True))
    return list(found.items())


def is_solvable(state: State, target: int) -> bool:
    """Whether a state of two, three or four numbers can give the target."""
    if len(state) == 2:
        return target in results(*state)
    if len(state) == 3:
        a, b, c = state
        return not (
            partners(c, target).isdisjoint(results(a, b))
            and partners(b, target).isdisjoint(results(a, c))
            and partners(a, target).isdisjoint(results(b, c))
        )
    return any(is_solvable(left, target) for _, left in options(state))


def compose(numbers: State, path: list[Move]) -> str:
    """The moves of a solution as one expression.

    >>> compose((7, 5, 3), [Move(7, "-", 3, 4), Move(5, "*", 4, 20)])
    '5 * (7 - 3)'
    """
    parts = [(number, str(number)) for number in numbers]

    def take(value: int) -> str:
        index = next(i for i, part in enumerate(parts) if part[0] == value)
        return parts.pop(index)[1]

    for move in path:
        x, y = take(move.x), take(move.y)
        parts.append((move.result, f"({x} {move.op} {y})"))
    return parts[0][1][1:-1]


def sample(rng: random.Random, size: int) -> tuple[State, int, list[Move]]:
    """A problem with the path it was made by: numbers in descending order, target, moves."""
    while True:
        numbers = tuple(sorted(rng.choices(NUMBERS, k=size), reverse=True))
        state, path = numbers, []
        while len(state) > 1:
            i, j = sorted(rng.sample(range(len(state)), 2))
            move = rng.choice(moves(state[i], state[j]))
            rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
            state = tuple(sorted((*rest, move.result), reverse=True))
            path.append(move)
        if state[0] in TARGETS:
            return numbers, state[0], path


def search(rng: random.Random, numbers: State, target: int, path: list[Move]) -> Search:
    """Draw the dead ends of a search that ends in ``path``.

    The moves of a state have a fixed order, which is taken as a ring. The first try is a hunch,
    each later one the next in the ring that seems to lead on. So no move is tried twice, and what
    to try next depends on nothing but the last try. A branch is left after a leaf or few, even
    where another leaf would have led on.

    Args:
        rng: Source of the dead ends.
        numbers: The given numbers in descending order.
        target: The number to make.
        path: Moves that lead to it.
    """
    last = after(numbers, path[0]) if len(numbers) == 4 else numbers
    weights = DEAD_LEAVES_OF_THREE if len(numbers) == 3 else DEAD_LEAVES_IN_LAST_BRANCH
    dead_leaves = _tries_before(rng, last, target, path[-2], weights)
    branches: list[DeadBranch] = []
    if len(numbers) == 4:
        branches = [
            DeadBranch(
                move, left, _tries_before(rng, left, target, None, DEAD_LEAVES_IN_DEAD_BRANCH)
            )
            for move, left in _tries_before(rng, numbers, target, path[0], DEAD_BRANCHES)
        ]
        while sum(len(each.dead_leaves) for each in branches) + len(dead_leaves) > MOST_DEAD_LEAVES:
            branches.pop(0)
    return Search(branches, last, dead_leaves)


def value(expression: str) -> tuple[Fraction, Counter[int]]:
    """Exact value of an expression of whole numbers, + - * / and parentheses.

    Returns:
        The value, and how often each number occurs.

    Raises:
        ValueError: If the text is anything else, or divides by zero.
    """
    if len(expression) > 200:
        raise ValueError("expression of more than 200 characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        used: Counter[int] = Counter()
        return _value(tree.body, used), used
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise ValueError(f"not an arithmetic expression: {expression!r}") from error


def verify(numbers: State, target: int, answer: str) -> bool:
    """Whether ``answer`` uses each number exactly once and equals the target, exactly.

    A closing ``= target`` and the signs × ÷ − are understood.
    """
    text = answer.translate(str.maketrans("×÷−·", "*/-*"))
    expression, equals, claimed = text.partition("=")
    if equals and claimed.strip().rstrip(".") != str(target):
        return False
    try:
        result, used = value(expression.strip().rstrip("."))
    except ValueError:
        return False
    return result == target and used == Counter(numbers)


def _value(node: ast.expr, used: Counter[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used[node.value] += 1
        return Fraction(node.value)
    if not isinstance(node, ast.BinOp):
        raise ValueError(f"not arithmetic: {ast.unparse(node)}")
    x, y = _value(node.left, used), _value(node.right, used)
    match node.op:
        case ast.Add():
            return x + y
        case ast.Sub():
            return x - y
        case ast.Mult():
            return x * y
        case ast.Div():
            return x / y
    raise ValueError(f"not one of + - * /: {ast.unparse(node)}")


def listed(numbers: State) -> str:
    """Numbers as a sentence has them."""
    return ", ".join(map(str, numbers))


def after(state: State, move: Move) -> State:
    """What a move leaves of a state."""
    left = list(state)
    left.remove(move.x)
    left.remove(move.y)
    return tuple(sorted((*left, move.result), reverse=True))


def _tries_before(
    rng: random.Random, state: State, target: int, goal: Move | None, weights: tuple[int, ...]
) -> list[tuple[Move, State]]:
    """Tries that fail before ``goal``, in the order of the ring: as many as ``weights`` draws.

    Between the last of them and the goal no move leads on, so that the goal is the next that does.
    Without a goal: any tries that fail.
    """
    wanted = rng.choices(range(len(weights)), weights)[0]
    order = options(state)
    at = [move for move, _ in order].index(goal) if goal else rng.randrange(len(order))
    ring = order[at + 1 :] + order[:at]
    if goal is None:
        ring.append(order[at])
    failing = [i for i, option in enumerate(ring) if _may_fail(option[1], target)]
    leading = [i for i, option in enumerate(ring) if is_solvable(option[1], target)]
    latest = [i for i in failing if goal is None or not leading or i >= leading[-1]]
    if not wanted or not latest:
        return []
    end = rng.choice(latest)
    earlier = [i for i in failing if i < end]
    chosen = sorted(rng.sample(earlier, min(wanted - 1, len(earlier))))
    return [ring[i] for i in (*chosen, end)]


def _may_fail(state: State, target: int) -> bool:
    """Whether a trace may try a state and miss the target: by nature, or by a wrong leaf."""
    if len(state) == 2:
        return target not in results(*state)
    if not is_solvable(state, target):
        return True
    misses = any(target not in results(*left) for _, left in options(state))
    return misses and not is_heldout(state, target)
