"""``ringlens import``: what model servers answered, from saved responses or from a server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from ringlens.cli.console import print_summary, progress_bar
from ringlens.cli.options import (
    SAMPLING,
    Command,
    sampling_options,
    store_option,
    with_options,
)
from ringlens.errors import ConfigError

if TYPE_CHECKING:
    from ringlens.errors import ServingError

API_KEY = "RINGLENS_API_KEY"
"""Environment variable of the server's key; lists of processes would show an option."""


MODEL = click.option(
    "--model",
    required=True,
    help="What is served, or is to observe texts: ring-nano, a folder, its config.json, "
    "or a hub id. Its configuration and tokenizer are read, never its weights.",
)

SOURCE = (
    click.argument("responses", nargs=-1, type=click.Path()),
    MODEL,
    store_option,
    click.option("--skip-bad", is_flag=True, help="List answers that cannot be imported, go on."),
    click.option("--server", help="Ask this server, e.g. http://localhost:8000."),
    click.option(
        "--problems",
        help="What to ask: a bundled task or a JSONL file. With RESPONSES: what was asked, "
        "for grading.",
    ),
    click.option("--n", type=int, help="How many problems; all if left out."),
)
PATIENCE = (
    click.option("--served-as", help="The model's name in the server; its first if left out."),
    click.option("--concurrency", default=16, show_default=True, help="Requests at a time."),
    click.option(
        "--timeout", default=1800.0, show_default=True, help="Seconds for an answer as a whole."
    ),
    click.option(
        "--max-answer-mb",
        default=256.0,
        show_default=True,
        help="Most MB of an answer, after decompression.",
    ),
    click.option(
        "--retries", default=5, show_default=True, help="Further attempts at a busy server."
    ),
)


def import_options(command: Command) -> Command:
    """Options that all kinds of servers share."""
    return with_options(SOURCE, sampling_options(with_options(PATIENCE, command)))


prompt_start = click.option(
    "--prompt-start",
    type=int,
    help="Position of the first routed token, where requests had an offset and are not saved.",
)


@click.group("import")
def import_() -> None:
    r"""Import what a model server answered: text, tokens and expert choices.

    Either from files of RESPONSES (JSON or JSONL), or live from --server. After an interrupt the
    same command does the rest. The server's key is read from the environment variable
    RINGLENS_API_KEY.

    \b
    Examples:
      ringlens import vllm answers.jsonl --model ring-nano --store runs/served
      ringlens import openai --server http://localhost:8080 --n 8 \
          --model ring-nano --store runs/text
    """


@import_.command()
@import_options
@prompt_start
def vllm(**options: Any) -> None:
    r"""Import from vLLM, which must run with --enable-return-routed-experts.

    \b
    Examples:
      ringlens import vllm answers.jsonl --model ring-nano --store runs/served
      ringlens import vllm --server http://localhost:8000 --problems countdown --n 64 \
          --model inclusionAI/Ring-mini-2.0 --store runs/served
    """
    _import("vllm", **options)


@import_.command()
@import_options
@prompt_start
def sglang(**options: Any) -> None:
    r"""Import from SGLang, which must run with --enable-return-routed-experts.

    \b
    Examples:
      ringlens import sglang answers.jsonl --model ring-nano --store runs/served
      ringlens import sglang --server http://localhost:30000 --problems countdown \
          --model inclusionAI/Ring-mini-2.0 --store runs/served
    """
    _import("sglang", **options)


@import_.command()
@import_options
@click.option("--chat", is_flag=True, help="Ask by chat completions, where there are no others.")
def openai(chat: bool, **options: Any) -> None:
    r"""Import text from any OpenAI-compatible server; `ringlens replay` adds the routing.

    \b
    Examples:
      ringlens import openai --server http://localhost:8080 --problems countdown --n 8 \
          --model ring-nano --store runs/text
      ringlens replay ring-nano runs/text --store runs/text
    """
    _import("openai-chat" if chat else "openai", prompt_start=None, **options)


@import_.command("math-rollouts")
@click.argument("folder")
@MODEL
@store_option
@click.option("--resampled", is_flag=True, help="Also the rollouts of chunk_*/solutions.json.")
def math_rollouts(folder: str, model: str, store: str, resampled: bool) -> None:
    r"""Import texts and labels from a FOLDER in the layout of math-rollouts.

    FOLDER is that of a problem (with base_solution.json), or holds such folders; `ringlens replay`
    adds the routing of a model.

    \b
    Examples:
      ringlens import math-rollouts rollouts/problem_330 --model ring-nano --store runs/anchors
      ringlens replay ring-nano runs/anchors --store runs/observed
    """
    from ringlens.rollouts.importing import import_rollouts

    with progress_bar("importing", stays=True) as bar:
        import_rollouts(
            folder, store, model=model, resampled=resampled, on_progress=bar.traces
        ).close()
    print_summary(store)


def _import(kind: str, responses: tuple[str, ...], server: str | None, **options: Any) -> None:
    if bool(responses) == (server is not None):
        raise click.UsageError("give either files of responses or --server.")
    if server is None:
        _from_files(kind, responses, **options)
    else:
        _from_server(kind, server, **options)
    print_summary(options["store"])


def _from_files(kind: str, responses: tuple[str, ...], **options: Any) -> None:
    import ringlens as rl
    from ringlens.serving.importing import import_responses, refuse

    problems = rl.problems(options["problems"], n=options["n"]) if options["problems"] else []
    with progress_bar("importing", stays=True) as bar:
        import_responses(
            kind,
            responses,
            options["store"],
            model=options["model"],
            problems=problems,
            prompt_start=options["prompt_start"],
            on_progress=bar.traces,
            on_bad=_report if options["skip_bad"] else refuse,
        ).close()


def _from_server(kind: str, server: str, **options: Any) -> None:
    import ringlens as rl
    from ringlens.serving.client import Patience
    from ringlens.serving.importing import import_problems, refuse

    if options["prompt_start"] is not None:
        raise ConfigError("--prompt-start belongs to saved responses: leave it out with --server.")
    problems = rl.problems(options["problems"] or "countdown", n=options["n"])
    patience = Patience(
        options["concurrency"],
        options["timeout"],
        options["retries"],
        largest=_bytes(options["max_answer_mb"]),
    )
    sampling = {name: options[name] for name in SAMPLING}
    with progress_bar(f"{server} answers {len(problems)} problems", stays=True) as bar:
        import_problems(
            kind,
            server,
            problems,
            options["store"],
            model=options["model"],
            served_as=options["served_as"],
            api_key=os.environ.get(API_KEY),
            patience=patience,
            on_progress=bar.traces,
            on_bad=_report if options["skip_bad"] else refuse,
            **sampling,
        ).close()


def _bytes(megabytes: float) -> int:
    if not 1e-6 <= megabytes < 1e9:  # NaN fails too
        raise ConfigError(f"--max-answer-mb {megabytes}: give a number of MB above 0.")
    return int(megabytes * 1e6)


def _report(error: ServingError) -> None:
    """Say that an answer cannot be imported, and go on."""
    click.echo(f"skipped: {error}", err=True)
