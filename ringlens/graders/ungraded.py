"""Answers that a grader cannot grade, and the words by which their traces are flagged."""

from __future__ import annotations

from ringlens.errors import RinglensError

UNGRADED = "ungraded"
"""Flag of a trace whose answer could not be graded; beside it stands the reason."""

REASONS = {
    "ambiguous": "it names several choices",
    "unclear": "it names no choice in a form that is certain",
    "size": "it is too long to be graded",
    "time": "grading it takes too much time",
    "crash": "its process ended before it was graded",
    "module": "its program imports what the sandbox does not have",
    "reference": "the expected answer cannot be read",
    "not_run": "its program is not run unless RINGLENS_RUN_CODE=1",
    "no_tests": "the tests of its program are not known",
}
"""Reason → what it says of an answer."""


class UngradedError(RinglensError):
    """An answer that cannot be graded.

    Args:
        reason: One of `REASONS`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the answer was not graded: {REASONS[reason]}.")
        self.reason = reason
