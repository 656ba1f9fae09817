"""How numbers of a page were made: SQL and Python that give the same ones."""

from __future__ import annotations

from ringlens.store import Store

Made = dict[str, str]
"""``sql`` and ``python``; one that cannot say it is left out."""


def made(store: Store, sql: str | None, python: str, *imports: str) -> Made:
    """Say how numbers were made.

    Args:
        store: The store that they are of.
        sql: SQL of the store's views; None where SQL cannot.
        python: The line that makes ``found`` from ``store``.
        *imports: Modules that it names by their last part, such as ``ringlens.analysis``.

    Returns:
        The SQL, and a program whose ``found`` holds the numbers.
    """
    lines = ["import ringlens as rl"]
    for path in imports:
        package, _, module = path.rpartition(".")
        lines.append(f"from {package} import {module}")
    program = "\n".join([*lines, "", f"store = rl.Store({store.address!r})", python])
    return {"python": program} if sql is None else {"sql": sql.strip(), "python": program}
