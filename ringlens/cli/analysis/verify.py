"""``ringlens verify``: do two captures of the same tokens agree."""

from __future__ import annotations

import click

from ringlens.cli.analysis.frames import note, print_frame
from ringlens.cli.sql.output import chosen_form, output_options


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@output_options
def verify(first: str, second: str, form: str | None, output: str | None) -> None:
    r"""Compare the routing of the same tokens in stores A and B, layer by layer.

    Traces of B that replay those of A are compared with these, others with traces of equal tokens:
    live against replay, or engine against engine.

    \b
    Examples:
      ringlens verify runs/first runs/third
      ringlens verify runs/first runs/served --format json
    """
    from ringlens.analysis import agreement
    from ringlens.store import Store

    chosen_form(form, output)
    with Store(first) as a, Store(second) as b:
        frame = agreement(a, b)
    attrs = frame.attrs
    note(
        f"{attrs['traces']:,} pairs of traces ({sum(attrs['unpaired']):,} traces without a "
        f"partner); {attrs['any_layer']:.2%} of tokens differ on some layer; log-probabilities "
        f"differ by {attrs['logprob_error']:.2g} nats, of these tokens by "
        f"{attrs['logprob_error_differ']:.2g}"
    )
    print_frame(frame, form, output)
