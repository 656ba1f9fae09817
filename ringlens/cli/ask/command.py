"""``ringlens ask``: a model thinks aloud about one question."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ringlens.cli.ask.thinking import link, processes, think, told, view_of
from ringlens.cli.asking import STANDARD_INPUT
from ringlens.cli.console import speaks
from ringlens.cli.options import (
    decode_option,
    loading_options,
    sampling_options,
    take_loading,
    take_record,
    trace_recording_options,
)
from ringlens.errors import ConfigError

STORE = "runs/ask"


@click.command()
@click.argument("model")
@click.argument("prompt", nargs=-1, required=True)
@click.option("--system", help="System prompt, put through the chat template.")
@click.option(
    "--store",
    default=STORE,
    show_default=True,
    help="Folder or address of the store; made or added to.",
)
@click.option("--open", "opens", is_flag=True, help="Open the trace in the dashboard afterwards.")
@click.option("--port", default=8050, show_default=True, help="Port of the dashboard.")
@sampling_options
@trace_recording_options
@decode_option
@loading_options
def ask(
    model: str,
    prompt: tuple[str, ...],
    system: str | None,
    store: str,
    opens: bool,
    port: int,
    **options: Any,
) -> None:
    r"""Let MODEL think aloud about PROMPT, and record it while it does.

    PROMPT is the question; - reads it from standard input. Text appears as it is written, prompt,
    thought and answer told apart, above live numbers of entropy and routing. Where the output is
    no terminal, it is what the model writes and nothing else; all other words go to standard error.
    Ctrl-C ends the trace with the next token and keeps it; a second one leaves at once.

    \b
    Examples:
      ringlens ask ring-nano "Make 24 from 4, 6, 1, using each number once."
      ringlens ask ring-nano "Make 10 from 2, 3, 4." --temperature 0.8 --seed 3 --open
      cat question.txt | ringlens ask inclusionAI/Ring-mini-2.0 - --system "Answer briefly."
    """
    import ringlens as rl

    loading = take_loading(options)
    take_record(options)
    question = question_in(prompt)
    lens = rl.load(model, **loading)
    view = view_of(lens)
    think(lens, question, store, view, {"system": system, **options})
    if speaks() and view.end is not None:  # of several processes with models of their own, one asks
        click.echo(told(view, store), err=True)
        click.echo(link(store, view.end.trace_id, port), err=True)
        if opens:
            open_dashboard(store, view.end.trace_id, port)


def question_in(words: tuple[str, ...]) -> str:
    """The question: the words of the command line, or standard input for "-".

    Raises:
        ConfigError: It is empty, or no text; or standard input is shared by several processes.
    """
    question = " ".join(words)
    if words == (STANDARD_INPUT,):
        if processes() > 1:
            raise ConfigError(
                "standard input cannot be shared by several processes: write the question on the "
                "command line."
            )
        try:
            question = sys.stdin.buffer.read().decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ConfigError(f"standard input is no UTF-8 text: {error}.") from error
    if not question.strip():
        raise ConfigError("the question is empty: write what is asked, or - for standard input.")
    return question


def open_dashboard(store: str, trace_id: int, port: int) -> None:
    """Replace this process by the dashboard, open at a trace: it needs no model in memory."""
    sys.stdout.flush()
    where = ["--port", str(port), "--trace", str(trace_id), "--open"]
    os.execv(sys.executable, [sys.executable, "-m", "ringlens.cli", "app", store, *where])
