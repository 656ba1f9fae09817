"""Finds runs without complete rollups and rebuilds rollups from the routing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ringlens.store.encode import expert_usage
from ringlens.store.maintain.engine import LOCAL, Engine
from ringlens.store.manifest.manifest import Commit, File, Manifest
from ringlens.store.read import intact
from ringlens.store.read.store import Store
from ringlens.store.schema import usage_tables
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.storage.folder import folder_at
from ringlens.store.write import recount
from ringlens.store.write.commit import CommitFiles
from ringlens.store.write.rewriter import Rewriter

GROUP_ROWS = 4_000_000
"""Rows of routing per pair of rollup files: 50,000 tokens of Ring-1T, 130 MB of sums."""

SUMMED_ROWS = """
select run_id, sum(tokens) as summed from {table} group by run_id
"""


LOST = """
select run_id from runs where len(list_filter(lost, lambda each: each ^@ 'routing')) > 0
"""


@dataclass(frozen=True)
class _Shard:
    """Files of routing that are counted together, with the files of tokens that give phases."""

    part: str
    routing: list[File]
    tokens: list[File]
    first: int
    last: int
    rows: int


def missing(store: Store) -> list[str]:
    """List runs whose rollups do not sum up all of their routing.

    Compares the number of routing rows with the number that each rollup table claims to sum over,
    which takes milliseconds. Stores of format 1 have no rollups.
    """
    routed: dict[str, int] = {}
    for file in store.files("routing"):
        routed[file.run_id] = routed.get(file.run_id, 0) + file.rows
    for table in usage_tables.TABLES:
        summed = dict(store.sql(SUMMED_ROWS.format(table=table.name)).fetchall())
        for run_id in summed.keys() - routed.keys():
            routed[run_id] = 0
        routed = {r: n if summed.get(r, 0) == n else -1 for r, n in routed.items()}
    for (run_id,) in store.sql(LOST).fetchall():
        routed.pop(run_id, None)  # its routing is lost, and the rollups are all that remains
    return sorted(run_id for run_id, rows in routed.items() if rows < 0)


def rebuild(
    rewriter: Rewriter,
    run_id: str,
    on_progress: Callable[[int, int], None],
    engine: Engine = LOCAL,
) -> None:
    """Rebuild the rollups of a run with one pass over its routing and one commit.

    Memory does not grow with the run. Readers see the old rollups until the commit; files that a
    running capture commits meanwhile are not touched.

    Args:
        rewriter: Rewriter of the store.
        run_id: The run.
        on_progress: Called with the rows of routing counted and in total.
        engine: Runs the counting.

    Raises:
        StoreError: A file is missing or damaged, or the disk is full; nothing has changed.
    """

    def work(files: CommitFiles) -> list[str]:
        by_table = _files(rewriter.manifest, run_id)
        shape = rewriter.manifest.run_shape(run_id)
        assert shape is not None
        experts = RunShape.from_json(shape).experts
        groups = _groups(by_table["routing"])
        shards = [_shard(number, each, by_table["tokens"]) for number, each in enumerate(groups)]
        done, total = 0, sum(file.rows for file in by_table["routing"])
        task = partial(_stage_shard, rewriter.folder.address, files.commit, experts)
        for rows, staged in engine.map(task, shards):
            files.files |= staged
            done += rows
            on_progress(done, total)
        return [file.path for table in usage_tables.TABLES for file in by_table[table.name]]

    rewriter.replace(run_id, work)


def _files(manifest: Manifest, run_id: str) -> dict[str, list[File]]:
    """Files of a run by table, from one snapshot."""
    names = ("routing", "tokens", *(table.name for table in usage_tables.TABLES))
    found: dict[str, list[File]] = {name: [] for name in names}
    for file in manifest.snapshot()[2]:
        if file.run_id == run_id and file.table in found:
            found[file.table].append(file)
    return found


def _groups(routing: Sequence[File]) -> Iterator[list[File]]:
    """Group files in order of their traces, each group of at most about `GROUP_ROWS` rows."""
    group: list[File] = []
    for file in sorted(routing, key=lambda f: (f.first_trace, f.last_trace, f.path)):
        if group and sum(f.rows for f in group) + file.rows > GROUP_ROWS:
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _shard(number: int, group: Sequence[File], tokens: Sequence[File]) -> _Shard:
    """Make a shard of files of routing and all files of tokens that may hold the same traces."""
    first, last = min(f.first_trace for f in group), max(f.last_trace for f in group)
    own_tokens = [f for f in tokens if f.first_trace <= last and f.last_trace >= first]
    rows = sum(file.rows for file in group)
    return _Shard(f"-{number:04d}", list(group), own_tokens, first, last, rows)


def _stage_shard(
    address: str, commit: Commit, experts: int, shard: _Shard
) -> tuple[int, dict[str, File]]:
    """Count the routing of a shard and stage rows of both rollup tables, on any machine.

    Returns:
        Number of rows counted, and the staged files.
    """
    files = CommitFiles(folder_at(address), commit)
    intact.require(files.folder, [*shard.routing, *shard.tokens])
    routing, tokens = ([file.path for file in each] for each in (shard.routing, shard.tokens))
    phases = recount.phases_of(files.folder, tokens, shard.first, shard.last)
    cells = list(recount.cells_of(files.folder, routing, phases, experts))
    if cells:
        counted = expert_usage.joined(cells)
        ids = [int(counted.trace_id.min()), int(counted.trace_id.max())]
        for table in usage_tables.TABLES:
            rows = expert_usage.batch(table, commit.run_id, counted)
            files.stage(table, [rows], ids, shard.part)
    return shard.rows, files.files
