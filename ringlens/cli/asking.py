"""What a command asks a model: the options that say it, and the problems that they name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ringlens.cli.options import Command, with_options
from ringlens.errors import ConfigError, ProblemError

if TYPE_CHECKING:
    from ringlens.problem import Problem

STANDARD_INPUT = "-"

ASKING: tuple[Callable[[Command], Command], ...] = (
    click.option(
        "--problems",
        help="Bundled task (countdown, if nothing else is asked); a file of prompts (.txt, .jsonl, "
        ".json, .csv, .tsv, .parquet); - for standard input; or hub:ID for a set of the hub.",
    ),
    click.option("--n", type=int, help="How many of these problems; all if left out."),
    click.option("--split", help="Split of a bundled task, or of a set of the hub."),
    click.option("--column", help="Column of a table (CSV, Parquet, hub) that holds the prompts."),
    click.option("--answer", help="Column of a table that holds the expected answers."),
    click.option("--answer-after", help="What an answer stands behind in its cell, as ####."),
    click.option("--task", help="Verifier of a table's answers, as math-verify; text if left out."),
    click.option("--whole", is_flag=True, help="Take a file of text as one prompt."),
    click.option("--prompt", "prompts", multiple=True, help="A prompt; may be given again."),
    click.option(
        "--messages",
        help="JSON file with the messages of one chat, each with role and content; or -.",
    ),
)
"""Options that say what is asked."""


@dataclass(frozen=True)
class Asked:
    """What the options of `ASKING` gave, by their names."""

    problems: str | None
    n: int | None
    column: str | None
    whole: bool
    prompts: tuple[str, ...]
    messages: str | None
    split: str | None = None
    answer: str | None = None
    answer_after: str | None = None
    task: str | None = None


def asking_options(command: Command) -> Command:
    """Give a command the options that say what is asked."""
    return with_options(ASKING, command)


def take_asked(options: dict[str, Any]) -> Asked:
    """Take what is asked out of ``options``."""
    return Asked(**{name: options.pop(name) for name in Asked.__annotations__})


def read_asked(asked: Asked) -> list[Problem]:
    """The problems that a command is given.

    Raises:
        ConfigError: Options contradict one another, or a prompt is no text.
        ProblemError: A file cannot be read, or holds no problems.
    """
    _refuse_conflicts(asked)
    if asked.prompts:
        return _of_prompts(asked.prompts)
    if asked.messages is not None:
        return _of_messages(asked.messages)
    import ringlens as rl

    source = _source("countdown" if asked.problems is None else asked.problems)
    return rl.problems(
        source,
        n=asked.n,
        split=asked.split,
        column=asked.column,
        answer=asked.answer,
        answer_after=asked.answer_after,
        task=asked.task or "",
        whole=asked.whole,
    )


def _refuse_conflicts(asked: Asked) -> None:
    ways = {
        "--problems": asked.problems is not None,
        "--prompt": bool(asked.prompts),
        "--messages": asked.messages is not None,
    }
    given = [name for name, is_given in ways.items() if is_given]
    if len(given) > 1:
        raise ConfigError(
            f"{' and '.join(given)} each say what is asked; give one of them, and put several "
            "prompts into one file."
        )
    of_sets = {
        f"--{name.replace('_', '-')}": getattr(asked, name) not in (None, False)
        for name in ("n", "split", "column", "answer", "answer_after", "task", "whole")
    }
    for name, is_given in of_sets.items():
        if is_given and given and given != ["--problems"]:
            raise ConfigError(f"{name} belongs to --problems, and not to {given[0]}; leave it out.")


def _of_prompts(prompts: tuple[str, ...]) -> list[Problem]:
    from ringlens.prompts.fields import problems_of

    rows = enumerate(prompts, start=1)
    return list(problems_of((f"--prompt {number}", {"prompt": text}) for number, text in rows))


def _of_messages(name: str) -> list[Problem]:
    """The chat of a file, as a problem."""
    from pathlib import Path

    from ringlens.prompts.fields import problems_of
    from ringlens.prompts.problems import chat_rows

    source = _source(name)
    return list(problems_of(chat_rows(Path(source) if isinstance(source, str) else source)))


def _source(name: str) -> str | BinaryIO:
    """A name, or standard input where that is meant.

    Raises:
        ProblemError: It is a terminal, closed, or shared by several processes.
    """
    if name != STANDARD_INPUT:
        return name
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ProblemError(
            "standard input cannot be shared by several processes; write it to a file, and name "
            "that."
        )
    stream = sys.stdin
    if stream is None or stream.closed:
        raise ProblemError("standard input is closed; give the name of a file.")
    if stream.isatty():
        raise ProblemError(
            "standard input is a terminal: pipe prompts into the command, or give --prompt."
        )
    return stream.buffer
