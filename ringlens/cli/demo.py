"""``ringlens demo``: everything once, with the bundled model."""

from __future__ import annotations

import os
import sys

import click

from ringlens.cli.capture import capture_problems
from ringlens.cli.console import print_summary

QUERIES = (
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


@click.command()
@click.option(
    "--store", default="runs/demo", show_default=True, help="Folder or address of the store."
)
@click.option("--n", default=32, show_default=True, help="Problems to think about.")
@click.option("--port", default=8050, show_default=True, help="Port of the dashboard.")
@click.option("--serve/--no-serve", default=True, help="Serve the dashboard afterwards.")
def demo(store: str, n: int, port: int, serve: bool) -> None:
    r"""Let ring-nano think about some problems, then open the dashboard.

    \b
    Examples:
      ringlens demo
      ringlens demo --n 8 --no-serve
    """
    import ringlens as rl
    from ringlens.store.schema.instruments import default_names

    record = [*default_names(), "attention:4@0-7"]  # every head: it has 64, Ring-1T 5,120
    options = {"max_new_tokens": 640, "batch_size": 16, "record": record}
    capture_problems("ring-nano", {}, rl.problems("countdown", n), store, options)
    print_summary(store)
    _print_queries(store)
    if serve:
        # Replaces this process: the dashboard needs neither torch nor the model in memory.
        sys.stdout.flush()
        os.execv(
            sys.executable,
            [sys.executable, "-m", "ringlens.cli", "app", store, "--port", str(port)],
        )


def _print_queries(store: str) -> None:
    """Print three queries with their answers."""
    from ringlens.store import Store

    with Store(store) as opened:
        for question, query in QUERIES:
            click.secho(f"\n{question}", bold=True)
            click.echo(f'ringlens sql {store} "{query}"')
            click.echo(opened.sql(query))
