"""The process that compares mathematical answers, with math-verify.

It is confined because hostile expressions take any time and memory, and because SymPy reads plain
expressions with Python's ``eval``. Time is counted by the processor, not by the clock: a timer of
the kernel ends the process, also in the midst of a power of huge numbers, which no signal handler
of Python interrupts. That is why math-verify's own time limits, which are such handlers and work in
a main thread only, are switched off.
"""

from __future__ import annotations

import logging
import re
import signal
from pathlib import Path
from typing import Any

from ringlens.graders.confined import serve, standard_library

_SENTENCE = re.compile(r"(?<!\\)\b[A-Za-z]{2,} +[A-Za-z]{2,}")
"""Two words: a sentence that holds an answer, and no expression."""

_PACKAGES = ("sympy", "mpmath", "latex2sympy2_extended", "antlr4", "math_verify", "gmpy2")


def main(given: str) -> None:
    """Load math-verify, confine this process, and answer.

    Args:
        given: As for `ringlens.graders.confined.serve`.
    """
    import math_verify

    site = Path(math_verify.__file__).parents[1]
    folders = [site / name for name in _PACKAGES] + standard_library()
    serve(given, folders, _answer, _warm)


def _warm(settings: dict[str, Any]) -> None:
    logging.disable(logging.CRITICAL)
    equal(r"\frac{1}{2}", r"$x = \sqrt{4} + 0.5$")


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    signal.setitimer(signal.ITIMER_PROF, request["seconds"])
    try:
        return {"equal": equal(request["expected"], request["answer"])}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def equal(expected: str, answer: str) -> bool | None:
    """Whether an answer is the expected one; None if the expected one is no mathematics."""
    from math_verify import verify

    gold = _parsed(expected)
    return verify(gold, _parsed(answer), timeout_seconds=None) if gold else None


def _parsed(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    latex = LatexExtractionConfig(boxed_match_priority=0)
    targets: list[Any] = [latex]
    if any(mark in text for mark in ("$", r"\(", r"\[", r"\boxed")) or _SENTENCE.search(text):
        targets.append(ExprExtractionConfig())
    else:
        text = rf"\boxed{{{text}}}"
    return parse(text, targets, fallback_mode="no_fallback", parsing_timeout=None)
