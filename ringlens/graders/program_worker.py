"""The process in which one program that a model wrote runs, and is asked what it computes.

It is told what to compute and never what is expected, so that a program has nothing to gain from
looking around in it.
"""

from __future__ import annotations

import io
import math
import resource
import sys
from typing import Any

from ringlens.graders.confined import serve, standard_library
from ringlens.graders.values import encoded

PRINTED = 500_000
"""Characters of what a program prints that are sent; a program that prints more is wrong."""

FAULTS = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)


def main(given: str) -> None:
    """Confine this process, run a program, and answer.

    Args:
        given: As for `ringlens.graders.confined.serve`, with ``seconds`` of processor time.
    """
    serve(given, standard_library(), _answer, _prepare)


def _prepare(settings: dict[str, Any]) -> None:
    """Leave the standard library alone to import, and limit processor time."""
    sys.path[:] = [str(folder) for folder in standard_library()]
    sys.path_importer_cache.clear()
    used = resource.getrusage(resource.RUSAGE_SELF)
    # What is left of the start takes less than a second of it.
    seconds = math.ceil(used.ru_utime + used.ru_stime + settings["seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _answer(request: dict[str, Any]) -> list[dict[str, Any]]:
    if "inputs" in request:
        return [_printed(request["program"], text) for text in request["inputs"]]
    return _computed(request["program"], request["setup"], request["expressions"])


def _computed(program: str, setup: str, expressions: list[str]) -> list[dict[str, Any]]:
    """Values of expressions behind a program; of a program that fails, its fault alone."""
    names: dict[str, Any] = {"__name__": "answer", "__builtins__": __builtins__}
    sys.stdin, sys.stdout = io.StringIO(), io.StringIO()
    try:
        exec(compile(program, "answer", "exec"), names)
        exec(compile(setup, "setup", "exec"), names)
    except FAULTS as error:
        return [_fault(error)]
    return [_value(expression, names) for expression in expressions]


def _value(expression: str, names: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": encoded(eval(compile(expression, "test", "eval"), names))}
    except FAULTS as error:
        return _fault(error)


def _printed(program: str, text: str) -> dict[str, Any]:
    """What a program prints when it reads a text."""
    sys.stdin, printed = io.StringIO(text), io.StringIO()
    sys.stdout = printed
    try:
        exec(compile(program, "answer", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        if error.code not in (None, 0):
            return _fault(error)
    except FAULTS as error:
        return _fault(error)
    return {"value": printed.getvalue()[: PRINTED + 1]}


def _fault(error: BaseException) -> dict[str, Any]:
    return {"fault": type(error).__name__}
