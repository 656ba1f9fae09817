"""Stores to check, and files to spoil."""

import shutil
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from records import part, random_trace
from workers import RUN, rich_trace

from ringlens.store import Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.storage import parquet

STEP = {"step": 0, "start": 0, "end": 2, "token_start": 0, "token_end": 1, "text": "ab"}


OLD_HEADS = [("gone", "heads", (3,))]
"""What was always amiss in the old stores: heads of a trace, which their run says it recorded."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Traces 1 to 3 in one commit, 4 in two, with steps; 5 and 6 of another run, with vectors."""
    path = tmp_path_factory.mktemp("sound") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [random_trace(RUN, 20 + i, seed=i) for i in range(3)])
        long = random_trace(RUN, 40, seed=9)
        (trace_id,) = writer.commit(run_id, [part(long, 0, 25, None)])
        writer.commit(run_id, [part(long, 25, 40, trace_id)])
        writer.replace_rows(run_id, "steps", [STEP | {"trace_id": i} for i in (1, 4)])
        writer.replace_rows(run_id, "probes", [{"probe": "lens", "key": "kl", "value": 1.0}])
        writer.finish_run(run_id)
        other = writer.start_run(RUN)
        writer.commit(other, [rich_trace(30, 0), rich_trace(40, 1)])
        writer.finish_run(other)
    return path


@pytest.fixture
def path(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "store"))


def findings(path):
    with Store(path) as store:
        return check(store).findings


def a_file(path, table, number=-1):
    return sorted((path / table).rglob("*.parquet"), key=lambda file: file.name)[number]


def manifest(path, statement, *params):
    with sqlite3.connect(path / "manifest.sqlite") as connection:
        return connection.execute(statement, params).fetchall()


def rewrite(path, table, change, number=-1):
    """Change a file's rows as if they had been committed so: the manifest agrees."""
    file = a_file(path, table, number)
    pq.write_table(change(pq.read_table(file, partitioning=None)), file)
    size, rows = file.stat().st_size, pq.read_metadata(file).num_rows
    manifest(
        path,
        "update files set bytes = ?, rows = ?, checksum = ? where path = ?",
        *(size, rows, parquet.checksum(file), str(file.relative_to(path))),
    )
