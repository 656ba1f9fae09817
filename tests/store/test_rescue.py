"""A manifest that is gone is made anew from the files: what was committed, and nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from records import part, random_trace
from workers import RUN, rich_trace

from ringlens.cli.main import main
from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.check.rescue import rebuild_manifest
from ringlens.store.schema import captured, usage_tables

STEP = {
    **{"step": 0, "start": 0, "end": 2, "token_start": 0, "token_end": 1, "text": "ab"},
    "role": "plan_generation",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Rows of every table, some of them replaced; one run has ended, one has not."""
    path = tmp_path_factory.mktemp("rescue") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [rich_trace(30, 0), random_trace(RUN, 20)])
        long = random_trace(RUN, 40, seed=9)
        (trace_id,) = writer.commit(run_id, [part(long, 0, 25, None)])
        writer.commit(run_id, [part(long, 25, 40, trace_id)])
        for text in ("ab", "cd"):
            writer.replace_rows(run_id, "steps", [STEP | {"trace_id": 1, "text": text}])
        writer.replace_rows(run_id, "probes", [{"probe": "lens", "key": "kl", "value": 1.0}])
        writer.finish_run(run_id)
        other = writer.start_run(RUN)
        writer.commit(other, [random_trace(RUN, 20, seed=4)])
    return path


@pytest.fixture
def path(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "store"))


def contents(path):
    """All rows; of the rollups what they add up to."""
    names = [table.name for table in captured.tables() if table not in usage_tables.TABLES]
    sources = [*names, "(select run_id, layer, expert, phase, n, bias_flips from expert_usage)"]
    with Store(path) as store:
        return {each: store.sql(f"from {each} order by all").fetchall() for each in sources}


def destroy(path):
    for file in path.glob("manifest.sqlite-*"):
        file.unlink()
    (path / "manifest.sqlite").write_bytes(b"\x00" * 8192)


def command(*args):
    result = CliRunner().invoke(main, ["check", *map(str, args), "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_what_was_committed_is_there_again_and_nothing_else(path):
    before = contents(path)
    destroy(path)
    with pytest.raises(StoreError, match="check --repair --rebuild-manifest"):
        Store(path)
    code, told = command(path, "--repair", "--rebuild-manifest")
    assert (code, told["findings"]) == (0, [])
    assert contents(path) == before
    said = "\n".join(told["done"])
    assert "known: 2 runs" in said
    assert "were replaced by later commits" in said
    assert "assumed: commits 1 to 10 that left files were all completed" in said
    assert "lost: the fingerprints of 1 unfinished runs" in said
    assert [file.read_bytes() for file in (path / "orphans").glob("*-manifest.sqlite")] == [
        b"\x00" * 8192
    ]
    with Store(path) as store:
        assert {f.table for f in store.committed()} >= {"usage_traces", "usage_blocks", "steps"}
        assert store.sql("from expert_usage").fetchall() != []


def test_results_that_were_replaced_stay_so_wherever_in_a_trace_they_stood(path):
    with Store(path) as store:
        run_id = store.trace(1).summary["run_id"]
    with StoreWriter(path) as writer:
        for pos in (9, None, 3):
            row = {"probe": "depth", "trace_id": 1, "pos": pos, "key": "depth", "value": 2.0}
            writer.replace_rows(run_id, "probes", [row])
    before = contents(path)
    assert len([row for row in before["probes"] if row[0] == "depth"]) == 1
    destroy(path)
    rebuild_manifest(path, lambda _: None)
    assert contents(path) == before


def test_numbers_of_commits_and_traces_are_not_given_out_again(path):
    used = {file.name for file in path.rglob("part-*.parquet")}
    (path / "manifest.sqlite").unlink()
    rebuild_manifest(path, lambda _: None)
    with StoreWriter(path) as writer, Store(path) as store:
        run_id = writer.start_run(RUN)
        assert writer.commit(run_id, [random_trace(RUN, 10)]) == [5]
        new = [Path(f.path).name for f in store.committed() if f.run_id == run_id]
        assert used.isdisjoint(new)
        assert [found.kind for found in check(store).findings if found.kind != "orphan"] == []


def test_an_incomplete_commit_is_told_and_not_brought_to_life(path):
    """Its files but one were renamed when the writer died: nothing of it was acknowledged."""
    before = contents(path)
    writer = StoreWriter(path)
    (run_id,) = {row[0] for row in before["runs"] if row[-1] is None}
    writer._manifest.complete = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    writer._take_back = lambda _: None  # as if it had been killed there
    with pytest.raises(KeyboardInterrupt):
        writer.commit(run_id, [random_trace(RUN, 20, seed=7)])
    writer.close()
    late = max(path.glob("traces/*/*.parquet"), key=lambda file: file.name)
    number = late.stem.removeprefix("part-")
    late.rename(path / "staging" / f"0123456789abcdef-{number}-traces.part")
    destroy(path)
    code, told = command(path, "--repair", "--rebuild-manifest")
    assert (code, told["findings"]) == (0, [])
    assert f"commit {int(number)} was not complete" in "\n".join(told["done"])
    assert contents(path) == before


def test_a_rescue_that_was_killed_is_begun_again(path, monkeypatch):
    """At its worst moment: the old manifest is away, the new one not yet in its place."""
    before = contents(path)
    replace, calls = os.replace, []

    def killed(source, target):
        if Path(target) == path / "manifest.sqlite":
            calls.append(source)
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            rebuild_manifest(path, lambda _: None)
    assert calls
    assert not (path / "manifest.sqlite").exists()
    rebuild_manifest(path, lambda _: None)
    assert contents(path) == before
    assert not list(path.glob("staging/manifest-*"))


def test_a_file_that_cannot_be_read_is_left_out_and_its_traces_can_go(path):
    before = contents(path)
    file = next(path.glob("routing/*/part-00000002.parquet"))
    file.write_bytes(file.read_bytes()[:-9])
    destroy(path)
    said = []
    rebuild_manifest(path, said.append)
    assert any(file.name in each and "cannot be read" in each for each in said)
    after = contents(path)
    assert after["tokens"] == before["tokens"]
    assert {row[0] for row in before["routing"]} - {row[0] for row in after["routing"]} == {1, 2}


def test_living_writers_keep_a_manifest_from_being_made_anew(path):
    destroyed = path / "manifest.sqlite"
    with StoreWriter(path):
        with pytest.raises(StoreError, match="1 writers are using it"):
            rebuild_manifest(path, lambda _: None)
        assert destroyed.exists()
    with pytest.raises(StoreError, match=r"has no manifest\.sqlite"):
        rebuild_manifest("memory://none/store", lambda _: None)


def test_a_folder_without_runs_has_no_manifest_to_make(path):
    shutil.rmtree(path / "runs")
    before = (path / "manifest.sqlite").read_bytes()
    with pytest.raises(StoreError, match="no readable file of `runs`"):
        rebuild_manifest(path, lambda _: None)
    assert (path / "manifest.sqlite").read_bytes() == before
