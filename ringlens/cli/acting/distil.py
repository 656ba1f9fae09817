"""``ringlens distil``: a smaller model learns from a larger one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringlens.cli.console import harmless, progress_bar, speaks

if TYPE_CHECKING:
    from ringlens.distil import Row

_SAID = {
    "tokens": "Tokens to learn from; texts come again until there are so many.",
    "batch_tokens": "Tokens of a step, padding counted.",
    "learning_rate": "Peak of the learning rate.",
    "warmup_steps": "Steps over which it rises.",
    "weight_decay": "Of matrices.",
    "temperature": "What both models' logits are divided by.",
    "bias_step": "Step of the selection biases, which keeps experts evenly used.",
    "held_out": "Share of the problems that are measured on, not learnt from.",
    "parts": "What learns: all, or routers.",
    "every": "Steps between two rows of the curve.",
    "seed": "Of the order of texts.",
}


def _settings(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each setting of a distillation, with its default."""
    from ringlens.distil.settings import Distillation

    for each in reversed(fields(Distillation)):
        name = "--" + each.name.replace("_", "-")
        option = click.option(name, default=each.default, show_default=True, help=_SAID[each.name])
        command = option(command)
    return command


@click.command()
@click.argument("student")
@click.argument("store")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new checkpoint.")
@click.option("--teacher", help="The model to learn from; the store's own if left out.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="A GPU where there is one.")
@_settings
def distil(
    student: str, store: str, out: Path, teacher: str | None, device: str | None, **given: Any
) -> None:
    r"""Let STUDENT learn what the teacher says of its own thoughts in STORE.

    STUDENT is a smaller form of the teacher, such as a pruned checkpoint. The loss is the
    divergence of their next-token distributions. What is killed goes on with the same command.

    \b
    Examples:
      ringlens distil models/ring-nano-16 runs/thoughts --out models/ring-nano-16-distilled
      accelerate launch -m ringlens distil small runs/thoughts --out better --tokens 5000000
    """
    from ringlens.distil import Distillation
    from ringlens.distil import distil as learn
    from ringlens.store import Store

    settings = Distillation(**given)
    with Store(store) as opened, progress_bar(f"learning {out}", stays=True) as bar:

        def show(row: Row) -> None:
            bar.learning(row.tokens, settings.tokens, row.held_out)

        made = learn(
            student, opened, out, teacher=teacher, settings=settings, device=device, on_row=show
        )
    if speaks():
        click.echo(harmless(repr(made)))
