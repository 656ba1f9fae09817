"""Rollups as a whole: are they there, and made anew from the routing where they are not.

Shape letters: P phases, S sparse layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ringlens.store import recount, schema_usage, usage
from ringlens.store.commit import CommitFiles
from ringlens.store.manifest import File, Manifest
from ringlens.store.rewriter import Rewriter
from ringlens.store.shape import RunShape
from ringlens.store.store import Store

GROUP_ROWS = 4_000_000
"""Rows of routing that make one pair of rollup files: 50,000 tokens of Ring-1T, 130 MB of sums."""

TOLD = """
select run_id, sum(tokens) as told from {table} group by run_id
"""


def missing(store: Store) -> list[str]:
    """Runs whose rollups do not sum up all of their routing.

    Compares how many rows of routing there are with how many each rollup table says it sums over,
    which takes milliseconds. Stores of format 1 have no rollups.
    """
    routed: dict[str, int] = {}
    for file in store.files("routing"):
        routed[file.run_id] = routed.get(file.run_id, 0) + file.rows
    for table in schema_usage.TABLES:
        told = dict(store.sql(TOLD.format(table=table.name)).fetchall())
        for run_id in told.keys() - routed.keys():
            routed[run_id] = 0
        routed = {r: n if told.get(r, 0) == n else -1 for r, n in routed.items()}
    return sorted(run_id for run_id, rows in routed.items() if rows < 0)


def rebuild(rewriter: Rewriter, run_id: str, on_progress: Callable[[int, int], None]) -> None:
    """Make a run's rollups anew: one pass over its routing, one commit.

    Memory does not grow with the run. Readers see the old rollups until the commit; what a running
    capture commits meanwhile is not touched.

    Args:
        rewriter: Of the store.
        run_id: The run.
        on_progress: Told how many rows of routing are counted, of how many.

    Raises:
        StoreError: A file is missing or damaged, or the disk full; nothing has changed.
    """

    def work(files: CommitFiles) -> list[str]:
        by_table = _files(rewriter.manifest, run_id)
        shape = rewriter.manifest.run_shape(run_id)
        assert shape is not None
        experts = RunShape.from_json(shape).experts
        done, total = 0, sum(file.rows for file in by_table["routing"])
        for number, group in enumerate(_groups(by_table["routing"])):
            _stage(files, group, by_table["tokens"], experts, f"-{number:04d}")
            done += sum(file.rows for file in group)
            on_progress(done, total)
        return [file.path for table in schema_usage.TABLES for file in by_table[table.name]]

    rewriter.replace(run_id, work)


def _files(manifest: Manifest, run_id: str) -> dict[str, list[File]]:
    """A run's files by table, all at one moment."""
    names = ("routing", "tokens", *(table.name for table in schema_usage.TABLES))
    found: dict[str, list[File]] = {name: [] for name in names}
    for file in manifest.snapshot()[2]:
        if file.run_id == run_id and file.table in found:
            found[file.table].append(file)
    return found


def _groups(routing: Sequence[File]) -> Iterator[list[File]]:
    """Files in order of their traces, as many at a time as `GROUP_ROWS` allows."""
    group: list[File] = []
    for file in sorted(routing, key=lambda f: (f.first_trace, f.last_trace, f.path)):
        if group and sum(f.rows for f in group) + file.rows > GROUP_ROWS:
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _stage(
    files: CommitFiles, group: Sequence[File], tokens: Sequence[File], experts: int, part: str
) -> None:
    """Count some files of routing and stage the rows of both rollup tables."""
    first, last = min(f.first_trace for f in group), max(f.last_trace for f in group)
    spoken = [f.path for f in tokens if f.first_trace <= last and f.last_trace >= first]
    phases = recount.phases_of(files.folder, spoken, first, last)
    paths = [file.path for file in group]
    cells = list(recount.cells_of(files.folder, paths, phases, experts))
    if cells:
        counted = usage.joined(cells)
        ids = [int(counted.trace_id.min()), int(counted.trace_id.max())]
        for table in schema_usage.TABLES:
            rows = usage.batch(table, files.commit.run_id, counted)
            files.stage(table, [rows], ids, part)
