"""Several ranks write one commit: real processes, each with its own layers."""

import re
from dataclasses import replace

import pytest
from ranks import assert_rich, run_ranks
from records import random_run, random_trace
from workers import (
    RUN,
    die_as_rank,
    fail_as_rank,
    open_as_rank,
    rich_trace,
    write_as_rank,
)
from writers import assert_no_orphans

from ringlens.store import Alone, Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.schema import usage_tables
from ringlens.store.schema.captured import tables

EXCHANGES = 4
"""In a commit: the records are checked, the reservation known, the files staged, the outcome."""


NOT_HERE = ("expert_outputs", "monitor_scores", "annotations")


@pytest.mark.parametrize(("size", "primary"), [(2, 0), (3, 1), (6, 5)])
def test_ranks_write_one_commit(tmp_path, size, primary):
    """Records equal those of one process; with six ranks some own no layer at all."""
    found, codes = run_ranks(write_as_rank, tmp_path, size, primary=primary)
    assert codes == [0] * size
    bytes_written = found[0][-1]
    assert found == [[[1, 2], [2], [], bytes_written]] * size
    files = list(tmp_path.rglob("*.parquet"))
    assert bytes_written == sum(file.stat().st_size for file in files)
    with Store(tmp_path) as store:
        assert_rich(store.trace(1), rich_trace(30, 0))
        assert_rich(store.trace(2), rich_trace(40, 1))
        assert len(store.traces()) == 2
        assert len(store.sql("from runs where finished is not null")) == 1
        for table in tables(RUN.experts)[3:]:
            if table.scope or table in usage_tables.ALL or table.name in NOT_HERE:
                continue  # written by analyses; parts with rows of their own; not in these traces
            key = ", ".join(table.key)
            rows = store.sql(f"select {key} from {table.name}").fetchall()
            assert len(set(rows)) == len(rows) > 0
        assert check(store).findings == []
    assert_no_orphans(tmp_path)


@pytest.mark.parametrize("exchange", range(EXCHANGES))
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_leaves_no_half_trace(tmp_path, rank, exchange):
    """Killed before each exchange of a commit: the others raise, the next writer clears up."""
    found, codes = run_ranks(
        die_as_rank, tmp_path, 3, each=lambda r: (exchange if r == rank else None,)
    )
    assert codes == [-9 if r == rank else 0 for r in range(3)]
    committed = exchange == EXCHANGES - 1  # rank 0 has all files and registers them
    for r, said in enumerate(found):
        assert said[0] == [1]
        if r != rank:
            (last,) = said[1:]
            assert last in ("EOFError", "BrokenPipeError", "ConnectionResetError", [2])
            assert last != [2] or committed
    with Store(tmp_path) as store:
        ids = [row[0] for row in store.sql("select trace_id from traces order by 1").fetchall()]
        assert ids == ([1, 2] if committed else [1])
        for trace_id in ids:
            assert_rich(store.trace(trace_id), rich_trace(30, trace_id - 1))
        for table in ("tokens", "routing", "heads", "activations"):
            query = f"select distinct trace_id from {table} order by 1"
            assert [row[0] for row in store.sql(query).fetchall()] == ids
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        assert writer.commit(run_id, [random_trace(RUN)])[0] > max(ids)
    assert_no_orphans(tmp_path)


@pytest.mark.parametrize(
    ("failing", "how", "sentence"),
    [
        (0, "full disk", "rank 0: .*(ulimit|I/O error).*; nothing of this commit was stored"),
        (2, "full disk", "rank 2: .*`ulimit -f`.*; nothing of this commit was stored"),
        (1, "wrong record", "rank 1: n_prompt .* is .*, but the trace has 30 tokens"),
        (1, "other traces", r"rank 0: rank 1 commits the traces \[7\], rank 0 \[None\]"),
        (1, "bug", "rank 1: AttributeError: 'str' object"),
    ],
)
def test_where_one_rank_fails_all_say_so(tmp_path, failing, how, sentence):
    found, codes = run_ranks(fail_as_rank, tmp_path, 3, failing, how)
    assert codes == [0, 0, 0]
    for rank, (said, missing, ids) in enumerate(found):
        if how == "bug" and rank == failing:
            assert said == "AttributeError"
        else:
            assert re.search(sentence, said), said
        assert "there is no run nothing" in missing
        assert ids == [1]
    with Store(tmp_path) as store:
        assert_rich(store.trace(1), rich_trace(30, 0))
        assert len(store.traces()) == 1
    assert_no_orphans(tmp_path)


def test_ranks_that_do_not_share_a_disk_say_so(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    store = tmp_path / "store"
    found, _ = run_ranks(open_as_rank, store, 2, False)
    assert found == [["store"], ["store"]]
    found, _ = run_ranks(open_as_rank, store, 2, True)
    for (said,) in found:
        assert "rank 1" in said
        assert "elsewhere is not the folder that rank 0 writes to" in said
    found, _ = run_ranks(open_as_rank, tmp_path, 2, False)
    for (said,) in found:
        assert "rank 0" in said
        assert "holds other files (such as" in said


def test_a_process_alone_may_hold_any_layers(tmp_path):
    """No layer, or some of them: those are stored."""
    run = random_run()
    trace = random_trace(run)
    none = replace(
        trace.routing,
        layers=(),
        **{
            name: getattr(trace.routing, name)[:0]
            for name in trace.routing.__dataclass_fields__
            if name not in ("layers", "acted")
        },
    )
    empty = replace(trace, routing=none, router_logits=trace.router_logits[:0], heads=None)
    with StoreWriter(tmp_path, Alone()) as writer, Store(tmp_path) as store:
        assert writer.commit(writer.start_run(run), [empty]) == [1]
        assert store.files("routing") == store.files("router_logits") == []
        assert len(store.trace(1)) == 24
