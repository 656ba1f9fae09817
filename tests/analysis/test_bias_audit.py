"""What the bias does, against routers that are chosen again by hand, and where it does nothing."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from records import choose, random_run, random_trace, route

from ringlens import analysis
from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter

THINK = "phase = 'think'"
TAKEN, GIVEN = 3, 12
"""An expert whose bias no affinity makes up for, and one that is chosen for its bias alone."""


def written(path, record, bias_SE, traces=5):
    """A store of random traces with this bias; expert `GIVEN` has no affinity."""
    run = random_run(experts=16, groups=4, groups_kept=2, k=3, record=record, expert_bias=bias_SE)
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        for seed in range(traces):
            trace = random_trace(run, 60 + seed, seed=seed, heads=None)
            logits_STE = trace.router_logits.copy()
            logits_STE[:, :, GIVEN] = -8
            logits = logits_STE if "router_logits" in record else None
            record_of = replace(trace, router_logits=logits, routing=route(run, logits_STE))
            writer.commit(run_id, [record_of])
    return Store(path)


def biases():
    bias_SE = np.random.default_rng(0).normal(0, 0.05, (3, 16)).astype(np.float32)
    bias_SE[1, TAKEN], bias_SE[1, GIVEN] = -2, 2
    return bias_SE


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "s"
    with written(path, ("routing", "router_logits"), biases()) as store:
        yield store


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The same without router logits."""
    with written(tmp_path_factory.mktemp("s") / "s", ("routing",), biases()) as store:
        yield store


@pytest.mark.parametrize("where", [THINK, f"{THINK} and pos >= 0"])
def test_loads_with_and_without_the_bias(store, where):
    """Sums and scans; the choice without a bias is made again, by sorting."""
    frame = analysis.expert_bias(store, where).set_index(["layer", "expert"])
    expected, moved = Counter(), Counter()
    rows = store.sql(
        f"""select layer, expert_ids, bias_flips, logits from routing
        join router_logits using (trace_id, layer, pos) join token_context using (trace_id, pos)
        where {THINK}"""
    ).fetchall()
    for layer, ids, flips, logits in rows:
        s_TE = 1 / (1 + np.exp(-np.array(logits, np.float64)))[None]
        chosen_Tk, stays_TG = choose(s_TE, 4, 2, 3)
        expected.update((layer, int(expert)) for expert in chosen_Tk[0])
        moved[layer] += sum(not stays_TG[0, expert // 4] for expert in flips)
        assert set(ids) - set(chosen_Tk[0].tolist()) == set(flips)
    found = frame["unbiased"]
    assert {key: n for key, n in found.items() if n} == expected
    np.testing.assert_allclose(frame["change"], (frame["n"] - frame["unbiased"]) / frame["tokens"])
    audit = analysis.bias_audit(store, where).set_index("layer")
    for layer, row in audit.iterrows():
        own = frame.loc[layer]
        assert row.flips == own["flips"].sum() / own["n"].sum()
        assert row.flips_by_group == moved[layer] / own["flips"].sum()
        mean = own["unbiased"].mean()
        assert row.max_violation_unbiased == pytest.approx(own["unbiased"].max() / mean - 1)
    assert audit.attrs["logits"] == 1
    assert audit.attrs["source"] == ("sums" if where == THINK else "scan")


def test_an_expert_that_lives_by_its_bias_and_one_that_it_silences(store, bare):
    for each, known in ((store, True), (bare, False)):
        audit = analysis.bias_audit(each, THINK).set_index("layer")
        assert audit["only_by_bias"].tolist() == [[], [GIVEN], []]
        if known:
            assert audit["suppressed"].tolist() == [[], [TAKEN], []]
            assert (audit["gini_unbiased"] > 0).all()
        else:
            assert audit["suppressed"].tolist() == [None] * 3
        assert audit["gini_unbiased"].isna().all() == (not known)
        assert audit["flips_by_group"].isna().all() == (not known)
        assert audit.loc[2, "bias_min"] == -2 and audit.loc[2, "bias_max"] == 2
        assert audit.loc[2, "bias_deviation"] == pytest.approx(biases()[1].std())
    both = [analysis.expert_bias(each, THINK) for each in (store, bare)]
    assert both[0]["flips"].equals(both[1]["flips"])
    assert both[1]["unbiased"].isna().all() and both[1].attrs["logits"] == 0


@pytest.mark.parametrize("by", [(), "phase", ("phase", "correct")])
def test_their_sql_gives_the_same(store, by):
    where = None if by else THINK
    for function, keys in ((analysis.bias_audit, []), (analysis.expert_bias, ["expert"])):
        frame = function(store, where, by)
        sql = store.sql(frame.attrs["sql"]).df()
        on = [*frame.attrs["by"], "layer", *keys]
        merged = frame.merge(sql, on=on, suffixes=("", "_sql"))
        assert len(merged) == len(sql) == len(frame)
        for name in set(sql.columns) - set(on):
            ours, theirs = merged[name], merged[f"{name}_sql"]
            if name == "only_by_bias":
                assert ours.tolist() == [list(each) for each in theirs]
            else:
                np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=1e-6)


def test_a_bias_of_zero_does_nothing(tmp_path):
    run_bias = np.zeros((3, 16), np.float32)
    with written(tmp_path / "s", ("routing", "router_logits"), run_bias) as store:
        audit, experts = analysis.bias_audit(store, THINK, draws=50), analysis.expert_bias(store)
    assert (audit[["flips", "low", "high", "flips_by_group", "bias_deviation"]] == 0).all(axis=None)
    assert audit["group_tokens_flipped"].isna().all() and (audit["group_tokens"] > 0).all()
    np.testing.assert_array_equal(audit["gini"], audit["gini_unbiased"])
    assert audit["only_by_bias"].tolist() == audit["suppressed"].tolist() == [[], [], []]
    assert (experts["change"] == 0).all() and sorted(experts["phase"].unique())[0] == "answer"


def test_intervals_resample_traces(store):
    audit = analysis.bias_audit(store, THINK, draws=200)
    assert ((audit["low"] < audit["flips"]) & (audit["flips"] < audit["high"])).all()
    with pytest.raises(StoreError, match="from 1 trace"):
        analysis.bias_audit(store, f"{THINK} and trace_id = 1", draws=200)


def test_shuffled_choices_are_not_compared_with_logits_of_other_tokens(store):
    null = analysis.expert_bias(analysis.Shuffled(store), THINK)
    assert null["unbiased"].isna().all()


def test_what_has_no_single_bias_is_refused(tmp_path):
    with StoreWriter(tmp_path) as writer:
        for seed in (0, 1):
            run = random_run(seed=seed, record=("routing",))
            trace = random_trace(run, 30, seed=seed, heads=None, router_logits=None)
            writer.commit(writer.start_run(run), [trace])
    with Store(tmp_path) as store:
        with pytest.raises(StoreError, match="different biases; add `run_id"):
            analysis.bias_audit(store, THINK)
        (run_id,) = store.sql("select min(run_id) from runs").fetchall()[0]
        assert len(analysis.bias_audit(store, f"{THINK} and run_id = '{run_id}'")) == 3


def test_an_empty_selection_is_said_to_be_empty(store):
    with pytest.raises(StoreError, match="no token is selected"):
        analysis.bias_audit(store, f"{THINK} and pos < 0")


def test_nulls_are_a_group(tmp_path):
    run = random_run(experts=16, groups=4, groups_kept=2, k=3, record=("routing",))
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(run)
        for seed, correct in enumerate((True, None, False)):
            trace = random_trace(run, 40, seed=seed, heads=None, router_logits=None)
            writer.commit(run_id, [replace(trace, correct=correct)])
    with Store(tmp_path) as store:
        for by, groups in (("correct", 3), ("role", 1)):  # no step has a role
            frame = analysis.bias_audit(store, THINK, by)
            assert len(frame) == 3 * groups
            assert frame["group_tokens"].notna().all()
        flips = "avg((len(group_flips) > 0)::int)"
        query = f"""select layer, {flips} from routing join tokens using (trace_id, pos)
            where phase = 'think' and trace_id = 2 group by layer order by layer"""
        of_null = analysis.bias_audit(store, THINK, "correct")
        of_null = of_null[of_null["correct"].isna()]
        found = of_null.set_index("layer")["group_tokens"].to_dict()
        assert found == pytest.approx(dict(store.sql(query).fetchall()))
