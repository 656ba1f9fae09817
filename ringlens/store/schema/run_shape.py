"""RunShape: the sizes of a run, which all its traces must have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ringlens.errors import StoreError
from ringlens.store.schema.records import RunRecord

SPARSE = "sparse_layers"

MAX_SIZE = 2**16
"""Largest number of layers, experts or heads, as their ids have 16 bits."""


@dataclass(frozen=True)
class RunShape:
    """Layers, sparse layers, experts E, experts per token k and heads H of a run."""

    layers: int
    sparse_layers: tuple[int, ...]
    experts: int
    experts_per_token: int
    heads: int

    @classmethod
    def of(cls, run: RunRecord) -> RunShape:
        """Take the shape from a run."""
        sparse = tuple(run.sparse_layers)
        return cls(run.layers, sparse, run.experts, run.experts_per_token, run.heads)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> RunShape:
        """Take the shape from a row of ``runs``, or another mapping with these names."""
        values = {each.name: row[each.name] for each in fields(cls)}
        return cls(**(values | {"sparse_layers": tuple(values["sparse_layers"])}))

    def to_json(self) -> str:
        """Convert to JSON for the manifest."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunShape:
        """Convert back from JSON, which may be untrusted.

        Raises:
            StoreError: The text is not JSON with these names and whole numbers.
        """
        try:
            values = json.loads(text)
            found = cls(**(values | {"sparse_layers": tuple(values["sparse_layers"])}))
            numbers = (*found.sparse_layers, *(v for k, v in asdict(found).items() if k != SPARSE))
            if not all(type(number) is int and 0 <= number <= MAX_SIZE for number in numbers):
                raise ValueError(text)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise StoreError(
                f"the manifest is damaged: a run has the shape {text!r:.80}; restore a copy of "
                f"it, or rebuild it with `ringlens check --repair --rebuild-manifest`"
            ) from None
        return found
