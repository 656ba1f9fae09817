"""``ringlens capture``: a model thinks about problems and is recorded."""

from __future__ import annotations

from typing import Any

import click

from ringlens.cli.console import print_summary, progress_bar
from ringlens.cli.options import (
    loading_options,
    names_in,
    recording_options,
    sampling_options,
    store_option,
    take_loading,
)


@click.command()
@click.argument("model")
@click.option(
    "--problems",
    default="countdown",
    show_default=True,
    help="Bundled task, or a JSONL file with id, task, prompt, answer, fields.",
)
@click.option("--n", default=None, type=int, help="How many problems; all if left out.")
@store_option
@sampling_options
@recording_options
@loading_options
def capture(model: str, problems: str, n: int | None, store: str, **options: Any) -> None:
    r"""Let MODEL think about problems, and record it while it does.

    MODEL is ring-nano, a folder, or a hub id such as inclusionAI/Ring-mini-2.0.

    \b
    Examples:
      ringlens capture ring-nano --problems countdown --n 8 --store runs/first
      ringlens capture ring-nano --problems mine.jsonl --store runs/mine --temperature 0.7
      ringlens capture ring-nano --n 64 --store runs/lean --record routing
      ringlens capture ring-nano --n 4 --store runs/stream --record routing,resid_post@3+5
    """
    loading = take_loading(options)
    options["record"] = names_in(options["record"])
    capture_problems(model, loading, problems, n, store, options)
    print_summary(store)


def capture_problems(
    model: str,
    loading: dict[str, Any],
    problems: str,
    n: int | None,
    store: str,
    options: dict[str, Any],
) -> None:
    """Load a model and capture it, with a progress bar.

    Args:
        model: Name of the model.
        loading: Options of :func:`ringlens.load`.
        problems: Bundled task or JSONL file.
        n: How many problems; None for all.
        store: Folder or address of the store.
        options: Options of :func:`ringlens.capture`.
    """
    import ringlens as rl

    # Before the model: a wrong problem set should not cost a load.
    work = rl.problems(problems, n=n)
    with progress_bar(f"{model} thinks about {len(work)} problems", stays=True) as bar:
        lens = rl.load(model, **loading)
        rl.capture(lens, work, store, on_progress=bar.traces, **options).close()
