"""``ringlens merge``: several stores in one."""

from __future__ import annotations

import click


@click.command()
@click.argument("target")
@click.argument("sources", nargs=-1, required=True)
def merge(target: str, sources: tuple[str, ...]) -> None:
    r"""Copy the runs of other stores into TARGET.

    TARGET is made if it is missing. Traces get new ids; runs keep theirs. Runs that are already
    there are skipped, so after an interrupt the same command does the rest. The sources do not
    change.

    \b
    Example:
      ringlens merge runs/all runs/first runs/second
    """
    from ringlens.store import Store, StoreWriter
    from ringlens.store.maintain.merge import merge as merge_stores

    for source in sources:  # nothing is copied unless all can be read
        Store(source).close()
    with StoreWriter(target) as writer:
        for source in sources:
            with Store(source) as opened:
                for sentence in merge_stores(opened, writer.rewriter()):
                    click.echo(f"{source}: {sentence}")
