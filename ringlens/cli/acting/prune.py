"""``ringlens prune``: which experts stay, and a checkpoint without the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringlens.cli.analysis.frames import note, print_frame
from ringlens.cli.console import harmless, progress_bar, speaks
from ringlens.cli.options import BATCH_SIZE, loading_options, take_loading
from ringlens.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from ringlens.problem import Problem
    from ringlens.prune.checkpoint import Exported
    from ringlens.prune.plan import PruningPlan
    from ringlens.store import Store

CRITERIA = ("frequency", "weight", "reap", "ean", "easy-ep", "ablation", "random")
ALL = "all"
SHOWN = (
    *("criterion", "keep", "loss", "loss_increase", "agreement", "accuracy", "low", "high"),
    *("thought", "carried"),
)
"""Columns of an evaluation that fit a terminal."""
OnPlan = Callable[[int, int], None]


@click.command()
@click.argument("model")
@click.argument("store", required=False)
@click.option(
    "--criterion",
    type=click.Choice([*CRITERIA, ALL]),
    default="reap",
    show_default=True,
    help="What ranks the experts; reap, ean and easy-ep need a store that recorded expert_outputs, "
    "ablation one that ringlens ablate measured. A curve can be drawn of all others together.",
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
@click.option(
    "--merge",
    is_flag=True,
    help="Merge each dropped expert into the most similar kept one of its group; shows in --export "
    "alone, as nothing can be masked for it.",
)
@click.option(
    "--evaluate",
    "tried",
    type=click.IntRange(1),
    metavar="N",
    help="Let the full model and the masked one think about N problems that are not in STORE.",
)
@click.option("--curve", metavar="SHARES", help="Evaluate at these shares instead: 0.75,0.5,0.25.")
@click.option("--problems", default="countdown", show_default=True, help="Task or file of these.")
@click.option(
    "--max-new-tokens", default=512, show_default=True, help="Most tokens of an answer to them."
)
@BATCH_SIZE
@loading_options
def prune(model: str, store: str | None, **options: Any) -> None:
    r"""Plan which experts of MODEL stay, by what they did in STORE, and write the smaller model.

    Every group of every layer keeps the same number, and super experts stay in any case. Nothing is
    written but what --save and --export name.

    \b
    Examples:
      ringlens prune ring-nano runs/outputs --criterion reap --keep 0.5
      ringlens prune ring-nano runs/outputs --criterion frequency --keep 24 --save plan.json
      ringlens prune ring-nano --plan plan.json --export models/ring-nano-24
      ringlens prune ring-nano runs/outputs --keep 0.5 --evaluate 32
      ringlens prune ring-nano runs/outputs --keep 0.5 --merge --export models/merged --evaluate 32
      ringlens prune ring-nano runs/outputs --criterion all --curve 0.75,0.5,0.25 --evaluate 32
      torchrun --nproc-per-node 2 -m -- ringlens.cli prune ring-nano --plan plan.json --evaluate 32
    """
    loading = take_loading(options)
    if options["curve"] is not None:
        _print_curve(model, store, loading, options)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and (options["save"] or options["folder"]):
        raise ConfigError(
            "--save and --export write in one process: do so first, and then evaluate in several "
            "with --plan."
        )
    plan = _plan(model, store, options)
    if speaks():
        click.echo(harmless(repr(plan)))
    if (save := options["save"]) is not None:
        plan.save(save)
        click.echo(f"plan: {save}")
    if (folder := options["folder"]) is not None:
        _report(_export(plan, model, folder))
    if options["tried"] is not None:
        _print_evaluation(model, store, plan, loading, options)


def _plan(model: str, store: str | None, options: dict[str, Any]) -> PruningPlan:
    """The plan of a file, or one made of a store."""
    from ringlens.prune.plan import read_plan

    keep, file = options["keep"], options["plan_file"]
    if file is not None:
        if store is not None or keep is not None or options["merge"]:
            raise ConfigError("--plan has its own store, --keep and --merge: leave these out.")
        return read_plan(file)
    if store is None or keep is None:
        raise ConfigError(
            "a plan is made of STORE and --keep (a share such as 0.5, or experts of a layer); or "
            "give one that is made with --plan."
        )
    if options["criterion"] == ALL:
        raise ConfigError("a plan has one criterion; --criterion all is for --curve.")
    from ringlens.prune.criteria import pruning_plan
    from ringlens.prune.merging import with_merging
    from ringlens.store import Store

    asked = {name: options[name] for name in ("where", "seed")}
    with Store(store) as opened:
        plan = pruning_plan(model, opened, options["criterion"], keep, **asked)
        return with_merging(plan, opened) if options["merge"] else plan


def _print_evaluation(
    model: str,
    store: str | None,
    plan: PruningPlan,
    loading: dict[str, Any],
    options: dict[str, Any],
) -> None:
    import ringlens as rl
    from ringlens.prune.evaluation import evaluate
    from ringlens.store import Store

    if store is None:
        problems = _problems(None, options)
    else:
        with Store(store) as opened:
            problems = _problems(opened, options)
    written = [] if options["folder"] is None else [options["folder"]]
    with progress_bar("evaluating") as bar:
        asked = _asked(options, bar.models)
        lens = rl.load(model, **loading)
        frame = evaluate(lens, plan, problems, checkpoints=written, **asked)
    _print_rows(frame, len(problems))


def _print_curve(
    model: str, store: str | None, loading: dict[str, Any], options: dict[str, Any]
) -> None:
    """Print a curve, and where it breaks off."""
    import ringlens as rl
    from ringlens.prune.curve import cliffs, pruning_curve
    from ringlens.store import Store

    unused = [name for name in ("keep", "plan_file", "save", "folder") if options[name] is not None]
    if store is None or options["tried"] is None or unused or options["merge"]:
        raise ConfigError(
            "a curve takes STORE, --criterion, and --evaluate with a number of problems; --keep, "
            "--plan, --save, --merge and --export are for one plan."
        )
    chosen = tuple(name for name in CRITERIA if name != "ablation")
    criteria = chosen if options["criterion"] == ALL else (options["criterion"],)
    shares = [share for share in options["curve"].split(",") if share]
    with Store(store) as opened, progress_bar("evaluating") as bar:
        problems = _problems(opened, options)
        frame = pruning_curve(
            rl.load(model, **loading),
            opened,
            problems,
            criteria=criteria,
            keep=shares,
            where=options["where"],
            seed=options["seed"],
            **_asked(options, bar.models),
        )
    _print_rows(frame, len(problems))
    if speaks():
        print_frame(cliffs(frame), None, None)


def _asked(options: dict[str, Any], on_plan: OnPlan) -> dict[str, Any]:
    """Settings of an evaluation."""
    names = ("max_new_tokens", "batch_size")
    return {**{name: options[name] for name in names}, "on_plan": on_plan}


def _problems(store: Store | None, options: dict[str, Any]) -> list[Problem]:
    """Problems that are not in the store that ranks the experts."""
    from ringlens.prompts.problems import problems

    known: set[str] = set()
    if store is not None:
        found = store.sql("select distinct problem_id from traces where problem_id is not null")
        known = {problem_id for (problem_id,) in found.fetchall()}
    tried = options["tried"]
    fresh = [each for each in problems(options["problems"]) if each.id not in known]
    if len(fresh) < tried:
        raise ConfigError(
            f"--evaluate {tried}: {options['problems']} has {len(fresh)} problems that are not in "
            "the store, and those in it flatter the smaller model. Ask for fewer, or give others "
            "with --problems."
        )
    return fresh[:tried]


def _print_rows(frame: pd.DataFrame, problems: int) -> None:
    if not speaks():
        return
    note(
        f"on {problems} problems; loss in nats a token of what the full model wrote, agreement of "
        "choices among experts that stay, thought in tokens, low and high 95% of accuracy"
    )
    print_frame(frame[[name for name in SHOWN if name in frame]], None, None)


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
