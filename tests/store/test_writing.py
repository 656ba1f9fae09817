"""StoreWriter: what it refuses, and what it leaves behind when the disk fails it."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paths import SUPPORT
from records import random_run, random_trace
from workers import RUN, kinds, write_with_file_limit, write_without_rights
from writers import start

from ringlens.errors import NotInStoreError, ObservationError, StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.schema.captured import FORMAT_VERSION


def files_of(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*.*") if file.is_file())


def parquet_of(path):
    return [name for name in files_of(path) if name.endswith(".parquet")]


def run_worker(target, *args):
    """Run a worker to its end; return what it reported."""
    process, reports = start(target, *args)
    found = []
    while True:
        try:
            found.append(reports.recv())
        except EOFError:
            process.join()
            assert process.exitcode == 0
            return found


def test_a_store_says_its_format_and_maker(tmp_path):
    StoreWriter(tmp_path / "a" / "b").close()
    marker = json.loads((tmp_path / "a" / "b" / "store.json").read_text())
    assert marker["format_version"] == FORMAT_VERSION
    assert marker["created_by"].startswith("ringlens ")


def test_ids_count_on_over_commits_runs_and_writers(tmp_path):
    traces = [random_trace(RUN, seed=i) for i in range(3)]
    with StoreWriter(tmp_path) as writer:
        first, second = writer.start_run(RUN), writer.start_run(RUN)
        assert first != second
        assert writer.commit(first, traces) == [1, 2, 3]
        assert writer.commit(second, traces[:1]) == [4]
        assert writer.commit(second, []) == []
    with StoreWriter(tmp_path) as writer:
        assert writer.commit(first, traces[:2]) == [5, 6]


def test_bytes_written_is_what_lies_on_the_disk(tmp_path):
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, kinds())
        assert writer.bytes_written == sum(
            (tmp_path / n).stat().st_size for n in parquet_of(tmp_path)
        )


def test_finishing_a_run_keeps_one_row(tmp_path):
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        before = parquet_of(tmp_path)
        writer.finish_run(run_id)
        assert set(before) < set(parquet_of(tmp_path))  # the replaced file stays for a while
        with Store(tmp_path) as store:
            ((started, finished),) = store.sql("select started, finished from runs").fetchall()
        assert finished >= started
        with pytest.raises(NotInStoreError, match="no run nothing"):
            writer.finish_run("nothing")
        with pytest.raises(NotInStoreError, match="no run nothing"):
            writer.commit("nothing", kinds())


def changed_routing(trace, **changes):
    return replace(trace, routing=replace(trace.routing, **changes))


def changed_tokens(trace, **changes):
    return replace(trace, tokens=replace(trace.tokens, **changes))


TRACE = random_trace(RUN)
HALF = "\ud83d"


@pytest.mark.parametrize(
    ("trace", "sentence"),
    [
        (replace(TRACE, n_think=99), "n_prompt .* is .*, but the trace has 24 tokens"),
        (replace(TRACE, router_logits=TRACE.router_logits[:2]), r"router_logits is \(2, 24, 16\)"),
        (replace(TRACE, text=TRACE.text + "x"), "do not tile the text"),
        (replace(TRACE, prompt=HALF), "half of a surrogate pair"),
        (changed_tokens(TRACE, logprob=np.zeros(3, np.float32)), r"tokens\.logprob is \(3,\)"),
        (changed_tokens(TRACE, phase=["thought"] * 24), "unknown phase 'thought'"),
        (changed_tokens(TRACE, start=TRACE.tokens.start + 1), "do not tile the text"),
        (changed_routing(TRACE, layers=(0, 1, 2)), r"routing\.layers is \(0, 1, 2\)"),
        (
            changed_routing(TRACE, expert_ids=TRACE.routing.expert_ids + 8),
            "in a run with 16 experts",
        ),
        (changed_routing(TRACE, unlimited_ids=TRACE.routing.unlimited_ids - 9), "expert id -"),
        (random_trace(random_run(layers=5)), r"routing.layers is .* each once and ascending"),
        (random_trace(random_run(heads=8)), r"heads\.entropy is \(4, 24, 8\)"),
    ],
)
def test_a_trace_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, trace, sentence):
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        before = files_of(tmp_path)
        with pytest.raises(ObservationError, match=sentence):
            writer.commit(run_id, [TRACE, trace])
        assert files_of(tmp_path) == before
        assert writer.commit(run_id, [TRACE]) == [1]


def test_a_trace_without_what_a_column_needs_is_taken_back(tmp_path):
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        before = files_of(tmp_path)
        with pytest.raises(StoreError, match=r"seed.*; nothing of this commit was stored"):
            writer.commit(run_id, [TRACE, replace(TRACE, seed=None)])
        assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (replace(RUN, groups=5), "16 experts do not divide into 5 groups"),
        (replace(RUN, expert_bias=RUN.expert_bias[:1]), r"expert_bias is \(1, 16\)"),
    ],
)
def test_a_run_that_contradicts_itself_is_refused(tmp_path, run, sentence):
    with StoreWriter(tmp_path) as writer, pytest.raises(ObservationError, match=sentence):
        writer.start_run(run)
    assert parquet_of(tmp_path) == []


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(StoreError, match=r"holds other files \(such as thesis\.tex\)"):
        StoreWriter(tmp_path)
    assert files_of(tmp_path) == ["thesis.tex"]


def test_a_newer_store_is_left_alone(tmp_path):
    StoreWriter(tmp_path).close()
    (tmp_path / "store.json").write_text(json.dumps({"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(StoreError, match="upgrade"):
        StoreWriter(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/store"])
def test_a_file_in_the_way_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file.*: (the path|a part of the path) is a file"):
        StoreWriter(tmp_path / name)


def assert_only_first_trace(path):
    with Store(path) as store:
        for table in ("traces", "tokens", "routing", "router_logits", "heads"):
            query = f"select distinct trace_id from {table}"
            assert store.sql(query).fetchall() == [(1,)]
    assert not list((path / "staging").glob("*.part"))


@pytest.mark.parametrize("limit", [0, 1_000, 10_000, 30_000, 60_000])
def test_a_full_disk_leaves_what_was_committed(tmp_path, limit):
    """No file may grow past ``limit`` bytes: whichever file hits it, all or nothing is stored."""
    with StoreWriter(tmp_path) as writer:
        writer.commit(writer.start_run(RUN), kinds()[:1])
    before = parquet_of(tmp_path)
    (said,) = run_worker(write_with_file_limit, tmp_path, limit)
    assert isinstance(said, str), "the limit was never reached"
    assert str(tmp_path) in said
    assert "nothing of this commit was stored" in said
    assert_only_first_trace(tmp_path)
    new = set(parquet_of(tmp_path)) - set(before)
    assert {name.split("/")[0] for name in new} == {"runs", "experts"}
    with StoreWriter(tmp_path) as writer:
        assert writer.commit(writer.start_run(RUN), kinds()[:1]) == [2]


FILL = """
import sys
from workers import RUN, kinds, outcome
from ringlens.store import StoreWriter
with StoreWriter(sys.argv[1]) as writer:
    run_id = writer.start_run(RUN)
    done = []
    for _ in range(100):
        said = outcome(lambda: writer.commit(run_id, kinds()))
        if isinstance(said, str):
            break
        done += said
    print(said)
    print(len(done))
"""


def test_a_really_full_disk_leaves_what_was_committed(tmp_path):
    """A file system of two megabytes, mounted for one process tree."""
    script = tmp_path / "fill.py"
    script.write_text(FILL)
    mount = tmp_path / "disk"
    mount.mkdir()
    keep = tmp_path / "kept"
    shell = (
        f"mount -t tmpfs -o size=2m tmpfs {mount} && {sys.executable} {script} {mount}/store"
        f" && cp -r {mount}/store {keep}"
    )
    tests = str(SUPPORT)
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", shell],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": tests},
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    said, committed = done.stdout.splitlines()
    assert "the disk is full: free some space" in said
    assert "nothing of this commit was stored" in said
    assert int(committed) > 0
    with Store(keep) as store:
        assert len(store.traces()) == int(committed)
        ((rows, tokens),) = store.sql(
            "select (select count(*) from heads), (select count(*) from tokens)"
        ).fetchall()
        assert rows == tokens * RUN.layers
    assert not list((keep / "staging").glob("*.part"))


@pytest.fixture
def public():
    """A folder that another user can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path / "store"


def take_rights(path):
    for file in [path, *path.rglob("*")]:
        mode = 0o555 if file.is_dir() else 0o444
        file.chmod(stat.S_IMODE(mode))


def test_a_read_only_store_is_read_and_refuses_writers(public):
    with StoreWriter(public) as writer:
        writer.commit(writer.start_run(RUN), kinds()[:1])
    take_rights(public)
    said, read = run_worker(write_without_rights, public)
    assert "permission denied" in said or "read-only" in said
    assert "the store was not opened for writing" in said
    assert read == [(20,)]


def test_a_store_is_read_by_who_may_not_write_while_another_writes(public):
    with StoreWriter(public) as writer:
        writer.commit(writer.start_run(RUN), kinds()[:1])
        _, read = run_worker(write_without_rights, public)
    assert read == [(20,)]


def test_a_folder_that_cannot_be_made_is_named(public):
    public.parent.chmod(0o555)
    said, read = run_worker(write_without_rights, public)
    assert "permission denied" in said
    assert "there is no store" in read
