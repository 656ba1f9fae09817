"""The command check: does a store hold what it says, and what can be repaired.

Imports stand inside the command, so that ``ringlens --help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ringlens.store.check.check import Progress, Report
    from ringlens.store.check.finding import Finding

COLOURS = {"lost": "red", "wrong": "yellow", "litter": None}


@click.command()
@click.argument("store")
@click.option("--repair", "mend", is_flag=True, help="Put right what needs no invention.")
@click.option(
    "--drop-damaged",
    is_flag=True,
    help="With --repair: take traces of which rows are lost out, with all their rows.",
)
@click.option(
    "--rebuild-manifest",
    is_flag=True,
    help="First make a destroyed manifest.sqlite anew from the files; goes with --repair.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, and no progress.")
@click.pass_context
def check(
    context: click.Context,
    store: str,
    mend: bool,
    drop_damaged: bool,
    rebuild_manifest: bool,
    as_json: bool,
) -> None:
    r"""Check every file and row of STORE; exit code 1 if anything is wrong.

    Files are compared with their checksums, rows with the traces that they belong to, choices with
    the router logits, rollups with the routing. Captures may go on meanwhile. Nothing is changed
    without --repair, and nothing committed is taken out without --drop-damaged.

    \b
    Examples:
      ringlens check runs/first
      ringlens check runs/first --repair
      ringlens check runs/first --repair --drop-damaged
      ringlens check runs/first --repair --rebuild-manifest
      ringlens check runs/first --json
    """
    from ringlens.store import Store
    from ringlens.store.check.check import check as check_store
    from ringlens.store.check.repair import repair
    from ringlens.store.check.rescue import rebuild_manifest as rebuild

    if (drop_damaged or rebuild_manifest) and not mend:
        raise click.UsageError("--drop-damaged and --rebuild-manifest go with --repair.")
    done: list[str] = []
    say = done.append if as_json else click.echo
    with _progress(f"checking {store}", quiet=as_json) as on_progress:
        if rebuild_manifest:
            rebuild(store, say)
        if mend:
            report = repair(store, drop_damaged, say, on_progress)
        else:
            with Store(store) as opened:
                report = check_store(opened, on_progress)
    if as_json:
        _print_json(store, report, done)
    else:
        _print(store, report)
    context.exit(1 if report.findings else 0)


def _print(store: str, report: Report) -> None:
    for found in report.findings:
        _print_finding(found)
    click.echo(
        f"{store}: {report.runs:,} runs, {report.files:,} files, {report.rows:,} rows, "
        f"{report.bytes / 1e6:.1f} MB checked"
    )
    click.echo(f"choices recomputed from router logits: {report.choices:,} rows")
    for flag, count in sorted(report.flagged.items()):
        click.echo(f"{count:,} traces are flagged {flag} (see `traces.flags`)")
    if report.unsummed:
        click.echo(f"{report.unsummed:,} files of format 1 have no checksum: --repair notes it")
    if report.findings:
        click.secho(f"{len(report.findings):,} things are wrong", fg="red", bold=True)
    else:
        click.secho("nothing is wrong", fg="green")


def _print_finding(found: Finding) -> None:
    click.secho(f"{found.severity} ({found.kind}): ", fg=COLOURS[found.severity], nl=False)
    click.echo(f"{found.sentence}\n    {found.advice}")


def _print_json(store: str, report: Report, done: list[str]) -> None:
    import json

    counts = {name: getattr(report, name) for name in ("runs", "files", "rows", "bytes", "choices")}
    found = [finding.to_dict() for finding in report.findings]
    counts |= {"flagged": dict(report.flagged)}
    answer = {"store": store, "ok": not found, **counts, "done": done, "findings": found}
    click.echo(json.dumps(answer, ensure_ascii=False))


@contextmanager
def _progress(title: str, quiet: bool) -> Iterator[Progress]:
    """A bar of the bytes gone through, on a terminal."""
    if quiet:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def show(run_id: str, done: int, total: int) -> None:
            bar.update(task, description=f"checking {run_id}", completed=done, total=total)

        yield show
