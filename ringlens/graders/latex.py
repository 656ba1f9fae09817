"""Mathematical answers in LaTeX, compared by math-verify in a confined process.

One process answers all; it is started when it is needed first, and again after an expression that
it did not survive.
"""

from __future__ import annotations

import threading
from importlib.util import find_spec

from ringlens.errors import ProblemError, SandboxError
from ringlens.graders.process import ConfinedProcess
from ringlens.graders.ungraded import UngradedError
from ringlens.sandbox import confine
from ringlens.sandbox.channel import ChannelClosedError, ChannelTimeoutError, FrameError

TASK = "math-verify"

LONGEST = 10_000
"""Characters of an expression."""

SECONDS = 10.0
"""Processor seconds that a comparison may take."""

_PATIENCE = 20
"""How many times as long it may take by the clock, on a busy machine."""


def check(place: str) -> None:
    """Refuse problems of this task where their answers cannot be graded.

    Raises:
        ProblemError: math-verify is missing, or no process can be confined here.
    """
    if find_spec("math_verify") is None:
        raise ProblemError(
            f"{place}: the task {TASK} needs math-verify: pip install 'ringlens[math]', or leave "
            "the task out, and answers are compared as text."
        )
    if reason := confine.missing():
        raise ProblemError(f"{place}: answers of the task {TASK} cannot be graded here: {reason}.")


class _Comparer:
    """The process, shared by all threads, each of which waits for its turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: ConfinedProcess | None = None

    def equal(self, expected: str, answer: str, seconds: float) -> bool | None:
        request = {"expected": expected, "answer": answer, "seconds": seconds}
        with self._lock:
            process = self._ready()
            try:
                said = process.ask(request, _PATIENCE * seconds)
            except ChannelTimeoutError as error:
                self._drop(process)
                raise UngradedError("time") from error
            except (ChannelClosedError, FrameError) as error:
                ended = process.end()
                self._drop(process)
                raise UngradedError("time" if ended == "SIGPROF" else "crash") from error
        found = said.get("equal") if isinstance(said, dict) else None
        return found if isinstance(found, bool) else None

    def _ready(self) -> ConfinedProcess:
        """The process; another one where it has ended, as it does with the thread it came from."""
        if self._process is not None and not self._process.alive:
            self._drop(self._process)
        if self._process is None:
            self._process = ConfinedProcess("latex_worker")
        return self._process

    def _drop(self, process: ConfinedProcess) -> None:
        process.close()
        self._process = None


_COMPARER = _Comparer()


def equal(expected: str, answer: str, seconds: float = SECONDS) -> bool:
    """Whether an answer is mathematically the expected one.

    An answer that is no mathematics is wrong.

    Args:
        expected: The expected answer, LaTeX with or without dollar signs.
        answer: The answer.
        seconds: Processor seconds that the comparison may take.

    Raises:
        UngradedError: It is too long, takes too much time or memory, or the expected one is no
            mathematics.
        ProblemError: No process can be confined here, or math-verify is missing.
    """
    if max(len(expected), len(answer)) > LONGEST:
        raise UngradedError("size")
    if not answer.strip():
        return False
    try:
        found = _COMPARER.equal(expected, answer, seconds)
    except SandboxError as error:
        check("an answer")
        raise ProblemError(f"answers of the task {TASK} cannot be graded: {error}") from error
    if found is None:
        raise UngradedError("reference")
    return found
