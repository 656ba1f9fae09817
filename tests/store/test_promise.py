"""What a run says that it recorded is there, or is said to be lost."""

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from checked import a_file, findings, manifest, rewrite
from click.testing import CliRunner
from records import part, random_attention, random_run, random_trace, random_vectors
from slow_files import few

from ringlens.cli.main import main
from ringlens.errors import NotInStoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.check.repair import repair
from ringlens.store.check.rescue import rebuild_manifest
from ringlens.store.maintain.export import to_store
from ringlens.store.schema.records import ChoiceArrays

SAID = ("routing", "router_logits", "heads", "head_blocks")
CHOSEN = ("resid_post@0+2[2:12]", "head_out@1/0+3[0:8]", "attention:4@1+3/0+2[0:6]")
RUN = random_run(record=("logprobs", *SAID, *CHOSEN))


def full_trace(tokens, seed, **changes):
    """A trace with all that RUN says it records."""
    rng = np.random.default_rng(seed)
    vectors = (
        random_vectors(rng, "resid_post", (0, 2), range(2, min(tokens, 12))),
        random_vectors(rng, "head_out", (1,), range(min(tokens, 8)), heads=(0, 3)),
    )
    attention = random_attention(rng, (1, 3), (0, 2), range(min(tokens, 6)))
    return random_trace(RUN, tokens, seed=seed, vectors=vectors, attention=attention, **changes)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A finished run: traces 1 and 2 in one commit, 3 in two parts."""
    path = tmp_path_factory.mktemp("said") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [full_trace(20, 0), full_trace(10, 1)])
        long = full_trace(30, 2)
        (trace_id,) = writer.commit(run_id, [part(long, 0, 15, None)])
        writer.commit(run_id, [part(long, 15, 30, trace_id)])
        writer.finish_run(run_id)
    assert findings(path) == []
    return path


@pytest.fixture
def path(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "store"))


TABLES = (
    *("experts", "traces", "tokens", "routing", "router_logits", "heads", "head_blocks"),
    *("activations", "attention", "usage_traces", "usage_blocks"),
)
ROLLUPS = ("usage_traces", "usage_blocks")
OPTIONAL = ("routing", "router_logits", "heads", "head_blocks", "activations", "attention")


def take(path, table, manifest_too):
    shutil.rmtree(path / table)
    if manifest_too:
        manifest(path, "delete from files where table_name = ?", table)


def check_says(path):
    """What the command says; it ends without a traceback."""
    done = CliRunner().invoke(main, ["check", str(path)], catch_exceptions=False)
    return done.exit_code, done.output


@pytest.mark.parametrize("table", few(["runs", *TABLES], 4))
@pytest.mark.parametrize("manifest_too", [False, True])
def test_a_table_that_is_gone_is_found_and_named(path, table, manifest_too):
    take(path, table, manifest_too)
    code, said = check_says(path)
    assert code == 1 and table in said and "nothing is wrong" not in said
    if manifest_too and table not in ("traces", "runs", "experts", "tokens"):
        about = [found for found in findings(path) if found.path.split("/")[0] == table]
        assert [found.kind for found in about] == ["gone"]


@pytest.mark.parametrize("table", few(TABLES))
def test_a_table_that_no_manifest_knows_is_found_after_a_rescue(path, table):
    take(path, table, manifest_too=False)
    (path / "manifest.sqlite").unlink()
    rebuild_manifest(path, lambda _: None)
    about = [found for found in findings(path) if table in found.sentence]
    assert bool(about) != (table in ROLLUPS)  # these are counted anew
    if table == "routing":
        assert not any(found.path in ROLLUPS for found in findings(path))


@pytest.mark.parametrize("table", few(OPTIONAL, 1))
def test_a_repair_notes_what_is_lost_and_keeps_the_rest(path, table):
    take(path, table, manifest_too=True)
    said = []
    assert repair(path, False, said.append).findings == []
    assert any(f"noted that {table}" in line and "is lost" in line for line in said)
    assert check_says(path)[0] == 0
    with Store(path) as store:
        (run,) = store.runs().to_arrow_table().to_pylist()
        assert run["lost"] == [table] and run["finished"] is not None
        assert len(store.traces()) == 3
        if table in ("router_logits", "heads"):
            with pytest.raises(NotInStoreError, match=f"{table} of trace 1 is lost"):
                getattr(store.trace(1), table)(1)
    assert f"lost or left out: {table}" in CliRunner().invoke(main, ["info", str(path)]).output


@pytest.mark.parametrize("table", few(OPTIONAL, 1))
def test_files_that_may_come_back_are_given_up_only_when_asked(path, table):
    shutil.move(path / table, path.parent / "kept")
    assert any(found.path.split("/")[0] == table for found in repair(path, False, print).findings)
    shutil.copytree(path.parent / "kept", path / table)
    assert findings(path) == []
    shutil.rmtree(path / table)
    assert repair(path, True, lambda _: None).findings == []
    with Store(path) as store:
        assert store.runs().to_arrow_table()["lost"].to_pylist() == [[table]]
        assert len(store.traces()) == 3  # no trace goes along


@pytest.mark.parametrize("table", ROLLUPS)
@pytest.mark.parametrize("manifest_too", [False, True])
def test_rollups_that_are_gone_are_counted_anew(path, table, manifest_too):
    with Store(path) as store:
        sound = store.sql(f"select sum(list_sum(n)), sum(tokens) from {table}").fetchall()
    take(path, table, manifest_too)
    assert repair(path, False, lambda _: None).findings == []
    with Store(path) as store:
        assert store.sql(f"select sum(list_sum(n)), sum(tokens) from {table}").fetchall() == sound
        assert not store.runs().to_arrow_table()["lost"].to_pylist()[0]


def without(column, value):
    def change(rows):

        return rows.filter(pc.not_equal(rows[column], value))

    return change


@pytest.mark.parametrize("table", few(["tokens", *OPTIONAL], 1))
def test_one_trace_without_its_rows_of_one_table_is_found(path, table):
    rewrite(path, table, without("trace_id", 2), 0)
    about = [found for found in findings(path) if found.path == table]
    counted = table in ("tokens", "activations", "attention")
    assert {(found.kind, found.traces) for found in about} == {("gap" if counted else "gone", (2,))}
    said = []
    assert repair(path, counted, said.append).findings == []
    with Store(path) as store:
        assert len(store.traces()) == (2 if counted else 3)
        if table in ("router_logits", "heads"):
            with pytest.raises(NotInStoreError, match=f"{table} of trace 2 is lost"):
                getattr(store.trace(2), table)(1)
            to_store(store, [2, 3], path.parent / "copy", None, lambda *_: None)
            assert findings(path.parent / "copy") == []
            assert not any("noted" in line and table not in line for line in said)


@pytest.mark.parametrize("table", few(OPTIONAL))
def test_one_layer_that_is_gone_is_found(path, table):
    layer = 2 if table == "activations" else 1
    for number in range(len(sorted((path / table).rglob("*.parquet")))):
        rewrite(path, table, without("layer", layer), number)
    kinds = {found.kind for found in findings(path) if found.path == table}
    assert kinds == {"gap"}


@pytest.mark.parametrize("table", few(["routing", "heads", "tokens", "attention"], 2))
def test_one_file_that_is_gone_with_its_note_is_found(path, table):
    file = a_file(path, table, 0)
    file.unlink()
    manifest(path, "delete from files where path = ?", str(file.relative_to(path)))
    assert {f.kind for f in findings(path) if f.path == table} in ({"gap"}, {"gone"})


def test_an_export_of_some_tables_says_what_it_left_out(path, tmp_path):
    with Store(path) as store:
        to_store(store, [1, 3], tmp_path / "some", ["tokens", "routing"], lambda *_: None)
        to_store(store, [1, 3], tmp_path / "all", None, lambda *_: None)
    assert findings(tmp_path / "some") == findings(tmp_path / "all") == []
    with Store(tmp_path / "some") as some, Store(tmp_path / "all") as everything:
        left = {*OPTIONAL, *ROLLUPS} - {"routing"}
        assert set(some.runs().to_arrow_table()["lost"].to_pylist()[0]) == left
        assert everything.runs().to_arrow_table()["lost"].to_pylist() == [None]


def test_what_may_be_absent_is_not_missed(tmp_path):
    """Running traces, imported ones without rows of some tokens, and runs that record nothing."""
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [part(full_trace(30, 2), 0, 15, None)])
        nothing = writer.start_run(replace(RUN, record=("logprobs",)))
        bare = {"routing": None, "router_logits": None, "heads": None}
        writer.commit(nothing, [random_trace(RUN, 10, **bare)])
        served = random_run(mode="imported", record=("routing",))
        choices = random_trace(RUN, 10).routing
        imported = writer.start_run(served)
        told = ChoiceArrays(choices.layers, choices.expert_ids[:, :9], 0)
        writer.commit(
            imported,
            [
                random_trace(RUN, 10, **(bare | {"routing": told})),
                random_trace(RUN, 10, **bare),
            ],
        )
        empty = writer.start_run(RUN)
        writer.finish_run(empty)
        dense = writer.start_run(random_run(layers=2, dense=2, record=("routing",)))
        writer.commit(dense, [random_trace(RUN, 5, **bare)])
    assert findings(tmp_path) == []
    take(tmp_path, "routing", manifest_too=True)
    gone = {found.run_id for found in findings(tmp_path) if found.path == "routing"}
    assert gone == {run_id, imported}


def test_records_of_a_later_version_promise_nothing(path):
    with sqlite3.connect(path / "manifest.sqlite"):
        rewrite(path, "runs", _said(["routing", "moods{3}", "dreams", "\0"]))
    assert findings(path) == []


def _said(words):
    def change(rows):

        place = rows.schema.get_field_index("record")
        field = rows.schema.field(place)
        return rows.set_column(place, field, pa.array([words], field.type))

    return change
