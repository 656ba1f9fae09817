"""``ringlens capture``: a model thinks about problems and is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ringlens.cli.asking import asking_options, read_asked, take_asked
from ringlens.cli.console import forecasts_shown, print_summary, progress_bar
from ringlens.cli.options import (
    SAMPLING,
    decode_option,
    loading_options,
    recording_options,
    sampling_options,
    steps_option,
    store_option,
    take_loading,
    take_record,
    take_steps,
)

if TYPE_CHECKING:
    from ringlens.problem import Problem


@click.command()
@click.argument("model")
@asking_options
@click.option("--system", help="System prompt, put through the chat template.")
@click.option(
    "--samples", default=1, show_default=True, help="Traces of each problem; needs --temperature."
)
@store_option
@steps_option
@sampling_options
@recording_options
@decode_option
@click.option(
    "--monitor",
    type=click.Path(),
    help="File of a monitor (`ringlens probe monitor`): it flags the traces that it warns of, or "
    "stops them.",
)
@loading_options
def capture(model: str, store: str, **options: Any) -> None:
    r"""Let MODEL think about problems, and record it while it does.

    MODEL is ring-nano, a folder, or a hub id such as inclusionAI/Ring-mini-2.0.

    \b
    Examples:
      ringlens capture ring-nano --problems countdown --n 8 --store runs/first
      ringlens capture ring-nano --prompt "Make 24 from 3, 8, 1." --store runs/mine
      ringlens capture ring-nano --problems mine.csv --column question --store runs/mine
      ringlens capture ring-nano --n 4 --samples 8 --temperature 0.7 --store runs/samples
      ringlens capture ring-nano --n 64 --store runs/lean --record routing
      ringlens capture ring-nano --n 4 --store runs/stream --record routing,resid_post@3+5
      ringlens capture ring-nano --n 4 --store runs/without --intervene ablate:5/3+7@think
      ringlens capture ring-nano --n 4 --store runs/watched --monitor backtrack.json
    """
    from ringlens.config import Sampling, samples_of
    from ringlens.interventions import read_interventions
    from ringlens.observe.monitoring.monitor import read_monitor
    from ringlens.store.schema.instruments import recordable

    loading, asked = take_loading(options), take_asked(options)
    take_steps(options)
    take_record(options)
    # Before the model: a wrong setting or problem set should not cost a load.
    samples_of(options["samples"], Sampling(**{name: options[name] for name in SAMPLING}))
    if options["record"] is not None:
        recordable(options["record"])
    read_interventions(options["interventions"])
    if options["monitor"] is not None:
        options["monitor"] = read_monitor(options["monitor"])
    capture_problems(model, loading, read_asked(asked), store, options)
    print_summary(store)


def capture_problems(
    model: str,
    loading: dict[str, Any],
    work: list[Problem],
    store: str,
    options: dict[str, Any],
) -> None:
    """Load a model and capture it, with a progress bar.

    Args:
        model: Name of the model.
        loading: Options of :func:`ringlens.load`.
        work: The problems.
        store: Folder or address of the store.
        options: Options of :func:`ringlens.capture`.
    """
    import ringlens as rl

    thinks = f"{model} thinks about {len(work)} problem{'s' if len(work) > 1 else ''}"
    with progress_bar(thinks, stays=True) as bar, forecasts_shown():
        lens = rl.load(model, **loading)
        rl.capture(lens, work, store, on_progress=bar.traces, **options).close()
