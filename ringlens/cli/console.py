"""What the command line prints: progress, warnings, summaries; and a Ctrl-C that DuckDB hears."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress as Display

    from ringlens.observe.session import Progress
    from ringlens.probes.chain.meter import ProbeProgress
    from ringlens.store.read.relation import Relation


# What a terminal obeys, or what changes the order or look of text there; lines and tabs pass.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """A text for a terminal, with the characters escaped that a terminal would obey."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def speaks() -> bool:
    """Whether this process prints: of those that torchrun starts, only the first does."""
    return os.environ.get("RANK", "0") == "0"


class ProgressBar:
    """The progress of a command: a title, a bar, what was counted, and the time left.

    Args:
        display: What draws it.
        title: What the command does.
    """

    def __init__(self, display: Display, title: str) -> None:
        self._display = display
        self._task = display.add_task(title, total=None, counted="")

    def traces(self, progress: Progress) -> None:
        """Show traces, tokens a second and bytes written.

        Where the model has waited for the recording, say for how long.
        """
        seconds = max(self._display.tasks[0].elapsed or 0.0, 1e-6)
        waited = f" · waited {progress.waited:.1f} s for recording" if progress.waited else ""
        self._show(
            progress.traces,
            progress.total,
            f"{progress.traces}/{progress.total} traces · {progress.tokens:,} tokens · "
            f"{progress.tokens / seconds:,.0f}/s · {progress.bytes_written / 1e6:.1f} MB{waited}",
        )

    def rows(self, done: int, total: int) -> None:
        """Show rows."""
        self._show(done, total, f"{done:,}/{total:,} rows")

    def models(self, done: int, total: int) -> None:
        """Show models that were evaluated."""
        self._show(done, total, f"{done}/{total} models")

    def probing(self, progress: ProbeProgress) -> None:
        """Show traces and tokens of a probe, and the time that is left at most."""
        left = progress.seconds_left
        told = "" if left is None else f" · at most {_time(left)} to go"
        self._show(
            progress.done.tokens,
            max(1, progress.most.tokens),
            f"{progress.traces}/{progress.total} traces · {progress.done.forwards:,} forwards · "
            f"{progress.done.tokens:,} tokens{told}",
        )

    def bytes(self, done: int, total: int) -> None:
        """Show bytes."""
        self._show(done, total, f"{done / 1e6:,.1f}/{total / 1e6:,.1f} MB")

    def learning(self, done: int, total: int, held_out: float) -> None:
        """Show tokens learnt from, and the loss on texts held out."""
        self._show(min(done, total), total, f"{done:,}/{total:,} tokens · held out {held_out:.4g}")

    def bytes_of_run(self, run_id: str, done: int, total: int) -> None:
        """Show bytes, and the run that is being read."""
        self._display.update(self._task, description=f"checking {run_id}")
        self.bytes(done, total)

    def _show(self, done: int, total: int, counted: str) -> None:
        self._display.update(self._task, completed=done, total=total, counted=counted)


def _time(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress_bar(title: str, *, stays: bool = False, quiet: bool = False) -> Iterator[ProgressBar]:
    """Show the progress of a command on the terminal.

    Args:
        title: What the command does.
        stays: Leave the finished bar on the terminal.
        quiet: Show nothing, as where the output is JSON.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counted]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    console = Console(stderr=True)
    disable = quiet or not speaks()
    with Progress(*columns, console=console, transient=not stays, disable=disable) as display:
        yield ProgressBar(display, title)


class _Warnings(logging.Handler):
    """Shows warnings of ringlens on the terminal, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one."""
        if speaks():
            click.secho(f"warning: {record.getMessage()}", fg="yellow", err=True)


class _Sentences(logging.Handler):
    """Shows on the terminal what a part of ringlens says that is no warning."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one."""
        if speaks() and record.levelno < logging.WARNING:
            click.echo(record.getMessage(), err=True)


@contextmanager
def forecasts_shown() -> Iterator[None]:
    """Show what runs will write, how fast they can, and how they decode."""
    parts = ("pipeline.forecast", "decoding.choice")
    loggers = [logging.getLogger(f"ringlens.observe.{part}") for part in parts]
    levels, handler = [logger.level for logger in loggers], _Sentences()
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeHandler(handler)


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show what ringlens warns of meanwhile."""
    logger, handler = logging.getLogger("ringlens"), _Warnings(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def attend(relation: Relation, work: Callable[[], Any]) -> Any:
    """Run a query in a thread of its own, so that Ctrl-C can stop it.

    In the main thread DuckDB does not return to Python, which would handle the signal, before the
    query ends.

    Raises:
        KeyboardInterrupt: It was stopped.
    """
    outcome: Future[Any] = Future()
    thread = threading.Thread(target=_settle, args=(outcome, work), daemon=True)
    try:
        # Not a pool: leaving it would wait for the query if Ctrl-C comes before `result`.
        thread.start()
        return outcome.result()
    except KeyboardInterrupt:
        while thread.is_alive():
            relation.interrupt()  # again and again: it does nothing before the query has begun
            thread.join(0.05)
        raise


def _settle(outcome: Future[Any], work: Callable[[], Any]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:  # noqa: BLE001 (raised again where the outcome is awaited)
        outcome.set_exception(error)


def summary(store: str, found: dict[str, Any]) -> str:
    """A line about a store, from what `maintain.info.info` found; replays are counted apart."""
    own = {
        name: found[name] - found[replayed]
        for name, replayed in (
            ("traces", "replays"),
            ("correct", "replay_correct"),
            ("graded", "replay_graded"),
            ("tokens", "replay_tokens"),
            ("think", "replay_think"),
        )
    }
    parts = []
    if own["traces"] or not found["replays"]:
        graded = f" ({own['correct']:,} of {own['graded']:,} right)" if own["graded"] else ""
        tokens = f"{own['tokens']:,} tokens ({own['think']:,} of thought)"
        parts.append(f"{own['traces']:,} traces{graded}, {tokens}")
    if found["replays"]:
        parts.append(f"{found['replays']:,} replays, {found['replay_tokens']:,} tokens in them")
    return (
        f"{store}: {'; '.join(parts)}; {found['choices']:,} expert choices, "
        f"{found['bytes'] / 1e6:.1f} MB of Parquet"
    )


def print_summary(store: str) -> None:
    """Print what a store holds, if this process prints."""
    if not speaks():
        return
    from ringlens.store import Store
    from ringlens.store.maintain.info import info

    with Store(store) as opened:
        click.echo(summary(store, info(opened)))
