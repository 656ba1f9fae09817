"""Mathematical answers: equal ones are right, others wrong, hostile ones flagged in bounded time.

``RINGLENS_FUZZ=10`` makes ten times as many mutations.
"""

import os
import random
import threading
from importlib.util import find_spec

import pytest

from ringlens.errors import ProblemError
from ringlens.graders import latex
from ringlens.graders.ungraded import REASONS, UNGRADED, UngradedError
from ringlens.problem import Grade, Problem, check_problem, grade
from ringlens.sandbox import confine

MANY = int(os.environ.get("RINGLENS_FUZZ", "1"))

pytestmark = pytest.mark.skipif(
    confine.missing() is not None or find_spec("math_verify") is None,
    reason="no sandbox here, or no math-verify",
)

EQUAL = [
    (r"\frac{1}{2}", "0.5"), ("1/2", r"\dfrac12"), ("5", "x=5"), (r"\{1,2\}", r"\{2,1\}"),
    ("x^2-1", "(x-1)(x+1)"), ("42", "The answer is 42"), (r"2\sqrt{3}", r"\sqrt{12}"),
    ("1000", "1,000"), ("50\\%", "50\\%"), ("any text at all", "Any text at all."),
]  # fmt: skip
UNEQUAL = [
    (r"\frac{1}{2}", "0.51"), ("5", "x=6"), ("8", "hello"), ("3", r"\frac{"), ("8", "9**9**9**9"),
    ("(1,2)", "(2,1)"), ("8", ""), ("8", "\0"), ("8", "𝟠" * 50), ("2", "__import__('os')._exit(1)"),
]  # fmt: skip
BOMBS = ["9^{9^{9^{9}}}", "100000000!", "{" * 3000]
PIECES = [
    r"\frac", "{", "}", "1", "2", "x", "^", "_", "(", ")", "[", r"\sqrt", "+", "-", "*", "/", "=",
    r"\boxed{", "$", r"\text{", ",", r"\{", r"\}", r"\infty", r"\pi", r"\cup", "<", "\\", "%", "é",
    r"\begin{pmatrix}", r"\end{pmatrix}", "&", r"\\", "'", '"', "\n", "eval", "i", "0", "!", "|",
]  # fmt: skip


def said(expected, answer, seconds=5):
    try:
        return latex.equal(expected, answer, seconds)
    except UngradedError as error:
        return error.reason


def test_equal_answers_are_right_and_others_wrong():
    for expected, answer in EQUAL:
        problem = Problem("m", latex.TASK, "?", expected)
        assert grade(problem, f"</think>{answer}").correct is True, (expected, answer)
    for expected, answer in UNEQUAL:
        problem = Problem("m", latex.TASK, "?", expected)
        assert grade(problem, f"</think>{answer}").correct is False, (expected, answer)
    assert grade(Problem("m", latex.TASK, "?"), "</think>1") == Grade("1", None)


def test_without_the_task_answers_are_compared_as_text():
    assert grade(Problem("m", "", "?", "1/2"), "</think>0.5").correct is False


def test_time_is_bounded_also_where_python_cannot_be_interrupted():
    problem = Problem("m", latex.TASK, "?", "8")
    for bomb in BOMBS[: None if MANY > 1 else 1]:
        assert said("8", bomb, 0.5) == "time"
    assert said("8", "8.0") is True  # another process has taken its place
    huge = grade(problem, f"</think>\\boxed{{{'1' * 20_000}}}")
    assert (huge.correct, huge.flags) == (None, (UNGRADED, "size"))


def test_threads_share_the_process():
    """math-verify's own limits are signal handlers, which work in a main thread only."""
    found = []
    threads = [
        threading.Thread(target=lambda n=n: found.append((n, said("1/2", f"{n}/6"))))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(n, n == 3) for n in range(6)]


def test_mutated_answers_are_right_wrong_or_flagged():
    draw, outcomes = random.Random(5), {}
    for _ in range(200 * MANY):
        answer = "".join(draw.choices(PIECES, k=draw.randint(1, 12)))
        outcome = said("7919", answer, 5)
        assert outcome is False or outcome in REASONS, answer
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(outcomes)
    assert outcomes[False] > 100 * MANY


def test_a_missing_extra_is_said(monkeypatch):
    monkeypatch.setattr(latex, "find_spec", lambda name: None)
    with pytest.raises(ProblemError, match=r"pip install 'ringlens\[math\]'"):
        check_problem(Problem("m", latex.TASK, "?", "1"), "set.jsonl, line 1")
    check_problem(Problem("m", "", "?", "1"), "set.jsonl, line 1")


def test_an_expected_answer_that_is_no_mathematics_is_flagged():
    assert said("", "1") == "reference"
