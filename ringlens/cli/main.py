"""The command line: demo, capture, replay, app, sql; the others are in cli_*.py.

Exit codes: 0 done, 1 it could not be done (the message says why), 2 wrong usage, 130 interrupted.
Imports stand inside the commands, so that ``ringlens --help`` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringlens import __version__
from ringlens.cli.check import check
from ringlens.cli.console import Commands, print_queries, print_summary, progress_bar, speaks
from ringlens.cli.export import export
from ringlens.cli.import_ import import_
from ringlens.cli.info import info
from ringlens.cli.maintain import compact, delete, merge, rollup
from ringlens.cli.plan import plan
from ringlens.cli.sql import sql
from ringlens.errors import ConfigError, RinglensError

if TYPE_CHECKING:
    from ringlens.store import Store

INTERRUPTED = 130

Command = Callable[..., Any]


class Ringlens(Commands):
    """The command group; turns our errors and Ctrl-C into messages and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            with _warnings_shown():
                return super().invoke(ctx)
        except RinglensError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.secho("interrupted; every trace committed before is intact", err=True)
            ctx.exit(INTERRUPTED)


class _Shown(logging.Handler):
    """Shows warnings of ringlens on the terminal, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one."""
        if speaks():
            click.secho(f"warning: {record.getMessage()}", fg="yellow", err=True)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    logger, handler = logging.getLogger("ringlens"), _Shown(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def recording_options(command: Command) -> Command:
    """Options shared by the commands that record."""
    for option in (
        click.option("--batch-size", default=16, show_default=True, help="Traces side by side."),
        click.option(
            "--record",
            default="logprobs,routing,router_logits,heads",
            show_default=True,
            help="What to record, comma-separated; tokens always are. head_blocks in place of "
            "heads keeps means and maxima over 64 positions. Vectors and attention are "
            "asked for with their layers, heads and positions: resid_post@3+5, "
            "head_out@2/0-3[0:128], attention:4@2/1 (4 positions a token).",
        ),
        click.option(
            "--commit-every",
            default=10.0,
            show_default=True,
            help="Seconds after which a running batch is committed as far as it is.",
        ),
        click.option(
            "--allow-nonfinite",
            is_flag=True,
            help="Go on where a number of the model is NaN or infinite, and flag its rows.",
        ),
    ):
        command = option(command)
    return command


def loading_options(command: Command) -> Command:
    """Options of :func:`ringlens.load`; what is left out is left to it."""
    for option in reversed(
        (
            click.option("--dtype", help="dtype of the weights, e.g. float32, bfloat16."),
            click.option("--device", help="Device, e.g. cuda; the CPU if left out."),
            click.option("--attention", help="Attention kernel; sdpa if left out."),
            click.option("--revision", help="Branch, tag or commit of a hub id."),
            click.option(
                "--quantization",
                type=click.Choice(["nf4", "nf4-double", "int8", "fp8"]),
                help="Hold the weights in 4 or 8 bits.",
            ),
            click.option(
                "--experts",
                type=click.Choice(["fused", "modules"]),
                help="Layout of the experts; chosen by the rest if left out.",
            ),
            click.option(
                "--device-map",
                help="Spread over devices: auto, balanced, sequential, or a JSON file made by "
                "ringlens plan.",
            ),
            click.option("--offload-folder", help="Folder for weights that stay on the disk."),
            click.option("--tp-size", type=int, help="Under torchrun: processes to a weight."),
            click.option("--ep-size", type=int, help="Under torchrun: processes to the experts."),
            click.option("--pp-size", type=int, help="Under torchrun: stages of layers."),
        )
    ):
        command = option(command)
    return command


@click.group(cls=Ringlens, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ringlens")
def main() -> None:
    r"""See which experts a Ring model chose, why, and what its heads looked at.

    \b
    Examples:
      ringlens demo
      ringlens capture ring-nano --problems countdown --n 8 --store runs/first
      ringlens app runs/first
      ringlens sql runs/first "select * from traces limit 3"
    """


@main.command()
@click.option(
    "--store", default="runs/demo", show_default=True, help="Folder or address of the store."
)
@click.option("--n", default=32, show_default=True, help="Problems to think about.")
@click.option("--port", default=8050, show_default=True, help="Port of the dashboard.")
@click.option("--serve/--no-serve", default=True, help="Serve the dashboard afterwards.")
def demo(store: str, n: int, port: int, serve: bool) -> None:
    r"""Let ring-nano think about some problems, then open the dashboard.

    \b
    Examples:
      ringlens demo
      ringlens demo --n 8 --no-serve
    """
    options = {"max_new_tokens": 640, "batch_size": 16}
    _capture("ring-nano", {}, "countdown", n, store, options)
    print_summary(store)
    print_queries(store)
    if serve:
        # A process of its own: the dashboard needs neither torch nor the model.
        sys.stdout.flush()
        os.execv(
            sys.executable,
            [sys.executable, "-m", "ringlens.cli", "app", store, "--port", str(port)],
        )


@main.command()
@click.argument("model")
@click.option(
    "--problems",
    default="countdown",
    show_default=True,
    help="Bundled task, or a JSONL file with id, task, prompt, answer, fields.",
)
@click.option("--n", default=None, type=int, help="How many problems; all if left out.")
@click.option("--store", required=True, help="Folder or address of the store; made or added to.")
@click.option("--max-new-tokens", default=512, show_default=True, help="Most tokens of a trace.")
@click.option("--temperature", default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", default=1.0, show_default=True, help="Nucleus to draw from.")
@click.option("--top-k", default=0, show_default=True, help="Tokens to draw from; 0 is all.")
@click.option("--seed", default=0, show_default=True, help="Seed of the run.")
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
    _capture(model, _model_options(options), problems, n, store, options)
    print_summary(store)


@main.command()
@click.argument("model")
@click.argument("source")
@click.option(
    "--store", required=True, help="Folder or address of the store that the records go to."
)
@click.option(
    "--prefill",
    default=32768,
    show_default=True,
    help="Positions that one forward takes at most.",
)
@recording_options
@loading_options
def replay(model: str, source: str, store: str, **options: Any) -> None:
    r"""Observe finished text with MODEL in one teacher-forced forward.

    SOURCE is a store, whose traces are replayed, or a text file with one text (a blank line and
    ``---`` on a line of its own part several).

    \b
    Examples:
      ringlens replay ring-nano runs/first --store runs/again
      ringlens replay ring-nano thoughts.txt --store runs/texts
    """
    import ringlens as rl

    model_options = _model_options(options)
    finished = _source(source)
    with progress_bar(f"replaying {source}") as on_progress:
        lens = rl.load(model, **model_options)
        rl.replay(lens, finished, store, on_progress=on_progress, **options).close()
    print_summary(store)


@main.command()
@click.argument("store")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option("--port", default=8050, show_default=True, help="Port to serve on.")
@click.option("--open/--no-open", "open_browser", default=False, help="Open a browser.")
@click.option(
    "--token",
    help="Token that the page asks for, of 8 characters or more; a random one if left out. `ps` "
    "shows it to all users: the environment variable RINGLENS_TOKEN does not.",
)
@click.option("--no-token", is_flag=True, help="Ask for none: any user of this machine may read.")
@click.option(
    "--url-prefix",
    help="Path below which a proxy shows the page, such as /user/ada/proxy/8050/; found by itself "
    "in JupyterHub, Jupyter's terminals, Kubeflow and code-server.",
)
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait for a store not yet there."
)
def app(
    store: str,
    host: str,
    port: int,
    open_browser: bool,
    token: str | None,
    no_token: bool,
    url_prefix: str | None,
    wait: bool,
) -> None:
    r"""Serve the dashboard of STORE, and print the link to it.

    The link holds a token, without which the page answers nobody: any user of this machine can
    connect to the port.

    \b
    Examples:
      ringlens app runs/first
      ringlens app runs/first --port 8051 --open
      ringlens app runs/first --url-prefix /user/ada/proxy/8050/
    """
    from ringlens.app import serve

    if no_token and token is not None:
        raise click.UsageError("--token and --no-token contradict each other: give one of them")
    serve(
        store,
        host=host,
        port=port,
        open_browser=open_browser,
        token=False if no_token else token,
        url_prefix=url_prefix,
        wait=wait,
    )


def _capture(
    model: str,
    model_options: dict[str, Any],
    problems: str,
    n: int | None,
    store: str,
    options: dict[str, Any],
) -> None:
    """Load, capture with a progress bar, close."""
    import ringlens as rl

    # Before the model: a wrong problem set should not cost a load.
    work = rl.problems(problems, n=n)
    with progress_bar(f"{model} thinks about {len(work)} problems") as on_progress:
        lens = rl.load(model, **model_options)
        rl.capture(lens, work, store, on_progress=on_progress, **options).close()


LOADING = (
    "dtype",
    "device",
    "attention",
    "revision",
    "quantization",
    "experts",
    "device_map",
    "offload_folder",
    "tp_size",
    "ep_size",
    "pp_size",
)


def _model_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take what concerns loading out of ``options``, and split the list of what to record."""
    options["record"] = tuple(name for name in options["record"].split(",") if name)
    loading = {name: options.pop(name) for name in LOADING}
    given = {name: value for name, value in loading.items() if value is not None}
    if str(given.get("device_map", "")).endswith(".json"):
        given["device_map"] = _read_map(Path(given["device_map"]))
    return given


def _read_map(path: Path) -> dict[str, str | int]:
    """A device map from a JSON file: device by module."""
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the device map {str(path)!r}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(x, str | int) for x in found.values()):
        raise ConfigError(
            f"{str(path)!r} is no device map: it must be a JSON object of modules and devices, as "
            "ringlens plan --save-device-map writes it."
        )
    return found


def _source(source: str) -> Store | list[str]:
    """What to replay: a store, or the texts of a file."""
    from ringlens.problem import read_text
    from ringlens.store import Store

    place = Path(source)
    if "://" in source or os.path.isdir(place):
        return Store(source)
    if not os.path.exists(place):
        raise RinglensError(f"nothing to replay at {source!r}: neither a store nor a text file.")
    texts = [text.strip("\n") for text in read_text(place).split("\n---\n")]
    return [text for text in texts if text.strip()]


main.add_command(check)
main.add_command(import_)
main.add_command(info)
main.add_command(plan)
main.add_command(sql)
main.add_command(rollup)
main.add_command(compact)
main.add_command(delete)
main.add_command(merge)
main.add_command(export)
