"""``ringlens roles``: labels of steps from elsewhere, and a classifier that learns from them."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def roles() -> None:
    r"""Labels of steps from elsewhere: import them, and train a classifier on them.

    `import` takes labels from JSON lines, or from the folder of a problem of math-rollouts. `train`
    learns from all imported labels of a store, and says how well it does on problems that it has
    not seen. `ringlens steps --classifier` labels with what it learned.

    \b
    Examples:
      ringlens roles import runs/first labels.jsonl
      ringlens roles import runs/first math-rollouts/problem_330 --trace 7
      ringlens roles train runs/first --out roles.json
      ringlens steps runs/second --classifier roles.json
    """


@roles.command("import")
@click.argument("store")
@click.argument("labels")
@click.option("--trace", "trace_id", type=int, help="The trace that a rollout is of.")
@click.option("--source", help="Name of the source; the name of the file if left out.")
@click.option("--author", help="Who labelled; you if left out.")
def import_(
    store: str, labels: str, trace_id: int | None, source: str | None, author: str | None
) -> None:
    r"""Import LABELS into STORE, in place of the steps that their traces have.

    LABELS is a file of JSON lines with trace_id, text and role (and is_backtrack, is_hypothesis,
    confidence, parent), or a folder with chunks_labeled.json. Each label is an annotation too, of
    this source and author, which stays when the steps are cut anew.

    \b
    Example:
      ringlens roles import runs/first labels.jsonl
    """
    from ringlens.analysis.roles import importing
    from ringlens.analysis.roles.annotating import annotate_roles
    from ringlens.store import Store, StoreWriter

    path = Path(labels)
    with Store(store) as opened:
        if path.is_dir() or path.name == importing.ROLLOUTS:
            steps = importing.read_rollout(path)
            of = importing.trace_of(opened, steps) if trace_id is None else trace_id
            by_trace = {of: steps}
        else:
            by_trace = importing.read_lines(path)
    with StoreWriter(store) as writer:
        count = importing.import_steps(writer, by_trace, source or path.name)
    with Store(store) as opened:
        said = annotate_roles(opened, by_trace, source or path.name, author)
    click.echo(
        f"{store}: {count:,} steps of {len(by_trace):,} traces imported, {said:,} annotations"
    )


@roles.command()
@click.argument("stores", nargs=-1, required=True)
@click.option("--out", required=True, help="File for the classifier.")
def train(stores: tuple[str, ...], out: str) -> None:
    r"""Train a classifier of roles on the imported labels of STORES.

    Its agreement is that on problems that it has not seen. Needs scikit-learn.

    \b
    Example:
      ringlens roles train runs/first --out roles.json
    """
    from ringlens.analysis.roles import classifier
    from ringlens.store import Store

    labelled = []
    for number, address in enumerate(stores):
        with Store(address) as store:
            labelled += [
                classifier.Example(each.texts, each.roles, f"{number}/{each.problem}")
                if each.problem.startswith("trace ")
                else each
                for each in classifier.examples(store)
            ]
    found, scores = classifier.train(labelled)
    found.save(out)
    click.echo(scores.to_string(index=False, float_format="%.3f"))
    said = scores.attrs
    click.echo(
        f"{said['steps']:,} steps of {said['problems']} problems in {said['folds']} folds: "
        f"agreement {said['agreement']:.3f}, kappa {said['kappa']:.3f} "
        f"(rules {said['kappa_of_rules']:.3f}); written to {out}"
    )
