"""``ringlens info``: what a store holds, without reading all of it."""

from __future__ import annotations

from typing import Any

import click

from ringlens.cli.console import summary


@click.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(store: str, as_json: bool) -> None:
    r"""Say what STORE holds: its runs, its tables, what is unfinished.

    It reads the manifest and small tables only; `ringlens check` reads everything.

    \b
    Examples:
      ringlens info runs/first
      ringlens info runs/first --json
    """
    import json

    from ringlens.store import Store
    from ringlens.store.maintain.info import info as describe

    with Store(store) as opened:
        found = describe(opened)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    click.echo(summary(store, found))
    click.echo(f"format {found['format_version']}, made by {found.get('created_by', 'unknown')}")
    for run in found["runs"]:
        _print_run(run)
    _print_tables(found["tables"])
    click.echo()
    for step in found["next"]:
        click.echo(f"{step['command']}    {step['why']}")


def _print_run(run: dict[str, Any]) -> None:
    what = [run["dtype"], run["quantization"], run["attention"], run["experts_layout"]]
    shape = (
        f"{run['layers']} layers ({len(run['sparse_layers'])} sparse), {run['experts']} experts in "
        f"{run['groups']} groups, {run['experts_per_token']} a token, {run['heads']} heads"
    )
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    parallel = ", ".join(f"{name} {value}" for name, value in run["parallel"].items())
    end = "" if run["finished"] else ", unfinished: the same command takes it up again"
    end = ", being written" if run["being_written"] else end
    running = f", {run['running']:,} still running" if run["running"] else ""
    click.secho(f"\n{run['run_id']}  {run['mode']}  {run['model']}", bold=True)
    replays = f" ({run['replays']:,} of them replays)" if run["replays"] else ""
    click.echo(f"  {run['traces']:,} traces{replays}, {run['tokens']:,} tokens{running}{end}")
    click.echo(f"  {shape}")
    click.echo(f"  {', '.join(filter(None, what))}; seed {run['seed']}")
    click.echo(f"  recorded {', '.join(run['record']) or 'tokens alone'}")
    lost = ", ".join(run["lost"] or ())
    for name, text in (("lost or left out", lost), ("versions", versions), ("parallel", parallel)):
        if text:
            click.echo(f"  {name}: {text}")


def _print_tables(tables: list[dict[str, Any]]) -> None:
    click.echo(f"\n{'table':<16}{'rows':>14}{'files':>8}{'MB':>12}{'bytes a token':>16}")
    for table in tables:
        each = "" if table["bytes_per_token"] is None else f"{table['bytes_per_token']:,.1f}"
        click.echo(
            f"{table['table']:<16}{table['rows']:>14,}{table['files']:>8,}"
            f"{table['bytes'] / 1e6:>12,.2f}{each:>16}"
        )
