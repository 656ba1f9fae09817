"""``ringlens app``: the dashboard of a store."""

from __future__ import annotations

import click


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
    """
    from ringlens.app import serve

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
    )
