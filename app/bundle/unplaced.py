"""Leaves out of what is shared where its store lies, and what only its owner can do."""

from __future__ import annotations

from typing import Any

from ringlens.store import Store

Payload = dict[str, Any]

NAMING = ("made", "lacks")
"""Under which texts stand that may name the store."""


def model_name(model: str) -> str:
    """Return a model's name without the folders that it lies in."""
    return model.rstrip("/").rpartition("/")[2]


def unplaced(payload: Payload, store: Store) -> Payload:
    """Name the store by its name alone in programs and reasons, and leave out commands.

    Args:
        payload: What a page of the dashboard asks for: programs stand under ``made``, why
            something is not there under ``lacks``, and under ``command`` what would record it.
        store: The store.

    Returns:
        A copy; texts of the trace are left as they are.
    """
    changed: Payload = {}
    for key, value in payload.items():
        if key == "command":
            changed[key] = ""
        elif key in NAMING:
            changed[key] = _named(value, store)
        else:
            changed[key] = unplaced(value, store) if isinstance(value, dict) else value
    return changed


def _named(made: Any, store: Store) -> Any:
    """Replace the store's address in a text, or in all texts of a program."""
    if isinstance(made, dict):
        return {key: _named(value, store) for key, value in made.items()}
    if not isinstance(made, str):
        return made
    named = made.replace(repr(store.address), repr(store.name))
    return named.replace(store.address, store.name)
