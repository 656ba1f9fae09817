"""Finding: one thing that a check found wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LOST = "lost"
"""Severity: rows are missing or not as they were committed. A copy may help; nothing else can."""

WRONG = "wrong"
"""Severity: what is noted about the rows is not right. It can be made anew from the rows."""

LITTER = "litter"
"""Severity: something lies about that no reader looks at."""


GONE = "gone"
"""Kind: a run, or a trace of it, has no row in a table that the run says it recorded."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: `LOST`, `WRONG` or `LITTER`.
        kind: What it is, in a word that does not change: "missing", "page", "gap" …
        path: The file in the store, or its table; "" for the store as a whole.
        sentence: What is wrong.
        advice: What to do about it.
        run_id: The run, "" if it is about none.
        traces: The traces whose rows are affected, as far as they are known.
    """

    severity: str
    kind: str
    path: str
    sentence: str
    advice: str
    run_id: str = ""
    traces: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {"traces": list(self.traces)}


COPY = "restore a copy of the file, or remove its traces with --repair --drop-damaged"
RUN_COPY = "restore a copy of the file, or remove the run with --repair --drop-damaged"
DROP = "record the traces again, or take them out with --repair --drop-damaged"
FLAG = "record the traces again; --repair flags them, --repair --drop-damaged takes them out"
ANALYSE = "run the analysis again; --repair --drop-damaged takes the file out"
COUNT = "--repair counts it anew from the routing, and so does `ringlens rollup`"
NOTE_LOST = "put copies of its files and of the manifest back, or have --repair note it as lost"
NOTE = "--repair notes it anew"
SWEEP = "--repair removes it"
