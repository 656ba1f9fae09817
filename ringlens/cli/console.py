"""What the command line prints: tables, progress, summaries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ringlens.observe.session import Progress

THREE_QUERIES = (
    (
        "Which experts does the model lean on while it thinks?",
        "select layer, expert, count(*) as n, round(avg(weight), 3) as mean_weight\n"
        "from router_choices join tokens using (trace_id, pos)\n"
        "where phase = 'think' group by all order by n desc limit 5",
    ),
    (
        "Where was the model least sure of its next word?",
        "select trace_id, pos, text, round(entropy, 2) as entropy\n"
        "from tokens where phase = 'think' order by tokens.entropy desc limit 5",
    ),
    (
        "How often did the bias, not the affinity, decide?",
        "select layer, round(100 * avg(bias_flip::int), 1) as percent_by_bias\n"
        "from router_choices group by layer order by layer",
    ),
)


class Commands(click.Group):
    """A group whose commands' examples keep their lines.

    Docstrings are raw, so click's mark against rewrapping, a backspace, is two letters there.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._keep_lines(self)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command."""
        self._keep_lines(cmd)
        super().add_command(cmd, name)

    @staticmethod
    def _keep_lines(command: click.Command) -> None:
        command.help = (command.help or "").replace("\\b\n", "\b\n") or None


def speaks() -> bool:
    """Whether this process prints: of those that torchrun starts, the first alone."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[Progress], None]]:
    """A progress bar: traces, tokens a second, bytes written; nothing where another speaks.

    Where the model has waited for the recording, it says for how long.
    """
    if not speaks():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("traces · {task.fields[tokens]:,} tokens · {task.fields[speed]:,.0f}/s"),
        TextColumn("· {task.fields[megabytes]:.1f} MB{task.fields[waited]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, tokens=0, speed=0.0, megabytes=0.0, waited="")

        def show(progress: Progress) -> None:
            seconds = max(bar.tasks[0].elapsed or 0.0, 1e-6)
            bar.update(
                task,
                total=progress.total,
                completed=progress.traces,
                tokens=progress.tokens,
                speed=progress.tokens / seconds,
                megabytes=progress.bytes_written / 1e6,
                waited=f" · waited {progress.waited:.1f} s for recording"
                if progress.waited
                else "",
            )

        yield show


def summary(store: str, found: dict[str, Any]) -> str:
    """A line about a store, of what `maintain.info.info` says; replays are told apart."""
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
        parts.append(
            f"{own['traces']:,} traces ({own['correct']:,} of {own['graded']:,} right), "
            f"{own['tokens']:,} tokens ({own['think']:,} of thought)"
        )
    if found["replays"]:
        parts.append(f"{found['replays']:,} replays, {found['replay_tokens']:,} tokens in them")
    return (
        f"{store}: {'; '.join(parts)}; {found['choices']:,} expert choices, "
        f"{found['bytes'] / 1e6:.1f} MB of Parquet"
    )


def print_summary(store: str) -> None:
    """Print what a store holds, where this process speaks."""
    if not speaks():
        return
    from ringlens.store import Store
    from ringlens.store.maintain.info import info

    with Store(store) as opened:
        click.echo(summary(store, info(opened)))


def print_queries(store: str) -> None:
    """Print three queries with their answers."""
    from ringlens.store import Store

    with Store(store) as opened:
        for question, query in THREE_QUERIES:
            click.secho(f"\n{question}", bold=True)
            click.echo(f'ringlens sql {store} "{query}"')
            click.echo(opened.sql(query))
