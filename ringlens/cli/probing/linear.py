"""``ringlens probe linear``: what can be read of a thought's future from its steps."""

from __future__ import annotations

from typing import Any

import click

from ringlens.cli.analysis.frames import note, print_frame
from ringlens.cli.sql.output import chosen_form, output_options


@click.command()
@click.argument("store")
@click.option(
    "--target",
    default="backtrack",
    show_default=True,
    help="What is foretold at each step: backtrack (the next one goes back), next_role, correct "
    "(the answer in the end), or a column of token_context.",
)
@click.option(
    "--features",
    default="routing",
    show_default=True,
    help="What is read: routing, router_logits, or a recorded point, as resid_post or head_out.",
)
@click.option("--layer", "layers", multiple=True, type=int, help="A layer; may be given again.")
@click.option("--where", help="Which tokens, a predicate over token_context; thoughts if left out.")
@click.option("--strength", default=1.0, show_default=True, help="Inverse regularisation.")
@click.option("--shuffles", default=3, show_default=True, help="Times that labels are shuffled.")
@click.option("--seed", default=0, show_default=True, help="Seed of shuffles and intervals.")
@output_options
def linear(store: str, **options: Any) -> None:
    r"""What can be read of a thought's future from what was recorded of its steps.

    A logistic regression for each layer of STORE, judged on problems that it has not seen, beside
    one on shuffled labels and one that reads the tokens so far. Needs scikit-learn, and no model.

    \b
    Example:
      ringlens probe linear runs/first --target backtrack --features resid_post
    """
    form, output = options.pop("form"), options.pop("output")
    chosen_form(form, output)
    options["layers"] = list(options["layers"]) or None
    from ringlens.probes.linear import linear_probe
    from ringlens.store import Store

    with Store(store) as opened:
        frame = linear_probe(opened, options.pop("target"), **options)
    note(frame.attrs["said"])
    print_frame(frame, form, output)
