"""``ringlens prune``: which experts stay, and a checkpoint without the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringlens.cli.console import harmless, progress_bar
from ringlens.errors import ConfigError

if TYPE_CHECKING:
    from ringlens.prune.checkpoint import Exported
    from ringlens.prune.plan import PruningPlan

CRITERIA = ("frequency", "weight", "reap", "ean", "easy-ep", "random")


@click.command()
@click.argument("model")
@click.argument("store", required=False)
@click.option(
    "--criterion",
    type=click.Choice(CRITERIA),
    default="reap",
    show_default=True,
    help="What ranks the experts; all but frequency, weight and random need a store that recorded "
    "expert_outputs.",
)
@click.option("--keep", help="Share of the experts that stay, as 0.5, or how many of a layer.")
@click.option("--where", help="The tokens that count, a predicate over token_context; all else.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random criterion.")
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="Take the plan from this file, in place of STORE and the options above.",
)
@click.option("--save", type=click.Path(path_type=Path), help="Write the plan to a JSON file.")
@click.option(
    "--export", "folder", type=click.Path(path_type=Path), help="Write a checkpoint to this folder."
)
def prune(
    model: str,
    store: str | None,
    criterion: str,
    keep: str | None,
    where: str | None,
    seed: int,
    plan_file: Path | None,
    save: Path | None,
    folder: Path | None,
) -> None:
    r"""Plan which experts of MODEL stay, by what they did in STORE, and write the smaller model.

    Every group of every layer keeps the same number, and super experts stay in any case. Nothing is
    written but what --save and --export name.

    \b
    Examples:
      ringlens prune ring-nano runs/outputs --criterion reap --keep 0.5
      ringlens prune ring-nano runs/outputs --criterion frequency --keep 24 --save plan.json
      ringlens prune ring-nano --plan plan.json --export models/ring-nano-24
    """
    plan = _plan(model, store, criterion, keep, where, seed, plan_file)
    click.echo(harmless(repr(plan)))
    if save is not None:
        plan.save(save)
        click.echo(f"plan: {save}")
    if folder is not None:
        _report(_export(plan, model, folder))


def _plan(
    model: str,
    store: str | None,
    criterion: str,
    keep: str | None,
    where: str | None,
    seed: int,
    plan_file: Path | None,
) -> PruningPlan:
    """The plan of a file, or one made of a store."""
    from ringlens.prune.plan import read_plan

    if plan_file is not None:
        if store is not None or keep is not None:
            raise ConfigError("--plan has its own store and --keep: leave these out.")
        return read_plan(plan_file)
    if store is None or keep is None:
        raise ConfigError(
            "a plan is made of STORE and --keep (a share such as 0.5, or experts of a layer); or "
            "give one that is made with --plan."
        )
    from ringlens.prune.criteria import pruning_plan
    from ringlens.store import Store

    with Store(store) as opened:
        return pruning_plan(model, opened, criterion, keep, where=where, seed=seed)


def _export(plan: PruningPlan, model: str, folder: Path) -> Exported:
    from ringlens.prune.checkpoint import export

    with progress_bar(f"writing {folder}") as bar:
        return export(plan, folder, model=model, on_bytes=bar.bytes)


def _report(made: Exported) -> None:
    files = f"{len(made.files)} file{'s' if len(made.files) > 1 else ''}"
    click.echo(
        f"{made.folder}: {made.bytes / 1e6:,.1f} MB of weights in {files}, "
        f"{made.bytes / made.bytes_before:.1%} of {made.bytes_before / 1e6:,.1f} MB"
    )
    if made.left_out:
        click.echo(
            f"left out: {made.left_out:,} tensors of multi-token-prediction layers, whose experts "
            "nothing ranks; ordinary generation does not run them"
        )
