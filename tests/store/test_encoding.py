"""Encoding in threads and in processes: the same files, errors at once, nothing left behind."""

import os
import select
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workers import RUN, kinds, rich_trace
from writers import assert_no_orphans, assert_whole

from ringlens.errors import StoreError
from ringlens.observe.pipeline.encoding import chosen_workers
from ringlens.store import Store, StoreWriter
from ringlens.store.encode import encoders, portions
from ringlens.store.encode.cost import token_ns
from ringlens.store.encode.grid import WHOLE, LayerShare
from ringlens.store.parallel.encoding import InThreads
from ringlens.store.parallel.processes import InProcesses
from ringlens.store.parallel.shared_block import SharedBlock
from ringlens.store.schema import captured
from ringlens.store.schema.run_shape import RunShape

OWN = ("runs", "experts", "traces", "usage_traces", "usage_blocks")
"""Tables whose files name the run, which is another in every store."""
SHAPE = RunShape.of(RUN)


@pytest.fixture(scope="module")
def processes():
    with closing(InProcesses(2)) as found:
        yield found


def files(path, encoding):
    """The bytes of the files that one commit of all kinds of records makes, by table and name."""
    with StoreWriter(path, encoding=encoding) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [*kinds(), rich_trace(40, 1)])
    found = {}
    for file in path.glob("*/run=*/*.parquet"):
        table, _, name = file.relative_to(path).parts
        if table not in OWN:
            found[table, name] = file.read_bytes()
    return found


def test_threads_and_processes_write_the_same_bytes(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(encoders, "SHARE_NS", 2e4)  # several files a table, as of a large model
    one, two = files(tmp_path / "1", InThreads(2)), files(tmp_path / "2", processes)
    assert {name for name in one if "-s1" in name[1]}
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


@pytest.mark.parametrize("encoding", [InThreads(1), InThreads(2)])
def test_any_number_of_workers_gives_the_same_rows(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(encoders, "SHARE_NS", 2e4)
    with closing(InProcesses(1)) as processes:
        files(tmp_path / "1", processes)
    files(tmp_path / "2", encoding)
    with Store(tmp_path / "1") as one, Store(tmp_path / "2") as two:
        for table in captured.tables(RUN.experts):
            if table.name in ("runs", "experts"):
                continue
            both = [
                store.sql(f"select * exclude (run_id) from {table.name} order by all").fetchall()
                if table.has("run_id")
                else store.sql(f"from {table.name} order by all").fetchall()
                for store in (one, two)
            ]
            assert repr(both[0]) == repr(both[1]), table.name


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 90), seed=st.integers(0, 99), of=st.integers(1, 4), data=st.data())
def test_a_portion_gives_the_rows_of_its_share(n, seed, of, data):
    share = LayerShare(data.draw(st.integers(0, of - 1)), of)
    record = rich_trace(n, seed)
    for table in captured.tables(RUN.experts):
        encoder = encoders.ENCODERS.get(table.encoder)
        whole = encoders.row_groups(table, [(7, record)], SHAPE, share)
        part = encoder.portion(table, record, SHAPE, share)
        groups = encoders.row_groups(table, [(7, part)], SHAPE, WHOLE)
        wanted = [] if whole is None else [group.to_pydict() for group in whole]
        assert repr([] if groups is None else [g.to_pydict() for g in groups]) == repr(wanted)
    assert portions.of_usage(record).tokens.phase == record.tokens.phase


def test_objects_cross_a_block_with_their_arrays():
    mine = SharedBlock()
    with closing(mine):
        assert os.readlink(f"/proc/self/fd/{mine.handle}").endswith("(deleted)")
        theirs = SharedBlock(mine.handle)
        for size in (3, 100_000, 5):
            value = {"a": np.arange(size)[::-1], "b": [np.zeros((0, 4)), "text", np.float32(2)]}
            found = theirs.unpack(mine.pack(value))
            assert (found["a"] == value["a"]).all() and found["b"][0].shape == (0, 4)
            assert found["b"][1:] == ["text", 2]
            assert not found["a"].flags.writeable


def test_a_process_that_dies_ends_the_commit(tmp_path):
    with (
        closing(InProcesses(2)) as processes,
        StoreWriter(tmp_path, encoding=processes) as writer,
    ):
        run_id = writer.start_run(RUN)
        writer.commit(run_id, kinds()[:1])
        dead = processes._all[0].process
        dead.kill()
        with pytest.raises(StoreError, match=f"process {dead.pid} has ended \\(SIGKILL\\)"):
            writer.commit(run_id, kinds())
    assert assert_whole(tmp_path) == [1]
    with StoreWriter(tmp_path) as writer:
        writer.resume(run_id)
        writer.finish_run(run_id)
    assert_no_orphans(tmp_path)


def test_what_a_job_raises_is_raised_here(tmp_path, processes):
    with StoreWriter(tmp_path, encoding=processes) as writer:
        run_id = writer.start_run(RUN)
        (tmp_path / "staging").rename(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match="No such file or directory") as raised:
            writer.commit(run_id, kinds())
        (tmp_path / "elsewhere").rename(tmp_path / "staging")
        assert "in the encoding process" in raised.value.__cause__.__notes__[0]
        assert writer.commit(run_id, kinds()[:1])  # the processes live on


PARENT = """
import os, signal
from ringlens.store.parallel.processes import InProcesses
encoding = InProcesses(2)
print(*(worker.process.pid for worker in encoding._all), flush=True)
os.read(0, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_a_parent_that_is_killed():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    handles = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
    parent.communicate(b"x")
    assert parent.returncode == -signal.SIGKILL
    for handle in handles:
        select.select([handle], [], [])  # readable once the process has ended
        os.close(handle)


def test_processes_are_for_runs_that_they_pay_for():
    sizes = {"layers": 80, "heads": 64, "experts": 256, "experts_per_token": 8}
    large = replace(RUN, **sizes, sparse_layers=tuple(range(4, 80)))
    everything = ("logprobs", "routing", "router_logits", "heads", "head_blocks")
    token = token_ns(everything, tuple(range(80)), large)
    assert token == 76 * 8 * (70 + 24) + 76 * 256 * 4 + 80 * 64 * (40 + 11)
    assert token_ns(("routing",), (3, 4, 5), large) == 2 * 8 * 94
    assert [chosen_workers(token, 65_536, cores) for cores in (1, 2, 4, 16, 99)] == [
        0,
        1,
        2,
        12,
        12,
    ]
    assert chosen_workers(token, 1_000, 16) == 0
    assert chosen_workers(token, 3_000, 16) == 2
    assert chosen_workers(token_ns(everything, (0, 1), RUN), 10**9, 16) == 0
