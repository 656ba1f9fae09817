"""The command line: demo, capture, replay, app, sql, info.

Exit codes: 0 done, 1 it could not be done (the message says why), 2 wrong usage, 130 interrupted.
Imports stand inside the commands, so that ``ringlens --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringlens import __version__
from ringlens.errors import RinglensError

if TYPE_CHECKING:
    from ringlens.observe.session import Progress
    from ringlens.store import Store

INTERRUPTED = 130

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

Command = Callable[..., Any]


class Ringlens(click.Group):
    """The command group; turns our errors and Ctrl-C into messages and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except RinglensError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.secho("interrupted; every trace committed before is intact", err=True)
            ctx.exit(INTERRUPTED)


def capture_options(command: Command) -> Command:
    """Options shared by the commands that record."""
    for option in (
        click.option("--batch-size", default=16, show_default=True, help="Traces side by side."),
        click.option(
            "--record",
            default="routing,router_logits,heads",
            show_default=True,
            help="What to record, comma-separated; tokens always are.",
        ),
        click.option("--dtype", default=None, help="dtype of the weights, e.g. float32, bfloat16."),
        click.option("--device", default=None, help="Device, e.g. cuda; the CPU if left out."),
        click.option("--attention", default="sdpa", show_default=True, help="Attention kernel."),
    ):
        command = option(command)
    return command


@click.group(cls=Ringlens, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ringlens")
def main() -> None:
    r"""See which experts a Ring model chose, why, and what its heads looked at.

    \b
    Examples:
      ringlens demo
      ringlens capture ring-nano --problems countdown --n 8 --store runs/first
      ringlens app runs/first
      ringlens sql runs/first "select * from traces limit 3"
    """


@main.command()
@click.option("--store", default="runs/demo", show_default=True, help="Folder of the store.")
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
    options = {"max_new_tokens": 640, "batch_size": 16}
    _capture("ring-nano", {}, "countdown", n, store, options)
    _summary(store)
    _print_queries(store)
    if serve:
        # A process of its own: the dashboard needs neither torch nor the model.
        sys.stdout.flush()
        os.execv(
            sys.executable,
            [sys.executable, "-m", "ringlens.cli", "app", store, "--port", str(port)],
        )


@main.command()
@click.argument("model")
@click.option(
    "--problems",
    default="countdown",
    show_default=True,
    help="Bundled task, or a JSONL file with id, task, prompt, answer, fields.",
)
@click.option("--n", default=None, type=int, help="How many problems; all if left out.")
@click.option("--store", required=True, help="Folder of the store; made or added to.")
@click.option("--max-new-tokens", default=512, show_default=True, help="Most tokens of a trace.")
@click.option("--temperature", default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", default=1.0, show_default=True, help="Nucleus to draw from.")
@click.option("--top-k", default=0, show_default=True, help="Tokens to draw from; 0 is all.")
@click.option("--seed", default=0, show_default=True, help="Seed of the run.")
@capture_options
def capture(model: str, problems: str, n: int | None, store: str, **options: Any) -> None:
    r"""Let MODEL think about problems, and record it while it does.

    MODEL is ring-nano, a folder, or a hub id such as inclusionAI/Ring-mini-2.0.

    \b
    Examples:
      ringlens capture ring-nano --problems countdown --n 8 --store runs/first
      ringlens capture ring-nano --problems mine.jsonl --store runs/mine --temperature 0.7
      ringlens capture ring-nano --n 64 --store runs/lean --record routing
    """
    _capture(model, _model_options(options), problems, n, store, options)
    _summary(store)


@main.command()
@click.argument("model")
@click.argument("source")
@click.option("--store", required=True, help="Folder of the store that the records go to.")
@capture_options
def replay(model: str, source: str, store: str, **options: Any) -> None:
    r"""Observe finished text with MODEL in one teacher-forced forward.

    SOURCE is a store, whose traces are replayed, or a text file with one text (a blank line and
    ``---`` on a line of its own part several).

    \b
    Examples:
      ringlens replay ring-nano runs/first --store runs/again
      ringlens replay ring-nano thoughts.txt --store runs/texts
    """
    import ringlens as rl

    model_options = _model_options(options)
    finished = _source(source)
    with _progress(f"replaying {source}") as on_progress:
        lens = rl.load(model, **model_options)
        rl.replay(lens, finished, store, on_progress=on_progress, **options).close()
    _summary(store)


@main.command()
@click.argument("store")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option("--port", default=8050, show_default=True, help="Port to serve on.")
@click.option("--open/--no-open", "open_browser", default=False, help="Open a browser.")
def app(store: str, host: str, port: int, open_browser: bool) -> None:
    r"""Serve the dashboard of STORE.

    \b
    Examples:
      ringlens app runs/first
      ringlens app runs/first --port 8051 --open
    """
    from ringlens.app import serve

    serve(store, host=host, port=port, open_browser=open_browser)


@main.command()
@click.argument("store")
@click.argument("query")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="How to print the result.",
)
def sql(store: str, query: str, form: str) -> None:
    r"""Query STORE in SQL (DuckDB's).

    Tables: runs, experts, traces, tokens, routing, router_logits, heads; view: router_choices.

    \b
    Examples:
      ringlens sql runs/first "select task, avg(correct::int) from traces group by task"
      ringlens sql runs/first "select * from tokens where trace_id = 1" --format csv
    """
    from ringlens.store import Store

    with Store(store) as opened:
        click.echo(PRINTERS[form](opened.sql(query)), nl=form == "table")


@main.command()
@click.argument("store")
def info(store: str) -> None:
    r"""Say what STORE holds, and check its choices against its router logits.

    \b
    Example:
      ringlens info runs/first
    """
    from ringlens.store import Store
    from ringlens.store.verify import verify_choices

    _summary(store)
    with Store(store) as opened:
        click.echo(opened.sql("select run_id, mode, model, dtype, attention, record from runs"))
        checked = verify_choices(opened)
    click.echo(
        f"choices recomputed from router logits: {checked.rows:,} rows, {checked.differ:,} differ"
    )
    if checked.differ:
        raise RinglensError(f"{checked.differ} recorded choices do not follow from their logits.")


def _csv(relation: Any) -> str:
    import io

    from pyarrow import csv

    table, out = relation.to_arrow_table(), io.BytesIO()
    if any(str(field.type).startswith(("list", "struct")) for field in table.schema):
        raise RinglensError("CSV holds no lists: unnest them in the query, or use --format json.")
    csv.write_csv(table, out)
    return out.getvalue().decode()


def _json(relation: Any) -> str:
    import json

    rows = relation.to_arrow_table().to_pylist()
    return "".join(json.dumps(row, default=str, ensure_ascii=False) + "\n" for row in rows)


PRINTERS: dict[str, Callable[[Any], str]] = {"table": str, "csv": _csv, "json": _json}


def _capture(
    model: str,
    model_options: dict[str, Any],
    problems: str,
    n: int | None,
    store: str,
    options: dict[str, Any],
) -> None:
    """Load, capture with a progress bar, close."""
    import ringlens as rl

    # Before the model: a wrong problem set should not cost a load.
    work = rl.problems(problems, n=n)
    with _progress(f"{model} thinks about {len(work)} problems") as on_progress:
        lens = rl.load(model, **model_options)
        rl.capture(lens, work, store, on_progress=on_progress, **options).close()


def _model_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take what concerns loading out of ``options``, and split the list of what to record."""
    options["record"] = tuple(name for name in options["record"].split(",") if name)
    loading = {name: options.pop(name) for name in ("dtype", "device", "attention")}
    return {name: value for name, value in loading.items() if value is not None}


def _source(source: str) -> Store | list[str]:
    """What to replay: a store's folder, or the texts of a file."""
    from ringlens.store import Store

    place = Path(source)
    if place.is_dir():
        return Store(place)
    if not place.is_file():
        raise RinglensError(f"nothing to replay at {source!r}: neither a store nor a text file.")
    texts = [text.strip("\n") for text in place.read_text(encoding="utf-8").split("\n---\n")]
    return [text for text in texts if text.strip()]


@contextmanager
def _progress(title: str) -> Iterator[Callable[[Progress], None]]:
    """A progress bar: traces, tokens a second, bytes written."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("traces · {task.fields[tokens]:,} tokens · {task.fields[speed]:,.0f}/s"),
        TextColumn("· {task.fields[megabytes]:.1f} MB"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, tokens=0, speed=0.0, megabytes=0.0)

        def show(progress: Progress) -> None:
            seconds = max(bar.tasks[0].elapsed or 0.0, 1e-6)
            bar.update(
                task,
                total=progress.total,
                completed=progress.traces,
                tokens=progress.tokens,
                speed=progress.tokens / seconds,
                megabytes=progress.bytes_written / 1e6,
            )

        yield show


def _summary(store: str) -> None:
    """Print what a store holds."""
    from ringlens.store import Store

    with Store(store) as opened:
        traces, right, graded, tokens, think = opened.sql(
            "select count(*), count(*) filter (correct), count(correct), "
            "coalesce(sum(n_prompt + n_think + n_answer), 0), coalesce(sum(n_think), 0) from traces"
        ).fetchall()[0]
        choices = opened.sql("select coalesce(sum(len(expert_ids)), 0) from routing").fetchall()[0][
            0
        ]
    size = sum(file.stat().st_size for file in Path(store).rglob("*.parquet"))
    click.echo(
        f"{store}: {traces:,} traces ({right:,} of {graded:,} right), {tokens:,} tokens "
        f"({think:,} of thought), {choices:,} expert choices, {size / 1e6:.1f} MB of Parquet"
    )


def _print_queries(store: str) -> None:
    """Print three queries with their answers."""
    from ringlens.store import Store

    with Store(store) as opened:
        for question, query in THREE_QUERIES:
            click.secho(f"\n{question}", bold=True)
            click.echo(f'ringlens sql {store} "{query}"')
            click.echo(opened.sql(query))


if __name__ == "__main__":
    main()
