"""The dashboard's side of a live model: a queue of thoughts, one of which runs at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ringlens.errors import NotInStoreError, RequestError
from ringlens.live.asked import Asked, Limits, asked_in
from ringlens.live.process import BOOT, ModelProcess
from ringlens.live.sets import ProblemSets
from ringlens.live.thought import Seen, Thought
from ringlens.prompts.problems import TASKS


@dataclass(frozen=True)
class LiveModel:
    """The model that is to think live.

    Attributes:
        model: Its name, as `ringlens.load` takes it.
        loading: Options of `ringlens.load`, as JSON holds them.
        limits: What may be asked of it.
        problems: Sets of problems that may be chosen from, as `ringlens.problems` takes them.
    """

    model: str
    loading: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    problems: Sequence[str] = TASKS


class Thinker:
    """Thoughts that a model in another process thinks, one after another. Safe for threads.

    Args:
        store: Address of the store, which must be there.
        live: The model.
        boot: Python code that starts its process.

    Attributes:
        live: The model.
        sets: Sets of problems that it may be asked.

    Raises:
        RinglensError: Its process could not be started.
    """

    def __init__(self, store: str, live: LiveModel, boot: str = BOOT) -> None:
        self.live = live
        self.sets = ProblemSets(live.problems)
        self._settings = {"store": store, "model": live.model, "loading": dict(live.loading)}
        self._boot = boot
        self._lock = threading.RLock()
        self._thoughts: dict[int, Thought] = {}
        self._numbers = 0
        self._closing = False
        self._start()

    # --- what the page asks -----------------------------------------------------------------

    def ask(self, body: Mapping[str, Any]) -> list[int]:
        """Put a request's thoughts into the queue; return their numbers.

        A plain run that was finished before stands beside the new one; it is not run again.

        Raises:
            RequestError: It asks for what cannot be, the queue is full, or there is no process.
            NotInStoreError: It asks for a problem that is in no set.
            ProblemError: The set cannot be read.
        """
        wanted = asked_in(body, self.live.limits, self.sets)
        with self._lock:
            if self._state == "ended":
                raise RequestError(f"{self._said}: start it again first")
            waiting = sum(thought.state == "waiting" for thought in self._thoughts.values())
            if waiting + len(wanted) > self.live.limits.waiting:
                raise RequestError(
                    f"{waiting} thoughts are waiting, and {self.live.limits.waiting} are the "
                    f"most: wait for one, or take one out"
                )
            pair = self._numbers + 1
            for asked in wanted:
                self._numbers += 1
                beside = asked is not wanted[-1]
                self._thoughts[self._numbers] = Thought(self._numbers, pair, asked, beside)
            self._forget()
            self._next()
            return [*range(pair, self._numbers + 1)]

    def stop(self, number: int) -> None:
        """End a running thought with its next token, or take a waiting one out of the queue.

        Raises:
            NotInStoreError: There is no such thought.
        """
        with self._lock:
            thought = self._thoughts.get(number)
            if thought is None:
                raise NotInStoreError(f"there is no thought {number} on this page any more")
            if thought.state == "waiting":
                thought.end("interrupted", None)
            elif thought.state == "running":
                thought.state = "stopping"
                self._process.tell({"what": "stop", "number": number})

    def restart(self) -> None:
        """Start the process again after its end; what waits is thought then.

        Raises:
            RequestError: It runs.
            RinglensError: It could not be started.
        """
        with self._lock:
            if self._state != "ended" or self._closing:
                raise RequestError("the process of the model runs: there is nothing to start")
            self._start()

    def news(self, seen: Mapping[int, Seen]) -> dict[str, Any]:
        """Return what has come about, for somebody who has seen this much of each thought."""
        with self._lock:
            shown = sorted(self._thoughts.values(), key=lambda thought: thought.number)
            return {
                "model": {
                    "name": self.live.model,
                    "state": self._state,
                    "said": self._said,
                    "shape": self._shape,
                },
                "thoughts": [thought.news(seen.get(thought.number)) for thought in shown],
            }

    @property
    def pid(self) -> int:
        """Process id of the model's process."""
        return self._process.pid

    def close(self) -> None:
        """End the process; what it holds is stored first."""
        with self._lock:
            self._closing = True
            process, hearing = self._process, self._hearing
        process.end()
        hearing.join()

    # --- the queue --------------------------------------------------------------------------

    def _done(self, asked: Asked) -> Thought | None:
        """Find a thought that was asked for alike and came to its own end."""
        for thought in reversed(self._thoughts.values()):
            if thought.asked == asked and thought.reason in ("stop", "length"):
                return thought
        return None

    def _forget(self) -> None:
        """Let go of the oldest thoughts that are over, where there are too many."""
        over = [number for number, thought in self._thoughts.items() if thought.is_over]
        for number in over[: max(0, len(self._thoughts) - self.live.limits.kept)]:
            del self._thoughts[number]

    def _next(self) -> None:
        """Give the model its next thought, if it has none."""
        if self._state != "ready" or any(
            thought.state in ("running", "stopping") for thought in self._thoughts.values()
        ):
            return
        for thought in self._thoughts.values():
            if thought.state != "waiting":
                continue
            # Only beside another: who asks for a plain run alone wants one.
            before = self._done(thought.asked) if thought.beside else None
            if before is not None:
                thought.take_over(before)
            else:
                thought.begin()
                message = {"what": "think", "number": thought.number, "asked": thought.asked.row()}
                self._process.tell(message)
                return

    # --- the process ------------------------------------------------------------------------

    def _start(self) -> None:
        self._process = ModelProcess(self._settings, self._boot)
        self._state, self._said = "loading", f"{self.live.model} is being loaded"
        self._shape: dict[str, Any] | None = None
        self._hearing = threading.Thread(target=self._hear, args=[self._process], daemon=True)
        self._hearing.start()

    def _hear(self, process: ModelProcess) -> None:
        """Take the messages of a process until its end."""
        while (message := process.hear()) is not None:
            with self._lock:
                _TAKES[message["what"]](self, message)
                self._next()
        how = process.ended()
        with self._lock:
            self._gone(how)
        process.close()

    def _ready(self, message: Mapping[str, Any]) -> None:
        self._state, self._said = "ready", ""
        self._shape = {name: value for name, value in message.items() if name != "what"}

    def _refused(self, message: Mapping[str, Any]) -> None:
        self._said = f"{self.live.model} cannot be loaded: {message['error']}"

    def _steps(self, message: Mapping[str, Any]) -> None:
        thought = self._thoughts[message["number"]]
        thought.trace_id = message["trace"]
        thought.grow(message["tokens"], message["reread"])

    def _ended(self, message: Mapping[str, Any]) -> None:
        thought = self._thoughts[message["number"]]
        thought.end(message["reason"], message["trace"], message.get("grade"))

    def _failed(self, message: Mapping[str, Any]) -> None:
        self._thoughts[message["number"]].fail(message["error"])

    def _gone(self, how: str) -> None:
        """The process has ended: say so, at the thought that it was at as well."""
        if self._state == "ready":
            self._said = f"the process of {self.live.model} has ended ({how})"
        elif not self._said.startswith(f"{self.live.model} cannot"):
            self._said = f"{self.live.model} was not loaded: its process has ended ({how})"
        self._state = "ended"
        for thought in self._thoughts.values():
            if thought.state in ("running", "stopping"):
                thought.fail(
                    f"the process of the model has ended ({how}). What was committed is stored: "
                    "the same question takes it up"
                )


_TAKES: Mapping[str, Callable[[Thinker, Mapping[str, Any]], None]] = {
    "ready": Thinker._ready,
    "refused": Thinker._refused,
    "steps": Thinker._steps,
    "ended": Thinker._ended,
    "failed": Thinker._failed,
}
"""What a message of the process does."""
