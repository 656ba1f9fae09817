"""The format: its documentation, stores of every version, and what a later version may add."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from checked import OLD_HEADS
from paths import DATA, ROOT
from records import part, random_run, random_trace

from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.maintain.info import info
from ringlens.store.schema import captured, documentation

STORES = sorted(path.name for path in DATA.glob("store-*"))

# What each of them holds: rows by table, and the sum of all router logits.
HELD = {
    "store-1": (
        {"traces": 3, "tokens": 53, "routing": 159, "router_logits": 159, "heads": 176, "steps": 0},
        -212.977,
    ),
    "store-2": (
        {
            "traces": 3,
            "tokens": 45,
            "routing": 90,
            "router_logits": 90,
            "heads": 108,
            "head_blocks": 9,
            "activations": 6,
            "attention": 3,
            "usage_blocks": 8,
            "steps": 2,
            "head_steps": 1,
            "probes": 1,
        },
        -35.276,
    ),
}


@pytest.fixture(params=STORES)
def old(request, tmp_path):
    return Path(shutil.copytree(DATA / request.param, tmp_path / request.param))


def test_the_documentation_is_what_the_code_says():
    """Else: python -m ringlens.store.schema.documentation > docs/store.md."""
    assert (ROOT / "docs" / "store.md").read_text() == documentation.page()


def test_every_table_and_column_is_described(tmp_path):
    for table in captured.tables():
        assert f"#### `{table.name}`" in documentation.page()
        assert all(column.meaning for column in table.columns)
        assert set(table.key) | set(table.scope) <= set(table.arrow.names)
    StoreWriter(tmp_path).close()
    manifest = sqlite3.connect(tmp_path / "manifest.sqlite")
    names = {
        name
        for (name,) in manifest.execute("select name from sqlite_master where type = 'table'")
        if not name.startswith("sqlite_")
    }
    assert names == set(documentation.MANIFEST)
    for name, (_, columns) in documentation.MANIFEST.items():
        found = [row[1] for row in manifest.execute(f"pragma table_info({name})")]
        assert found == list(columns)


def test_stores_of_every_version_are_there():
    numbers = [json.loads((DATA / name / "store.json").read_text()) for name in STORES]
    versions = [number["format_version"] for number in numbers]
    assert versions == list(range(1, captured.FORMAT_VERSION + 1))


def test_a_store_of_any_version_is_read_checked_and_added_to(old):
    rows, logits = HELD[old.name]

    def held(store):
        return {name: len(store.sql(f"from {name}")) for name in rows}

    with Store(old) as store:
        assert held(store) == rows
        assert store.sql("select distinct tokenizer from runs").fetchall() == [(None,)]
        total = store.sql("select sum(list_sum(logits)) from router_logits").fetchall()[0][0]
        assert total == pytest.approx(logits, abs=0.01)
        assert [(f.kind, f.path, f.traces) for f in check(store).findings] == OLD_HEADS
        run = random_run(layers=3, experts=8, heads=2)
        with StoreWriter(old) as writer:
            writer.commit(writer.start_run(run), [random_trace(run, 10)])
        more = held(store)
        assert (more["traces"], more["tokens"]) == (rows["traces"] + 1, rows["tokens"] + 10)
        assert [(f.kind, f.path, f.traces) for f in check(store).findings] == OLD_HEADS
        assert store.trace(4).text == random_trace(run, 10).text


def test_a_store_of_a_later_version_is_refused_by_readers_and_writers(old):
    marker = json.loads((old / "store.json").read_text())
    (old / "store.json").write_text(json.dumps(marker | {"format_version": 3}))
    for opens in (Store, StoreWriter):
        with pytest.raises(StoreError, match="format version 3, this ringlens reads up to 2: upgr"):
            opens(old)


def test_what_a_later_minor_version_adds_to_the_manifest_is_left_alone(old):
    """A column more in any of its tables, and a table more."""
    StoreWriter(old).close()
    manifest = sqlite3.connect(old / "manifest.sqlite")
    for table in documentation.MANIFEST:
        manifest.execute(f"alter table {table} add column colour text default 'red'")
    manifest.execute("create table moods (mood text)")
    manifest.commit()
    (old / "store.json").write_text(json.dumps({"format_version": 2, "mood": "good"}))
    with StoreWriter(old) as writer, Store(old) as store:
        run_id = writer.start_run(random_run())
        writer.commit(run_id, [random_trace(random_run())])
        writer.finish_run(run_id)
        assert len(store.traces()) == 4
        assert [(f.kind, f.path, f.traces) for f in check(store).findings] == OLD_HEADS
    assert json.loads((old / "store.json").read_text())["mood"] == "good"
    assert manifest.execute("select distinct colour from files").fetchall() == [("red",)]


def test_info_tells_what_there_is_and_what_is_unfinished(tmp_path):
    run = random_run()
    with Store(shutil.copytree(DATA / "store-2", tmp_path / "store")) as store:
        (old,) = info(store)["runs"]
        assert (old["traces"], old["running"], old["being_written"]) == (3, 1, False)
        with StoreWriter(store.path) as writer:
            run_id = writer.start_run(run)
            writer.commit(run_id, [part(random_trace(run, 20), 0, 12, None)])
            (_, new) = info(store)["runs"]
            assert (new["tokens"], new["running"], new["being_written"]) == (12, 1, True)
        told = info(store)
        assert [each["being_written"] for each in told["runs"]] == [False, False]
        assert (told["format_version"], told["traces"], told["tokens"]) == (2, 4, 57)
        (routing,) = [table for table in told["tables"] if table["table"] == "routing"]
        assert routing["rows"] == len(store.sql("from routing"))
        assert routing["bytes"] == sum(file.bytes for file in store.files("routing"))
        assert [step["command"].split()[1] for step in told["next"]] == ["check", "app"]
        assert told["choices"] == len(store.sql("from router_choices"))


def test_info_says_what_would_make_a_store_faster(tmp_path, monkeypatch):
    monkeypatch.setattr("ringlens.store.maintain.info.MANY_FILES", 1)
    with Store(shutil.copytree(DATA / "store-1", tmp_path / "store")) as store:
        commands = [step["command"].split()[1] for step in info(store)["next"]]
    assert commands == ["check", "app", "rollup", "compact"]


def test_results_of_before_have_no_steps_and_stay_when_they_are_written_again(tmp_path):
    """``probes`` got the columns step, changed_step and pos; older files have them as nulls."""
    path = shutil.copytree(DATA / "store-2", tmp_path / "s")
    with Store(path) as store, StoreWriter(path) as writer:
        ((run_id, probe, trace_id, key, value),) = store.sql(
            "select run_id, probe, trace_id, key, value from probes"
        ).fetchall()
        place = {"probe": "belief", "trace_id": trace_id or 1, "key": "p", "value": 0.5}
        writer.replace_rows(run_id, "probes", [place | {"step": 2}, place | {"step": 3, "pos": 7}])
        rows = store.sql(
            "select probe, key, step, changed_step, pos, value from probes order by step"
        ).fetchall()
        assert sorted(rows, key=str) == sorted(
            [
                (probe, key, None, None, None, value),
                ("belief", "p", 2, None, None, 0.5),
                ("belief", "p", 3, None, 7, 0.5),
            ],
            key=str,
        )
        assert not [found for found in check(store).findings if "probes" in found.path]
