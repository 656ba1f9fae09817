"""Entries of the manifest: files, commits, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True)
class File:
    """One committed file.

    Attributes:
        path: Path in the store, with forward slashes.
        table: Table it belongs to.
        run_id: Run whose rows it holds.
        first_trace: Smallest trace id in it; 0 where the table has no traces.
        last_trace: Largest trace id in it.
        rows: Rows.
        bytes: Size.
        checksum: `parquet.checksum` of it; None if a ringlens of format 1 wrote it.
    """

    path: str
    table: str
    run_id: str
    first_trace: int
    last_trace: int
    rows: int
    bytes: int
    checksum: str | None = None


@dataclass(frozen=True)
class Commit:
    """A reservation: its number and the trace ids ``first_trace … first_trace + traces - 1``."""

    commit_id: int
    run_id: str
    writer: str
    first_trace: int
    traces: int

    @property
    def last_trace(self) -> int:
        """The last reserved trace id."""
        return self.first_trace + self.traces - 1


@dataclass(frozen=True)
class Start:
    """What the manifest notes of a run that starts: its shape as JSON, and its fingerprint."""

    shape: str
    fingerprint: str


class Completion(Enum):
    """What became of the attempt to complete a commit."""

    DONE = auto()
    CLEARED = auto()
    """Another writer took this one for dead and cleared its reservation away."""
    OUTDATED = auto()
    """A file that the commit was to replace has just been replaced by another commit."""
