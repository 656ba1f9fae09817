r"""Programs that a model wrote, run against tests in a confined process.

Nothing is run unless the environment variable ``RINGLENS_RUN_CODE`` is 1. A program runs without
files, network, other programs and privileges, in bounded memory and processor time. The tests of a
problem are assertions, or inputs with what is to be printed. Of ``assert expression == literal``
the program's process learns the expression and not the literal; other assertions are decided in
that process, where a program written to do so can cheat.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ringlens.errors import ProblemError, SandboxError
from ringlens.graders.process import ConfinedProcess
from ringlens.graders.ungraded import UngradedError
from ringlens.graders.values import encoded
from ringlens.sandbox import confine
from ringlens.sandbox.channel import ChannelClosedError, ChannelTimeoutError, FrameError

TASK = "python-tests"

PERMIT = "RINGLENS_RUN_CODE"
"""Environment variable that permits running programs, where it is 1."""

SECONDS = 10
"""Processor seconds of a program with all its tests."""

LONGEST = 200_000
"""Characters of a program."""

TESTS = 1_000
"""Tests of a problem."""

_PATIENCE = 20
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]*$", re.MULTILINE)
_PYTHON = {"", "python", "py", "python3"}
_IMPORT = re.compile(r"^[ \t]*(?:import|from)[ \t]+([A-Za-z_]\w*)", re.MULTILINE)


@dataclass(frozen=True)
class Tests:
    """What a program must compute, or print.

    Attributes:
        setup: Imports of the tests.
        expressions: Expressions, with ``inputs`` empty.
        inputs: What programs read.
        wanted: What each expression or input must give.
    """

    setup: str
    expressions: tuple[str, ...]
    inputs: tuple[str, ...]
    wanted: tuple[Any, ...]


def permitted() -> bool:
    """Whether programs may be run."""
    return os.environ.get(PERMIT) == "1"


def check(fields: Mapping[str, Any], place: str) -> None:
    """Refuse tests that cannot be run, and running them where no process can be confined.

    Raises:
        ProblemError: There is no test, one is of another form, or programs may be run and cannot.
    """
    read(fields, place)
    if permitted() and (reason := confine.missing()):
        raise ProblemError(f"{place}: programs cannot be run safely here: {reason}.")


def read(fields: Mapping[str, Any], place: str) -> Tests:
    """The tests in the fields of a problem: ``tests``, assertions, or ``cases``.

    Raises:
        ProblemError: There is neither, or one is malformed.
    """
    tests, cases = fields.get("tests"), fields.get("cases")
    if (tests is None) == (cases is None):
        raise ProblemError(
            f"{place}: the task {TASK} needs fields: either tests (assertions) or cases (objects "
            "with stdin and stdout)."
        )
    return _assertions(tests, place) if cases is None else _cases(cases, place)


def _assertions(given: Any, place: str) -> Tests:
    lines = [given] if isinstance(given, str) else given
    if not isinstance(lines, Sequence) or not all(isinstance(each, str) for each in lines):
        raise ProblemError(
            f"{place}: tests must be a text or a list of texts, found {given!r:.60}."
        )
    try:
        body = ast.parse("\n".join(lines)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ProblemError(f"{place}: tests are not Python ({error!s:.80}).") from error
    setup, expressions, wanted = [], [], []
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            setup.append(ast.unparse(statement))
            continue
        if not isinstance(statement, ast.Assert):
            shown = ast.unparse(statement)
            raise ProblemError(
                f"{place}: {shown!r:.80} is no test; write assertions, such as "
                "'assert add(1, 2) == 3', and imports."
            )
        expression, value = _stated(statement.test)
        expressions.append(ast.unparse(expression))
        wanted.append(value)
    _count(expressions, place)
    return Tests("\n".join(setup), tuple(expressions), (), tuple(wanted))


def _stated(test: ast.expr) -> tuple[ast.expr, Any]:
    """What is to be computed, and what it must be."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        try:
            return test.left, encoded(ast.literal_eval(test.comparators[0]))
        except (ValueError, TypeError):
            pass  # compared with something that is to be computed as well
    truth = ast.Call(ast.Name("bool", ast.Load()), [test], [])
    return truth, encoded(True)


def _cases(given: Any, place: str) -> Tests:
    if not isinstance(given, list | tuple):
        raise ProblemError(f"{place}: cases must be a list, found {given!r:.60}.")
    for case in given:
        texts = isinstance(case, Mapping) and set(case) == {"stdin", "stdout"}
        if not texts or not all(isinstance(each, str) for each in case.values()):
            raise ProblemError(
                f"{place}: a case is an object with the texts stdin and stdout, found {case!r:.80}."
            )
    _count(given, place)
    inputs = tuple(case["stdin"] for case in given)
    return Tests("", (), inputs, tuple(_lines(case["stdout"]) for case in given))


def _count(tests: Sequence[Any], place: str) -> None:
    if not 1 <= len(tests) <= TESTS:
        raise ProblemError(f"{place}: {len(tests)} tests; give 1 to {TESTS}.")


def program(answer: str) -> str | None:
    """The program in an answer: its last block of Python in fences; None without one."""
    found, opened = None, None
    for match in _FENCE.finditer(answer):
        fence, language = match.groups()
        if opened is None:
            opened = (fence, language.lower(), match.end() + 1)
        elif fence.startswith(opened[0]) and not language:
            if opened[1] in _PYTHON:
                found = answer[opened[2] : match.start()]
            opened = None
    return found


def passes(text: str, tests: Tests, seconds: int = SECONDS) -> bool:
    """Whether a program passes all tests.

    One that takes more processor time or memory than it may fails.

    Args:
        text: The program.
        tests: The tests.
        seconds: Processor seconds for all of them.

    Raises:
        UngradedError: Running is not permitted, it is too long, or it failed for what the sandbox
            lacks or the machine did.
        ProblemError: No process can be confined here.
    """
    if not permitted():
        raise UngradedError("not_run")
    if len(text) > LONGEST:
        raise UngradedError("size")
    if tests.inputs:
        request: dict[str, Any] = {"program": text, "inputs": tests.inputs}
    else:
        request = {"program": text, "setup": tests.setup, "expressions": tests.expressions}
    found = _run(request, seconds)
    if found is None:
        return False
    faults = [each.get("fault") for each in found if isinstance(each, dict)]
    if {"ModuleNotFoundError", "ImportError"} & set(map(str, faults)) and _foreign(text):
        raise UngradedError("module")
    got = [each.get("value", ["none"]) if isinstance(each, dict) else ["none"] for each in found]
    if tests.inputs:
        got = [_lines(each) if isinstance(each, str) else None for each in got]
    try:
        return got == [*tests.wanted]
    except RecursionError:
        return False


def _run(request: dict[str, Any], seconds: int) -> list[Any] | None:
    """What a process answers; None where the program ended it or took too much."""
    try:
        process = ConfinedProcess("program_worker", seconds=seconds)
    except SandboxError as error:
        raise ProblemError(f"programs cannot be run safely here: {error}") from error
    try:
        found = process.ask(request, _PATIENCE * seconds)
    except ChannelTimeoutError as error:
        raise UngradedError("time") from error
    except ChannelClosedError as error:
        # SIGKILL is the system's, short of memory: whose fault that is, it does not say.
        if process.end() in ("SIGKILL", ""):
            raise UngradedError("crash") from error
        return None
    except FrameError:
        return None
    finally:
        process.close()
    return found if isinstance(found, list) else None


def _foreign(text: str) -> bool:
    """Whether a program imports what the standard library does not have."""
    return any(name not in sys.stdlib_module_names for name in _IMPORT.findall(text))


def _lines(text: str) -> list[str]:
    """Lines without what is blank at their ends, and at the end of all."""
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip("\n").split("\n")
