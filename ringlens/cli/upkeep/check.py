"""``ringlens check``: whether a store holds what it should, and the repair of what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ringlens.cli.console import progress_bar

if TYPE_CHECKING:
    from ringlens.store.check.check import Report
    from ringlens.store.check.finding import Finding

COLOURS = {"lost": "red", "wrong": "yellow", "litter": None}


@click.command()
@click.argument("store")
@click.option("--repair", is_flag=True, help="Repair what can be repaired without guessing.")
@click.option(
    "--drop-damaged",
    is_flag=True,
    help="With --repair: delete traces that have lost rows, with all their rows.",
)
@click.option(
    "--rebuild-manifest",
    is_flag=True,
    help="With --repair: first rebuild a destroyed manifest.sqlite from the files.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, and no progress.")
@click.pass_context
def check(
    context: click.Context,
    store: str,
    repair: bool,
    drop_damaged: bool,
    rebuild_manifest: bool,
    as_json: bool,
) -> None:
    r"""Check every file and row of STORE; exit with 1 if anything is wrong.

    Files are compared with their checksums, rows with their traces, choices with the router
    logits, usage tables with the routing. Captures may run meanwhile. Nothing changes without
    --repair, and nothing committed is deleted without --drop-damaged.

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
    from ringlens.store.check.repair import repair as repair_store
    from ringlens.store.check.rescue import rebuild_manifest as rebuild

    if (drop_damaged or rebuild_manifest) and not repair:
        raise click.UsageError("--drop-damaged and --rebuild-manifest need --repair.")
    done: list[str] = []
    say = done.append if as_json else click.echo
    with progress_bar(f"checking {store}", quiet=as_json) as bar:
        if rebuild_manifest:
            rebuild(store, say)
        if repair:
            report = repair_store(store, drop_damaged, say, bar.bytes_of_run)
        else:
            with Store(store) as opened:
                report = check_store(opened, bar.bytes_of_run)
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
    for name, files in sorted(report.unknown.items()):
        click.echo(_said_of_unknown(name, files))
    if report.findings:
        click.secho(f"{len(report.findings):,} things are wrong", fg="red", bold=True)
    else:
        click.secho("nothing is wrong", fg="green")


def _said_of_unknown(name: str, files: int) -> str:
    """What is said of a table, or of something recorded, that this ringlens does not know."""
    theirs = "of another ringlens, or of an instrument that is not here"
    if files:
        return f"{name} is {theirs}: {files:,} files of it were compared with their checksums only"
    return f"{name} was recorded, which is {theirs}: whether its rows are there was not checked"


def _print_finding(found: Finding) -> None:
    click.secho(f"{found.severity} ({found.kind}): ", fg=COLOURS[found.severity], nl=False)
    click.echo(f"{found.sentence}\n    {found.advice}")


def _print_json(store: str, report: Report, done: list[str]) -> None:
    import json

    counts = {name: getattr(report, name) for name in ("runs", "files", "rows", "bytes", "choices")}
    found = [finding.to_dict() for finding in report.findings]
    counts |= {"flagged": dict(report.flagged), "unknown": dict(report.unknown)}
    answer = {"store": store, "ok": not found, **counts, "done": done, "findings": found}
    click.echo(json.dumps(answer, ensure_ascii=False))
