"""``ringlens app``: the dashboard of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ringlens.cli.options import LOADING, take_loading, with_options

if TYPE_CHECKING:
    from ringlens.live.thinker import LiveModel

ALONE = [option for name, option in LOADING.items() if not name.endswith("_size")]
"""Options of loading but those of several processes: here there is one."""


def live_options(command: Any) -> Any:
    """Give a command the options of a live model's loading."""
    return with_options(ALONE, command)


@click.command()
@click.argument("store")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option("--port", default=8050, show_default=True, help="Port to serve on.")
@click.option("--open/--no-open", "open_browser", default=False, help="Open a browser.")
@click.option("--trace", "trace_id", type=int, help="The trace that the link leads to.")
@click.option(
    "--token",
    help="Token that the page asks for, of 8 characters or more; a random one if left out. `ps` "
    "shows it to all users: the environment variable RINGLENS_TOKEN does not.",
)
@click.option("--no-token", is_flag=True, help="Ask for none: any user of this machine may read.")
@click.option(
    "--url-prefix",
    help="Path under which a proxy shows the page, such as /user/ada/proxy/8050/; found by itself "
    "in JupyterHub, Jupyter's terminals, Kubeflow and code-server.",
)
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait for a store not yet there."
)
@click.option(
    "--live",
    "model",
    metavar="MODEL",
    help="Let MODEL think about what is typed on the page /live, in a process of its own; it takes "
    "the options below.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    help="Most tokens of a thought of the live model; 4096 if left out.",
)
@click.option(
    "--problems",
    metavar="SOURCE",
    multiple=True,
    help="A set of problems to choose from on the page /live, beside the bundled ones: a file or "
    "hub:ID, as `ringlens capture` takes it.",
)
@click.option("--author", help="Name under which annotations are written; you if left out.")
@click.option("--read-only", is_flag=True, help="Let nobody annotate in the dashboard.")
@live_options
def app(
    store: str,
    host: str,
    port: int,
    open_browser: bool,
    trace_id: int | None,
    token: str | None,
    no_token: bool,
    url_prefix: str | None,
    wait: bool,
    model: str | None,
    max_new_tokens: int | None,
    problems: tuple[str, ...],
    author: str | None,
    read_only: bool,
    **loading: Any,
) -> None:
    r"""Serve the dashboard of STORE, and print the link to it.

    The link holds a token, without which the page answers nobody: any user of this machine can
    connect to the port.

    \b
    Examples:
      ringlens app runs/first
      ringlens app runs/first --port 8051 --open
      ringlens app runs/first --trace 3 --open
      ringlens app runs/first --url-prefix /user/ada/proxy/8050/
      ringlens app runs/first --live ring-nano
    """
    from ringlens.app import serve

    live = _live(model, max_new_tokens, problems, loading)
    if no_token and token is not None:
        raise click.UsageError("--token and --no-token contradict each other: give one of them")
    serve(
        store,
        host=host,
        port=port,
        open_browser=open_browser,
        page="" if trace_id is None else f"trace/{trace_id}",
        token=False if no_token else token,
        url_prefix=url_prefix,
        wait=wait,
        live=live,
        author=author,
        read_only=read_only,
    )


def _live(
    model: str | None,
    max_new_tokens: int | None,
    problems: tuple[str, ...],
    loading: dict[str, Any],
) -> LiveModel | None:
    """Read which model is to think live; None for none.

    Raises:
        UsageError: Options of one, and none is named.
        ProblemError: A set of problems cannot be read.
    """
    from ringlens.live.asked import Limits
    from ringlens.live.thinker import LiveModel
    from ringlens.prompts.problems import TASKS
    from ringlens.prompts.problems import problems as first_problems

    taken = take_loading(loading)
    if model is None:
        own = {"max_new_tokens": max_new_tokens, "problems": problems}
        given = [*taken, *(name for name, value in own.items() if value)]
        if given:
            name = given[0].replace("_", "-")
            raise click.UsageError(f"--{name} is about a live model: name one with --live MODEL")
        return None
    limits = Limits() if max_new_tokens is None else Limits(tokens=max_new_tokens)
    for source in problems:
        first_problems(source, 1)  # what cannot be read is said now
    return LiveModel(model, taken, limits, (*TASKS, *problems))
