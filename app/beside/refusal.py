"""Why two traces cannot be set beside one another, and what to do about it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from ringlens.app.shared import queries
from ringlens.app.shared.sources import Sources
from ringlens.app.steps import listed
from ringlens.app.web.untrusted import shown, whole
from ringlens.errors import NotInStoreError

Row = dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """What is wrong.

    Attributes:
        sentence: What, with which value, and what to do instead.
        command: The command that mends it; None where none does.
    """

    sentence: str
    command: str | None = None


def head(sources: Sources, trace_id: str) -> Row:
    """Find the trace that a part of an address names.

    Raises:
        NotInStoreError: There is none.
    """
    number = whole(trace_id)
    found = None if number is None else queries.trace_head(sources.catalogue, number)
    if found is None:
        raise NotInStoreError(
            f"no trace {shown(trace_id)} in the store; open / for the traces it holds"
        )
    return found


def refusal(sources: Sources, first: Row, second: Row) -> Refusal | None:
    """Return why two traces cannot be aligned; None if they can.

    Args:
        sources: What the pages read from.
        first: A trace, as `head` finds it.
        second: Another.
    """
    a, b = first["trace_id"], second["trace_id"]
    if a == b:
        return Refusal(f"Both are trace {a}: choose another trace of its problem.")
    if not _same(first, second, "problem_id", "task"):
        return Refusal(
            f"Trace {a} is of problem {_problem(first)} and trace {b} of {_problem(second)}: "
            "choose two traces of one problem."
        )
    runs = [queries.run(sources.catalogue, each["run_id"]) for each in (first, second)]
    if not _same(runs[0], runs[1], "model", "revision"):
        models = [" ".join(filter(None, (run["model"], run["revision"]))) for run in runs]
        return Refusal(
            f"Trace {a} is of model {models[0]} and trace {b} of {models[1]}, whose experts have "
            "nothing to do with each other: choose two traces of one model."
        )
    for trace, run in zip((a, b), runs, strict=True):
        if not len(listed.steps(sources.store, trace)):
            return Refusal(f"Trace {trace} is not cut into steps.", listed.command(sources.store))
        if not queries.recorded(sources.store, "routing", trace):
            words = map(shlex.quote, (run["model"], sources.store.address))
            return Refusal(
                f"Which experts trace {trace} chose was not recorded: replay it.",
                f"ringlens replay {' '.join(words)} --store "
                f"{shlex.quote(sources.store.address.rstrip('/') + '-routing')} --record routing",
            )
    return None


def _same(one: Row, other: Row, *names: str) -> bool:
    return all(one[name] == other[name] for name in names)


def _problem(head: Row) -> str:
    return " ".join(filter(None, (head["task"], head["problem_id"]))) or "none that has a name"
