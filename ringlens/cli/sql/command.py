"""``ringlens sql``: queries from the command line, from standard input, or at a prompt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ringlens.cli.sql.output import chosen_form, output_options, write_rows
from ringlens.errors import RinglensError

if TYPE_CHECKING:
    from ringlens.store import Store


@click.command()
@click.argument("store")
@click.argument("query", required=False)
@click.option("-c", "commands", multiple=True, metavar="QUERY", help="A query; may be repeated.")
@output_options
def sql(
    store: str, query: str | None, commands: Sequence[str], form: str | None, output: str | None
) -> None:
    r"""Query STORE in SQL (DuckDB's).

    Without a query it opens a prompt, where .help says more, or reads statements from standard
    input. Queries run with your own rights: they can read and write whatever you can.

    Tables: runs, experts, traces, tokens, routing, router_logits, expert_outputs, heads,
    head_blocks, steps, head_steps, activations, attention, probes, monitor_scores, usage_traces,
    usage_blocks, usage_roles, annotations; views: router_choices, expert_usage, trace_summary,
    token_context, current_annotations.

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
    form = chosen_form(form, output)
    for query in queries:
        write_rows(opened.sql(query), form, output)


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
