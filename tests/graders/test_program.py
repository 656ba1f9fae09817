"""Programs of models: run confined, against tests that they do not see; off unless asked.

``RINGLENS_FUZZ=10`` runs ten times as many mutated programs.
"""

import os
import random

import pytest

from ringlens.errors import ProblemError
from ringlens.graders import program
from ringlens.graders.ungraded import REASONS, UNGRADED, UngradedError
from ringlens.graders.values import encoded
from ringlens.problem import Grade, Problem, check_problem, grade
from ringlens.sandbox import confine

MANY = int(os.environ.get("RINGLENS_FUZZ", "1"))

pytestmark = pytest.mark.skipif(confine.missing() is not None, reason="no sandbox here")

GOOD = "def add(a, b):\n    return a + b\n"
TESTS = {
    "tests": [
        "import math",
        "assert add(1, 2) == 3",
        "assert add([1], [2]) == [1, 2]",
        "assert math.isclose(add(0.1, 0.2), 0.3)",
    ]
}
SUM = {"cases": [{"stdin": "3\n4\n", "stdout": "7\n"}, {"stdin": "1\n1\n", "stdout": "2"}]}
ADD = Problem("add", program.TASK, "Add.", fields=TESTS)

HOSTILE = [
    "import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit", "(" * 50_000,
    "open('/etc/passwd').read()\n" + GOOD, "open('/tmp/x', 'w').write('x')\n" + GOOD,
    "import socket; socket.socket()\n" + GOOD, "import subprocess; subprocess.run(['id'])\n" + GOOD,
    "import os; os.fork()\n" + GOOD, "import os; os.kill(os.getppid(), 9)\n" + GOOD,
    "x = [0] * 10**12\n" + GOOD, "x = 'a' * 10**11\n" + GOOD, "def f(): f()\nf()", "\0", "def",
    "import os; os.write(3, b'x' * 100); os.write(4, b'x' * 100)\n" + GOOD,
    "import os\nfor i in range(3, 20):\n    try: os.close(i)\n    except OSError: pass\n" + GOOD,
    "class A:\n    def __eq__(self, other): return True\ndef add(a, b): return A()",
    "class A(int):\n    def __eq__(self, other): return True\ndef add(a, b): return A(0)",
    "def add(a, b): return float('nan')", "def add(a, b): return add", "add = None",
    "raise ImportError",
    "import ctypes; ctypes.string_at(0)",
    "import numpy.nothing_of_this_name\n" + GOOD,
    "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "import builtins\nbuiltins.__dict__.clear()", "import json\njson.dumps = lambda *a, **k: '{}'",
]  # fmt: skip


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setenv(program.PERMIT, "1")


def said(text, fields, seconds=2):
    try:
        return program.passes(text, program.read(fields, "here"), seconds)
    except UngradedError as error:
        return error.reason


def test_nothing_runs_unless_asked(monkeypatch, tmp_path):
    monkeypatch.delenv(program.PERMIT, raising=False)
    monkeypatch.setattr(program, "ConfinedProcess", None)
    found = grade(ADD, f"</think>```python\n{GOOD}```")
    assert found == Grade(GOOD, None, (UNGRADED, "not_run"))
    assert grade(ADD, "</think>no program") == Grade(None, False)


def test_programs_that_pass_are_right_and_others_wrong(allowed):
    assert grade(ADD, f"</think>So:\n```python\n{GOOD}```\nIt adds.").correct is True
    assert grade(ADD, "</think>```python\ndef add(a, b): return a - b\n```").correct is False
    modules = "import json, collections, heapq, re, dataclasses, itertools, decimal\n"
    assert said(modules + GOOD, TESTS) is True
    assert said("print(int(input()) + int(input()))", SUM) is True
    assert said("print(7)", SUM) is False
    assert said("import numpy\n" + GOOD, TESTS) == "module"
    without = Problem("add", program.TASK, "Add.")
    assert grade(without, f"</think>```\n{GOOD}```").flags == (UNGRADED, "no_tests")


def test_hostile_programs_are_wrong_or_flagged_and_bounded(allowed, tmp_path):
    for text in HOSTILE if MANY > 1 else HOSTILE[::6]:
        outcome = said(text, TESTS)
        assert outcome is False or outcome in REASONS, text[:80]
    assert said("while True: pass", TESTS, 1) is False


def test_mutated_programs_do_not_pass_or_do_add(allowed):
    draw, outcomes = random.Random(3), []
    for _ in range(10 * MANY):
        text = list(GOOD)
        for _ in range(draw.randint(1, 3)):
            text[draw.randrange(len(text))] = draw.choice("ab+-*=() \n:1'\\")
        outcomes.append(said("".join(text), TESTS))
    print({each: outcomes.count(each) for each in outcomes})
    assert set(map(str, outcomes)) <= {"True", "False"}
    assert False in outcomes


def test_expected_values_are_not_told(allowed):
    assert said("def f(): return '98765'", {"tests": "assert f() == '98765'"}) is True
    asked = program.read({"tests": "assert f() == '98765'"}, "here")
    assert "98765" not in str((asked.setup, asked.expressions, asked.inputs))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs fields"),
        ({"tests": "assert 1", "cases": []}, "needs fields"),
        ({"tests": 3}, "must be a text or a list"),
        ({"tests": "assert ("}, "are not Python"),
        ({"tests": "import os\nos.remove('x')"}, "is no test"),
        ({"tests": []}, "0 tests"),
        ({"cases": "x"}, "must be a list"),
        ({"cases": [{"stdin": "1"}]}, "a case is an object"),
        ({"cases": [{"stdin": "1", "stdout": 2}]}, "a case is an object"),
    ],
)
def test_tests_that_are_none_are_refused(fields, message):
    with pytest.raises(ProblemError, match=message):
        check_problem(Problem("p", program.TASK, "?", fields=fields), "line 1")


def test_the_last_block_of_python_is_the_program():
    answer = "```python\nA\n```\ntext\n```\nB\n```\n```text\nC\n```\n```python\nD"
    assert program.program(answer) == "B\n"
    assert program.program("no block") is None
    assert program.program("````\n```\nx\n```\n````") == "```\nx\n```\n"


def test_values_are_encoded_alike_where_python_calls_them_equal():
    from collections import Counter
    from fractions import Fraction

    same = [
        (1, True), (1, 1.0), (0.5, Fraction(1, 2)), ({1, 2}, frozenset([2, 1])), (2, 2 + 0j),
        ({"a": 1, "b": [2]}, Counter(a=1) | {"b": [2.0]}), (10**400, 10**400), (-0.0, 0),
    ]  # fmt: skip
    for a, b in same:
        assert encoded(a) == encoded(b)
    other = [1, 2, "1", [1], (1,), {1}, {1: 1}, None, b"1", 0.1, Fraction(1, 10), object(), [[1]]]
    for i, a in enumerate(other):
        assert [j for j, b in enumerate(other) if encoded(a) == encoded(b)] == [i]
