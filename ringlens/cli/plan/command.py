"""``ringlens plan``: whether a model fits on some devices, how fast, and the commands for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringlens.cli.options import LAYOUT, QUANTIZATION
from ringlens.errors import ConfigError, ModelNotFoundError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ringlens.model.fit.launch import Launch
    from ringlens.model.fit.plan import Plan


@click.command()
@click.argument("model")
@click.option("--gpus", required=True, help="Devices, e.g. 16x80GB, 8x141GiB, 2x80GB,cpu:512GB.")
@click.option(
    "--quantization",
    type=QUANTIZATION,
    help="Hold the weights in 4 or 8 bits; as published if left out.",
)
@click.option("--context", default=32768, show_default=True, help="Tokens of the longest trace.")
@click.option("--batch", default=4, show_default=True, help="Traces side by side.")
@click.option(
    "--prefill", default=2048, show_default=True, help="Tokens of the longest prompt or text."
)
@click.option("--dtype", help="dtype of unquantised weights; as published if left out.")
@click.option(
    "--experts",
    type=LAYOUT,
    help="Layout of the experts; the one that the method needs if left out.",
)
@click.option("--reserve", default="2GB", show_default=True, help="Kept back on each GPU.")
@click.option("--gpus-per-node", default=8, show_default=True, help="GPUs in one machine.")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option(
    "--save-device-map", type=click.Path(path_type=Path), help="Write the device map to a file."
)
@click.option(
    "--kind", help="Kind of the GPUs: h200, h100 or a100; told by their memory if left out."
)
@click.option(
    "--measure",
    "measures",
    is_flag=True,
    help="Measure what this machine can do, and a short run of MODEL where its weights are here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def plan(
    model: str,
    gpus: str,
    as_json: bool,
    save_device_map: Path | None,
    kind: str | None,
    measures: bool,
    **given: Any,
) -> None:
    r"""Say whether MODEL fits on some GPUs, how fast it should be there, and how to start it.

    If it does not fit, say what to change.

    MODEL is ring-nano, a folder, a config.json, or a hub id, of which only config.json is read.
    GB are 10^9 bytes, GiB 2^30.

    \b
    Examples:
      ringlens plan inclusionAI/Ring-1T --gpus 8x141GB --quantization nf4
      ringlens plan inclusionAI/Ring-mini-2.0 --gpus 1x80GB --context 8192 --batch 16
      ringlens plan ring-nano --gpus cpu:8GB --json
      ringlens plan ring-nano --gpus cpu:8GB --context 512 --prefill 256 --measure
    """
    made, launch = _planned(model, gpus, given)
    if save_device_map is not None:
        _save_map(made, save_device_map)
    from ringlens.cli.plan.report import print_json, print_plan
    from ringlens.cli.plan.speed import expect

    expected = expect(made, launch, kind, measures=measures)
    (print_json if as_json else print_plan)(made, launch, expected)


def _planned(model: str, gpus: str, given: dict[str, Any]) -> tuple[Plan, Launch]:
    """Read the options and plan; cheap checks come before imports of torch."""
    from ringlens.model.fit.placement import devices

    over = devices(gpus)
    reserve = _bytes(given["reserve"])
    if given["gpus_per_node"] < 1:
        raise ConfigError(f"gpus-per-node = {given['gpus_per_node']}; it must be 1 or more.")
    from ringlens.model.family import sizes_of
    from ringlens.model.fit.launch import MODEL, Launch
    from ringlens.model.fit.memory import Observed, Workload
    from ringlens.model.fit.plan import plan as plan_over
    from ringlens.model.fit.scenario import scenario
    from ringlens.model.loading import locate, read_config
    from ringlens.store.schema.instruments import default_names, waiting_bytes

    file = Path(model).expanduser()
    if file.suffix == ".json" and not file.is_file():
        raise ModelNotFoundError(f"no configuration {model!r}. Give the path of a config.json.")
    config = read_config(str(file) if file.is_file() else locate(model), given["revision"])
    model_sizes = sizes_of(config)
    recorded = default_names(model_sizes.layers * model_sizes.heads)
    observed = Observed(*waiting_bytes(recorded))
    what = scenario(
        config,
        quantization=given["quantization"],
        dtype=given["dtype"] or _loaded_dtype(model, config),
        layout=given["experts"],
        work=Workload(given["context"], given["batch"], given["prefill"], observed),
        reserve=reserve,
    )
    # A configuration without weights beside it is no model to load.
    bare = file.is_file() and not list(file.parent.glob("*.safetensors"))
    name = MODEL if bare else str(file.parent) if file.is_file() else model
    return plan_over(what, over), Launch(name, model, gpus, given["gpus_per_node"], given["dtype"])


def _loaded_dtype(model: str, config: PreTrainedConfig) -> str:
    """The dtype that :func:`ringlens.load` chooses."""
    from ringlens.model.loading import BUNDLED

    if model in BUNDLED:
        return "float32"
    return str(getattr(config, "dtype", None) or "bfloat16").removeprefix("torch.")


def _bytes(size: str) -> int:
    """Bytes of a size such as 2GB, or 0."""
    from ringlens.model.fit.placement import devices

    if re.fullmatch(r"0\s*\w*", size.strip()):
        return 0
    found = devices(size)
    if len(found) != 1:
        raise ConfigError(f"reserve = {size!r}; it must be one size, for example 2GB.")
    return found[0].capacity


def _save_map(made: Plan, path: Path) -> None:
    import json

    strategy = made.strategies[0]
    if not strategy.fits:
        raise ConfigError(
            "there is no device map to save: the model does not fit on these devices. Run "
            "ringlens plan without --save-device-map to see what to change."
        )
    try:
        path.write_text(json.dumps(strategy.device_map, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the device map {str(path)!r}: {error}") from error
