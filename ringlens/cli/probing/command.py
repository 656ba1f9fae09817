"""``ringlens probe``: experiments on the thoughts of a store."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from ringlens.cli.analysis.frames import note, print_frame
from ringlens.cli.console import progress_bar, speaks
from ringlens.cli.options import loading_options, take_loading, trace_option
from ringlens.cli.probing.settings import options_of, summary_of
from ringlens.cli.sql.output import chosen_form, output_options

if TYPE_CHECKING:
    from ringlens.probes.chain.registry import Entry
    from ringlens.probes.chain.runner import Plan


OTHERS = {
    "linear": (
        "What can be read of a thought's future from what was recorded of its steps.",
        "ringlens.cli.probing.linear:linear",
    ),
    "monitor": (
        "A linear probe with a threshold, which scores running captures.",
        "ringlens.cli.probing.monitor:monitor",
    ),
}
"""Probes that do not go from thought to thought: what they do, and their commands."""


class Probes(click.Group):
    """A command for each probe, imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name all probes."""
        from ringlens.probes.chain.registry import PROBES

        return sorted([*OTHERS, *(each.name for each in PROBES)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make the command of a probe; None if there is none of that name."""
        from ringlens.probes.chain.registry import PROBES

        if cmd_name in OTHERS:
            module, _, name = OTHERS[cmd_name][1].partition(":")
            other: click.Command = getattr(import_module(module), name)
            other.help = (other.help or "").replace("\\b\n", "\b\n")
            return other
        found = next((each for each in PROBES if each.name == cmd_name), None)
        return None if found is None else _command(found)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the probes without importing them."""
        from ringlens.probes.chain.registry import PROBES

        with formatter.section("Probes"):
            listed = {each.name: each.summary for each in PROBES}
            listed |= {name: summary for name, (summary, _) in OTHERS.items()}
            formatter.write_dl(sorted(listed.items()))


@click.group(cls=Probes, subcommand_metavar="PROBE MODEL STORE [OPTIONS]...")
def probe() -> None:
    r"""Experiment with MODEL on the thoughts of STORE, step by step.

    What it costs is said before it starts. Results are kept in the table probes, trace by trace;
    an interrupted command goes on where it was. Under torchrun or accelerate launch the processes
    share the traces out. `ringlens probe PROBE --help` lists the settings of a probe.

    \b
    Examples:
      ringlens probe belief ring-nano runs/first
      ringlens probe belief ring-nano runs/first --trace 1 --samples 8
      ringlens probe linear runs/first --target backtrack --features resid_post
      ringlens sql runs/first "select step, value from probes where key = 'entropy'"
    """


def _command(entry: Entry) -> click.Command:
    """The command of a probe."""
    kind = entry.kind()
    names = [str(option.name) for option in options_of(kind)]

    @click.argument("model")
    @click.argument("store")
    @trace_option
    @click.option("--batch-size", default=16, show_default=True, help="Rows side by side at most.")
    @click.option("--again", is_flag=True, help="Measure traces anew that have other settings.")
    @click.option("--top", default=20, show_default=True, help="Rows; 0 for all.")
    @output_options
    @loading_options
    def run(model: str, store: str, **options: Any) -> None:
        settings = {name: options.pop(name) for name in names}
        _run(entry, model, store, settings, options)

    command = click.command(entry.name, help=summary_of(kind))(run)
    command.params[2:2] = options_of(kind)
    return command


def _run(
    entry: Entry, model: str, store: str, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    """Run a probe and print its table."""
    form, output, top = (options.pop(name) for name in ("form", "output", "top"))
    chosen_form(form, output)
    loading = take_loading(options)
    import ringlens as rl
    from ringlens.store import Store

    with Store(store) as opened, progress_bar(f"probing {entry.name}") as bar:
        frame = rl.probe(
            entry.name,
            rl.load(model, **loading),
            opened,
            traces=options["trace_ids"] or None,
            batch_size=options["batch_size"],
            again=options["again"],
            on_plan=_say_plan,
            on_progress=bar.probing,
            **settings,
        )
    if not speaks():
        return
    note(frame.attrs["said"])
    print_frame(frame.head(top) if top else frame, form, output)


def _say_plan(plan: Plan) -> None:
    """Say what is to be done, and what it takes."""
    if not speaks():
        return
    kept = f", {plan.kept:,} are measured already" if plan.kept else ""
    shared = " in this process" if plan.processes > 1 else ""
    note(
        f"{plan.traces:,} traces to measure{kept}; {plan.steps:,} steps, at most "
        f"{plan.cost.forwards:,} forwards with {plan.cost.tokens:,} tokens{shared}"
    )
