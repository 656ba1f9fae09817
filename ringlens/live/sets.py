"""Sets of problems that a live model is asked, whose answers are graded."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ringlens.errors import NotInStoreError
from ringlens.problem import Problem
from ringlens.prompts.problems import TASKS, problems

MOST = 1000
"""Problems of a set that a page chooses from: its first ones."""


class ProblemSets:
    """Named sets of problems, each read when it is first asked for. Safe for threads.

    Args:
        names: What `ringlens.problems` takes: bundled tasks, files, sets of the hub. Nothing else
            is read, whatever a page asks for.

    Attributes:
        names: The same.
    """

    def __init__(self, names: Sequence[str] = TASKS) -> None:
        self.names = tuple(names)
        self._read: dict[str, dict[str, Problem]] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> dict[str, Problem]:
        """The first problems of a set by their ids.

        Raises:
            NotInStoreError: There is no such set.
            ProblemError: It cannot be read.
        """
        if name not in self.names:
            raise NotInStoreError(
                f"there is no set of problems {name!r:.60}; there are {', '.join(self.names)}"
            )
        with self._lock:
            if name not in self._read:
                self._read[name] = {each.id: each for each in problems(name)[:MOST]}
            return self._read[name]

    def find(self, name: str, problem_id: str) -> Problem:
        """A problem of a set.

        Raises:
            NotInStoreError: There is no such set, or no such problem among its first ones.
            ProblemError: The set cannot be read.
        """
        found = self.of(name).get(problem_id)
        if found is None:
            raise NotInStoreError(f"there is no problem {problem_id!r:.60} in the set {name}")
        return found
