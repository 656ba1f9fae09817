"""The sizes of a run that every trace of it must have."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ringlens.store.records import RunRecord


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

    def to_json(self) -> str:
        """As JSON, for the manifest."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunShape:
        """Back from JSON."""
        values = json.loads(text)
        return cls(**(values | {"sparse_layers": tuple(values["sparse_layers"])}))
