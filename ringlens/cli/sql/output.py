"""Where rows go: a form, and standard output or a file."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from ringlens.cli.console import attend
from ringlens.cli.sql.format import ENDINGS, WRITERS
from ringlens.errors import RinglensError

C = TypeVar("C", bound=Callable[..., Any])


def output_options(command: C) -> C:
    """Add ``--format`` (as ``form``) and ``-o`` (as ``output``) to a command."""
    form = click.option(
        "--format",
        "form",
        type=click.Choice(list(WRITERS)),
        help="Format of the rows; if left out, that of the file's name, or a table.",
    )
    output = click.option("-o", "--output", metavar="FILE", help="Write the rows to a file.")
    return form(output(command))


def chosen_form(form: str | None, output: str | None) -> str:
    """The form that was asked for, that of the file's name, or a table."""
    chosen = form or ENDINGS.get(Path(output or "").suffix.lower(), "table")
    if chosen == "parquet" and not output:
        raise click.UsageError("--format parquet needs a file: -o FILE")
    return chosen


def write_rows(relation: Any, form: str, output: str | None) -> None:
    """Write a relation's rows in a form; Ctrl-C stops its query."""
    with _file(output) if output else _standard_output() as out:
        attend(relation, lambda: WRITERS[form](relation, out))


@contextmanager
def _standard_output() -> Iterator[IO[bytes]]:
    sys.stdout.flush()
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


@contextmanager
def _file(path: str) -> Iterator[IO[bytes]]:
    """A file that gets its name once it is complete, so that a failed query leaves none."""
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as out:
            yield out
        os.replace(temporary, final)
    except OSError as error:
        raise RinglensError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
