"""The prompt of ``ringlens sql``: history, completion, its own commands, Ctrl-C."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from ringlens.cli.console import attend, harmless
from ringlens.cli.sql.completion import Words
from ringlens.cli.sql.format import WRITERS
from ringlens.errors import RinglensError
from ringlens.store import Store
from ringlens.store.read.catalog import Entry, catalog

ROWS = 40
HELP = """\
SQL ends with ; and may take several lines. Ctrl-C stops a query, Ctrl-D leaves.

.tables           tables and views
.schema [TABLE]   columns, their types and what they mean
.format [NAME]    table, csv, json, jsonl or markdown
.rows [N]         rows that a table shows
.pager on|off     whether to page output longer than the screen
.timer on|off     whether to print the time of each query
.help  .quit"""

_FORMATS = [name for name in WRITERS if name != "parquet"]


class Prompt:
    """A prompt for one store.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.form, self.rows = "table", ROWS
        self.timer = False
        self.pager = True
        self._entries = catalog(store)
        self._commands: dict[str, Callable[[str], bool]] = {
            ".tables": self._tables,
            ".schema": self._schema,
            ".format": self._format,
            ".rows": self._rows,
            ".pager": self._pager,
            ".timer": self._timer,
            ".help": self._help,
            ".quit": lambda rest: False,
            ".exit": lambda rest: False,
        }

    def run(self) -> None:
        """Read and answer inputs until .quit or Ctrl-D."""
        session: PromptSession[str] = PromptSession(
            history=FileHistory(str(history())),
            completer=Words(self._entries, list(self._commands)),
            complete_while_typing=False,
            lexer=PygmentsLexer(SqlLexer),
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation=lambda width, line, wrapped: " " * (width - 2) + "· ",
        )
        click.echo(f"{self.store.address}: .help for help, Tab completes, ; ends a query")
        going = True
        while going:
            try:
                text = session.prompt(HTML("<ansibrightblue>ringlens</ansibrightblue>> "))
                going = self.answer(text.strip())
            except KeyboardInterrupt:  # also between the two, before the query has begun
                continue
            except EOFError:
                return

    def answer(self, text: str) -> bool:
        """Answer one input; False if it was the last. Errors are printed and end nothing."""
        try:
            if text.startswith("."):
                return self._command(text)
            if text.strip("; \n"):
                self._query(text)
        except RinglensError as error:
            click.secho(f"error: {error}", fg="red", err=True)
        except KeyboardInterrupt:
            click.secho("stopped", fg="yellow", err=True)
        return True

    def _query(self, text: str) -> None:
        start = time.perf_counter()
        relation = self.store.sql(text)
        out = io.BytesIO()
        attend(relation, lambda: self._write(relation, out))
        self._show(out.getvalue().decode())
        if self.timer:
            click.secho(f"{time.perf_counter() - start:.3f} s", dim=True)

    def _write(self, relation: Any, out: io.BytesIO) -> None:
        if self.form != "table":
            WRITERS[self.form](relation, out)
            return
        width = shutil.get_terminal_size().columns
        drawn = io.StringIO()
        with redirect_stdout(drawn):
            relation.show(max_rows=self.rows, max_width=width)
        out.write(harmless(drawn.getvalue()).encode())

    def _show(self, text: str) -> None:
        tall = text.count("\n") >= shutil.get_terminal_size().lines
        if self.pager and tall:
            click.echo_via_pager(text)
        else:
            click.echo(text, nl=False)

    def _command(self, text: str) -> bool:
        name, _, rest = text.rstrip("; ").partition(" ")
        if name not in self._commands:
            raise RinglensError(f"there is no {name}: {' '.join(self._commands)}")
        return self._commands[name](rest.strip())

    def _tables(self, rest: str) -> bool:
        width = max(len(entry.name) for entry in self._entries)
        for entry in sorted(self._entries, key=lambda entry: entry.view):
            kind = "view " if entry.view else "table"
            click.echo(f"{entry.name:<{width}}  {kind}  {entry.meaning.split(': ')[0]}")
        return True

    def _schema(self, rest: str) -> bool:
        wanted = [entry for entry in self._entries if rest in ("", entry.name)]
        if not wanted:
            raise RinglensError(f"there is no table {rest}: .tables names all")
        self._show("\n".join(_described(entry) for entry in wanted))
        return True

    def _format(self, rest: str) -> bool:
        if rest and rest not in _FORMATS:
            raise RinglensError(f"there is no format {rest}: {', '.join(_FORMATS)}")
        self.form = rest or self.form
        click.echo(f"format: {self.form}")
        return True

    def _rows(self, rest: str) -> bool:
        if rest and not (rest.isdecimal() and int(rest) > 0):
            raise RinglensError(f".rows takes a number of 1 or more, not {rest!r}")
        self.rows = int(rest or self.rows)
        click.echo(f"rows shown: {self.rows}")
        return True

    def _pager(self, rest: str) -> bool:
        self.pager = _switch(".pager", rest, self.pager)
        return True

    def _timer(self, rest: str) -> bool:
        self.timer = _switch(".timer", rest, self.timer)
        return True

    def _help(self, rest: str) -> bool:
        click.echo(HELP)
        return True


def history() -> Path:
    """The file of past queries, in the user's state folder; only the user can read it."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(home).expanduser() / "ringlens" / "sql_history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        raise RinglensError(
            f"the history {path} cannot be written ({error.strerror}): set XDG_STATE_HOME to a "
            f"folder that can be written"
        ) from error
    return path


def _keys() -> KeyBindings:
    """Enter ends an input after a ; or a command of the prompt, and breaks the line elsewhere."""
    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: KeyPressEvent) -> None:
        text = event.current_buffer.text.strip()
        if not text or text.startswith(".") or text.endswith(";"):
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return keys


def _described(entry: Entry) -> str:
    name = max(len(column.name) for column in entry.columns)
    kind = max(len(column.type) for column in entry.columns)
    lines = [
        f"  {column.name:<{name}}  {column.type.lower():<{kind}}  {column.meaning}"
        for column in entry.columns
    ]
    return "\n".join([click.style(entry.name, bold=True) + f"  {entry.meaning}", *lines, ""])


def _switch(name: str, rest: str, now: bool) -> bool:
    if rest not in ("", "on", "off"):
        raise RinglensError(f"{name} takes on or off, not {rest!r}")
    on = now if not rest else rest == "on"
    click.echo(f"{name.strip('.')}: {'on' if on else 'off'}")
    return on
