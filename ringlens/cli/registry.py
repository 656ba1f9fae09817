"""The table of commands: one row a command; help, completion and docs/commands.md are made from it.

A row names the module of its command, which is imported only when the command runs or its own help
is shown. So ``ringlens --help`` stays fast, however much a command needs.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click


@dataclass(frozen=True)
class Row:
    """One command.

    Attributes:
        name: Its name on the command line.
        summary: What it does, as `ringlens --help` lists it: the first sentence of its own help.
        where: Module and name of the click command, ``ringlens.cli.capture:capture``.
        guide: The page of docs/ that shows it at work.
    """

    name: str
    summary: str
    where: str
    guide: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, name = self.where.partition(":")
        command: click.Command = getattr(import_module(module), name)
        _keep_lines(command)
        return command


COMMANDS: tuple[Row, ...] = (
    Row(
        "ablate",
        "Measure how the loss of STORE's texts rises when MODEL lacks each expert.",
        "ringlens.cli.acting.ablate:command",
        "acting.md",
    ),
    Row(
        "annotate",
        "Labels and notes that people give traces, steps and experts of a store.",
        "ringlens.cli.annotate:annotate",
        "share.md",
    ),
    Row(
        "app",
        "Serve the dashboard of STORE, and print the link to it.",
        "ringlens.cli.app:app",
        "security.md",
    ),
    Row(
        "ask",
        "Let MODEL think aloud about PROMPT, and record it while it does.",
        "ringlens.cli.ask.command:ask",
        "asking.md",
    ),
    Row(
        "capture",
        "Let MODEL think about problems, and record it while it does.",
        "ringlens.cli.capture:capture",
        "recording.md",
    ),
    Row(
        "changes",
        "Compare two checkpoints, in stores BEFORE and AFTER, on the problems that both answered.",
        "ringlens.cli.analysis.changes:changes",
        "thought.md",
    ),
    Row(
        "chat",
        "Talk with MODEL over several turns, and record each while it thinks.",
        "ringlens.cli.ask.chat:chat",
        "asking.md",
    ),
    Row(
        "check",
        "Check every file and row of STORE; exit with 1 if anything is wrong.",
        "ringlens.cli.upkeep.check:check",
        "upkeep.md",
    ),
    Row(
        "compact",
        "Rewrite the many small files of STORE as few large ones.",
        "ringlens.cli.upkeep.compact:compact",
        "upkeep.md",
    ),
    Row(
        "contrast",
        "Compare how often two selections of STORE's tokens choose each expert.",
        "ringlens.cli.analysis.contrast:contrast",
        "experts.md",
    ),
    Row(
        "delete",
        "Delete runs or traces from STORE.",
        "ringlens.cli.upkeep.delete:delete",
        "upkeep.md",
    ),
    Row(
        "demo",
        "Let ring-nano think about some problems, then open the dashboard.",
        "ringlens.cli.demo:demo",
        "recording.md",
    ),
    Row(
        "distil",
        "Let STUDENT learn what the teacher says of its own thoughts in STORE.",
        "ringlens.cli.acting.distil:distil",
        "acting.md",
    ),
    Row(
        "experts",
        "List the experts of STORE that some tokens chose most, against a baseline.",
        "ringlens.cli.analysis.experts:experts",
        "experts.md",
    ),
    Row(
        "export",
        "Write traces of STORE for other tools.",
        "ringlens.cli.upkeep.export:export",
        "upkeep.md",
    ),
    Row(
        "import",
        "Import what a model server answered: text, tokens and expert choices.",
        "ringlens.cli.import_:import_",
        "serving.md",
    ),
    Row(
        "info",
        "Say what STORE holds: its runs, its tables, what is unfinished.",
        "ringlens.cli.info:info",
        "upkeep.md",
    ),
    Row(
        "merge",
        "Copy the runs of other stores into TARGET.",
        "ringlens.cli.upkeep.merge:merge",
        "upkeep.md",
    ),
    Row(
        "plan",
        "Say whether MODEL fits on some GPUs, how fast it should be there, and how to start it.",
        "ringlens.cli.plan.command:plan",
        "plan.md",
    ),
    Row(
        "probe",
        "Experiment with MODEL on the thoughts of STORE, step by step.",
        "ringlens.cli.probing.command:probe",
        "mattered.md",
    ),
    Row(
        "prune",
        "Plan which experts of MODEL stay, by what they did in STORE, and write the smaller model.",
        "ringlens.cli.acting.prune:prune",
        "acting.md",
    ),
    Row(
        "replay",
        "Observe finished text with MODEL in one teacher-forced forward.",
        "ringlens.cli.replay:replay",
        "recording.md",
    ),
    Row(
        "roles",
        "Labels of steps from elsewhere: import them, and train a classifier on them.",
        "ringlens.cli.analysis.roles:roles",
        "thought.md",
    ),
    Row(
        "rollup",
        "Recompute the usage tables of STORE where they do not match what they sum up.",
        "ringlens.cli.upkeep.rollup:rollup",
        "upkeep.md",
    ),
    Row(
        "sql",
        "Query STORE in SQL (DuckDB's).",
        "ringlens.cli.sql.command:sql",
        "sql.md",
    ),
    Row(
        "steps",
        "Cut the thoughts and answers in STORE into steps, and label each with its role.",
        "ringlens.cli.analysis.steps:steps",
        "thought.md",
    ),
    Row(
        "trajectory",
        "Measure the paths of the thoughts in STORE, from step to step.",
        "ringlens.cli.analysis.trajectory:trajectory",
        "thought.md",
    ),
    Row(
        "verify",
        "Compare the routing of the same tokens in stores A and B, layer by layer.",
        "ringlens.cli.analysis.verify:verify",
        "experts.md",
    ),
)


class Commands(click.Group):
    """A group of the commands in `COMMANDS`, which it imports one by one, when they are needed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _keep_lines(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name all commands."""
        return [row.name for row in rows()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        return next((row.load() for row in COMMANDS if row.name == cmd_name), None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called; click's own suggestions know no lazy commands."""
        names = self.list_commands(ctx)
        if not ctx.resilient_parsing and args[0] not in names and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], names, cutoff=0.65)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List all commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(row.name, row.summary) for row in rows()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete the name of a command, without importing any, or an option of the group."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(row.name, help=row.summary)
            for row in rows()
            if row.name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


def rows() -> list[Row]:
    """All rows, by name."""
    return sorted(COMMANDS, key=lambda row: row.name)


def _keep_lines(command: click.Command) -> None:
    r"""Keep the lines of examples, in a group those of its commands too.

    Click leaves a paragraph as it is where the character \b begins it. Docstrings with backslashes
    are raw, so there these are two characters.
    """
    command.help = (command.help or "").replace("\\b\n", "\b\n") or None
    for each in getattr(command, "commands", {}).values():
        _keep_lines(each)
