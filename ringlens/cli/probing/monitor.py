"""``ringlens probe monitor``: a linear probe with a threshold, for running captures."""

from __future__ import annotations

from typing import Any

import click

from ringlens.cli.analysis.frames import note


@click.command()
@click.argument("store")
@click.option("--out", required=True, type=click.Path(), help="File that the monitor is kept in.")
@click.option(
    "--target",
    default="backtrack",
    show_default=True,
    help="What is foretold at each step: backtrack (the next one goes back), next_role, correct "
    "(the answer in the end), or a column of token_context.",
)
@click.option("--alarm", help="Class that it warns of; going back, or a wrong answer, if left out.")
@click.option(
    "--features",
    default="resid_post",
    show_default=True,
    help="What is read: a recorded point, as resid_post or head_out, or router_logits.",
)
@click.option("--layer", required=True, type=int, help="The layer.")
@click.option("--where", help="Which tokens it learns from, a predicate over token_context.")
@click.option("--window", default=8, show_default=True, help="Tokens that are judged together.")
@click.option(
    "--false-alarms",
    default=0.1,
    show_default=True,
    help="Chance, at most, that a thought has an alarm where none is warranted.",
)
@click.option(
    "--criterion",
    type=click.Choice(["flag", "stop"]),
    default="flag",
    show_default=True,
    help="What is done where it warns: the trace is flagged, or stopped as well.",
)
@click.option("--strength", default=1.0, show_default=True, help="Inverse regularisation.")
@click.option("--seed", default=0, show_default=True, help="Seed of the division of problems.")
def monitor(store: str, out: str, target: str, **options: Any) -> None:
    r"""Train a linear probe that scores running captures, and keep it in a file.

    Half of the problems of STORE train it, a quarter gives its threshold, and the rest says how
    often it warns in vain. `ringlens capture --monitor FILE` takes it. Needs scikit-learn, and no
    model.

    \b
    Example:
      ringlens probe monitor runs/first --layer 5 --out backtrack.json
    """
    from ringlens.probes.monitor import said_of, train_monitor
    from ringlens.store import Store

    with Store(store) as opened:
        found = train_monitor(opened, target, **options)
    found.save(out)
    note(f"{out} {said_of(found)}")
