"""``ringlens replay``: a model observes text that is finished."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringlens.cli.console import forecasts_shown, print_summary, progress_bar
from ringlens.cli.options import (
    loading_options,
    recording_options,
    steps_option,
    store_option,
    take_loading,
    take_record,
    take_steps,
)
from ringlens.errors import RinglensError

if TYPE_CHECKING:
    from ringlens.prompts.completions import Completion
    from ringlens.store import Store


@click.command()
@click.argument("model")
@click.argument("source")
@store_option
@steps_option
@click.option(
    "--prefill", default=32768, show_default=True, help="Most positions that one forward takes."
)
@recording_options
@loading_options
def replay(model: str, source: str, store: str, **options: Any) -> None:
    r"""Observe finished text with MODEL in one teacher-forced forward.

    SOURCE is a store, whose traces are replayed; JSON lines of problems with their `completion`,
    which are graded; or a text file. A line of its own with ``---`` separates several texts in it.

    \b
    Examples:
      ringlens replay ring-nano runs/first --store runs/again
      ringlens replay ring-nano thoughts.txt --store runs/texts
      ringlens replay ring-nano completions.jsonl --store runs/texts
    """
    import ringlens as rl

    loading = take_loading(options)
    take_steps(options)
    take_record(options)
    finished = _finished(source)
    with progress_bar(f"replaying {source}", stays=True) as bar, forecasts_shown():
        lens = rl.load(model, **loading)
        rl.replay(lens, finished, store, on_progress=bar.traces, **options).close()
    print_summary(store)


def _finished(source: str) -> Store | list[str] | list[Completion]:
    """What to replay: a store, or the completions or texts of a file."""
    from ringlens.prompts.completions import completions, is_file
    from ringlens.prompts.problems import read_text
    from ringlens.store import Store

    path = Path(source)
    if "://" in source or os.path.isdir(path):
        return Store(source)
    if not os.path.exists(path):  # Path.exists would raise for a name that is too long
        raise RinglensError(f"nothing to replay at {source!r}: neither a store nor a text file.")
    if is_file(source):
        return completions(source)
    texts = [text.strip("\n") for text in read_text(path).split("\n---\n")]
    return [text for text in texts if text.strip()]
