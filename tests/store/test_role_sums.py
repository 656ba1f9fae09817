"""Sums by step role: what SQL counts from steps and routing, whatever is done to the store."""

import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import cut_tokens, part, random_run, random_trace

from ringlens import analysis
from ringlens.cli.main import main
from ringlens.errors import ObservationError, StoreError
from ringlens.store import ChoiceArrays, Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.maintain import rollup
from ringlens.store.write import role_sums

RUN = random_run(heads=1, record=("routing",))
ROLES = ("plan_generation", "self_checking", "naïve 数")
LENGTHS = (30, 45, 70)


def trace(tokens, seed=0):
    return random_trace(RUN, tokens, seed=seed, router_logits=None, heads=None)


@st.composite
def steps_of(draw, trace_id, tokens):
    """Steps that tile some of a trace's tokens; some have no role, some no token, some are left."""
    cuts = draw(st.lists(st.integers(0, tokens), min_size=2, max_size=9))
    spans = list(zip(sorted(cuts), sorted(cuts)[1:], strict=False))
    kept = draw(st.lists(st.booleans(), min_size=len(spans), max_size=len(spans)))
    return [
        {
            **{"trace_id": trace_id, "step": i, "start": 0, "end": 1, "text": "x"},
            **{"token_start": start, "token_end": end},
            "role": draw(st.none() | st.sampled_from(ROLES)),
        }
        for i, ((start, end), keep) in enumerate(zip(spans, kept, strict=True))
        if keep
    ]


def of(trace_id, *spans):
    """Rows of steps: spans of tokens with their roles."""
    return [
        {
            **{"trace_id": trace_id, "step": i, "start": 0, "end": 1, "text": "x"},
            **{"token_start": start, "token_end": end, "role": role},
        }
        for i, (start, end, role) in enumerate(spans)
    ]


SUMS = """
select trace_id, layer, phase, role, expert, sum(c)::bigint, sum(w), sum(b)::bigint,
       sum(g)::bigint
from (select *, unnest(range(len(n))) as expert, unnest(n) as c, unnest(weight) as w,
             unnest(bias_flips) as b, unnest(group_flips) as g from usage_roles)
group by all having sum(c) + sum(g) > 0 order by all"""

COUNTED = """
with labelled as (select trace_id, pos, phase, role from token_context
                  where trace_id in (select trace_id from steps
                                     where role is not null and token_end > token_start)),
rows as (from routing join labelled using (trace_id, pos)),
chosen as (
    select trace_id, layer, phase, role, expert, count(*) as n, sum(w) as weight,
           count(*) filter (list_contains(bias_flips, expert)) as b
    from (select *, unnest(expert_ids) as expert, unnest(weights) as w from rows) group by all),
lost as (
    select trace_id, layer, phase, role, expert, count(*) as g
    from (select *, unnest(group_flips) as expert from rows) group by all)
select c.trace_id, c.layer, c.phase, c.role, c.expert, coalesce(n, 0) as n,
       coalesce(weight, 0) as weight, coalesce(b, 0) as b, 0 as g
from chosen as c
union all select trace_id, layer, phase, role, expert, 0, 0, 0, g from lost
"""


def assert_sums(store):
    """Every sum is what SQL counts, the tokens too; and readers take the sums for whole."""
    counted = f"""
        select trace_id, layer, phase, role, expert, sum(n)::bigint, sum(weight), sum(b)::bigint,
               sum(g)::bigint from ({COUNTED}) group by all order by all"""
    said, found = (store.sql(query).fetchall() for query in (SUMS, counted))
    assert [(*row[:6], *row[7:]) for row in said] == [(*row[:6], *row[7:]) for row in found]
    np.testing.assert_allclose([r[6] for r in said], [r[6] for r in found], rtol=1e-6)
    tokens = """select trace_id, phase, role, sum(tokens)::bigint from usage_roles
        where layer = 1 group by all order by all"""
    expected = """select trace_id, phase, role, count(*) from token_context
        where trace_id in (select trace_id from usage_roles) group by all order by all"""
    assert store.sql(tokens).fetchall() == store.sql(expected).fetchall()
    assert rollup.missing_roles(store) == rollup.incomplete(store) == []


def assert_loads(store, source="sums"):
    """Loads about roles are those of a scan, and say what answered them."""
    for where, by in (
        (f"role = '{ROLES[0]}'", ()),
        ("correct is not null", ("role", "phase")),
    ):
        if store.sql(f"from token_context where {where} limit 1").fetchall() == []:
            with pytest.raises(StoreError, match="no token"):
                analysis.expert_load(store, where, by)
            continue
        loads = analysis.expert_load(store, where, by)
        scanned = analysis.expert_load(store, f"({where}) and pos >= 0", by)
        assert (loads.attrs["source"], scanned.attrs["source"]) == (source, "scan")
        assert loads.attrs["traces"] == scanned.attrs["traces"]
        exact = [name for name in loads.columns if name != "weight"]
        assert loads[exact].equals(scanned[exact])
        np.testing.assert_allclose(loads["weight"], scanned["weight"], rtol=1e-6)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A writer, its run with traces 1 to 3, a reader."""
    path = tmp_path_factory.mktemp("roles")
    with StoreWriter(path) as writer, Store(path) as store:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [trace(n, seed=n) for n in LENGTHS])
        yield writer, run_id, store


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_sums_follow_the_steps(opened, data):
    """Steps are written and replaced, of one trace or several, or only cleared."""
    writer, run_id, store = opened
    writer.replace_rows(run_id, "steps", [], clear=[{"trace_id": i} for i in (1, 2, 3)])
    assert store.sql("from usage_roles").fetchall() == []
    for _ in range(2):
        ids = data.draw(st.sets(st.integers(1, 3), min_size=1))
        rows = [data.draw(steps_of(i, LENGTHS[i - 1])) for i in ids]
        clear = [{"trace_id": data.draw(st.integers(1, 3))}]
        writer.replace_rows(run_id, "steps", [row for each in rows for row in each], clear)
        assert_sums(store)
    assert_loads(store)


def make(path, lengths=LENGTHS):
    """A finished run whose traces have steps, all but the last."""
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        ids = writer.commit(run_id, [trace(n, seed=n) for n in lengths])
        for i in ids[:-1]:
            writer.replace_rows(run_id, "steps", of(i, (6, 15, ROLES[0]), (15, 28, ROLES[1])))
        writer.finish_run(run_id)
    return run_id


def test_many_traces_are_counted_some_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(role_sums, "GROUP_BYTES", 1)
    monkeypatch.setattr(role_sums, "ROWS", 7)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        ids = writer.commit(run_id, [trace(30, seed) for seed in range(3)])
        rows = [row for i in ids for row in of(i, (6, 15, ROLES[0]), (15, 28, ROLES[1]))]
        writer.replace_rows(run_id, "steps", rows)
        assert len(store.files("usage_roles")) == 1
        assert_sums(store)


def test_choices_without_reasons_have_counts_alone(tmp_path):
    """Imported runs: tokens without a row are not counted, and weights are not known."""
    full = trace(60)
    ids = full.routing.expert_ids[:, 10:59]
    record = replace(full, routing=ChoiceArrays(full.routing.layers, ids, first=10))
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(replace(RUN, mode="imported"))
        (trace_id,) = writer.commit(run_id, [record])
        writer.replace_rows(run_id, "steps", of(trace_id, (5, 40, ROLES[0])))
        loads = analysis.expert_load(store, f"role = '{ROLES[0]}'", "phase")
        assert loads.attrs["source"] == "sums"
        assert loads["weight"].isna().all()
        assert loads[loads.layer == 1].groupby("phase")["tokens"].first().sum() == 30
        assert store.sql("select count(weight), count(bias_flips) from usage_roles").fetchall() == [
            (0, 0)
        ]


def test_steps_that_share_a_token_are_refused(opened):
    writer, run_id, store = opened
    before = store.sql("from steps").fetchall()
    with pytest.raises(ObservationError, match="two steps of trace 2 share a token"):
        writer.replace_rows(run_id, "steps", of(2, (3, 9, ROLES[0]), (8, 12, ROLES[1])))
    assert store.sql("from steps").fetchall() == before


# --- never stale without a word --------------------------------------------------------------


def test_a_trace_that_grows_is_scanned_until_it_is_labelled_again(tmp_path):
    whole = trace(60)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(whole, 0, 30, None)])
        writer.replace_rows(run_id, "steps", of(trace_id, (12, 25, ROLES[0])))
        assert_sums(store)
        writer.commit(run_id, [part(whole, 30, 60, trace_id)])
        assert rollup.missing_roles(store) == [trace_id]
        assert_loads(store, "scan")
        writer.replace_rows(run_id, "steps", of(trace_id, (12, 55, ROLES[0])))
        assert_sums(store)
        assert_loads(store)


def test_phases_told_anew_take_the_sums_away(tmp_path):
    whole = trace(60)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        first, second = writer.commit(run_id, [part(whole, 0, 40, None), trace(30, 1)])
        for i in (first, second):
            writer.replace_rows(run_id, "steps", of(i, (12, 25, ROLES[0])))
        tokens = replace(whole.tokens, phase=["answer"] * 60)
        record = part(replace(whole, tokens=tokens), 40, 60, first)
        writer.commit(run_id, [replace(record, rewritten=cut_tokens(tokens, 0, 40))])
        assert store.sql("select distinct trace_id from usage_roles").fetchall() == [(second,)]
        assert rollup.missing_roles(store) == [first]
        assert_loads(store, "scan")


def test_a_failed_replacement_leaves_steps_and_sums_as_they_were(tmp_path, monkeypatch):
    run_id = make(tmp_path)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        before = [store.sql(f"from {t} order by all").fetchall() for t in ("steps", "usage_roles")]

        def broken(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(role_sums.expert_usage, "batch", broken)
        with pytest.raises(StoreError, match="disk is full"):
            writer.replace_rows(run_id, "steps", of(1, (3, 9, ROLES[2])))
        after = [store.sql(f"from {t} order by all").fetchall() for t in ("steps", "usage_roles")]
        assert after == before
    assert not list((tmp_path / "staging").glob("*.part"))
    assert check_findings(tmp_path) == []


def drop_files(path, table):
    """Take a table out of the manifest, as a store has it whose files are lost."""
    with closing(sqlite3.connect(path / "manifest.sqlite")) as manifest, manifest:
        manifest.execute("delete from files where table_name = ?", [table])


def check_findings(path):
    with Store(path) as store:
        return [found.sentence for found in check(store).findings if found.kind != "orphan"]


def test_lost_steps_are_not_answered_from_their_sums(tmp_path):
    run_id = make(tmp_path)
    drop_files(tmp_path, "steps")
    with Store(tmp_path) as store:
        assert rollup.missing_roles(store) == [1, 2]
        with pytest.raises(StoreError, match="no token"):
            analysis.expert_load(store, f"role = '{ROLES[0]}'")
    sentence = f"usage_roles is not the sum of the routing for traces 1, 2 of run {run_id}"
    assert check_findings(tmp_path) == [sentence]
    result = CliRunner().invoke(main, ["rollup", str(tmp_path)])
    assert "usage of 1 runs recomputed" in result.output
    assert check_findings(tmp_path) == []


def test_a_store_of_an_earlier_version_is_scanned_and_can_be_counted(tmp_path):
    make(tmp_path)
    drop_files(tmp_path, "usage_roles")
    assert check_findings(tmp_path) == []
    with Store(tmp_path) as store:
        assert_loads(store, "scan")
        assert CliRunner().invoke(main, ["rollup", str(tmp_path)]).exit_code == 0
        assert_sums(store)
        assert_loads(store)
    assert "match the routing" in CliRunner().invoke(main, ["rollup", str(tmp_path)]).output


def test_wrong_sums_are_found_and_repaired(tmp_path):
    run_id = make(tmp_path)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        (file, *_) = store.files("usage_roles")

        def work(files):
            rows = store.sql(f"from {store.scan('usage_roles', [file])}").to_arrow_table()
            wrong = [row | {"n": row["n"][::-1]} for row in rows.to_pylist()]
            batch = role_sums.pa.RecordBatch.from_pylist(wrong, role_sums.USAGE_ROLES.arrow)
            files.stage(role_sums.USAGE_ROLES, [batch], [1, 1])
            return [file.path]

        writer.rewriter().replace(run_id, work)
    assert check_findings(tmp_path) == [
        f"usage_roles is not the sum of the routing for trace 1 of run {run_id}"
    ]
    CliRunner().invoke(main, ["check", str(tmp_path), "--repair"])
    assert check_findings(tmp_path) == []
    with Store(tmp_path) as store:
        assert_sums(store)


# --- upkeep ------------------------------------------------------------------------------------


def compacted(path, tmp_path):
    return ["compact", str(path)], path


def deleted(path, tmp_path):
    return ["delete", str(path), "--trace", "1", "--yes"], path


def merged(path, tmp_path):
    make(tmp_path / "other", (30, 40))
    return ["merge", str(tmp_path / "other"), str(path)], tmp_path / "other"


def exported(path, tmp_path):
    out = tmp_path / "part"
    return ["export", str(path), "--trace", "1", "--trace", "3", "--out", str(out)], out


@pytest.mark.parametrize("command", [compacted, deleted, merged, exported])
def test_upkeep_keeps_the_sums(tmp_path, command):
    make(tmp_path / "store")
    arguments, path = command(tmp_path / "store", tmp_path)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    with Store(path) as store:
        assert store.sql("select count(*) from usage_roles").fetchall() != [(0,)]
        assert_sums(store)
        assert_loads(store)
    assert check_findings(path) == []
