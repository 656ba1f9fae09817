"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringlens.errors import ConfigError

if TYPE_CHECKING:
    from ringlens.store.maintain.engine import Engine

Command = Callable[..., Any]

BATCH_SIZE = click.option(
    "--batch-size", default=16, show_default=True, help="Traces side by side."
)

WORKERS = click.option(
    "--workers",
    type=int,
    help="Processes that encode the records; 0: threads beside the model. As many as pay for "
    "themselves if left out.",
)

RECORDING: tuple[Callable[[Command], Command], ...] = (
    click.option(
        "--record",
        help="What to record, comma-separated; tokens always are. By default "
        "logprobs,routing,router_logits,heads; head_blocks in place of heads where the model has "
        "more than 512 heads in all. routing@3-5 records these layers "
        "alone. head_blocks in place of heads keeps means and maxima over 64 positions. Vectors "
        "and attention are asked for with their layers, heads and positions: resid_post@3+5, "
        "head_out@2/0-3[0:128], attention:4@2/1 (4 positions a token).",
    ),
    click.option(
        "--commit-every",
        default=10.0,
        show_default=True,
        help="Seconds after which the finished part of a running batch is committed.",
    ),
    click.option(
        "--intervene",
        "interventions",
        multiple=True,
        help="Change the model while it runs, as in ablate:5/3+7@think; may be given again. "
        "docs/acting.md has all forms.",
    ),
    click.option(
        "--allow-nonfinite",
        is_flag=True,
        help="Continue where a number of the model is NaN or infinite, and flag its rows.",
    ),
)
"""Options of the commands that record."""

QUANTIZATION = click.Choice(["nf4", "nf4-double", "int8", "fp8"])
LAYOUT = click.Choice(["fused", "modules"])

LOADING: Mapping[str, Callable[[Command], Command]] = {
    "dtype": click.option("--dtype", help="dtype of the weights, e.g. float32, bfloat16."),
    "device": click.option("--device", help="Device, e.g. cuda; the CPU if left out."),
    "attention": click.option("--attention", help="Attention kernel; sdpa if left out."),
    "revision": click.option("--revision", help="Branch, tag or commit of a hub id."),
    "quantization": click.option(
        "--quantization", type=QUANTIZATION, help="Hold the weights in 4 or 8 bits."
    ),
    "experts": click.option(
        "--experts",
        type=LAYOUT,
        help="Layout of the experts; follows from the other options if left out.",
    ),
    "device_map": click.option(
        "--device-map",
        help="Spread over devices: auto, balanced, sequential, or a JSON file made by "
        "ringlens plan.",
    ),
    "offload_folder": click.option(
        "--offload-folder", help="Folder for weights that stay on the disk."
    ),
    "tp_size": click.option("--tp-size", type=int, help="Under torchrun: processes to a weight."),
    "ep_size": click.option(
        "--ep-size", type=int, help="Under torchrun: processes to the experts."
    ),
    "pp_size": click.option("--pp-size", type=int, help="Under torchrun: stages of layers."),
}
"""Options of :func:`ringlens.load` by their names there; `ringlens.load` has the defaults."""

SAMPLING: Mapping[str, Callable[[Command], Command]] = {
    "max_new_tokens": click.option(
        "--max-new-tokens", default=512, show_default=True, help="Most tokens of an answer."
    ),
    "temperature": click.option(
        "--temperature", default=0.0, show_default=True, help="0 is greedy."
    ),
    "top_p": click.option(
        "--top-p", default=1.0, show_default=True, help="Share of probability to draw from."
    ),
    "top_k": click.option(
        "--top-k", default=0, show_default=True, help="Most likely tokens to draw from; 0 is all."
    ),
    "seed": click.option("--seed", default=0, show_default=True, help="Seed of the run."),
}
"""Options of :class:`ringlens.config.Sampling` by their names there."""


def with_options(options: Iterable[Callable[[Command], Command]], command: Command) -> Command:
    """Give a command options; in reverse, as click lists the one that is applied last first."""
    for option in reversed([*options]):
        command = option(command)
    return command


def recording_options(command: Command) -> Command:
    """Give a command the options of recording."""
    return with_options((BATCH_SIZE, *RECORDING, WORKERS), command)


def trace_recording_options(command: Command) -> Command:
    """Give a command the options of recording one trace."""
    return with_options(RECORDING, command)


def loading_options(command: Command) -> Command:
    """Give a command the options of :func:`ringlens.load`."""
    return with_options(LOADING.values(), command)


def sampling_options(command: Command) -> Command:
    """Give a command the options of sampling."""
    return with_options(SAMPLING.values(), command)


store_option = click.option(
    "--store", required=True, help="Folder or address of the store; made or added to."
)

steps_option = click.option(
    "--steps/--no-steps",
    "label_steps",
    default=True,
    show_default=True,
    help="Cut each trace into steps with roles when it ends.",
)

decode_option = click.option(
    "--decode",
    type=click.Choice(["auto", "graph", "eager"]),
    default="auto",
    show_default=True,
    help="graph: repeat a decoding step as a CUDA graph; auto: where there can be one.",
)

run_option = click.option("--run", "run_ids", multiple=True, help="A run; may be given again.")

trace_option = click.option(
    "--trace", "trace_ids", multiple=True, type=int, help="A trace; may be given again."
)

engine_option = click.option(
    "--engine",
    type=click.Choice(["here", "ray"]),
    default="here",
    show_default=True,
    help="Where it runs: in this process, or on a Ray cluster (RAY_ADDRESS; else these cores).",
)


def take_loading(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of loading that were given out of ``options``.

    Raises:
        ConfigError: The file of a device map holds none.
    """
    taken = {name: options.pop(name) for name in LOADING if name in options}
    given = {name: value for name, value in taken.items() if value is not None}
    if str(given.get("device_map", "")).endswith(".json"):
        given["device_map"] = _read_map(Path(given["device_map"]))
    return given


def take_steps(options: dict[str, Any]) -> None:
    """Replace the choice of `steps_option` by what a capture calls when traces have ended."""
    from ringlens.analysis.roles.labelling import label_stored

    options["on_stored"] = label_stored if options.pop("label_steps") else None


def take_record(options: dict[str, Any]) -> None:
    """Replace the text of ``--record`` by its names; None stays, for the default of the model."""
    if options["record"] is not None:
        options["record"] = names_in(options["record"])


def names_in(text: str) -> tuple[str, ...]:
    """The names of a comma-separated list."""
    return tuple(name for name in text.split(",") if name)


def engine_named(name: str) -> Engine:
    """The engine that ``--engine`` names."""
    from ringlens.store.maintain.engine import LOCAL
    from ringlens.store.maintain.engine_ray import RayEngine

    return LOCAL if name == "here" else RayEngine()


def _read_map(path: Path) -> dict[str, str | int]:
    """A device map from a JSON file: device by module."""
    from ringlens.strict_json import parsed_object

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the device map {str(path)!r}: {error}") from error
    found = parsed_object(text, f"the device map {str(path)!r}", ConfigError)
    if not all(isinstance(device, str | int) for device in found.values()):
        raise ConfigError(
            f"{str(path)!r} is no device map: it must be a JSON object of modules and devices, as "
            "ringlens plan --save-device-map writes it."
        )
    return found
