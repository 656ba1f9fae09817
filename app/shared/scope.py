"""Which traces a question is about, and which files hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ringlens.store.manifest.manifest import File


@dataclass(frozen=True)
class Scope:
    """One run, or one trace of it."""

    run_id: str
    trace_id: int | None = None

    @property
    def sql(self) -> str:
        """Condition on the rows of :meth:`files`."""
        return "true" if self.trace_id is None else "trace_id = $trace_id"

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of :attr:`sql`."""
        return {} if self.trace_id is None else {"trace_id": self.trace_id}

    def files(self, snapshot: Mapping[str, Sequence[File]], table: str) -> list[File]:
        """The files of a table that can hold rows of the scope; none of another run."""
        return [file for file in snapshot.get(table, ()) if self._can_be_in(file)]

    def _can_be_in(self, file: File) -> bool:
        if file.run_id != self.run_id:
            return False
        return self.trace_id is None or file.first_trace <= self.trace_id <= file.last_trace
