"""The card of an expert whose words, roles and causes are planted, and of one that has none."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hostile import HOSTILE, with_text
from planted import LAYERS, RUN, planted
from records import WORDS, choose, random_run, random_trace
from small_store import write_run

from ringlens import analysis
from ringlens.analysis.experts.expert_label import Clause, expert_label
from ringlens.errors import ConfigError, NotInStoreError
from ringlens.store import ChoiceArrays, Store, StoreWriter

THINK = "phase = 'think'"
WAIT = WORDS.index(" Wait")
LAYER, AT_WAIT, IN_CHECKS, NEVER, IN_ANSWERS, OF_BOTH = 2, 4, 7, 9, 12, 14
CHECKED = range(60, 80)  # positions of steps that check


def effect(number, phase_T, token_T):
    """Experts of one layer that only the word, the step or the phase chooses."""
    effect_STE = np.zeros((len(LAYERS), len(phase_T), RUN.experts))
    at_E = effect_STE[LAYERS.index(LAYER)]
    at_E[:, [AT_WAIT, IN_CHECKS, NEVER, IN_ANSWERS, OF_BOTH]] = -50
    at_E[token_T == WAIT, AT_WAIT] = 50
    at_E[CHECKED.start : CHECKED.stop, IN_CHECKS] = 50
    at_E[phase_T == "answer", IN_ANSWERS] = 50
    at_E[token_T == WAIT, OF_BOTH] = at_E[CHECKED.start : CHECKED.stop, OF_BOTH] = 49
    return effect_STE


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = planted(tmp_path_factory.mktemp("s") / "store", effect, traces=6, tokens=240)
    with Store(path) as store:
        ((run_id,),) = store.sql("select run_id from runs").fetchall()
    with StoreWriter(path) as writer:
        writer.replace_rows(
            run_id,
            "steps",
            [
                {"trace_id": trace, "step": step, "start": 0, "end": 1, "token_start": start,
                 "token_end": start + 20, "role": role, "label_source": "test", "text": "x"}
                for trace in range(1, 7)
                for step, (start, role) in enumerate([(60, "self_checking"), (80, "computation")])
            ],
        )  # fmt: skip
    with Store(path) as store:
        yield store


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """Groups and biases, with the router's logits."""
    run = random_run()
    traces = [random_trace(run, 60, seed=seed, heads=None) for seed in range(6)]
    run = replace(run, record=("routing", "router_logits"))
    path = write_run(tmp_path_factory.mktemp("g") / "store", run, traces)
    with Store(path) as store:
        yield store


def count(store, where):
    return store.sql(f"select count(*) from token_context where {where}").fetchall()[0][0]


def test_an_expert_of_one_word(store):
    card = analysis.expert_card(store, LAYER, AT_WAIT)
    for row in card.load.itertuples():
        assert row.n == count(store, f"phase = '{row.phase}' and text = ' Wait'")
    assert len(card.load) == 3
    assert card.traces == 6
    assert card.label.rule == (Clause("word", (" Wait",)),)
    score = card.label.score
    assert (score.precision, score.recall, score.f1, score.accuracy) == (1, 1, 1, 1)
    assert card.label.traces == (3, 3)
    assert card.label.contexts >= 20
    assert set(card.tokens["text"]) == {" Wait"}
    assert (card.tokens["share"] == 1).all()
    assert set(card.contexts["text"]) == {" Wait"}
    assert card.contexts["weight"].is_monotonic_decreasing
    assert "the word ' Wait'" in str(card) and "F1 1.00" in repr(card)


def test_contexts_are_the_heaviest_with_their_text(store):
    card = analysis.expert_card(store, LAYER, AT_WAIT, THINK, contexts=3)
    rows = store.sql(
        f"""select weights[list_position(expert_ids, {AT_WAIT})] as weight, trace_id, pos
        from routing join token_context using (trace_id, pos)
        where layer = {LAYER} and list_contains(expert_ids, {AT_WAIT}) and {THINK}
        order by weight desc, trace_id, pos limit 3"""
    ).fetchall()
    found = card.contexts[["weight", "trace_id", "pos"]].itertuples(index=False, name=None)
    assert list(found) == rows
    for row in card.contexts.itertuples():
        texts = store.trace(row.trace_id).tokens()["text"]
        assert row.before == "".join(texts[row.pos - 12 : row.pos])
        assert row.after == "".join(texts[row.pos + 1 : row.pos + 13])


def test_an_expert_of_one_step_role(store):
    card = analysis.expert_card(store, LAYER, IN_CHECKS, THINK)
    assert card.label.rule == (Clause("step role", ("self_checking",)),)
    assert card.label.score.f1 == 1
    roles = card.roles.set_index("role")
    assert roles["tokens"].to_dict() == {"self_checking": 120, "computation": 120}
    assert roles["n"].to_dict() == {"self_checking": 120, "computation": 0}
    assert roles["lift"].to_dict() == {"self_checking": 2, "computation": 0}
    assert "self_checking" in str(card)


def test_an_expert_of_one_phase(store):
    label = analysis.expert_card(store, LAYER, IN_ANSWERS).label
    assert label.rule == (Clause("phase", ("answer",)),)
    assert label.score.f1 == 1


def test_an_expert_of_a_role_or_a_word(store):
    label = analysis.expert_card(store, LAYER, OF_BOTH).label
    role, word = Clause("step role", ("self_checking",)), Clause("word", (" Wait",))
    assert set(label.rule) == {role, word}
    assert label.text in (f"{role.text} or {word.text}", f"{word.text} or {role.text}")
    assert label.score.accuracy == 1


def test_an_expert_that_is_never_chosen(store):
    card = analysis.expert_card(store, LAYER, NEVER)
    assert card.load["n"].sum() == 0
    assert card.contexts.empty and card.tokens.empty
    assert card.label.rule == () and card.label.score is None
    assert "not scored" in repr(card) and "no rule" in str(card)
    assert card.frame.query("part == 'label'")["value"].isna().all()


def test_where_nothing_is_there_a_label_does_no_better_than_chance(store):
    card = analysis.expert_card(analysis.Shuffled(store), LAYER, AT_WAIT)
    assert card.label.score is None or card.label.score.accuracy < 0.65
    assert card.load["n"].sum() == count(store, "text = ' Wait'")


def test_one_trace_has_a_label_but_no_score(store):
    card = analysis.expert_card(store, LAYER, AT_WAIT, "trace_id = 3")
    assert card.label.rule[0].values == (" Wait",) and card.label.trained.f1 == 1
    assert card.label.score is None
    assert "there is one trace" in card.label.reason
    assert "there is one trace" in repr(card)
    assert "there is one trace" in card.frame["text"].iloc[-1]


def test_causes_and_displacements_from_the_logits(grouped):
    """Recomputed from what the router saw; the card does not read it."""
    run = random_run()
    layer = 2
    query = f"select bias from experts where layer = {layer} order by expert"
    bias_E = [bias for (bias,) in grouped.sql(query).fetchall()]
    rows = grouped.sql(
        f"""select phase, expert_ids, logits from routing join router_logits
        using (trace_id, layer, pos) join tokens using (trace_id, pos) where layer = {layer}"""
    ).fetchall()
    logits_TE = np.array([row[2] for row in rows], np.float64)
    s_TE = 1 / (1 + np.exp(-logits_TE))
    c_TE = s_TE + bias_E
    chosen_Tk, stays_TG = choose(c_TE, run.groups, run.groups_kept, 3)
    unbiased_Tk, _ = choose(s_TE, run.groups, run.groups_kept, 3)
    best_Tk = np.argsort(-c_TE, axis=1)[:, :3]
    kept_TE = np.repeat(stays_TG, 4, axis=1)
    for expert in (3, 8, 13):
        card = analysis.expert_card(grouped, layer, expert)
        causes = card.causes.set_index("phase")
        for phase in ("prompt", "think", "answer"):
            leads, flips, stands, out = [], 0, 0, 0
            for t, (of, *_) in enumerate(rows):
                if of != phase:
                    continue
                out += expert in best_Tk[t] and expert not in chosen_Tk[t]
                if expert in chosen_Tk[t]:
                    unchosen = [e for e in range(16) if kept_TE[t, e] and e not in chosen_Tk[t]]
                    leads.append(c_TE[t, expert] - c_TE[t, unchosen].max())
                    flips += expert not in unbiased_Tk[t]
                    stands += expert not in best_Tk[t]
            row = causes.loc[phase]
            assert (row["n"], row["kept_out"]) == (len(leads), out)
            if leads:
                assert row["bias_flips"] == pytest.approx(flips / len(leads))
                assert row["stand_ins"] == pytest.approx(stands / len(leads))
                ordered = np.sort(leads)
                for name, q in (("margin_05", 0.05), ("margin_50", 0.5), ("margin_95", 0.95)):
                    at = max(0, int(np.ceil(q * len(ordered))) - 1)
                    assert row[name] == pytest.approx(ordered[at], abs=1e-5)
        pairs = analysis.group_displacements(grouped).query("layer == @layer")
        events = {"stands in for": ("stand_in", "expert"), "replaced by": ("expert", "stand_in")}
        for event, found in card.displacements.groupby("event"):
            mine, other = events.pop(event)
            expected = pairs[pairs[mine] == expert].set_index(["phase", other])["n"].to_dict()
            assert found.set_index(["phase", "other"])["n"].to_dict() == expected
        assert not events


def test_parts_are_those_of_their_analyses(grouped):
    card = analysis.expert_card(grouped, 1, 5, baseline=THINK)
    load = analysis.expert_load(grouped, by="phase", baseline=THINK)
    mine = load.query("layer == 1 and expert == 5")
    for name in ("n", "tokens", "share", "weight", "lift"):
        np.testing.assert_array_equal(card.load[name], mine[name])
    words = analysis.token_experts(grouped, layer=1, expert=5)
    np.testing.assert_array_equal(card.tokens["n"], words["n"])
    assert card.roles.empty
    long = card.frame
    row = long.query("part == 'load' and phase == 'think' and measure == 'share'")
    assert row["value"].item() == mine.query("phase == 'think'")["share"].item()
    assert set(long["layer"]) == {1} and set(long["expert"]) == {5}
    again = analysis.expert_card(grouped, 1, 5, baseline=THINK)
    assert again.label == card.label
    for frame in (card.load, card.causes, card.tokens, card.contexts):
        sql = grouped.sql(frame.attrs["sql"]).df()
        if frame is card.load:
            sql = sql.query("layer == 1 and expert == 5")
        names = list(set(sql) & set(frame))
        pd.testing.assert_frame_equal(
            sql[names].reset_index(drop=True), frame[names], check_dtype=False
        )


def test_text_of_strangers_is_no_markup(tmp_path):
    run = random_run(record=("routing",), heads=1)
    trace = random_trace(run, len(HOSTILE) * 12, router_logits=None, heads=None)
    trace = with_text(trace, [*HOSTILE, "\x1b[31m", "\u202e"] * 8 + ["x"] * (60 - 56))
    store = Store(write_run(tmp_path / "s", run, [trace, replace(trace, seed=1)]))
    card = analysis.expert_card(store, 1, int(store.routing(1)["expert_ids"][0, 0]))
    shown = card._repr_html_()
    assert "<script" not in shown and "<img" not in shown and "<svg" not in shown
    assert "\x1b" not in str(card) + shown and "\u202e" not in str(card) + shown


def test_imported_choices_have_no_causes_and_no_weights(tmp_path):
    run = random_run(mode="imported", record=("routing",), expert_bias=np.full((3, 16), np.nan))
    full = random_trace(run, 40, router_logits=None, heads=None)
    choices = ChoiceArrays(full.routing.layers, full.routing.expert_ids[:, :39], 0)
    served = replace(full, routing=choices)
    store = Store(write_run(tmp_path / "s", run, [served, replace(served, seed=1)]))
    expert = int(full.routing.expert_ids[0, 30, 0])
    card = analysis.expert_card(store, 1, expert)
    assert card.load["n"].sum() > 0 and card.load["weight"].isna().all()
    assert card.causes["n"].sum() == 0 and card.causes["margin_50"].isna().all()
    assert card.contexts["weight"].isna().all() and len(card.contexts)
    assert "Why it was chosen" not in str(card) and "nan" not in str(card)


@pytest.mark.parametrize(
    ("layer", "expert", "error", "message"),
    [
        (0, 1, NotInStoreError, "layer 0 has no routing in the selection; layers 1–3 have"),
        (2, 16, NotInStoreError, "expert 16 of 16"),
        (2, -1, ConfigError, "expert = -1"),
        ("2", 1, ConfigError, "layer = '2'"),
    ],
)
def test_experts_that_do_not_exist(store, layer, expert, error, message):
    with pytest.raises(error, match=message):
        analysis.expert_card(store, layer, expert)


@pytest.mark.parametrize(
    ("problems", "split", "halves"),
    [
        (("a", "a", "a", "a", "b", "c"), "problem", {(5, 1), (2, 4)}),
        (("a", "a", None, "b", None, None), "problem", {(3, 3), (4, 2)}),
        (("a",) * 6, "trace", {(3, 3)}),
        ((None,) * 6, "trace", {(3, 3)}),
    ],
)
def test_samples_of_a_problem_are_in_one_half(tmp_path, problems, split, halves):
    run = random_run()
    traces = [
        replace(random_trace(run, 60, seed=seed, heads=None), problem_id=problem)
        for seed, problem in enumerate(problems)
    ]
    with Store(write_run(tmp_path / "store", run, traces)) as store:
        labels = [expert_label(store, LAYER, 1, seed=seed) for seed in range(2)]
    assert {label.traces for label in labels} <= halves
    assert {label.split for label in labels} == {split}
    said = "of other problems" if split == "problem" else "split by trace, not by problem"
    assert all(said in label.scored for label in labels if label.score)
