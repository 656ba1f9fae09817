"""Rollups as a whole: are they there, and made anew from the routing where they are not.

Shape letters: P phases, S sparse layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ringlens.store.encode import expert_usage
from ringlens.store.maintain.engine import HERE, Engine
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
"""Rows of routing that make one pair of rollup files: 50,000 tokens of Ring-1T, 130 MB of sums."""

TOLD = """
select run_id, sum(tokens) as told from {table} group by run_id
"""


LOST = """
select run_id from runs where len(list_filter(lost, lambda each: each ^@ 'routing')) > 0
"""


@dataclass(frozen=True)
class _Share:
    """Files that are counted together, those of tokens tell the phases; and their traces."""

    part: str
    routing: list[File]
    tokens: list[File]
    first: int
    last: int
    rows: int


def missing(store: Store) -> list[str]:
    """Runs whose rollups do not sum up all of their routing.

    Compares how many rows of routing there are with how many each rollup table says it sums over,
    which takes milliseconds. Stores of format 1 have no rollups.
    """
    routed: dict[str, int] = {}
    for file in store.files("routing"):
        routed[file.run_id] = routed.get(file.run_id, 0) + file.rows
    for table in usage_tables.TABLES:
        told = dict(store.sql(TOLD.format(table=table.name)).fetchall())
        for run_id in told.keys() - routed.keys():
            routed[run_id] = 0
        routed = {r: n if told.get(r, 0) == n else -1 for r, n in routed.items()}
    for (run_id,) in store.sql(LOST).fetchall():
        routed.pop(run_id, None)  # its rollups are what is left of it
    return sorted(run_id for run_id, rows in routed.items() if rows < 0)


def rebuild(
    rewriter: Rewriter,
    run_id: str,
    on_progress: Callable[[int, int], None],
    engine: Engine = HERE,
) -> None:
    """Make a run's rollups anew: one pass over its routing, one commit.

    Memory does not grow with the run. Readers see the old rollups until the commit; what a running
    capture commits meanwhile is not touched.

    Args:
        rewriter: Of the store.
        run_id: The run.
        on_progress: Told how many rows of routing are counted, of how many.
        engine: Where groups of files are counted.

    Raises:
        StoreError: A file is missing or damaged, or the disk full; nothing has changed.
    """

    def work(files: CommitFiles) -> list[str]:
        by_table = _files(rewriter.manifest, run_id)
        shape = rewriter.manifest.run_shape(run_id)
        assert shape is not None
        experts = RunShape.from_json(shape).experts
        groups = _groups(by_table["routing"])
        shares = [_share(number, each, by_table["tokens"]) for number, each in enumerate(groups)]
        done, total = 0, sum(file.rows for file in by_table["routing"])
        task = partial(_staged, rewriter.folder.address, files.commit, experts)
        for rows, staged in engine.map(task, shares):
            files.files |= staged
            done += rows
            on_progress(done, total)
        return [file.path for table in usage_tables.TABLES for file in by_table[table.name]]

    rewriter.replace(run_id, work)


def _files(manifest: Manifest, run_id: str) -> dict[str, list[File]]:
    """A run's files by table, all at one moment."""
    names = ("routing", "tokens", *(table.name for table in usage_tables.TABLES))
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


def _share(number: int, group: Sequence[File], tokens: Sequence[File]) -> _Share:
    """What is counted together, with the tokens that tell the phases."""
    first, last = min(f.first_trace for f in group), max(f.last_trace for f in group)
    spoken = [f for f in tokens if f.first_trace <= last and f.last_trace >= first]
    rows = sum(file.rows for file in group)
    return _Share(f"-{number:04d}", list(group), spoken, first, last, rows)


def _staged(
    address: str, commit: Commit, experts: int, share: _Share
) -> tuple[int, dict[str, File]]:
    """Count some files of routing and stage the rows of both rollup tables, on any machine.

    Returns:
        How many rows were counted, and what was staged.
    """
    files = CommitFiles(folder_at(address), commit)
    intact.require(files.folder, [*share.routing, *share.tokens])
    routing, tokens = ([file.path for file in each] for each in (share.routing, share.tokens))
    phases = recount.phases_of(files.folder, tokens, share.first, share.last)
    cells = list(recount.cells_of(files.folder, routing, phases, experts))
    if cells:
        counted = expert_usage.joined(cells)
        ids = [int(counted.trace_id.min()), int(counted.trace_id.max())]
        for table in usage_tables.TABLES:
            rows = expert_usage.batch(table, commit.run_id, counted)
            files.stage(table, [rows], ids, share.part)
    return share.rows, files.files
