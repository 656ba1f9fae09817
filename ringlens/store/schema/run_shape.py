"""The sizes of a run that every trace of it must have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ringlens.errors import StoreError
from ringlens.store.schema.records import RunRecord

SPARSE = "sparse_layers"

MOST = 2**16
"""Layers, experts or heads, at most: their ids have 16 bits."""


@dataclass(frozen=True)
class RunShape:
    """Layers, sparse layers, experts E, experts a token k and heads H of a run."""

    layers: int
    sparse_layers: tuple[int, ...]
    experts: int
    experts_per_token: int
    heads: int

    @classmethod
    def of(cls, run: RunRecord) -> RunShape:
        """The shape of a run."""
        sparse = tuple(run.sparse_layers)
        return cls(run.layers, sparse, run.experts, run.experts_per_token, run.heads)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> RunShape:
        """The shape in a row of ``runs``, or in anything else with these names."""
        values = {each.name: row[each.name] for each in fields(cls)}
        return cls(**(values | {"sparse_layers": tuple(values["sparse_layers"])}))

    def to_json(self) -> str:
        """As JSON, for the manifest."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunShape:
        """Back from JSON.

        Raises:
            StoreError: It is none, or not of these names and whole numbers.
        """
        try:
            values = json.loads(text)
            found = cls(**(values | {"sparse_layers": tuple(values["sparse_layers"])}))
            numbers = (*found.sparse_layers, *(v for k, v in asdict(found).items() if k != SPARSE))
            if not all(type(number) is int and 0 <= number <= MOST for number in numbers):
                raise ValueError(text)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise StoreError(
                f"the manifest is damaged: a run has {text!r:.80} for its shape; restore a copy of "
                f"it, or rebuild it with `ringlens check --repair --rebuild-manifest`"
            ) from None
        return found
