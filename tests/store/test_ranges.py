"""Remote files, a range at a time: as DuckDB reads them, in many threads, and as pyarrow does."""

import io
import threading

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ringlens.store.storage import ranges
from ringlens.store.storage.ranges import RangeFile, Ranges

TABLE = pa.table({"n": np.arange(400_000), "text": [f"row {i % 977}" for i in range(400_000)]})


@pytest.fixture(scope="module")
def content():
    buffer = io.BytesIO()
    pq.write_table(TABLE, buffer, row_group_size=5_000, compression="none")
    return buffer.getvalue()


def served(content):
    """Files of one content, and the ranges that were fetched."""
    asked = []

    def fetch(path, start, stop):
        asked.append((path, start, stop))
        return content[start:stop]

    return Ranges(fetch, lambda path: len(content)), asked


def test_a_file_reads_as_any_other(content):
    file = RangeFile(len(content), lambda start, stop: content[start:stop])
    assert file.readable() and file.seekable()
    assert file.read(4) == b"PAR1"
    assert file.seek(-4, io.SEEK_END) == len(content) - 4
    assert file.read() == b"PAR1"
    assert file.read(10) == b""
    file.seek(10)
    file.seek(5, io.SEEK_CUR)
    assert file.read(3) == content[15:18]
    assert file.tell() == 18
    file.seek(0)
    assert file.readall() == content
    assert pq.read_table(file).equals(TABLE)


def test_threads_do_not_disturb_each_other(content):
    """All seek before any reads: each reads where it has sought."""
    file = RangeFile(len(content), lambda start, stop: content[start:stop])
    ready, found = threading.Barrier(8), {}

    def read(number):
        for turn in range(50):
            start = (number * 7919 + turn * 104_729) % (len(content) - 100)
            file.seek(start)
            ready.wait()
            found[number, turn] = file.read(100) == content[start : start + 100]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 400
    assert all(found.values())


def test_duckdb_reads_what_it_needs(content):
    files, asked = served(content)
    with duckdb.connect(config={"threads": 8}) as connection:
        connection.register_filesystem(files)
        query = "select sum(n), count(distinct text) from read_parquet('ringlens://a.parquet')"
        assert connection.sql(query).fetchall() == [(sum(range(400_000)), 977)]
        asked.clear()
        where = "select text from read_parquet('ringlens://b.parquet') where n = 123456"
        assert connection.sql(where).fetchall() == [(f"row {123456 % 977}",)]
    assert {path for path, _, _ in asked} == {"b.parquet"}
    assert sum(stop - start for _, start, stop in asked) < len(content) / 10


def test_the_end_of_a_file_is_fetched_once(content):
    files, asked = served(content)
    size = len(content)
    for start in (size - 8, size - 1000, size - ranges.TAIL):
        with files.open("a.parquet", "rb") as file:
            file.seek(start)
            assert file.read() == content[start:]
    assert asked == [("a.parquet", size - ranges.TAIL, size)]
    with pytest.raises(PermissionError, match="never changes"):
        files.open("a.parquet", "wb")
