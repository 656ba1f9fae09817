"""Rows that analyses write: whole, in place of older ones, and nothing of what does not fit."""

import json
from dataclasses import replace
from operator import itemgetter

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import part, random_run, random_trace

from ringlens.errors import NotInStoreError, ObservationError
from ringlens.store import Store, StoreWriter
from ringlens.store.schema import analysis_tables

RUN = random_run()
LAYERS, HEADS = RUN.layers, RUN.heads
TRACES = [random_trace(RUN, 20, seed=i) for i in range(3)]

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
FLOAT = st.floats(width=32, allow_nan=False)


def steps(trace_id, n=3, **changes):
    """Steps of six characters and two tokens each."""
    return [
        {
            "trace_id": trace_id,
            "step": i,
            "start": 6 * i,
            "end": 6 * i + 6,
            "token_start": 2 * i,
            "token_end": 2 * i + 2,
            "text": "abcdef",
        }
        | changes
        for i in range(n)
    ]


def result(probe="logit_lens", trace_id=None, **changes):
    return {"probe": probe, "trace_id": trace_id, "key": "accuracy", "value": 0.5} | changes


@pytest.fixture
def opened(tmp_path):
    """A writer, its run with traces 1 to 3, a reader."""
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, TRACES)
        yield writer, run_id, store


def rows(store, table):
    return store.sql(f"select * from {table} order by all").to_arrow_table().to_pylist()


@st.composite
def labelled_steps(draw):
    """Steps of some traces, each column that may be null null or not."""
    found = []
    for trace_id in draw(st.sets(st.integers(1, 3))):
        for row in steps(trace_id, draw(st.integers(0, 4))):
            row |= {
                "text": draw(TEXT),
                "role": draw(st.none() | TEXT),
                "is_backtrack": draw(st.none() | st.booleans()),
                "is_hypothesis": draw(st.none() | st.booleans()),
                "parent": draw(st.none() | st.integers(0, row["step"] - 1))
                if row["step"]
                else None,
                "label_source": draw(st.none() | TEXT),
                "confidence": draw(st.none() | FLOAT),
            }
            found.append(row)
    return found


HEAD_STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "trace_id": st.integers(1, 3),
            "layer": st.integers(0, LAYERS - 1),
            "head": st.none() | st.integers(0, HEADS - 1),
            "step_from": st.integers(0, 3),
            "step_to": st.integers(0, 3),
            "mass": FLOAT,
        }
    ),
    max_size=12,
    unique_by=itemgetter("trace_id", "layer", "head", "step_from", "step_to"),
)

PROBES = st.lists(
    st.fixed_dictionaries(
        {
            "probe": st.sampled_from(["logit_lens", "ablation"]),
            "trace_id": st.none() | st.integers(1, 3),
            "step": st.none() | st.integers(-1, 9),
            "changed_step": st.none() | st.integers(0, 9),
            "pos": st.none() | st.integers(0, 9),
            "layer": st.none() | st.integers(0, LAYERS - 1),
            "unit": st.none() | st.integers(0, 99),
            "key": TEXT,
            "value": st.none() | st.floats(allow_nan=False),
            "json": st.none() | st.dictionaries(TEXT, st.integers()).map(json.dumps),
        }
    ),
    max_size=12,
    unique_by=itemgetter(
        "probe", "trace_id", "step", "changed_step", "pos", "layer", "unit", "key"
    ),
)


@pytest.mark.parametrize(
    ("table", "given_rows"),
    [("steps", labelled_steps()), ("head_steps", HEAD_STEPS), ("probes", PROBES)],
    ids=["steps", "head_steps", "probes"],
)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_was_written_last_of_each_scope_comes_back(opened, table, given_rows, data):
    """Whatever is written in turn: each scope holds what was written of it last."""
    writer, run_id, store = opened
    (described,) = (each for each in analysis_tables.TABLES if each.name == table)
    everything = [{"trace_id": i} for i in (1, 2, 3)]
    if table == "probes":
        names = ("logit_lens", "ablation")
        everything = [{"probe": p, "trace_id": i} for p in names for i in (None, 1, 2, 3)]
    writer.replace_rows(run_id, table, [], clear=everything)
    expected = {}
    for _ in range(3):
        new = data.draw(given_rows)
        of = {}
        for row in new:
            row = row | {"run_id": run_id} if table == "probes" else row
            of.setdefault(tuple(row[name] for name in described.scope), []).append(row)
        writer.replace_rows(run_id, table, new)
        expected |= of
    wanted = [row for group in expected.values() for row in group]
    assert sorted(map(ordered, rows(store, table))) == sorted(map(ordered, wanted))


def ordered(row):
    return json.dumps(dict(sorted(row.items())))


def test_rows_of_other_traces_stay_as_they_are(opened):
    writer, run_id, store = opened
    writer.replace_rows(run_id, "steps", steps(1) + steps(2))
    writer.replace_rows(run_id, "steps", steps(2, 1) + steps(3, 2))
    counts = "select trace_id, count(*) from steps group by all order by all"
    assert store.sql(counts).fetchall() == [(1, 3), (2, 1), (3, 2)]
    assert [(f.first_trace, f.last_trace, f.rows) for f in store.files("steps")] == [(1, 3, 6)]
    writer.replace_rows(run_id, "steps", [], clear=[{"trace_id": 3}, {"trace_id": 1}])
    assert store.sql(counts).fetchall() == [(2, 1)]
    writer.replace_rows(run_id, "steps", [], clear=[{"trace_id": 2}])
    assert store.files("steps") == []
    assert rows(store, "steps") == []


def test_an_arrow_table_is_taken_with_its_columns_in_any_order(opened):
    writer, run_id, store = opened
    table = pa.Table.from_pylist(steps(1))  # int64 where the store has int32
    writer.replace_rows(run_id, "steps", table.select(sorted(table.column_names)))
    assert [row["text"] for row in rows(store, "steps")] == ["abcdef"] * 3


def test_a_probe_about_the_run_and_one_about_a_trace_are_replaced_apart(opened):
    writer, run_id, store = opened
    writer.replace_rows(run_id, "probes", [result(), result(trace_id=2), result("ablation")])
    writer.replace_rows(run_id, "probes", [result(value=None, json='{"a": [1]}')])
    found = store.sql("select probe, trace_id, value, json from probes order by all").fetchall()
    assert found == [
        ("ablation", None, 0.5, None),
        ("logit_lens", 2, 0.5, None),
        ("logit_lens", None, None, '{"a": [1]}'),
    ]


def test_a_running_trace_keeps_its_steps_when_it_goes_on(tmp_path):
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(TRACES[0], 0, 10, None)])
        writer.replace_rows(run_id, "steps", steps(trace_id))
        writer.commit(run_id, [part(TRACES[0], 10, 20, trace_id)])
        assert len(rows(store, "steps")) == 3


def without(name):
    return [{key: value for key, value in row.items() if key != name} for row in steps(1)]


@pytest.mark.parametrize(
    ("table", "given_rows", "message"),
    [
        ("steps", without("text"), "steps.text is missing or null"),
        ("steps", steps(1, text=None), "steps.text is missing or null"),
        ("steps", steps(1, colour="red"), "no column colour"),
        ("steps", steps(1, start="six"), "steps.start is not int32"),
        ("steps", steps(1, step=2**31), "steps.step is not int32"),
        ("steps", steps(1, step=0), "two rows with the same trace_id, step"),
        ("steps", steps(1, text="\ud800"), "steps.text is not string"),
        ("steps", steps(1, start=7), "character 7 to 6"),
        ("steps", steps(1, 1, parent=0), "parent 0"),
        ("steps", steps(99), "trace 99 does not belong"),
        ("steps", steps(0), "trace 0 does not belong"),
        ("tokens", [], "analyses write the tables steps, head_steps, probes"),
        ("probes", [result(layer=LAYERS)], f"a row of layer {LAYERS}"),
        ("probes", [result(json="{")], "not JSON"),
        ("probes", [result(run_id="other")], "of another run"),
        ("probes", [result(trace_id=4)], "trace 4 does not belong"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    opened, table, given_rows, message
):
    writer, run_id, store = opened
    good = [{"trace_id": 1, "layer": 0, "step_from": 0, "step_to": 0, "mass": 1.0}]
    writer.replace_rows(run_id, "head_steps", good)
    before = store._manifest.snapshot()
    with pytest.raises((ObservationError, NotInStoreError), match=message):
        writer.replace_rows(run_id, table, given_rows)
    assert store._manifest.snapshot() == before
    assert store._manifest.reservations() == []
    assert not list(store.path.glob("staging/*.part"))


def test_a_head_beyond_the_runs_is_refused(opened):
    writer, run_id, _ = opened
    row = {"trace_id": 1, "layer": 0, "head": HEADS, "step_from": 0, "step_to": 0, "mass": 1.0}
    with pytest.raises(ObservationError, match=f"a row of head {HEADS}"):
        writer.replace_rows(run_id, "head_steps", [row])


def test_traces_of_another_run_are_foreign(opened):
    writer, _, store = opened
    other = writer.start_run(replace(RUN, seed=5))
    with pytest.raises(NotInStoreError, match=f"trace 1 does not belong to run {other}"):
        writer.replace_rows(other, "steps", steps(1))
    with pytest.raises(NotInStoreError, match="trace 2 does not belong"):
        writer.replace_rows(other, "steps", [], clear=[{"trace_id": 2}])
    with pytest.raises(NotInStoreError, match="there is no run nowhere"):
        writer.replace_rows("nowhere", "steps", steps(1))
    assert rows(store, "steps") == []


def test_two_writers_replace_different_traces_at_once(opened):
    """Both rewrite the same file: the slower one looks again, and neither loses its rows."""
    writer, run_id, store = opened
    writer.replace_rows(run_id, "steps", steps(1) + steps(2))
    with StoreWriter(store.path) as rival:
        complete = writer._manifest.complete
        calls = []

        def late(*args, **options):
            if not calls:
                rival.replace_rows(run_id, "steps", steps(2, 7))
            calls.append(args)
            return complete(*args, **options)

        writer._manifest.complete = late
        writer.replace_rows(run_id, "steps", steps(1, 5))
    assert len(calls) == 2
    counts = "select trace_id, count(*) from steps group by all order by all"
    assert store.sql(counts).fetchall() == [(1, 5), (2, 7)]
