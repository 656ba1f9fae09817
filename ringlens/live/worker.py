"""The program that holds the model: thinks about one thing at a time, and tells each token.

It reads messages from its standard input and writes them to its standard output, frames of JSON
(`ringlens.sandbox.channel`). It ends when its input does: with the dashboard, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ringlens.errors import RinglensError
from ringlens.sandbox.channel import Channel, ChannelClosedError, FrameError, of_standard_pipes
from ringlens.store.schema.captured import PHASES

if TYPE_CHECKING:
    from ringlens.lens import Lens
    from ringlens.observe.pipeline.step import LiveToken, TraceEnd, TraceStep
    from ringlens.store import Store

COMMIT_EVERY = 2.0
"""Seconds between commits: the trace page follows them."""

GRACE = 5.0
"""Seconds to store what there is when the dashboard is gone."""

_LARGEST = 4_000_000

Work = tuple[dict[str, Any], threading.Event]


def main(given: str) -> None:
    """Load a model, and think about what the messages ask until there are no more.

    Args:
        given: JSON: "model", "loading" (options of `ringlens.load`) and "store".
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the dashboard, which tells us
    settings = json.loads(given)
    mailbox = _Mailbox(of_standard_pipes())
    from ringlens.lens import load

    try:
        lens = load(settings["model"], **settings["loading"])
    except RinglensError as error:
        mailbox.tell(what="refused", error=str(error))
        return
    mailbox.tell(what="ready", **_shape(lens))
    while (work := mailbox.next()) is not None:
        _think(lens, settings["store"], *work, mailbox)


class _Mailbox:
    """Messages from and to the dashboard; a thread of its own reads them."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._stops: dict[int, threading.Event] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def tell(self, **message: Any) -> None:
        """Send a message. Nobody may be there to read it any more: then the end is near."""
        with contextlib.suppress(ChannelClosedError):
            self._channel.send(json.dumps(message, allow_nan=False).encode())

    def next(self) -> Work | None:
        """Wait for something to think about; None when there will be nothing."""
        return self._work.get()

    def _read(self) -> None:
        while (message := self._received())["what"] != "end":
            if message["what"] == "think":
                stop = self._stops[message["number"]] = threading.Event()
                self._work.put((message, stop))
            elif message["number"] in self._stops:
                self._stops[message["number"]].set()
        for stop in self._stops.values():
            stop.set()
        self._work.put(None)
        time.sleep(GRACE)
        os._exit(0)  # in the midst of a forward, or of loading

    def _received(self) -> dict[str, Any]:
        """Wait for a message; the end, where the dashboard is gone."""
        try:
            found: dict[str, Any] = json.loads(self._channel.receive(_LARGEST))
        except (ChannelClosedError, FrameError):
            return {"what": "end"}
        return found


def _shape(lens: Lens) -> dict[str, Any]:
    """Return what a form of interventions needs to know of a model."""
    sizes = lens.sizes
    return {
        "model": lens.name,
        "layers": sizes.layers,
        "sparse_layers": list(sizes.sparse_layers),
        "experts": sizes.router.experts,
        "heads": sizes.heads,
        "context": sizes.positions,
    }


def _think(
    lens: Lens, store: str, message: dict[str, Any], stop: threading.Event, mailbox: _Mailbox
) -> None:
    """Capture one thought, and tell its tokens and its end."""
    from ringlens.analysis.roles.labelling import label_stored
    from ringlens.observe.session import capture
    from ringlens.problem import Problem

    number, asked = message["number"], message["asked"]
    prompt, problem = asked.pop("prompt"), asked.pop("problem")
    end: TraceEnd | None = None

    def follow(steps: Sequence[TraceStep]) -> None:
        nonlocal end
        for step in steps:
            end = step.end or end
            mailbox.tell(
                what="steps",
                number=number,
                trace=step.trace_id,
                tokens=[_token(token) for token in step.tokens],
                reread={str(pos): PHASES.index(phase) for pos, phase in step.reread.items()},
            )

    if stop.is_set():
        mailbox.tell(what="ended", number=number, trace=None, reason="interrupted")
        return
    try:
        with capture(
            lens,
            [prompt if problem is None else Problem(**problem)],
            store,
            **asked,
            commit_every=COMMIT_EVERY,
            on_tokens=follow,
            on_stored=label_stored,
            stop=stop,
        ) as stored:
            grade = None if problem is None or end is None else _grade(stored, end.trace_id)
    except RinglensError as error:
        mailbox.tell(what="failed", number=number, error=str(error))
        return
    trace, reason = (end.trace_id, end.finish_reason) if end else (None, "interrupted")
    mailbox.tell(what="ended", number=number, trace=trace, reason=reason, grade=grade)


def _grade(store: Store, trace_id: int) -> dict[str, Any]:
    """The answer of a trace, and whether it is right; None for what is not known."""
    found = store.trace(trace_id).summary
    return {"answer": found["answer"], "correct": found["correct"]}


def _token(token: LiveToken) -> list[Any]:
    entropy = None if math.isnan(token.entropy) else round(token.entropy, 4)
    return [token.text, PHASES.index(token.phase), entropy]
