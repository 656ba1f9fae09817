"""``ringlens ablate``: what happens without an expert, measured on stored texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ringlens.cli.analysis.frames import note, print_frame
from ringlens.cli.console import progress_bar, speaks
from ringlens.cli.options import loading_options, take_loading, trace_option
from ringlens.cli.sql.output import chosen_form, output_options
from ringlens.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from ringlens.lens import Lens
    from ringlens.store import Store


SHOWN = (
    *("layer", "expert", "set", "n", "loss", "answer"),
    *("accuracy", "accuracy_low", "accuracy_high", "change"),
)
"""Columns of effects with accuracy that fit a terminal; other forms have all."""


@click.command("ablate")
@click.argument("model")
@click.argument("store")
@click.option("--layers", help="Sparse layers, as 3,5-7; all if left out.")
@click.option("--expert-ids", help="Experts of each, as 0-15,20; all if left out.")
@trace_option
@click.option("--batch-size", default=16, show_default=True, help="Experts side by side.")
@click.option(
    "--against",
    metavar="EXPERTS",
    help="Leave these out together instead, as 5/3,5/7 (layer/expert), beside random sets of equal "
    "load.",
)
@click.option(
    "--accuracy",
    is_flag=True,
    help="Let the model answer the problems of the traces anew without each expert or set, and "
    "grade it. It writes an answer for each, and says how many before it begins.",
)
@click.option(
    "--max-new-tokens", default=512, show_default=True, help="Most tokens of such an answer."
)
@click.option("--top", default=20, show_default=True, help="Rows; 0 for all.")
@output_options
@loading_options
def command(model: str, store: str, **options: Any) -> None:
    r"""Measure how the loss of STORE's texts rises when MODEL lacks each expert.

    Results are kept in the table probes, trace by trace; what is there is not measured again.
    Beside the effect stands how often the expert was chosen, and how far the two disagree.

    \b
    Examples:
      ringlens ablate ring-nano runs/first --layers 5
      ringlens ablate ring-nano runs/first --against 5/3,5/7
      ringlens ablate ring-nano runs/first --top 0 -o effects.csv
      ringlens ablate ring-nano runs/first --layers 5 --expert-ids 3,7 --accuracy
      torchrun --nproc-per-node 2 -m -- ringlens.cli ablate ring-nano runs/first --layers 5
    """
    form, output, top = (options.pop(name) for name in ("form", "output", "top"))
    chosen_form(form, output)
    loading, against = take_loading(options), options.pop("against")
    named = [_place(word) for word in (against or "").split(",") if word]
    layers, experts = (_numbers(name, options[name]) for name in ("layers", "expert_ids"))
    if named and (layers or experts):
        raise ConfigError("--against names its experts: leave --layers and --expert-ids out.")
    import ringlens as rl
    from ringlens.probes.ablation import ablate, ablate_set
    from ringlens.store import Store

    asked = {"traces": options["trace_ids"] or None, "batch_size": options["batch_size"]}
    with Store(store) as opened, progress_bar("ablating") as bar:
        lens = rl.load(model, **loading)
        if named:
            frame = ablate_set(lens, opened, named, **asked)
        else:
            frame = ablate(
                lens, opened, layers=layers, experts=experts, **asked, on_progress=bar.models
            )
    if options["accuracy"]:
        with Store(store) as opened:
            frame = _with_accuracy(lens, opened, frame, asked, options["max_new_tokens"])
    if not speaks():
        return
    note(
        f"{frame['traces'].max()} traces; loss: rise in nats a token without the experts; "
        + (
            f"p = {frame.attrs['p']:.3g} of {len(frame) - 1} random sets of equal load"
            if named
            else f"rank correlation of effect and count {frame.attrs['agreement']:.2f}"
        )
    )
    if options["accuracy"]:
        note(
            f"accuracy: share of {frame['problems'].max()} problems solved, with its 95% interval; "
            f"the model as it is solves {frame['accuracy_plain'].iloc[0]:.1%}"
        )
        if chosen_form(form, output) == "table":
            frame = frame[[name for name in SHOWN if name in frame]]
    print_frame(frame.head(top) if top else frame, form, output)


def _with_accuracy(
    lens: Lens, store: Store, frame: pd.DataFrame, asked: dict[str, Any], limit: int
) -> pd.DataFrame:
    """Add to a table of effects what the model still solves, when it answers anew."""
    from ringlens.probes.ablated_answers import ablated_answers

    if "set" in frame:
        sets = [[_place(word) for word in words.split()] for words in frame["set"]]
    else:
        sets = [[place] for place in zip(frame["layer"], frame["expert"], strict=True)]

    def cost(answers: int, tokens: int) -> None:
        if speaks():
            note(
                f"accuracy: {answers:,} answers to write, of {limit:,} tokens at most "
                f"({tokens:,} together); those that the store has are not written again"
            )

    with progress_bar("answering") as bar:
        found = ablated_answers(
            lens, store, sets, max_new_tokens=limit, **asked, on_cost=cost, on_progress=bar.models
        )
    names = {"low": "accuracy_low", "high": "accuracy_high", "plain": "accuracy_plain"}
    columns = ["accuracy", *names, "change", "change_low", "change_high", "problems"]
    added = frame.join(found[columns].rename(columns=names))
    added.attrs = dict(frame.attrs)
    return added


def _numbers(name: str, text: str | None) -> list[int] | None:
    """Numbers of a list such as 0-3,7."""
    if text is None:
        return None
    found: list[int] = []
    for word in text.split(","):
        first, _, last = word.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise ConfigError(
                f"--{name.replace('_', '-')} {text!r:.60}; give numbers and ranges, such as 0-3,7."
            )
        found += range(int(first), int(last or first) + 1)
    return found


def _place(word: str) -> tuple[int, int]:
    layer, _, expert = word.strip().partition("/")
    if not layer.isdecimal() or not expert.isdecimal():
        raise ConfigError(f"--against {word!r:.60}; give layer/expert, such as 5/3.")
    return int(layer), int(expert)
