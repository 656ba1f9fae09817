"""Entries of the manifest: files, commits, and outcomes of completing a commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True)
class File:
    """One committed file.

    Attributes:
        path: Path in the store, with forward slashes.
        table: Table that the file belongs to.
        run_id: Run whose rows the file holds.
        first_trace: Smallest trace id in the file; 0 if the table has no traces.
        last_trace: Largest trace id in the file.
        rows: Number of rows.
        bytes: Size.
        checksum: `parquet.checksum` of the file; None if a ringlens of format 1 wrote it.
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
    """A reserved commit number and trace ids ``first_trace … first_trace + traces - 1``."""

    commit_id: int
    run_id: str
    writer: str
    first_trace: int
    traces: int

    @property
    def last_trace(self) -> int:
        """Last reserved trace id."""
        return self.first_trace + self.traces - 1


@dataclass(frozen=True)
class Start:
    """Facts recorded when a run starts: its shape as JSON, and its fingerprint."""

    shape: str
    fingerprint: str


class Completion(Enum):
    """Outcome of an attempt to complete a commit."""

    DONE = auto()
    CLEARED = auto()
    """Another writer took this one for dead and removed its reservation."""
    OUTDATED = auto()
    """Another commit has already replaced a file that this one was to replace."""


def sharing_traces(files: Sequence[File]) -> Iterator[list[File]]:
    """Group files, in order of their traces, so that a trace has rows in one group only."""
    group: list[File] = []
    last = -1
    for file in sorted(files, key=lambda f: (f.first_trace, f.last_trace, f.path)):
        if group and file.first_trace > last:
            yield group
            group = []
        group.append(file)
        last = max(last, file.last_trace)
    if group:
        yield group
