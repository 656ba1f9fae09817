"""Every kind of damage is named, and repaired without the loss of a healthy trace."""

import errno
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import warm
from checked import OLD_HEADS, a_file, findings, manifest, rewrite
from click.testing import CliRunner
from paths import OLD_STORE
from records import part, random_run, random_trace
from workers import RUN, check_without_rights, repair_store, rich_trace, write_commits
from writers import start

from ringlens.cli.main import main
from ringlens.store import Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.check.repair import repair
from ringlens.store.commit import sweep
from ringlens.store.schema.records import ChoiceArrays
from ringlens.store.storage import parquet

REPAIRS = max(3, int(os.environ.get("RINGLENS_KILLS", "24")) // 6)
STEP = {
    **{"step": 0, "start": 0, "end": 2, "token_start": 0, "token_end": 1, "text": "ab"},
    "role": "plan_generation",
}
ALL = {1, 2, 3, 4, 5, 6}


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


def kinds(path):
    return {found.kind for found in findings(path)}


def mended(path, drop=False):
    """Repair; return the traces that are left, all of which are what they were."""
    left = repair(path, drop, lambda _: None).findings
    assert left == []
    with Store(path) as store:
        return {row[0] for row in store.sql("select trace_id from traces").fetchall()}


def rows_of(path, ids):
    """All rows of some traces, by table."""
    with Store(path) as store:
        return {
            table: store.sql(f"from {table} where trace_id in {tuple(ids)} order by all").fetchall()
            for table in ("traces", "tokens", "routing", "router_logits", "heads", "activations")
        }


def test_a_sound_store_has_no_findings(path):
    with Store(path) as store:
        report = check(store)
        assert report.findings == []
        assert report.rows == sum(file.rows for file in store.committed())
        assert report.choices == len(store.sql("from router_logits"))
    assert (report.runs, report.unsummed) == (2, 0)
    assert mended(path, drop=True) == ALL


def cut(file):
    file.write_bytes(file.read_bytes()[:-50])


def flip(file):
    """A bit in the last page of the largest column."""
    group = pq.read_metadata(file).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    column = max(columns, key=lambda column: column.total_compressed_size)
    content = bytearray(file.read_bytes())
    offsets = (column.data_page_offset, column.dictionary_page_offset)
    first = min(offset for offset in offsets if offset is not None)
    content[first + column.total_compressed_size - 2] ^= 1
    file.write_bytes(content)


def remove(file):
    file.unlink()


@pytest.mark.parametrize(
    ("table", "number", "gone", "damage"),
    [
        ("traces", -2, {4}, cut),
        pytest.param("traces", 0, {1, 2, 3}, flip, marks=pytest.mark.extra),
        ("tokens", 1, {4}, flip),
        ("routing", 0, {1, 2, 3}, remove),
        pytest.param("routing", 0, {1, 2, 3}, cut, marks=pytest.mark.extra),
        pytest.param("router_logits", 2, {4}, flip, marks=pytest.mark.extra),
        pytest.param("heads", 0, {1, 2, 3}, remove, marks=pytest.mark.extra),
        pytest.param("head_blocks", 0, {1, 2, 3}, cut, marks=pytest.mark.extra),
        ("activations", 0, {5, 6}, flip),
        pytest.param("attention", 0, {5, 6}, remove, marks=pytest.mark.extra),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_a_damaged_file_takes_its_own_traces_along(path, table, number, gone, damage):
    before = rows_of(path, ALL - gone)
    file = a_file(path, table, number)
    damage(file)
    found = findings(path)
    (this,) = [f for f in found if f.path == str(file.relative_to(path))]
    assert this.kind == {cut: "size", flip: "page", remove: "missing"}[damage]
    assert this.severity == "lost"
    assert "restore a copy of the file" in this.advice
    assert {i for f in found for i in f.traces} == gone
    assert mended(path, drop=True) == ALL - gone
    assert rows_of(path, ALL - gone) == before


def test_nothing_committed_goes_without_being_asked_for(path):
    file = a_file(path, "routing", 0)
    content = file.read_bytes()
    cut(file)
    left = repair(path, False, lambda _: None).findings
    assert [found.kind for found in left] == ["size", "gap"]
    file.write_bytes(content)
    assert findings(path) == []


@pytest.mark.parametrize(("table", "damage"), [("usage_traces", flip), ("usage_blocks", remove)])
def test_a_damaged_rollup_is_counted_anew(path, table, damage):
    with Store(path) as store:
        before = store.sql("from expert_usage order by all").fetchall()
    damage(a_file(path, table, 0))
    assert {found.severity for found in findings(path)} == {"wrong"}
    assert mended(path) == ALL
    with Store(path) as store:
        assert store.sql("from expert_usage order by all").fetchall() == before


@pytest.mark.parametrize("table", ["steps", "probes"])
def test_what_an_analysis_can_write_again_takes_no_trace_along(path, table):
    a_file(path, table).unlink()
    (found,) = findings(path)
    assert (found.kind, found.traces) == ("missing", ())
    assert "run the analysis again" in found.advice
    assert mended(path, drop=True) == ALL


@pytest.mark.parametrize(("table", "number"), [("runs", 1), ("experts", 0)])
def test_a_run_without_its_own_facts_goes_as_a_whole(path, table, number):
    cut(a_file(path, table, number))
    (found,) = findings(path)
    assert (found.kind, found.severity) == ("size", "lost")
    assert mended(path, drop=True) == {5, 6}
    with Store(path) as store:
        assert len(store.runs()) == 1


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ("rows = rows + 1", "rows"),
        pytest.param("bytes = bytes - 1", "bytes", marks=pytest.mark.extra),
        ("first_trace = 4", "span"),
        pytest.param("last_trace = 2", "span", marks=pytest.mark.extra),
    ],
)
def test_wrong_notes_of_an_intact_file_are_made_anew(path, wrong, kind):
    first = str(a_file(path, "tokens", 0).relative_to(path))
    manifest(path, f"update files set {wrong} where path = ?", first)
    with Store(path) as reader:
        (found,) = [f for f in check(reader).findings if f.path == first]
        assert (found.kind, found.severity) == (kind, "wrong")
        assert mended(path) == ALL
        assert reader.committed() == Store(path).committed()  # a reader that was open sees it


def test_a_file_that_is_another_than_committed_is_named(path):
    """Its rows can be read, its manifest row fits: only the checksum tells."""
    file = a_file(path, "heads")

    def change(rows):
        index = rows.schema.get_field_index("entropy")
        entropy = np.stack(rows["entropy"].to_numpy()) + np.float32(1)
        lists = pa.array(entropy.tolist(), rows.schema[index].type)
        return rows.set_column(index, rows.schema.field(index), lists)

    before = file.read_bytes(), manifest(path, "select path, checksum from files")
    rewrite(path, "heads", change)
    for name, checksum in before[1]:
        manifest(path, "update files set checksum = ? where path = ?", checksum, name)
    (found,) = findings(path)
    assert (found.kind, found.traces) == ("checksum", (5, 6))
    assert mended(path, drop=True) == {1, 2, 3, 4}


def foreign(rows):
    ids = rows.schema.get_field_index("trace_id")
    strange = pa.array([99, 100], pa.int64())
    return pa.concat_tables(
        [rows, rows.slice(0, 2).set_column(ids, rows.schema.field(ids), strange)]
    )


def without(layer, pos):
    def change(rows):
        here = pc.equal(rows["pos"], pos)
        if layer is not None:
            here = pc.and_(here, pc.equal(rows["layer"], layer))
        return rows.filter(pc.invert(here))

    return change


def doubled(rows):
    return pa.concat_tables([rows, rows.slice(3, 1)])


def experts(change):
    def changed(rows):
        index = rows.schema.get_field_index("expert_ids")
        ids = np.stack(rows["expert_ids"].to_numpy())
        change(ids)
        lists = pa.array(ids.tolist(), rows.schema[index].type)
        return rows.set_column(index, rows.schema.field(index), lists)

    return changed


def too_large(ids):
    ids[5, 0] = RUN.experts


def another(ids):
    ids[5, 0] = np.setdiff1d(np.arange(RUN.experts), ids[5])[0]


@pytest.mark.parametrize(
    ("table", "change", "kind", "gone"),
    [
        ("routing", foreign, "foreign", {99, 100}),
        pytest.param("activations", foreign, "foreign", {99, 100}, marks=pytest.mark.extra),
        pytest.param("tokens", without(None, 7), "gap", {5, 6}, marks=pytest.mark.extra),
        pytest.param("tokens", without(None, 39), "gap", {6}, marks=pytest.mark.extra),
        ("routing", without(2, 0), "gap", {5, 6}),
        ("router_logits", without(3, 35), "gap", {6}),
        pytest.param("head_blocks", without(0, 0), "gap", {5, 6}, marks=pytest.mark.extra),
        pytest.param("heads", doubled, "twice", {5}, marks=pytest.mark.extra),
        pytest.param("tokens", doubled, "twice", {5}, marks=pytest.mark.extra),
        ("routing", experts(too_large), "expert", {5}),
        ("routing", experts(another), "choice", {5}),
    ],
)
def test_rows_that_do_not_fit_their_trace_are_found(path, table, change, kind, gone):
    before = rows_of(path, ALL)
    rewrite(path, table, change)
    named = {i for f in findings(path) if f.kind == kind for i in f.traces}
    assert named == gone
    left = ALL - gone
    assert mended(path, drop=True) == left
    assert rows_of(path, left) == {
        name: [row for row in rows if row[0] in left] for name, rows in before.items()
    }


def test_spans_may_be_wider_than_what_a_file_holds(tmp_path):
    """A commit notes the traces that it is about, some of which have no rows in a table."""
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(replace(RUN, record=("routing",)))
        writer.commit(run_id, [random_trace(RUN, 20, heads=None), rich_trace(30, 0)])
        writer.finish_run(run_id)
    with Store(tmp_path) as store:
        before = store.committed()
        (file,) = store.files("activations")
        assert (file.first_trace, file.last_trace) == (1, 2)
        said = []
        assert repair(tmp_path, True, said.append).findings == said == []
        assert store.committed() == before


def test_imported_routing_need_not_cover_a_trace_but_has_no_gaps(tmp_path):
    """Servers leave tokens out at either end."""
    run = random_run(mode="imported", record=("routing",), expert_bias=np.full((3, 16), np.nan))
    full = random_trace(RUN, 24, router_logits=None, heads=None)
    layers, ids = full.routing.layers, full.routing.expert_ids
    choices = [ChoiceArrays(layers, ids[:, 2:20], 2), ChoiceArrays(layers, ids[:, :23])]
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(run)
        writer.commit(run_id, [replace(full, routing=c) for c in choices])
        writer.commit(run_id, [replace(full, routing=None)])
        writer.finish_run(run_id)
    assert findings(tmp_path) == []
    rewrite(tmp_path, "routing", without(2, 7))
    assert {(f.kind, f.traces) for f in findings(tmp_path)} == {("gap", (1, 2))}


def test_a_disk_that_cannot_read_a_file_is_damage_too(path, monkeypatch):
    read = parquet.checksum

    def checksum(source):
        if source == a_file(path, "routing"):
            raise OSError(errno.EIO, "Input/output error")
        return read(source)

    monkeypatch.setattr(parquet, "checksum", checksum)
    assert [(f.kind, f.traces) for f in findings(path)] == [("content", ()), ("gone", ())]


def test_a_rollup_that_says_something_else_is_found(path):
    def change(rows):
        index = rows.schema.get_field_index("n")
        counts = np.stack(rows["n"].to_numpy())
        counts[0, [0, 1]] = counts[0, [1, 0]] + [1, 0]
        return rows.set_column(
            index, rows.schema.field(index), pa.array(counts.tolist(), rows.schema[index].type)
        )

    rewrite(path, "usage_blocks", change, 0)
    (found,) = findings(path)
    assert (found.kind, found.severity, found.traces) == ("rollup", "wrong", (1,))
    assert mended(path) == ALL


def test_an_orphan_is_moved_out_of_the_way(path):
    file = a_file(path, "routing")
    orphan = file.with_name("part-00000099.parquet")
    shutil.copy(file, orphan)
    (found,) = findings(path)
    assert (found.kind, found.severity) == ("orphan", "litter")
    assert mended(path) == ALL
    assert not orphan.exists()
    assert (path / "orphans" / orphan.relative_to(path)).read_bytes() == file.read_bytes()


def test_what_dead_writers_left_is_named_and_removed(path):
    manifest(
        path,
        "insert into commits (run_id, writer, first_trace, traces, started)"
        " values ('some-run', '0123456789abcdef', 7, 2, '2026')",
    )
    staging = path / "staging"
    staging.mkdir(exist_ok=True)
    (staging / "0123456789abcdef-00000099-tokens.part").write_bytes(b"half")
    (path / "store.json.0a1b2c3d").write_text("{")
    assert sorted(f.kind for f in findings(path)) == ["leftover", "leftover", "reservation"]
    said = []
    repair(path, False, said.append)
    assert len(said) == 3
    assert mended(path) == ALL


def test_columns_and_tables_of_a_later_version_are_left_alone(path):
    """They do not break reading, are no findings, and outlive a repair that rewrites the file."""
    colour = pa.array(["red"])
    rewrite(
        path,
        "tokens",
        lambda rows: rows.append_column("colour", pa.concat_arrays([colour] * len(rows))),
    )
    new = path / "moods" / "run=x" / "part-00000001.parquet"
    new.parent.mkdir(parents=True)
    pq.write_table(pa.table({"mood": [1]}), new)
    (run_id,) = {run for (run,) in manifest(path, "select max(run_id) from runs")}
    manifest(
        path,
        "insert into files values (?, 'moods', ?, 1, 0, 0, 1, ?, ?)",
        *(str(new.relative_to(path)), run_id, new.stat().st_size, parquet.checksum(new)),
    )
    assert findings(path) == []
    with Store(path) as store:
        assert len(store.sql("from tokens where trace_id = 6")) == 40
        assert "colour" not in store.sql("from tokens").columns
    rewrite(path, "routing", without(3, 35))
    assert mended(path, drop=True) == ALL - {6}
    kept = a_file(path, "tokens")
    assert pq.read_table(kept, partitioning=None)["colour"].unique().to_pylist() == ["red"]
    assert len(manifest(path, "select * from files where table_name = 'moods'")) == 1


def test_a_store_of_format_1_is_checked_and_brought_up_to_date(tmp_path):
    path = Path(shutil.copytree(OLD_STORE, tmp_path / "store"))
    with Store(path) as store:
        report = check(store)
        assert [(f.kind, f.path, f.traces) for f in report.findings] == OLD_HEADS
        assert report.unsummed == len(store.committed()) == report.files
    assert mended(path) == {1, 2, 3}
    with Store(path) as store:
        assert check(store).unsummed == 0
        for file in store.committed():
            assert file.checksum == parquet.checksum(path / file.path)


def test_pages_of_files_without_a_checksum_are_decoded(tmp_path):
    path = Path(shutil.copytree(OLD_STORE, tmp_path / "store"))
    flip(a_file(path, "router_logits", 0))
    assert "page" in kinds(path)


def test_a_capture_may_go_on_while_it_is_checked(tmp_path):
    StoreWriter(tmp_path).close()
    commits = 16  # bounded: a writer that goes on for ever outruns the checks on some machines
    process, reports = start(write_commits, tmp_path, commits, 2)
    reports.recv()  # the run has begun
    for number in range(commits):
        reports.recv()
        if number % 4 == 0:  # while the writer goes on with the next ones
            assert findings(tmp_path) == []
    process.join()
    assert process.exitcode == 0
    assert findings(tmp_path) == []


def test_a_run_whose_files_are_replaced_and_deleted_meanwhile_is_looked_at_again(
    tmp_path, monkeypatch
):
    """As in a check that takes longer than replaced files stay."""
    monkeypatch.setattr(sweep, "RETIRED_STAY", timedelta(0))
    trace = random_trace(RUN, 30)
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(trace, 0, 10, None)])
        checks = []

        def go_on(run_id, done, total):
            if not checks:
                writer.commit(run_id, [part(trace, 10, 30, trace_id)])
            checks.append(done)

        with Store(tmp_path) as store:
            report = check(store, go_on)
            assert (report.findings, report.rows) == (
                [],
                sum(file.rows for file in store.committed()),
            )


def test_a_store_is_checked_by_who_may_only_read_it(sound):
    """And what a writer that is gone left is told without its lock being touched."""
    with tempfile.TemporaryDirectory() as folder:  # outside pytest's own, which is closed to others
        Path(folder).chmod(0o755)
        path = Path(shutil.copytree(sound, Path(folder) / "store"))
        staging = path / "staging"
        staging.mkdir(exist_ok=True)
        (staging / "0123456789abcdef-00000099-tokens.part").write_bytes(b"half")
        (staging / "0123456789abcdef.lock").touch()
        subprocess.run(["chmod", "-R", "a+rX,a-w", path], check=True)
        old = Path(shutil.copytree(OLD_STORE, Path(folder) / "old"))
        subprocess.run(["chmod", "-R", "a+rX,a-w", old], check=True)
        for store, told in ((path, ["leftover"]), (old, ["gone"])):
            process, reports = start(check_without_rights, store)
            assert reports.recv() == told
            process.join()
        assert (staging / "0123456789abcdef.lock").exists()
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)


def test_a_repair_that_is_killed_leaves_the_store_no_worse(path):
    """At any moment the sound traces are all there; the next repair ends what was begun."""
    rng = random.Random(0)
    gone = {4, 6}
    before = rows_of(path, ALL - gone)
    remove(a_file(path, "routing", 2))  # of trace 4
    rewrite(path, "heads", without(1, 35))  # of trace 6
    cut(a_file(path, "usage_traces", 0))
    orphan = a_file(path, "tokens")
    shutil.copy(orphan, orphan.with_name("part-00000077.parquet"))
    manifest(path, "update files set rows = rows + 1 where table_name = 'attention'")
    for _ in range(REPAIRS):
        process, reports = start(repair_store, path)
        reports.recv()
        time.sleep(rng.uniform(0, 0.25))
        process.kill()
        process.join()
        with Store(path) as store:
            left = {row[0] for row in store.sql("select trace_id from traces").fetchall()}
        assert left >= ALL - gone
    assert mended(path, drop=True) == ALL - gone
    assert rows_of(path, ALL - gone) == before


def test_a_run_that_is_being_written_is_not_touched(path):
    """Its traces may be in the works: what is lost there waits until the writer is gone."""
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [random_trace(RUN, 20)])
        remove(a_file(path, "routing"))
        result = ringlens("check", path, "--repair", "--drop-damaged")
        assert result.returncode == 1
        assert "another process works on run" in result.stderr
    assert mended(path, drop=True) == ALL | {7}  # whose routing is noted as lost


def ringlens(*args):
    return warm.run(["-m", "ringlens.cli", *map(str, args)])


def test_the_command_names_what_is_wrong_and_says_so_in_its_exit_code(path):
    cut(a_file(path, "routing", 0))
    result = ringlens("check", path)
    assert result.returncode == 1
    assert "lost (size): routing/" in result.stdout
    assert "lacks rows (first at layer 1, pos 0) of traces 1, 2, 3" in result.stdout
    told = json.loads(ringlens("check", path, "--json").stdout)
    assert [found["kind"] for found in told["findings"]] == ["size", "gap"]
    told = json.loads(ringlens("check", path, "--json", "--repair", "--drop-damaged").stdout)
    assert told["ok"] and "removed traces 1, 2, 3 of run" in told["done"][0]
    assert ringlens("check", path).returncode == 0


def run_command(*args):
    result = CliRunner().invoke(main, list(map(str, args)))
    assert result.exit_code == 0, result.output


def test_upkeep_leaves_nothing_to_find(path, tmp_path):
    run_command("compact", path)
    assert findings(path) == []
    run_command("merge", tmp_path / "both", path)
    run_command("delete", path, "--trace", 2, "--yes")
    assert findings(path) == []
    run_command("merge", tmp_path / "both", path)
    run_command("export", path, "--out", tmp_path / "part", "--where", "trace_id > 3")
    assert findings(tmp_path / "both") == findings(tmp_path / "part") == []


def test_one_kind_of_damage_does_not_hide_another(path):
    rewrite(path, "routing", experts(another))  # of trace 5
    rewrite(path, "heads", without(1, 35))  # of trace 6
    remove(a_file(path, "steps"))
    rewrite(path, "usage_traces", lambda rows: rows.slice(1), 0)
    found = {(f.kind, f.traces) for f in findings(path)}
    assert found == {
        ("choice", (5,)),
        ("gap", (6,)),
        ("missing", ()),
        ("rollup", (1,)),
        ("rollup", (5,)),
    }
    assert mended(path, drop=True) == {1, 2, 3, 4}


def test_a_store_at_an_address_is_checked_and_repaired():
    address = f"memory://{random.random()}/store"
    with StoreWriter(address) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [random_trace(RUN, 20)])
        writer.commit(run_id, [random_trace(RUN, 20, seed=1)])
        writer.finish_run(run_id)
    with Store(address) as store:
        lost = store.files("heads")[1].path
        orphan = lost.replace("part-", "part-9")
        store.folder.write(orphan, store.folder.read(lost))
        assert [found.kind for found in check(store).findings] == ["orphan"]
        store.folder.remove(lost)
        assert [found.kind for found in check(store).findings] == ["missing", "gap", "orphan"]
        assert repair(address, True, lambda _: None).findings == []
        assert [row[0] for row in store.sql("select trace_id from traces").fetchall()] == [1]
        assert store.folder.exists(f"orphans/{orphan}")
