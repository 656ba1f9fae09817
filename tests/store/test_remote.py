"""Stores at addresses: in memory, on a shared disk, on a real S3 server on loopback."""

import errno
import json
import os
import secrets
from contextlib import contextmanager

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from records import part, random_run, random_trace
from s3_server import BUCKET, reached, serve
from same_rows import assert_same
from waiting import wait_for

from ringlens.cli.main import main
from ringlens.errors import NotInStoreError, SandboxError, StoreError
from ringlens.sandbox.sandbox import Sandbox
from ringlens.store import Store, StoreWriter
from ringlens.store.commit import sweep
from ringlens.store.storage import lease
from ringlens.store.storage.folder import folder_at

RUN = random_run()
TRACES = [random_trace(RUN, 20 + 10 * seed, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def s3():
    with serve() as server, reached(server):
        yield server


@pytest.fixture(params=["memory", "file", "s3"])
def address(request, tmp_path):
    name = secrets.token_hex(4)
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://{BUCKET}/runs/{name}"
    return f"memory://{name}/runs" if request.param == "memory" else f"file://{tmp_path}/a store"


@pytest.fixture
def bucket(s3):
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


def names(address):
    """All files at an address but the manifest's and the leases."""
    folder = folder_at(address)
    return {
        f"{table}/{run}/{name}"
        for table in folder.names()
        if table not in ("manifest", "writers", "store.json")
        for run in folder.names(table)
        for name in folder.names(f"{table}/{run}")
    }


def test_what_is_written_is_what_is_read(address):
    with StoreWriter(address) as writer:
        run_id = writer.start_run(RUN)
        ids = writer.commit(run_id, TRACES[:2])
        with Store(address) as store:
            assert store.address == address
            assert store.name == address.rsplit("/", 1)[-1]
            ids += writer.commit(run_id, TRACES[2:])
            assert len(store.traces()) == 3  # this process sees its own commits at once
            for trace_id, record in zip(ids, TRACES, strict=True):
                assert_same(store.trace(trace_id), record, RUN)
        writer.finish_run(run_id)
    with Store(address) as store:
        ((n, chosen),) = store.sql(
            "select count(*), count(*) filter (expert >= 0) from router_choices"
        ).fetchall()
        assert n == chosen == 90 * len(RUN.sparse_layers) * RUN.experts_per_token
        assert store.runs().fetchall()[0][-1] is not None
        assert names(address) >= {file.path for file in store.files("routing")}
        with pytest.raises(NotInStoreError, match=r"there is no trace 9"):
            store.trace(9)
    assert folder_at(address).names("writers") == []
    assert list(folder_at(address).staging.iterdir()) == []


def test_a_trace_in_parts_and_what_it_replaces(address, monkeypatch):
    record = random_trace(RUN, 30)
    with StoreWriter(address) as writer:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(record, 0, 10, None)])
        old = {file.path for file in Store(address).files("traces")}
        writer.commit(run_id, [part(record, 10, 30, trace_id)])
        with Store(address) as store:
            assert_same(store.trace(trace_id), record, RUN)
            new = {file.path for file in store.files("traces")}
    assert old.isdisjoint(new)
    assert old <= names(address)  # a query may still read it
    monkeypatch.setattr(sweep, "RETIRED_STAY", sweep.RETIRED_STAY * 0)
    StoreWriter(address).close()
    assert old.isdisjoint(names(address))


def test_bad_records_leave_nothing(address):
    with StoreWriter(address) as writer:
        run_id = writer.start_run(RUN)
        before = names(address)
        continued = part(TRACES[0], 10, 20, 77)
        with pytest.raises(NotInStoreError, match="no trace 77"):
            writer.commit(run_id, [continued])
        assert names(address) == before
        assert writer.commit(run_id, TRACES[:1]) == [1]


def test_two_writers_at_once(address):
    with StoreWriter(address) as one, StoreWriter(address) as two:
        first, second = one.start_run(RUN), two.start_run(RUN)
        ids = [
            trace_id
            for _ in range(3)
            for writer, run_id in ((one, first), (two, second))
            for trace_id in writer.commit(run_id, TRACES[:1])
        ]
        assert ids == [1, 2, 3, 4, 5, 6]
        with Store(address) as store:
            runs = store.sql("select run_id, count(*) from traces group by all order by all")
            assert sorted(runs.fetchall()) == sorted([(first, 3), (second, 3)])


def test_a_run_is_resumed_when_its_writer_is_gone(address, monkeypatch):
    run = random_run(fingerprint="again")
    writer = StoreWriter(address)
    run_id = writer.start_run(run)
    with StoreWriter(address) as other:
        assert other.unfinished("again") is None  # its writer is alive
        with pytest.raises(StoreError, match="another process works on run"):
            other.resume(run_id)
    # As a writer of another machine that was paused: nothing here knows of its file lock.
    monkeypatch.setattr(lease, "TIMEOUT", -1.0)
    writer._lock._lock.path.unlink()
    with StoreWriter(address) as other:
        assert other.unfinished("again") == run_id
        other.resume(run_id)
        other.commit(run_id, TRACES[:1])
        monkeypatch.setattr(lease, "TIMEOUT", 60.0)
        with pytest.raises(StoreError, match="silent for so long that another one took over"):
            writer.commit(run_id, TRACES[1:])
    writer.close()
    with Store(address) as store:
        assert len(store.traces()) == 1
        assert names(address) == {f.path for table in store._tables for f in store.files(table)}


def test_a_lease_is_renewed_and_runs_out(address, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL", 0.05)
    with StoreWriter(address) as writer:
        folder, name = writer.folder, writer._lock.name
        before = folder.modified(lease.path_of(name))
        wait_for(lambda: folder.modified(lease.path_of(name)) > before)
        assert lease.expired(folder, {name, "never"}) == {"never"}


def test_a_path_to_a_shared_store_opens_it(tmp_path):
    with StoreWriter(f"file://{tmp_path}/store") as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, TRACES[:1])
    assert not (tmp_path / "store" / "manifest.sqlite").exists()
    with StoreWriter(tmp_path / "store") as writer:
        writer.commit(run_id, TRACES[1:2])
    with Store(tmp_path / "store") as store:
        assert len(store.traces()) == 2
    with StoreWriter(tmp_path / "local") as writer:
        writer.start_run(RUN)
    with Store(f"file://{tmp_path}/local") as store:
        assert len(store.runs()) == 1
        assert store.address == str(tmp_path / "local")


def test_a_disk_without_links_is_said_to_be(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match="its file system has no hard links"):
        StoreWriter(f"file://{tmp_path}/store")


def test_any_tool_reads_the_files(bucket):
    with StoreWriter(bucket) as writer:
        writer.commit(writer.start_run(RUN), TRACES)
    with Store(bucket) as store:
        (file,) = store.files("routing")
    fs = fsspec.filesystem("s3")
    with fs.open(f"{bucket}/{file.path}") as opened:
        assert pq.read_table(opened).num_rows == file.rows


def test_the_pages_open_on_a_bucket(bucket):
    from ringlens.app import make_app

    with StoreWriter(bucket) as writer:
        writer.commit(writer.start_run(RUN), TRACES)
    client = make_app(bucket).server.test_client()
    assert client.get("/").status_code == 200
    layout = client.get("/_dash-layout", headers={"Host": "127.0.0.1"})
    assert layout.status_code == 200


def test_the_command_line_takes_addresses(bucket):
    def ringlens(*arguments):
        result = CliRunner().invoke(main, [*arguments])
        assert result.exit_code == 0, result.output
        return result.output

    with StoreWriter(bucket) as writer:
        run_id = writer.start_run(RUN)
        for record in TRACES:
            writer.commit(run_id, [record])
        writer.finish_run(run_id)
    query = "select count(*) as n from traces"
    assert json.loads(ringlens("sql", bucket, query, "--format", "json")) == [{"n": 3}]
    assert "3 traces" in ringlens("info", bucket)
    assert "match the routing" in ringlens("rollup", bucket)
    with Store(bucket) as store:
        before = store.trace(2).router_logits(1)
        ringlens("compact", bucket)
        assert len(store.files("router_logits")) == 1
        np.testing.assert_array_equal(store.trace(2).router_logits(1), before)


def test_strangers_queries_are_refused_where_there_is_no_network(bucket):
    StoreWriter(bucket).close()
    with Store(bucket) as store, pytest.raises(SandboxError, match="without a network"):
        Sandbox(store)


def test_one_trace_reads_only_its_files(s3, bucket):
    with StoreWriter(bucket) as writer:
        run_id = writer.start_run(RUN)
        for record in TRACES:
            writer.commit(run_id, [record])
    with Store(bucket) as store:
        store.sql("select 1").fetchall()
        asked = len(s3.requests)
        np.testing.assert_array_equal(store.trace(2).router_logits(1), TRACES[1].router_logits[0])
        mine = {f.path for t in ("traces", "router_logits") for f in store.files(t, 2, 2)}
    read = {r.split(" ")[1] for r in s3.requests[asked:] if "/manifest/" not in r}
    prefix = "/" + bucket.removeprefix("s3://")
    assert read == {f"{prefix}/{path}" for path in mine}
    assert {r.split(" ")[0] for r in s3.requests[asked:]} == {"GET"}  # sizes are known


def test_a_damaged_or_missing_object_is_named(bucket):
    with StoreWriter(bucket) as writer:
        writer.commit(writer.start_run(RUN), TRACES)
    with Store(bucket) as store:
        (file,) = store.files("heads")
        content = store.folder.read(file.path)
        store.folder.write(file.path, content[:-1])
        with pytest.raises(StoreError, match=r"heads/.* is damaged \(\d+ bytes instead of"):
            store.trace(1).heads(1)
        store.folder.remove(file.path)
        with pytest.raises(StoreError, match=r"heads/.* is missing: restore a copy of it"):
            store.sql("select sum(len(entropy)) from heads").fetchall()
        assert len(store.traces()) == 3


# --- what can be wrong with a server ------------------------------------------------------------


@contextmanager
def without(*variables):
    before = {name: os.environ.pop(name) for name in variables}
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        yield
    finally:
        os.environ.update(before)
        fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_missing_things_are_said_in_a_sentence(s3, bucket):
    with pytest.raises(StoreError, match="there is no bucket nobody: create it"):
        Store("s3://nobody/store")
    with pytest.raises(StoreError, match="there is no bucket nobody: create it"):
        StoreWriter("s3://nobody/store")
    with pytest.raises(StoreError, match=f"there is no store at {bucket}"):
        Store(bucket)
    with pytest.raises(StoreError, match="is not an address that fsspec supports"):
        Store("s4://bucket/store")
    folder_at(bucket).write("notes/todo", b"mine")
    with pytest.raises(StoreError, match="is not a store and holds other files"):
        StoreWriter(bucket)
    with pytest.raises(StoreError, match=r"is not a store \(it has no store.json\)"):
        Store(bucket)
    with without("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        with pytest.raises(StoreError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            Store(bucket)
        with pytest.raises(StoreError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            StoreWriter(bucket)


def test_a_server_that_fails_is_said_in_a_sentence(s3, bucket):
    with StoreWriter(bucket) as writer, Store(bucket) as store:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, TRACES[:1])
        before = names(bucket)
        with s3.failing(lambda request: 503 if request.startswith("PUT") else None):
            with pytest.raises(StoreError, match="nothing of this commit was stored"):
                writer.commit(run_id, TRACES[1:])
            assert len(store.traces()) == 1
        assert names(bucket) == before
        with s3.failing(lambda _: 403), pytest.raises(StoreError, match="was not opened"):
            Store(bucket)
        assert writer.commit(run_id, TRACES[1:]) != []
        assert len(store.traces()) == 3
    assert Store(bucket).sql("select count(*) from heads").fetchall() == [(90 * RUN.layers,)]


def test_a_lost_answer_is_no_lost_commit(s3, bucket):
    """The server has the entry, the writer is told of a failure: it looks, and goes on."""
    with StoreWriter(bucket) as writer:
        run_id = writer.start_run(RUN)
        lost = []

        def fault(request):
            if request.startswith("PUT") and "/manifest/0" in request:
                lost.append(request)
                return 500
            return None

        with s3.failing(fault, before=False):
            ids = writer.commit(run_id, TRACES)
    assert len(lost) == 2  # the reservation and the completion
    with Store(bucket) as store:
        for trace_id, record in zip(ids, TRACES, strict=True):
            assert_same(store.trace(trace_id), record, RUN)


def test_a_server_that_overwrites_is_refused(s3, bucket, monkeypatch):
    from ringlens.store.storage.bucket import Bucket

    monkeypatch.setattr(Bucket, "create", Bucket.write)  # as servers that ignore If-None-Match
    with pytest.raises(StoreError, match="honours If-None-Match"):
        StoreWriter(bucket)
    assert folder_at(bucket).names("writers") == []


def test_an_address_that_cannot_create_is_read_only():
    class Plain(MemoryFileSystem):
        protocol = "plain"
        pipe_file = AbstractFileSystem.pipe_file  # looks first, then writes

    fsspec.register_implementation("plain", Plain, clobber=True)
    with pytest.raises(StoreError, match="can be read but not written"):
        StoreWriter("plain://store")
    with pytest.raises(StoreError, match=r"x\.zip"):
        Store("zip://store::memory://x.zip")
