"""``ringlens sql``: queries from the command line, from standard input, or at a prompt."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from ringlens.cli.console import attend
from ringlens.cli.sql.format import ENDINGS, WRITERS
from ringlens.errors import RinglensError

if TYPE_CHECKING:
    from ringlens.store import Store


@click.command()
@click.argument("store")
@click.argument("query", required=False)
@click.option("-c", "commands", multiple=True, metavar="QUERY", help="A query; may be repeated.")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(WRITERS)),
    help="Format of the rows; if left out, that of the file's name, or a table.",
)
@click.option("-o", "--output", metavar="FILE", help="Write the rows of one query to a file.")
def sql(
    store: str, query: str | None, commands: Sequence[str], form: str | None, output: str | None
) -> None:
    r"""Query STORE in SQL (DuckDB's).

    Without a query it opens a prompt, where .help says more, or reads statements from standard
    input. Queries run with your own rights: they can read and write whatever you can.

    Tables: runs, experts, traces, tokens, routing, router_logits, heads, head_blocks, steps,
    head_steps, activations, attention, probes, usage_traces, usage_blocks; views: router_choices,
    expert_usage, trace_summary, token_context.

    \b
    Examples:
      ringlens sql runs/first
      ringlens sql runs/first "select task, avg(correct::int) from traces group by task"
      ringlens sql runs/first -c "from traces" -o traces.parquet
      ringlens sql runs/first --format csv < query.sql
    """
    from ringlens.store import Store

    queries = [*([query] if query else []), *commands]
    asks = not queries and sys.stdin.isatty()
    if asks and (form or output):
        raise click.UsageError("--format and -o need a query; at the prompt, use .format")
    with Store(store) as opened:
        if asks:
            from ringlens.cli.sql.prompt import Prompt

            Prompt(opened).run()
        else:
            _run(opened, queries or statements(sys.stdin.read()), form, output)


def _run(opened: Store, queries: Sequence[str], form: str | None, output: str | None) -> None:
    """Run queries one after the other, up to the first that fails."""
    if output and len(queries) != 1:
        raise click.UsageError(f"-o takes the rows of one query, and these are {len(queries)}")
    form = form or ENDINGS.get(Path(output or "").suffix.lower(), "table")
    if form == "parquet" and not output:
        raise click.UsageError("--format parquet needs a file: -o FILE")
    for query in queries:
        relation = opened.sql(query)
        with _file(output) if output else _standard_output() as out:
            attend(relation, lambda r=relation, o=out: WRITERS[form](r, o))  # type: ignore[misc]


def statements(text: str) -> list[str]:
    """Split a text into statements.

    Raises:
        RinglensError: It does not parse, or is empty.
    """
    import duckdb

    try:
        found = [statement.query for statement in duckdb.extract_statements(text)]
    except duckdb.Error as error:
        raise RinglensError(str(error)) from error
    if not found:
        raise RinglensError("there is no query on standard input: try `echo 'from traces' | …`")
    return found


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
