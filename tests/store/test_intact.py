"""A file that is not what was committed is refused by all that reads or rewrites it."""

import os
import random
import shutil
import socket
import threading
from functools import partial
from pathlib import Path

import duckdb
import pytest
from records import part, random_trace
from rich_store import STEP, write_rich_store
from workers import RUN

from ringlens.errors import ConfigError, StoreError
from ringlens.sandbox.sandbox import Sandbox
from ringlens.store import Store, StoreWriter
from ringlens.store.maintain.compact import compact, plan
from ringlens.store.maintain.copying import Copy, copy_run, run_rows
from ringlens.store.maintain.delete import delete_traces
from ringlens.store.maintain.rollup import rebuild
from ringlens.store.maintain.scan import expert_counts
from ringlens.store.read import intact

FLIPS = int(os.environ.get("RINGLENS_FUZZ", "200"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three traces in two commits, with vectors, attention and steps; the last one still runs."""
    path = tmp_path_factory.mktemp("made") / "store"
    write_rich_store(path, ended=(30, 20), running=(20, 30), steps=[STEP])
    return path


@pytest.fixture
def path(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "store"))


def file_of(path, table):
    return sorted((path / table).rglob("*.parquet"))[0]


def flip(file, at):
    """One bit, ``at`` of all."""
    content = bytearray(file.read_bytes())
    content[at // 8] ^= 1 << at % 8
    file.write_bytes(content)


def flip_weight(path, table="routing"):
    """A bit in the midst of a file, inside of a page."""
    file = file_of(path, table)
    flip(file, file.stat().st_size * 4)
    return file


def rows(path, table):
    with Store(path) as store:
        return store.sql(f"from {table} order by all").fetchall()


def test_no_flipped_bit_in_any_table_gives_other_rows(path):
    tables = sorted(p.name for p in path.iterdir() if p.is_dir() and any(p.rglob("*.parquet")))
    assert len(tables) >= 12
    sound = {table: rows(path, table) for table in tables}
    draw = random.Random(7)
    with Store(path) as store:
        for number in range(FLIPS):
            table = tables[number % len(tables)]
            file = draw.choice(sorted((path / table).rglob("*.parquet")))
            before = file.read_bytes()
            flip(file, draw.randrange(8 * len(before)))
            with pytest.raises(StoreError, match=f"{file.name} is damaged .*`ringlens check`"):
                store.sql(f"from {table}").fetchall()
            file.write_bytes(before)
        for table in tables:
            assert store.sql(f"from {table} order by all").fetchall() == sound[table]


QUERIES = {
    "a view for people": "select * from router_choices",
    "text in a function": "from query('select * from routing')",
    "a macro": "from all_routing()",
    "a view of one's own": "select sum(pos) from mine",
    "capitals": 'select * from "ROUTING"',
    "no column": "select count(*) from routing",
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_whichever_way_a_query_takes_it_comes_past_the_checksum(path, query):
    flip_weight(path)
    with Store(path) as store:
        with store.unguarded():
            store.sql("create view mine as from routing").fetchall()
            store.sql("create macro all_routing() as table from routing").fetchall()
        with pytest.raises(StoreError, match="its checksum is not the one that was committed"):
            store.sql(query).fetchall()
        assert store.sql("select count(*) from tokens").fetchall() == [(70,)]


def test_a_trace_reads_files_that_are_intact_and_no_other(path):
    flip_weight(path)
    with Store(path) as store:
        with pytest.raises(StoreError, match="checksum"):
            store.trace(1).routing(1)
        assert len(store.trace(3).routing(1)["pos"]) == 20
        assert len(store.trace(1).tokens()["pos"]) == 30
        with pytest.raises(StoreError, match="checksum"):
            expert_counts(store)


def _delete(path):
    with Store(path) as store, StoreWriter(path) as writer:
        delete_traces(writer.rewriter(), run_rows(store)[0]["run_id"], [1], store.tables())


def _roll_up(path):
    with Store(path) as store, StoreWriter(path) as writer:
        rebuild(writer.rewriter(), run_rows(store)[0]["run_id"], lambda *_: None)


def _copy(path):
    with Store(path, verify=False) as store, StoreWriter(path.parent / "copy") as writer:
        (run,) = run_rows(store)
        copy_run(store, writer.rewriter(), Copy(run, run["run_id"], [1, 2]), {}, keep_ids=True)


def _go_on(path):
    with StoreWriter(path) as writer:
        (run_id,) = writer._manifest.runs()
        writer.resume(run_id)
        writer.commit(run_id, [part(random_trace(RUN, 30, seed=2), 20, 30, 3)])


def _add_steps(path):
    with StoreWriter(path) as writer:
        (run_id,) = writer._manifest.runs()
        row = {"trace_id": 2, "step": 0, "start": 0, "end": 2, "token_start": 0, "token_end": 1}
        clear = [{"trace_id": 1}]
        writer.replace_rows(run_id, "steps", [row | {"text": "ab"}], clear)


@pytest.mark.parametrize(
    ("table", "work"),
    [
        ("routing", _delete),
        ("routing", _roll_up),
        ("tokens", _roll_up),
        ("routing", _copy),
        ("heads", _copy),
        ("traces", _go_on),
        ("steps", _add_steps),
        ("traces", _add_steps),
    ],
)
def test_nothing_gives_damaged_rows_a_new_checksum(path, table, work, monkeypatch):
    monkeypatch.setenv("RINGLENS_VERIFY", "0")  # rewriting is never without
    last = sorted((path / table).rglob("*.parquet"))[-1 if work is _go_on else 0]
    flip(last, last.stat().st_size * 4)
    before = {p: p.read_bytes() for p in path.rglob("*.parquet")}
    with pytest.raises(StoreError, match="checksum"):
        work(path)
    assert before == {p: p.read_bytes() for p in path.rglob("*.parquet")}


def test_compaction_does_not_launder_a_flipped_bit(tmp_path, monkeypatch):
    monkeypatch.setenv("RINGLENS_VERIFY", "0")
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        for seed in range(2):
            writer.commit(run_id, [random_trace(RUN, 20, seed=seed)])
        writer.finish_run(run_id)
        file = flip_weight(tmp_path)
        before = file.read_bytes()
        with Store(tmp_path) as store, pytest.raises(StoreError, match="checksum"):
            compact(writer.rewriter(), plan(store), lambda *_: None)
    assert file.read_bytes() == before


def test_the_sandbox_answers_from_intact_files_alone(path):
    with Store(path) as store, Sandbox(store) as sandbox:
        assert sandbox.sql("select count(*) from tokens").table.to_pylist() == [
            {"count_star()": 70}
        ]
        flip_weight(path)
        for query in ("select * from Router_Choices", 'select count(*) from "routing"'):
            with pytest.raises(StoreError, match="checksum"):
                sandbox.sql(query)
        assert sandbox.sql("select count(*) from tokens").table.num_rows == 1


def test_a_file_is_looked_at_once_and_again_when_it_changes(path, monkeypatch):
    looked = []
    checksum = intact.parquet.checksum
    monkeypatch.setattr(intact.parquet, "checksum", lambda p: looked.append(p.name) or checksum(p))
    with Store(path) as store:
        for _ in range(3):
            store.sql("from traces").fetchall()
        first = len(looked)
        assert first == len(store.files("traces"))
    with Store(path) as store:
        store.sql("from traces").fetchall()
        assert len(looked) == first
        flip_weight(path, "traces")
        with pytest.raises(StoreError, match="checksum"):
            store.sql("from traces").fetchall()


def test_what_is_too_large_to_be_verified_unasked_is_verified_when_asked(path, monkeypatch):
    monkeypatch.setattr(intact, "VERIFIED_BYTES", 1_000)
    looked = []
    checksum = intact.parquet.checksum
    monkeypatch.setattr(intact.parquet, "checksum", lambda p: looked.append(p.name) or checksum(p))
    with Store(path) as store:
        assert len(store.sql("from router_logits")) and not looked
    flip_weight(path, "router_logits")
    with Store(path, verify=True) as store, pytest.raises(StoreError, match="checksum"):
        store.sql("from router_logits").fetchall()
    monkeypatch.setenv("RINGLENS_VERIFY", "1")
    with Store(path) as store, pytest.raises(StoreError, match="checksum"):
        store.sql("from router_logits").fetchall()
    monkeypatch.setenv("RINGLENS_VERIFY", "sometimes")
    with pytest.raises(ConfigError, match="RINGLENS_VERIFY is 'sometimes'"):
        Store(path)


@pytest.mark.parametrize("verify", [None, True, False])
def test_opening_a_store_notices_files_of_another_size_and_missing_ones(path, verify):
    long, gone = file_of(path, "routing"), file_of(path, "heads")
    long.write_bytes(long.read_bytes() + b"\0")
    gone.unlink()
    with Store(path, verify=verify) as store:
        faults = store.faults()
        assert len(faults) == 2
        assert any("routing" in each and "bytes instead of" in each for each in faults)
        assert any("heads" in each and "is missing" in each for each in faults)
        for table in ("routing", "heads"):
            with pytest.raises(StoreError, match=r"is missing|bytes instead of"):
                store.sql(f"select count(*) from {table}").fetchall()
        assert len(store.sql("from tokens")) == 70


def _fifo(place):
    os.mkfifo(place)


def _socket(place):
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.getcwd()
        os.chdir(place.parent)  # a socket's address is short
        listening.bind(place.name)
        os.chdir(before)


def _device(place):
    place.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_fifo, _socket, _device, Path.mkdir])
@pytest.mark.parametrize("verify", [None, False])
def test_no_reader_waits_for_a_pipe(path, make, verify):
    for table in ("routing", "traces"):
        file = file_of(path, table)
        file.unlink()
        make(file)
    with Store(path, verify=verify) as store:
        assert len(store.faults()) == 2
        for query in ("from routing", "from traces"):
            with pytest.raises(StoreError, match=r"part-.*parquet is damaged"):
                store.sql(query).fetchall()
        with pytest.raises(StoreError, match="is damaged"):
            store.trace(1)


def test_guards_of_duckdb_get_paths_in_the_thread_that_asks():
    """What `Guard` relies on: the list of files is made while a query is bound, by this thread."""
    connection, seen = duckdb.connect(), []
    connection.create_function("f", partial(_note, seen), ["VARCHAR[]"], "VARCHAR[]")
    with pytest.raises(duckdb.IOException):
        connection.sql("from read_parquet(f(['/nowhere/a.parquet']))")
    assert seen == [(["/nowhere/a.parquet"], threading.get_ident())]


def _note(seen, paths: list[str]) -> list[str]:
    seen.append((paths, threading.get_ident()))
    return paths
