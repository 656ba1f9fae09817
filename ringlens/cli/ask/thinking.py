"""Letting a model think before somebody's eyes: the view, Ctrl-C, and the summary at the end."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Protocol, Self

from ringlens.cli.console import harmless, speaks

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from ringlens.cli.ask.meters import Meters
    from ringlens.lens import Lens
    from ringlens.observe.pipeline.step import TraceEnd, TraceStep

PHASES = ("prompt", "think", "answer")

ENDS = {
    "stop": "it came to its end",
    "length": "cut at --max-new-tokens",
    "interrupted": "stopped by Ctrl-C; the part that it had thought is kept",
}


class View(Protocol):
    """Shows a running trace, inside ``with``.

    Attributes:
        meters: The numbers of the trace.
        end: Its end, once it has come.
    """

    meters: Meters
    end: TraceEnd | None

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""

    def take(self, steps: Sequence[TraceStep]) -> None:
        """Show what is new."""

    def stopping(self) -> None:
        """Show that the trace ends with the next token."""


def view_of(lens: Lens, phases: Sequence[str] = PHASES) -> View:
    """A view for the output that there is: a terminal, or none.

    Args:
        lens: The model.
        phases: Phases whose text a terminal shows.
    """
    from ringlens.cli.ask.stream import Stream

    if isinstance(sys.stdout, TextIOWrapper):  # a character that it cannot write ends nothing
        sys.stdout.reconfigure(errors="backslashreplace")
    if not speaks():
        return Stream(None)
    if not is_terminal():
        return Stream(sys.stdout)
    from rich.console import Console

    from ringlens.cli.ask.screen import Screen

    special = frozenset(lens.tokenizer.added_tokens_decoder)
    return Screen(Console(), special, lens.sizes.router.experts, phases)


def processes() -> int:
    """How many processes a launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_terminal() -> bool:
    """Whether the output is a terminal on which lines can be drawn anew."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def think(
    lens: Lens,
    asked: str | list[dict[str, str]],
    store: str,
    view: View,
    options: Mapping[str, Any],
) -> None:
    """Capture one answer before somebody's eyes.

    The first Ctrl-C ends the trace with the next token and keeps it; a second one ends the command.

    Args:
        lens: The model.
        asked: The question, or the messages of a conversation.
        store: Folder or address of the store.
        view: What shows it.
        options: Options of :func:`ringlens.capture`.
    """
    import ringlens as rl

    alone = processes() == 1
    stop = threading.Event() if alone else None

    def asked_to_stop() -> None:
        assert stop is not None
        stop.set()
        view.stopping()

    with view, on_first_ctrl_c(asked_to_stop if alone else None):
        rl.capture(lens, [asked], store, on_tokens=view.take, stop=stop, **options).close()


@contextmanager
def on_first_ctrl_c(first: Callable[[], None] | None) -> Iterator[None]:
    """Call a function at the first Ctrl-C; the second is an interrupt, as ever.

    Without a function, and in threads, which get no signals, every one is.
    """
    if first is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        first()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def told(view: View, store: str) -> str:
    """The trace that a view has shown, in a few lines."""
    meters, end = view.meters, view.end
    assert end is not None
    reason = ENDS.get(end.finish_reason, end.finish_reason)
    lines = [
        f"trace {end.trace_id} in {store}: {meters.prompt:,} tokens of prompt, "
        f"{meters.tokens:,} new; {reason}"
    ]
    if meters.unsure is not None:
        word = harmless(repr(meters.unsure.text))
        lines.append(
            f"entropy {meters.mean_entropy:.2f} nats on average, most at token "
            f"{meters.unsure.pos}, {word} ({meters.unsure.entropy:.2f})"
        )
    if meters.mean_margin == meters.mean_margin:
        lines.append(
            f"routing: margin {meters.mean_margin:.3f} on average, "
            f"{meters.by_bias:.0%} of choices by the bias"
        )
    return "\n".join(lines)


def link(store: str, trace_id: int, port: int) -> str:
    """Where the trace is seen."""
    command = f"ringlens app {shlex.quote(store)} --trace {trace_id} --open"
    return f"link: http://127.0.0.1:{port}/trace/{trace_id}, once this runs:\n  {command}"
