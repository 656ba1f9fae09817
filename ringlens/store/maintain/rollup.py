"""Finds runs without complete rollups and rebuilds rollups from the routing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ringlens.store.commit.files import CommitFiles
from ringlens.store.commit.rewriter import Rewriter
from ringlens.store.encode import expert_usage
from ringlens.store.encode.expert_usage import Cells
from ringlens.store.encode.step_roles import DIGESTS
from ringlens.store.maintain.engine import LOCAL, Engine
from ringlens.store.manifest.manifest import Commit, File, Manifest
from ringlens.store.read import intact
from ringlens.store.read.store import Store
from ringlens.store.schema import usage_tables
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table
from ringlens.store.storage.folder import folder_at
from ringlens.store.write import recount, role_sums, stream

GROUP_ROWS = 4_000_000
"""Rows of routing per pair of rollup files: 50,000 tokens of Ring-1T, 130 MB of sums."""

SUMMED_ROWS = """
select run_id, sum(tokens) as summed from {table} group by run_id
"""


STALE_ROLES = f"""
with labelled as ({DIGESTS}),
summed as (
    select trace_id, phase, min(steps_digest) as low, max(steps_digest) as high,
           sum(tokens) as tokens
    from usage_roles group by all),
routed as (select trace_id, phase, sum(tokens) as tokens from usage_traces group by all)
select distinct trace_id from routed left join labelled using (trace_id)
left join summed using (trace_id, phase)
where low is distinct from digest or high is distinct from digest
   or (digest is not null and summed.tokens is distinct from routed.tokens)
order by trace_id
"""
"""Traces whose sums by role are not those of their steps, of all that have sums by phase."""

LOST = """
select run_id from runs where len(list_filter(lost, lambda each: each ^@ 'routing')) > 0
"""


@dataclass(frozen=True)
class _Shard:
    """Files of routing that are counted together, with those that give phases and roles."""

    part: str
    routing: list[File]
    tokens: list[File]
    steps: list[File]
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


def missing_roles(store: Store) -> list[int]:
    """List traces whose sums by step role are missing, or not those of their steps.

    Only traces with steps that have roles have such sums. Stores in which an earlier version wrote
    the steps lack them. A trace without sums by phase is not looked at: see `missing`.
    """
    return [trace_id for (trace_id,) in store.sql(STALE_ROLES).fetchall()]


def incomplete(store: Store) -> list[str]:
    """List runs of which `rebuild` would complete the rollups."""
    stale = missing_roles(store)
    query = "select distinct run_id from traces where trace_id in $stale"
    runs = store.sql(query, {"stale": stale}).fetchall() if stale else []
    return sorted({*missing(store), *(run_id for (run_id,) in runs)})


def rebuild(
    rewriter: Rewriter,
    run_id: str,
    on_progress: Callable[[int, int], None],
    engine: Engine = LOCAL,
) -> None:
    """Rebuild all rollups of a run with one pass over its routing and one commit.

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
        shards = [_shard(number, each, by_table) for number, each in enumerate(groups)]
        done, total = 0, sum(file.rows for file in by_table["routing"])
        task = partial(_stage_shard, rewriter.folder.address, files.commit, experts)
        for rows, staged in engine.map(task, shards):
            files.files |= staged
            done += rows
            on_progress(done, total)
        return [file.path for table in usage_tables.ALL for file in by_table[table.name]]

    rewriter.replace(run_id, work)


def _files(manifest: Manifest, run_id: str) -> dict[str, list[File]]:
    """Files of a run by table, from one snapshot."""
    names = ("routing", "tokens", "steps", *(table.name for table in usage_tables.ALL))
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


def _shard(number: int, group: Sequence[File], by_table: Mapping[str, Sequence[File]]) -> _Shard:
    """Make a shard of files of routing, and of all others that may hold the same traces."""
    first, last = min(f.first_trace for f in group), max(f.last_trace for f in group)
    tokens, steps = (
        [f for f in by_table[name] if f.first_trace <= last and f.last_trace >= first]
        for name in ("tokens", "steps")
    )
    rows = sum(file.rows for file in group)
    return _Shard(f"-{number:04d}", list(group), tokens, steps, first, last, rows)


def _stage_shard(
    address: str, commit: Commit, experts: int, shard: _Shard
) -> tuple[int, dict[str, File]]:
    """Count the routing of a shard and stage rows of all rollup tables, on any machine.

    Returns:
        Number of rows counted, and the staged files.
    """
    files = CommitFiles(folder_at(address), commit)
    intact.require(files.folder, [*shard.routing, *shard.tokens, *shard.steps])
    routing, tokens, steps = (
        [file.path for file in each] for each in (shard.routing, shard.tokens, shard.steps)
    )
    phases = recount.phases_of(files.folder, tokens, shard.first, shard.last)
    roles = role_sums.roles_of(files.folder, steps, shard.first, shard.last)
    sums: dict[Table, list[Cells]] = {table: [] for table in usage_tables.ALL}
    for cells in recount.cells_of(files.folder, routing, phases, experts, roles):
        for table, parts in sums.items():
            parts += recount.sums_of(cells, table, roles)
    for table, parts in sums.items():
        if parts:
            rows = expert_usage.batch(table, commit.run_id, expert_usage.joined(parts), roles)
            stream.stage(files, table, [rows], shard.part)
    return shard.rows, files.files
