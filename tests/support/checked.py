"""Stores to check, and files to spoil."""

import sqlite3

import pyarrow.parquet as pq

from ringlens.store import Store
from ringlens.store.check.check import check
from ringlens.store.storage import parquet

OLD_HEADS = [("gone", "heads", (3,))]
"""What was always amiss in the old stores: heads of a trace, which their run says it recorded."""


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
