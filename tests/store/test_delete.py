"""Runs and traces taken out, and stores merged: nothing else changes, ids stay apart."""

import shutil

import pyarrow as pa
import pytest
from click.testing import CliRunner
from compacted import rows, run_compact
from deleted import RUN, TRACES, make, without
from paths import OLD_STORE
from records import part, random_trace
from same_rows import assert_same
from usage_sums import assert_sums

from ringlens.cli.main import main
from ringlens.errors import NotInStoreError, StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.maintain import compact, copying, delete, merge, rollup
from ringlens.store.manifest.manifest import Manifest
from ringlens.store.schema import captured
from ringlens.store.storage import parquet


def trace_count(path):
    with Store(path) as store:
        return len(store.traces())


@pytest.mark.parametrize("compacted", [False, True])
def test_deleted_traces_are_gone_and_others_untouched(tmp_path, compacted):
    first, _ = make(tmp_path)
    if compacted:
        run_compact(tmp_path)
    with Store(tmp_path) as store, StoreWriter(tmp_path) as writer:
        before = rows(store)
        delete.delete_traces(writer.rewriter(), first, [1, 3], store.tables())
        after = rows(store)
        assert without(after, lambda _: True) == without(before, lambda t: t not in (1, 3))
        assert after["runs"] == before["runs"]
        assert_sums(store)
        assert_same(store.trace(2), TRACES[1], RUN)
        with pytest.raises(NotInStoreError, match="there is no trace 1"):
            store.trace(1)
        for table in store.tables():
            assert store.files(table.name, 1, 1) == []


def test_a_deleted_run_leaves_nothing(tmp_path):
    first, second = make(tmp_path)
    with Store(tmp_path) as store, StoreWriter(tmp_path) as writer:
        before = rows(store)
        delete.delete_run(writer.rewriter(), first)
        assert without(rows(store), lambda _: True) == without(before, lambda t: t > 3)
        assert store.sql("select run_id from runs").fetchall() == [(second,)]
        assert not [f for t in store.tables() for f in store.files(t.name) if f.run_id == first]
        with pytest.raises(NotInStoreError, match=f"there is no run {first}"):
            writer.commit(first, [TRACES[0]])
        with pytest.raises(NotInStoreError, match="there is no run"):
            delete.delete_run(writer.rewriter(), first)
        new = writer.commit(writer.start_run(RUN), [TRACES[1]])
        assert new == [6]  # ids are never given twice


def test_a_run_that_is_captured_is_refused(tmp_path):
    with StoreWriter(tmp_path) as capture, Store(tmp_path) as store:
        run_id = capture.start_run(RUN)
        (trace_id,) = capture.commit(run_id, [part(TRACES[0], 0, 20, None)])
        with StoreWriter(tmp_path) as other:
            with pytest.raises(StoreError, match="is being captured: wait for it or stop it"):
                delete.delete_run(other.rewriter(), run_id)
            with pytest.raises(StoreError, match="is being captured"):
                delete.delete_traces(other.rewriter(), run_id, [trace_id], store.tables())
        assert len(store.traces()) == 1
    with StoreWriter(tmp_path) as other:  # the capture has gone, its run has not ended
        delete.delete_run(other.rewriter(), run_id)
    assert trace_count(tmp_path) == 0


def test_a_damaged_file_stops_the_deletion(tmp_path):
    first, _ = make(tmp_path)
    with Store(tmp_path) as store, StoreWriter(tmp_path) as writer:
        file = store.files("routing", 1, 1)[0]
        content = (tmp_path / file.path).read_bytes()
        (tmp_path / file.path).write_bytes(content[:2000] + bytes(50) + content[2050:])
        with pytest.raises(StoreError, match=r"is damaged .* restore a copy"):
            delete.delete_traces(writer.rewriter(), first, [1], store.tables())
        assert len(store.traces()) == 5


def test_commits_that_come_before_a_run_is_dropped_are_not_lost_track_of(tmp_path, monkeypatch):
    """A trace is added to the ended run at the worst moment: after its files were listed."""
    first, _ = make(tmp_path)
    with StoreWriter(tmp_path) as writer, StoreWriter(tmp_path) as other:
        complete, late = Manifest.complete, [TRACES[0]]

        def slow(self, commit, *rest):
            if late and commit.writer == writer.rewriter().writer:
                other.commit(first, [late.pop()])
            return complete(self, commit, *rest)

        monkeypatch.setattr(Manifest, "complete", slow)
        delete.delete_run(writer.rewriter(), first)
    with Store(tmp_path) as store:
        assert not [f for t in store.tables() for f in store.files(t.name) if f.run_id == first]
        assert len(store.traces()) == 2


# --- merging --------------------------------------------------------------------------------


def run_merge(target, *sources):
    said = []
    with StoreWriter(target) as writer:
        for source in sources:
            with Store(source) as store:
                said += merge.merge(store, writer.rewriter())
    return said


def moved(found, by):
    """Rows with other trace ids."""

    def row_of(name, row):
        place = {"probes": 2}.get(name, 0)
        return (*row[:place], row[place] + by, *row[place + 1 :])

    kept = {n: t for n, t in found.items() if n not in ("runs", "experts", "traces")}
    return {name: [row_of(name, row) for row in table] for name, table in kept.items()}


def test_merged_runs_have_the_same_rows_under_new_ids(tmp_path):
    make(tmp_path / "a")
    with StoreWriter(tmp_path / "b") as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [TRACES[1], TRACES[1]])
        writer.finish_run(run_id)
    said = run_merge(tmp_path / "b", tmp_path / "a")
    assert [sentence.split(": ")[1] for sentence in said] == ["3 traces", "2 traces"]
    with Store(tmp_path / "a") as source, Store(tmp_path / "b") as target:
        found = {
            name: [row for row in table if row[0] > 2]
            for name, table in moved(rows(target), 0).items()
        }
        assert found == moved(rows(source), 2)
        for trace_id, trace in enumerate(TRACES, start=3):
            assert_same(target.trace(trace_id), trace, RUN)
        assert target.trace(6).summary["source_trace_id"] == 4
        assert len(target.runs()) == 3
        assert_sums(target)
        runs = "select * from runs where run_id <> ? order by all"
        assert target.sql(runs, [run_id]).fetchall() == rows(source)["runs"]


def test_a_run_is_merged_once(tmp_path):
    make(tmp_path / "a")
    run_merge(tmp_path / "b", tmp_path / "a")
    with Store(tmp_path / "b") as store:
        before = rows(store)
        said = run_merge(tmp_path / "b", tmp_path / "a", tmp_path / "a")
        assert len(said) == 4 and all("already there, skipped" in sentence for sentence in said)
        assert rows(store) == before


def test_a_merge_that_was_stopped_goes_on_and_knows_what_replays_what(tmp_path, monkeypatch):
    """Stopped after the first run; the second replays a trace of the first."""
    make(tmp_path / "a")
    with StoreWriter(tmp_path / "b") as writer:
        writer.commit(writer.start_run(RUN), [TRACES[1]])
    copy = copying.copy_run

    def once(*args, **options):
        monkeypatch.setattr(copying, "copy_run", lambda *a, **o: 1 / 0)
        return copy(*args, **options)

    monkeypatch.setattr(copying, "copy_run", once)
    with pytest.raises(ZeroDivisionError):
        run_merge(tmp_path / "b", tmp_path / "a")
    assert trace_count(tmp_path / "b") == 4
    monkeypatch.setattr(copying, "copy_run", copy)
    said = run_merge(tmp_path / "b", tmp_path / "a")
    assert [sentence.split(": ")[1] for sentence in said] == ["already there, skipped", "2 traces"]
    with Store(tmp_path / "b") as store:
        assert store.trace(5).summary["source_trace_id"] == 3


def test_another_run_of_the_same_id_gets_a_number(tmp_path):
    first, _ = make(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with StoreWriter(tmp_path / "b") as writer, Store(tmp_path / "b") as store:
        # The same id, but another run: its row says so.
        (file,) = [f for f in store.files("runs") if f.run_id == first]

        def work(files):
            row = parquet.read(files.folder, file.path, captured.RUNS).to_pylist()[0]
            batch = pa.RecordBatch.from_pylist([row | {"seed": 99}], captured.RUNS.arrow)
            files.stage(captured.RUNS, [batch])
            return [file.path]

        writer.rewriter().replace(first, work)
    for _ in range(2):
        said = run_merge(tmp_path / "b", tmp_path / "a")
    assert said[0] == f"{first}: already there, skipped"
    with Store(tmp_path / "b") as store:
        assert store.trace(6).summary["run_id"] == f"{first}-2"
        names = "select run_id from {} where run_id like ? group by all"
        for table in ("runs", "experts", "usage_blocks"):
            assert len(store.sql(names.format(table), [f"{first}%"])) == 2


def test_runs_that_have_not_ended_are_not_merged(tmp_path):
    with StoreWriter(tmp_path / "a") as writer:
        writer.commit(writer.start_run(RUN), [TRACES[1]])
    (said,) = run_merge(tmp_path / "b", tmp_path / "a")
    assert "not finished, skipped" in said
    assert trace_count(tmp_path / "b") == 0
    with pytest.raises(StoreError, match="cannot be merged into itself"):
        run_merge(tmp_path / "a", tmp_path / "a")


def test_a_store_of_the_first_format_is_merged(tmp_path):
    path = shutil.copytree(OLD_STORE, tmp_path / "old")
    with StoreWriter(path) as writer, Store(path) as store:
        writer.finish_run(store.trace(1).summary["run_id"])
    run_merge(tmp_path / "new", path)
    expected = [random_trace(RUN, n, seed=i) for i, n in enumerate((20, 24))]
    with Store(tmp_path / "new") as store:
        for trace_id, trace in enumerate(expected, start=1):
            assert_same(store.trace(trace_id), trace, RUN)


# --- the commands ---------------------------------------------------------------------------


def call(*args, **options):
    return CliRunner().invoke(main, [str(arg) for arg in args], **options)


def test_commands_delete_merge_compact_and_count(tmp_path):
    first, second = make(tmp_path / "a")
    asked = call("delete", tmp_path / "a", "--trace", 1, input="n\n")
    assert asked.exit_code == 1 and trace_count(tmp_path / "a") == 5
    asked = call("delete", tmp_path / "a", "--trace", 1, "--trace", 4, input="y\n")
    assert asked.exit_code == 0 and trace_count(tmp_path / "a") == 3
    assert call("delete", tmp_path / "a").exit_code == 2
    unknown = call("delete", tmp_path / "a", "--run", "nothing", "--yes")
    assert unknown.exit_code == 1 and "there is no run nothing" in unknown.output
    assert call("delete", tmp_path / "a", "--run", second, "--yes").exit_code == 0
    merged = call("merge", tmp_path / "b", tmp_path / "a")
    assert merged.exit_code == 0 and f"{first}: 2 traces" in merged.output
    assert "small files are now" in call("compact", tmp_path / "b").output
    assert "match the routing" in call("rollup", tmp_path / "b").output
    assert "recomputed" in call("rollup", tmp_path / "b", "--all").output
    assert call("merge", tmp_path / "b", tmp_path / "nothing").exit_code == 1
    with Store(tmp_path / "b") as store:
        assert_sums(store)
        assert_same(store.trace(1), TRACES[1], RUN)
    for command in ("rollup", "compact", "delete"):
        assert not (tmp_path / "nothing").exists()
        args = ["--trace", 1, "--yes"] if command == "delete" else []
        assert call(command, tmp_path / "nothing", *args).exit_code == 1


def test_all_of_it_works_at_an_address():
    """On a file system that has no folders of this machine."""
    one, two = "memory://upkeep/one", "memory://upkeep/two"
    first, _ = make(one)
    with Store(one) as store, StoreWriter(one) as writer:
        before = rows(store)
        compact.compact(writer.rewriter(), compact.plan(store), lambda done, total: None)
        assert rows(store) == before
        rollup.rebuild(writer.rewriter(), first, lambda done, total: None)
        delete.delete_traces(writer.rewriter(), first, [1], store.tables())
        assert_sums(store)
    run_merge(two, one)
    with Store(two) as store:
        assert [len(store.files("routing")), len(store.traces())] == [2, 4]
        assert_same(store.trace(1), TRACES[1], RUN)
        assert_sums(store)
