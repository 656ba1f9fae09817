"""Tables of experts against their SQL, against plain arithmetic, and on planted structures."""

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from planted import LAYERS, RUN, planted
from records import WORDS, random_run, random_trace

from ringlens import analysis
from ringlens.errors import ConfigError, StoreError
from ringlens.store import Store, StoreWriter

THINK = "phase = 'think'"
WHERES = (THINK, "phase = 'think' and entropy > 0.4", "correct and phase <> 'prompt'", None)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Traces with groups and biases, one of them written in two parts."""
    run = random_run(experts=16, groups=4, groups_kept=2, k=3, heads=1)
    path = tmp_path_factory.mktemp("s") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        for seed in range(5):
            writer.commit(run_id, [random_trace(run, 60 + seed, seed=seed, heads=None)])
    with Store(path) as store:
        yield store


def rows_of(store, where):
    """Choices as plain rows: phase, trace, layer, pos, token, experts."""
    return store.sql(
        f"""select phase, trace_id, layer, pos, token_id, expert_ids
        from (select trace_id, layer, pos, expert_ids from routing)
        join token_context using (trace_id, pos) where {where or "true"}"""
    ).fetchall()


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("by", [(), "trace_id", ("phase", "correct")])
def test_load_is_what_its_sql_and_plain_counting_give(store, where, by):
    frame = analysis.expert_load(store, where, by)
    keys = [*frame.attrs["by"], "layer", "expert"]
    sql = store.sql(frame.attrs["sql"]).df()
    merged = frame[frame.n > 0].merge(sql, on=keys, suffixes=("", "_sql"))
    assert len(merged) == len(sql) == (frame.n > 0).sum()
    for name in ("n", "tokens", "share"):
        np.testing.assert_array_equal(merged[name], merged[f"{name}_sql"])
    plain = Counter(
        (layer, expert) for *_, layer, _, _, ids in rows_of(store, where) for expert in ids
    )
    found = frame.groupby(["layer", "expert"])["n"].sum()
    assert {key: n for key, n in found.items() if n} == plain
    even = RUN.experts_per_token / RUN.experts
    np.testing.assert_allclose(frame["lift"], frame["share"] / even)


def test_sums_and_scans_agree_and_say_which_they_are(store):
    sums = analysis.expert_load(store, THINK)
    scan = analysis.expert_load(store, f"{THINK} and pos >= 0")
    assert (sums.attrs["source"], scan.attrs["source"]) == ("sums", "scan")
    for name in ("layer", "expert", "n", "tokens", "share"):
        np.testing.assert_array_equal(sums[name], scan[name])
    assert sums.attrs["traces"] == 5


def test_sums_that_are_not_whole_are_not_used(tmp_path):
    """A store that another tool wrote, or that lost a file of sums, is scanned."""
    run = random_run(heads=1)
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(run)
        for seed in range(3):
            writer.commit(run_id, [random_trace(run, 40, seed=seed, heads=None)])
    with Store(tmp_path) as store:
        whole = analysis.expert_load(store, THINK)
        lost = store.files("usage_traces")[0]
    with closing(sqlite3.connect(tmp_path / "manifest.sqlite")) as manifest, manifest:
        gone = manifest.execute("delete from files where path = ?", [lost.path])
        assert gone.rowcount == 1
    with Store(tmp_path) as store:
        scanned = analysis.expert_load(store, THINK)
    assert (whole.attrs["source"], scanned.attrs["source"]) == ("sums", "scan")
    np.testing.assert_array_equal(whole["n"], scanned["n"])


def test_a_baseline_is_a_selection_and_phases_are_not_pooled(store):
    frame = analysis.expert_load(store, THINK, baseline="phase = 'answer'")
    answer = analysis.expert_load(store, "phase = 'answer'")
    np.testing.assert_array_equal(frame["baseline"], answer["share"])
    assert sorted(analysis.expert_load(store, "entropy > 0")["phase"].unique()) == [
        "answer", "prompt", "think",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="pools phases"):
        analysis.expert_load(store, THINK, baseline="correct")


def test_intervals_resample_traces(store):
    frame = analysis.expert_load(store, THINK, draws=200)
    assert ((frame.low <= frame.share + 1e-12) & (frame.share <= frame.high + 1e-12)).mean() > 0.99
    assert (frame.high > frame.low).mean() > 0.9
    with pytest.raises(StoreError, match="from 1 trace"):
        analysis.expert_load(store, f"{THINK} and trace_id = 1", draws=200)
    again = analysis.expert_load(store, THINK, draws=200)
    np.testing.assert_array_equal(frame["low"], again["low"])


def test_balance_of_layers(tmp_path):
    def one_expert(number, phase_T, token_T):
        effect_STE = np.zeros((len(LAYERS), len(phase_T), RUN.experts))
        effect_STE[2, :, 4] = 50
        effect_STE[2, :, 9] = -50
        return effect_STE

    with Store(planted(tmp_path / "s", one_expert, traces=4)) as store:
        balance = analysis.layer_balance(store, THINK).set_index("layer")
        counts = analysis.expert_load(store, THINK).set_index("layer")
    n_E = counts.loc[3, "n"].to_numpy()
    assert balance.loc[3, "max_violation"] == pytest.approx(n_E.max() / n_E.mean() - 1)
    assert n_E[4] == balance.loc[3, "tokens"]
    assert 9 in balance.loc[3, "never_chosen"]
    assert balance.loc[3, "gini"] > balance.loc[1, "gini"]
    pairs = np.abs(n_E[:, None] - n_E[None, :]).mean()
    assert balance.loc[3, "gini"] == pytest.approx(pairs / (2 * n_E.mean()))


def test_causes_are_shares_of_flips(store):
    frame = analysis.selection_causes(store, THINK).set_index("layer")
    rows = store.sql(
        f"""select layer, len(bias_flips), len(group_flips), margin, group_margin
        from routing join token_context using (trace_id, pos) where {THINK}"""
    ).fetchall()
    for layer in (1, 2, 3):
        own = np.array([row[1:] for row in rows if row[0] == layer])
        assert frame.loc[layer, "tokens"] == len(own)
        assert frame.loc[layer, "bias_flips"] == pytest.approx(own[:, 0].sum() / (3 * len(own)))
        assert frame.loc[layer, "group_flips"] == pytest.approx(own[:, 1].sum() / (3 * len(own)))
        assert frame.loc[layer, "group_tokens"] == pytest.approx((own[:, 1] > 0).mean())
        assert frame.loc[layer, "margin_50"] in own[:, 2]
        assert (own[:, 2] <= frame.loc[layer, "margin_05"]).mean() == pytest.approx(0.05, abs=0.02)


def test_stand_ins_are_the_chosen_experts_that_are_not_among_the_best(store):
    """From the router's logits, which are recorded here and which the table does not read."""
    frame = analysis.group_displacements(store, THINK)
    biases = store.sql("select layer, expert, bias from experts").fetchall()
    bias = {(layer, expert): value for layer, expert, value in biases}
    expected = Counter()
    for layer, ids, logits in store.sql(
        f"""select layer, expert_ids, logits from routing join router_logits
        using (trace_id, layer, pos) join token_context using (trace_id, pos) where {THINK}"""
    ).fetchall():
        c = [1 / (1 + np.exp(-z)) + bias[layer, e] for e, z in enumerate(logits)]
        best = sorted(range(16), key=lambda e: -c[e])[:3]
        out = [e for e in best if e not in ids]
        stand_in = sorted((e for e in ids if e not in best), key=lambda e: -c[e])
        expected.update((layer, a, b) for a, b in zip(out, stand_in, strict=True))
    found = {(r.layer, r.expert, r.stand_in): r.n for r in frame.itertuples()}
    assert {(layer, a): 0 for layer, a, _ in found} == {(layer, a): 0 for layer, a, _ in expected}
    assert found == expected
    assert frame["n"].is_monotonic_decreasing


def test_tokens_that_choose_an_expert(store):
    frame = analysis.token_experts(store, THINK, layer=2, least=10)
    tokens, chosen, load = Counter(), Counter(), Counter()
    for _, _, layer, _, token, ids in rows_of(store, THINK):
        if layer == 2:
            tokens[token] += 1
            chosen.update((expert, token) for expert in ids)
            load.update(ids)
    expected = {key: n for key, n in chosen.items() if tokens[key[1]] >= 10}
    assert {(r.expert, r.token_id): r.n for r in frame.itertuples()} == expected
    row = frame.iloc[0]
    assert row.share == row.n / tokens[row.token_id] == frame["share"].max()
    assert row.lift == pytest.approx(row.share / (load[row.expert] / tokens.total()))
    only = analysis.token_experts(store, THINK, layer=2, expert=int(row.expert), least=1)
    assert set(only["expert"]) == {row.expert}
    assert (only["occurrences"].min() < 10) and only.iloc[0]["text"] in WORDS


@pytest.mark.parametrize("function", [analysis.coactivation, analysis.transitions])
def test_pairs_of_experts(store, function):
    frame = function(store, "entropy > 0.2")
    other = "other" if function is analysis.coactivation else "next"
    step = 0 if function is analysis.coactivation else 1
    rows = rows_of(store, "entropy > 0.2")
    chosen = {(t, pos, layer): (phase, ids) for phase, t, layer, pos, _, ids in rows}
    expected, first, tokens, second = Counter(), Counter(), Counter(), Counter()
    for (trace, pos, layer), (phase, ids) in chosen.items():
        others = chosen.get((trace, pos, layer + step), (None, None))[1]
        if others is None:
            continue
        tokens[phase, layer] += 1
        first.update((phase, layer, e) for e in ids)
        second.update((phase, layer, e) for e in others)
        expected.update((phase, layer, a, b) for a in ids for b in others if step or a != b)
    keys = zip(frame["phase"], frame["layer"], frame["expert"], frame[other], strict=True)
    found = dict(zip(keys, frame.itertuples(), strict=True))
    assert {key: row.n for key, row in found.items()} == expected
    for (phase, layer, a, b), row in list(found.items())[::50]:
        share = row.n / first[phase, layer, a]
        assert row.share == pytest.approx(share)
        assert row.lift == pytest.approx(share * tokens[phase, layer] / second[phase, layer, b])
    sql = store.sql(frame.attrs["sql"]).df()
    merged = frame.merge(sql, on=["phase", "layer", "expert", other], suffixes=("", "_sql"))
    assert len(merged) == len(frame) == len(sql) and (merged["n"] == merged["n_sql"]).all()


def test_association_is_pointwise_information(store):
    word = WORDS.index(" Wait")
    frame = analysis.association(store, f"token_id = {word}", THINK)
    rows = [row for row in rows_of(store, THINK) if row[2] == 1]
    for expert in (2, 7):
        together = np.mean([row[4] == word and expert in row[5] for row in rows])
        p_x = np.mean([row[4] == word for row in rows])
        p_e = np.mean([expert in row[5] for row in rows])
        row = frame[(frame.layer == 1) & (frame.expert == expert)].iloc[0]
        if together:
            assert row.lift == pytest.approx(together / (p_x * p_e))
            assert row.npmi == pytest.approx(np.log(row.lift) / -np.log(together))
        else:
            assert row.npmi == -1
    by_phase = analysis.association(store, "phase")
    assert sorted(by_phase["event"].unique()) == ["answer", "prompt", "think"]


def test_shift_finds_a_planted_move_and_none_elsewhere(tmp_path):
    def moved(number, phase_T, token_T):
        effect_STE = np.zeros((len(LAYERS), len(phase_T), RUN.experts))
        effect_STE[1, phase_T == "answer", 3] = 3
        return effect_STE

    with Store(planted(tmp_path / "s", moved)) as store:
        frame = analysis.routing_shift(store, THINK, "phase = 'answer'").set_index("layer")
        n = {
            phase: analysis.expert_load(store, f"phase = '{phase}'").query("layer == 2")["share"]
            for phase in ("think", "answer")
        }
        along = analysis.shift_along(store, 1, 16)
    p, q = (n[phase].to_numpy() / 3 for phase in ("think", "answer"))
    half = (p + q) / 2
    expected = (p @ np.log(p / half) + q @ np.log(q / half)) / 2
    assert frame.loc[2, "divergence"] == pytest.approx(expected)
    assert frame.loc[2, "p"] < 0.01 < frame.loc[[1, 3], "p"].min()
    assert frame.loc[2, "divergence"] > 2 * frame.loc[2, "null"]
    assert along.groupby("layer")["tokens"].sum().tolist() == [80, 80, 80]
    assert along["from_first"].isna().sum() == 3


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("phaze = 'think'", "Did you mean 'phase'"),
        ("phase = 'think' and", "is no predicate"),
        ("a) or (b", "is no predicate"),
        ("entropy > 1 order by pos", "is no predicate"),
        ("true; drop view tokens", "is no predicate"),
        ("sum(entropy) > 1", "cannot contain aggregates"),
        ("entropy > 'x'", "Could not convert string 'x'"),
        ("phase = 'thought'", "no token is selected"),
        ("Random() < 0.5", r"random\(\) selects other tokens each time"),
        ("phase = 'think' and pos in (select nextval('s'))", "nextval"),
        (3, "must be a predicate"),
        ("", "must be a predicate"),
        ("-- nothing", "is no predicate"),
    ],
)
def test_wrong_predicates_are_refused_in_words(store, where, message):
    for function in (analysis.expert_load, analysis.selection_causes, analysis.coactivation):
        with pytest.raises((ConfigError, StoreError), match=message):
            function(store, where)


def test_runs_with_other_routers_are_not_pooled(tmp_path):
    with StoreWriter(tmp_path) as writer:
        for experts in (16, 32):
            run = random_run(experts=experts, model=f"m{experts}", heads=1)
            writer.commit(writer.start_run(run), [random_trace(run, 30, heads=None)])
    with Store(tmp_path) as store:
        with pytest.raises(StoreError, match="different routers"):
            analysis.expert_load(store, "model is not null")
        assert len(analysis.expert_load(store, "model = 'm32' and phase = 'think'")) == 3 * 32


def test_runs_of_two_models_are_not_pooled_though_their_routers_are_alike(tmp_path):
    with StoreWriter(tmp_path) as writer:
        for model in ("before", "after"):
            run = random_run(model=model, heads=1)
            trace = random_trace(run, 30, heads=None)
            writer.commit(writer.start_run(run), [trace, replace(trace, seed=1)])
    with Store(tmp_path) as store:
        for function in (analysis.expert_load, analysis.selection_causes, analysis.coactivation):
            for where in (None, THINK, "entropy > 0"):
                with pytest.raises(ConfigError, match="runs of 2 models \\('after', 'before'\\)"):
                    function(store, where)
        one = analysis.expert_load(store, f"{THINK} and model = 'before'")
        both = analysis.expert_load(store, THINK, by="model")
        assert both[both["model"] == "before"]["n"].tolist() == one["n"].tolist()
        pooled = analysis.expert_load(store, f"{THINK} and model is not null")
        assert pooled["n"].sum() == both["n"].sum()
        analysis.contrast(store, "model = 'before'", "model = 'after'", by="phase")


def test_a_trace_and_its_replay_are_not_two_traces(tmp_path):
    trace = random_trace(random_run(heads=1), 40, heads=None)
    with StoreWriter(tmp_path) as writer:
        for mode, source in (("live", None), ("replay", 1)):
            run = writer.start_run(random_run(heads=1, mode=mode))
            again = replace(trace, source_trace_id=source)
            writer.commit(run, [again, replace(again, seed=1)])
    with Store(tmp_path) as store:
        for where in (None, THINK, "entropy > 0"):
            with pytest.raises(ConfigError, match="holds replays beside other traces"):
                analysis.expert_load(store, where)
        with pytest.raises(ConfigError, match="holds replays beside other traces"):
            analysis.contrast(store, THINK, "phase = 'answer'")
        live = analysis.expert_load(store, f"{THINK} and mode = 'live'")
        assert live.attrs["traces"] == 2
        both = analysis.expert_load(store, f"{THINK} and mode is not null")
        assert both["n"].sum() == 2 * live["n"].sum()
        assert set(analysis.expert_load(store, THINK, by="mode")["mode"]) == {"live", "replay"}


def test_the_where_of_an_association_is_a_predicate_of_its_own(store):
    closes_early = "phase = 'prompt') or (phase = 'think'"
    for event in ("token_id = 1", "correct"):
        with pytest.raises(ConfigError, match="is no predicate"):
            analysis.association(store, event, closes_early)


def test_an_event_is_looked_for_in_the_selection_alone(tmp_path):
    """Its tokens elsewhere, as those of replays, do not matter."""
    with StoreWriter(tmp_path) as writer:
        for mode in ("live", "replay"):
            run = random_run(heads=1, mode=mode)
            traces = [random_trace(run, 60, seed=seed, heads=None) for seed in range(6)]
            writer.commit(writer.start_run(run), traces)
    live, word = f"{THINK} and mode = 'live'", f"token_id = {WORDS.index(' Wait')}"
    with Store(tmp_path) as store:
        frame = analysis.association(store, word, live)
        query = f"select count(distinct trace_id) from token_context where {live} and {word}"
        assert frame.attrs["traces"] == store.sql(query).fetchall()[0][0] > 1


def test_without_any_sums_all_is_read_from_the_choices(tmp_path):
    run = random_run(heads=1)
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(run)
        writer.commit(run_id, [random_trace(run, 40, seed=s, heads=None) for s in (1, 1, 2)])
    with Store(tmp_path) as store:
        whole = analysis.agreement(store, store), analysis.predictability(store, draws=2)
    with closing(sqlite3.connect(tmp_path / "manifest.sqlite")) as manifest, manifest:
        manifest.execute("delete from files where table_name like 'usage%'")
    with Store(tmp_path) as store:
        bare = analysis.agreement(store, store), analysis.predictability(store, draws=2)
    for a, b in zip(whole, bare, strict=True):
        assert a.equals(b)


def test_a_column_that_routing_has_too_is_that_of_the_token(store):
    """Both have an entropy."""
    frame = analysis.expert_load(store, THINK, "entropy")
    rows = store.sql(f"select entropy from token_context where {THINK}").fetchall()
    assert sorted(frame["entropy"].dropna().unique()) == sorted({e for (e,) in rows if e})
