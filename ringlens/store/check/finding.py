"""Finding: one fault that a check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LOST = "lost"
"""Severity: rows are missing or differ from what was committed. Only a copy can help."""

WRONG = "wrong"
"""Severity: data about the rows is wrong. It can be rebuilt from the rows."""

LITTER = "litter"
"""Severity: a file is left over that no reader uses."""


GONE = "gone"
"""Kind: a run, or one of its traces, has no rows in a table that the run recorded."""


@dataclass(frozen=True)
class Finding:
    """One fault in a store.

    Attributes:
        severity: `LOST`, `WRONG` or `LITTER`.
        kind: A stable word for the fault: "missing", "page", "gap" …
        path: The file in the store, or its table; "" for the store as a whole.
        sentence: What is wrong.
        advice: What to do about it.
        run_id: The run; "" if no run is concerned.
        traces: The affected traces, as far as they are known.
    """

    severity: str
    kind: str
    path: str
    sentence: str
    advice: str
    run_id: str = ""
    traces: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert to values for JSON."""
        return asdict(self) | {"traces": list(self.traces)}


COPY = "restore a copy of the file, or remove its traces with --repair --drop-damaged"
RUN_COPY = "restore a copy of the file, or remove the run with --repair --drop-damaged"
DROP = "record the traces again, or remove them with --repair --drop-damaged"
FLAG = "record the traces again; --repair flags them, --repair --drop-damaged removes them"
ANALYSE = "run the analysis again; --repair --drop-damaged removes the file"
NOTES_COPY = "restore a copy of the file; --repair --drop-damaged gives up the notes in it"
COUNT = "--repair recounts it from the routing, and so does `ringlens rollup`"
NOTE_LOST = "restore copies of its files and of the manifest, or have --repair note it as lost"
NOTE = "--repair corrects the manifest"
SWEEP = "--repair removes it"
