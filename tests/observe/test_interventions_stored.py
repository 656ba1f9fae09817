"""Interventions of a capture: stored with the run, known to the records, the check and analyses."""

from collections import Counter

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from waiting import wait_for

import ringlens as rl
from ringlens.analysis import (
    bias_audit,
    contrast,
    expert_card,
    expert_load,
    group_displacements,
)
from ringlens.cli.main import main
from ringlens.errors import ConfigError, ObservationError, StoreError
from ringlens.interventions import read_interventions
from ringlens.observe.interventions.selection import RouterEdits
from ringlens.store.check.check import check

ACTS = (
    rl.Ablate(5, (3, 7, 25), phase="think"),
    rl.Boost(4, 3, 0.2),
    rl.Swap(6, (1, 2)),
    rl.Scale(6, (1, 5), 0.5, words="6", reach=3),
    rl.AblateHead(2, 1),
)


@pytest.fixture(scope="module")
def nano():
    return rl.load("ring-nano")


@pytest.fixture(scope="module")
def problems():
    return rl.problems("countdown", n=3)


@pytest.fixture(scope="module")
def path(nano, problems, tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "store"
    options = {"max_new_tokens": 40, "batch_size": 2}
    rl.capture(nano, problems, path, interventions=ACTS, **options).close()
    rl.capture(nano, problems, path, **options).close()
    return path


@pytest.fixture(scope="module")
def store(path):
    with rl.Store(path) as store:
        yield store


def test_the_run_says_what_was_changed(store):
    rows = store.sql("select interventions from runs order by started").fetchall()
    assert rows == [(list(map(str, ACTS)),), (None,)]


def test_rows_say_what_acted_and_what_the_router_had_chosen(nano, store):
    trace = store.trace(1)
    phases = trace.tokens()["phase"]
    for layer in range(1, 8):
        ran, own = trace.routing(layer), trace.own_routing(layer)
        numbers = {i for row in own["intervened"] for i in row}
        assert numbers <= {i for i, act in enumerate(ACTS) if layer in act.layers}
        changed = (ran["expert_ids"] != own["expert_ids"]).any(axis=1)
        changed |= (ran["weights"] != own["weights"]).any(axis=1)
        assert (changed == own["differs"]).all()
        # What the router had chosen follows from its logits, margins and all.
        logits = torch.tensor(trace.router_logits(layer))
        bias = nano.model.model.layers[layer].mlp.gate.expert_bias
        _, weights, ids = nano.model.model.layers[layer].mlp.gate.route(logits)
        assert [set(row) for row in ids.tolist()] == [set(r) for r in own["expert_ids"].tolist()]
        best = np.sort((logits.sigmoid() + bias).gather(1, ids).numpy(), axis=1)
        assert (best[:, 0] + 1e-6 >= ran["margin"]).all()
        np.testing.assert_allclose(
            own["weights"], np.sort(weights.numpy(), axis=1)[:, ::-1], atol=2e-3
        )
    ablated = trace.own_routing(5)
    acted = [bool(row) for row in ablated["intervened"]]
    assert acted == [phase == "think" for phase in phases]
    think = np.array(acted)
    assert not set(trace.routing(5)["expert_ids"][think].flatten().tolist()) & {3, 7, 25}
    assert ablated["differs"][think].any() and not ablated["differs"][~think].any()


def test_plain_runs_have_no_such_rows(store):
    counts = "count(own_ids), count(own_weights), count(intervened)"
    query = f"select {counts} from routing join traces using (trace_id) join runs using (run_id)"
    assert store.sql(f"{query} where interventions is null").fetchall() == [(0, 0, 0)]
    trace = store.trace(6)
    own, ran = trace.own_routing(5), trace.routing(5)
    assert not own["differs"].any()
    assert (own["expert_ids"] == ran["expert_ids"]).all()
    assert (own["weights"] == ran["weights"]).all()


def test_words_act_within_their_reach(store):
    trace = store.trace(2)
    pieces = trace.tokens()["text"]
    hits = [i for i, piece in enumerate(pieces) if piece.strip() == "6"]
    assert hits
    wanted = {pos for hit in hits for pos in range(hit, hit + 3)}
    rows = trace.own_routing(6)["intervened"]
    assert {pos for pos, row in enumerate(rows) if 3 in row} == wanted & set(range(len(pieces)))


def test_the_check_follows_the_interventions(store):
    report = check(store)
    assert report.findings == []
    assert report.choices == store.sql("select count(*) from router_logits").fetchall()[0][0]


def test_the_check_still_finds_a_fault_in_an_intervened_run(nano, problems, tmp_path, monkeypatch):
    """A router that leaves its ablated expert in at some tokens."""
    rechoose = RouterEdits.rechoose

    def faulty(self, scores, active):
        active = active.clone()
        active[::3] = False
        return rechoose(self, scores, active)

    monkeypatch.setattr(RouterEdits, "rechoose", faulty)
    acts = [rl.Ablate(5, range(9, 22))]
    with rl.capture(
        nano, problems[:1], tmp_path / "store", max_new_tokens=20, interventions=acts
    ) as store:
        (found,) = check(store).findings
    assert found.kind == "choice"
    assert found.traces == (1,)


def test_a_hook_that_undoes_an_intervention_ends_the_capture(nano, problems, tmp_path):
    gate, handles = nano.model.model.layers[5].mlp.gate, []

    def attach(progress):  # behind the interventions, before the recorder of the second batch
        if not handles:
            handles.append(gate.register_forward_hook(lambda m, args, output: m.route(output[0])))

    try:
        with pytest.raises(ObservationError, match="not those that the interventions give"):
            rl.capture(
                nano, problems, tmp_path / "store", max_new_tokens=8, batch_size=1,
                interventions=rl.Force(5, 3), on_progress=attach,
            )  # fmt: skip
    finally:
        handles[0].remove()


def test_a_replay_in_chunks_is_intervened_as_the_capture_was(nano, store, tmp_path):
    texts = [store.trace(number).tokens()["token_id"].tolist() for number in (1, 2, 3)]
    with rl.replay(nano, texts, tmp_path / "again", interventions=ACTS, prefill=17) as again:
        for number in (1, 2, 3):
            live, replayed = store.trace(number), again.trace(number)
            for layer in (4, 5, 6):
                assert (
                    live.own_routing(layer)["intervened"]
                    == (replayed.own_routing(layer)["intervened"])
                )
                for name in ("expert_ids", "differs"):
                    np.testing.assert_array_equal(
                        live.own_routing(layer)[name], replayed.own_routing(layer)[name]
                    )
                np.testing.assert_array_equal(
                    live.routing(layer)["expert_ids"], replayed.routing(layer)["expert_ids"]
                )
        assert check(again).findings == []


def same_rows(a, b, layers=range(1, 8)):
    """Two traces hold the same records, bit by bit."""
    assert a.tokens()["token_id"].tolist() == b.tokens()["token_id"].tolist()
    for name in ("logprob", "entropy"):
        np.testing.assert_array_equal(a.tokens()[name], b.tokens()[name])
    for layer in layers:
        one, other = a.own_routing(layer), b.own_routing(layer)
        assert one["intervened"] == other["intervened"]
        for name in ("expert_ids", "weights", "differs"):
            np.testing.assert_array_equal(one[name], other[name])
        for name in ("expert_ids", "weights", "affinities", "margin"):
            np.testing.assert_array_equal(a.routing(layer)[name], b.routing(layer)[name])
        np.testing.assert_array_equal(a.router_logits(layer), b.router_logits(layer))


def follow(steps):
    """A session that is followed hands its records on step by step."""


def interrupted(nano, problems, path, **options):
    """Begin a capture and leave it at its 30th forward, once a part of a thought is stored."""

    class Left(BaseException):
        pass

    def stored():
        with rl.Store(path) as store:
            query = "select * from traces where finish_reason = 'running' and n_think > 8"
            return store.sql(query).fetchall()

    forwards = []

    def leave(module, args):
        forwards.append(args)
        if len(forwards) == 30:
            wait_for(stored, 60)
            raise Left

    handle = nano.model.register_forward_pre_hook(leave)
    try:
        with pytest.raises(Left):
            rl.capture(nano, problems, path, on_tokens=follow, commit_every=0, **options)
    finally:
        handle.remove()


@pytest.mark.extra
def test_a_resumed_run_equals_an_uninterrupted_one(nano, problems, tmp_path):
    options = {"max_new_tokens": 50, "interventions": ACTS}
    interrupted(nano, problems[:2], tmp_path / "store", **options)
    options["on_tokens"] = follow
    with (
        rl.capture(nano, problems[:2], tmp_path / "whole", **options) as whole,
        rl.capture(nano, problems[:2], tmp_path / "store", **options) as resumed,
    ):
        assert resumed.sql("select count(*) from runs").fetchall() == [(1,)]
        seams = resumed.sql("select resumed_at from traces").fetchall()
        assert any(seam for (seam,) in seams)
        for number in (1, 2):
            same_rows(resumed.trace(number), whole.trace(number))
        assert check(resumed).findings == []


def test_a_resumed_run_with_other_interventions_is_refused(nano, problems, tmp_path):
    path, options = tmp_path / "store", {"max_new_tokens": 50}
    interrupted(nano, problems[:1], path, interventions=ACTS[:1], **options)
    for others in ((), ACTS[1:2]):
        with pytest.raises(ConfigError, match=r"other interventions \(ablate:5/3\+7\+25@think"):
            rl.capture(nano, problems[:1], path, interventions=others, **options)
    with rl.capture(nano, problems[1:2], path, max_new_tokens=4) as store:  # another call
        assert store.sql("select count(*) from runs").fetchall() == [(2,)]
    rl.capture(nano, problems[:1], path, interventions=ACTS[:1], **options).close()
    with rl.capture(nano, problems[:1], path, **options) as store:  # the other has ended
        assert store.sql("select count(*) from runs").fetchall() == [(3,)]


def test_capture_inside_a_block_is_refused(nano, problems, tmp_path):
    with (
        nano.intervene(ACTS[0]),
        pytest.raises(ObservationError, match="which the run would not know of"),
    ):
        rl.capture(nano, problems, tmp_path / "store", max_new_tokens=4)
    assert not (tmp_path / "store" / "runs").exists()


def test_analyses_tell_intervened_from_plain(store):
    by = "select interventions is null as plain, count(*) from token_context group by plain"
    counts = dict(store.sql(by).fetchall())
    assert counts.keys() == {True, False}
    found = contrast(
        store,
        "interventions is not null and phase = 'think'",
        "interventions is null and phase = 'think'",
    )
    assert len(found)
    with pytest.raises(ConfigError, match="runs under different interventions"):
        expert_load(store)
    both = expert_load(store, by="interventions")
    assert set(both["interventions"].dropna()) == {" ".join(map(str, ACTS))}
    plain = expert_load(store, "interventions is null")
    assert 0 < len(plain) < len(both)


def test_what_interventions_chose_is_not_put_down_to_the_bias(store):
    with pytest.raises(StoreError, match=r"interventions changed [\d,]+ of [\d,]+ choices"):
        bias_audit(store, "interventions is not null and phase = 'think'")
    assert len(bias_audit(store, "interventions is null and phase = 'think'")) == 7


def test_causes_are_of_choices_that_the_routers_made(store):
    where = "interventions is not null and phase = 'think'"
    rows = store.sql(
        f"""select layer, expert_ids, own_ids, group_flips from routing
        where (trace_id, pos) in (select (trace_id, pos) from token_context where {where})"""
    ).fetchall()
    own = [row for row in rows if row[2] is None or set(row[1]) == set(row[2])]
    assert {row[0] for row in rows if row not in own} == {4, 5, 6}
    pairs = group_displacements(store, where).groupby("layer")["n"].sum().to_dict()
    assert pairs == {at: sum(len(row[3]) for row in own if row[0] == at) for at in range(1, 8)}
    by_expert = Counter(expert for layer, chosen, *_ in own if layer == 5 for expert in chosen)
    ((expert, times),) = by_expert.most_common(1)
    assert expert_card(store, 5, expert, where).causes["n"].tolist() == [times]


def test_the_command_line_intervenes(tmp_path):
    store = str(tmp_path / "store")
    words = ["capture", "ring-nano", "--n", "1", "--max-new-tokens", "12", "--store", store]
    acts = ["--intervene", "ablate:5/3+7@think", "--intervene", "scale:*/4=0.5"]
    result = CliRunner().invoke(main, [*words, *acts])
    assert result.exit_code == 0, result.output
    with rl.Store(store) as opened:
        (kept,) = opened.sql("select interventions from runs").fetchall()[0]
        assert kept == ["ablate:5/3+7@think", "scale:1-7/4=0.5"]
    result = CliRunner().invoke(main, [*words, "--intervene", "ablat:5/3"])
    assert result.exit_code
    assert "Did you mean 'ablate'" in result.output
    result = CliRunner().invoke(
        main, ["replay", "ring-nano", store, "--store", f"{store}-2", *acts]
    )
    assert result.exit_code == 0, result.output


def test_a_run_that_changes_heads_alone_says_that_no_router_was(nano, problems, tmp_path):
    acts = [rl.AblateHead(2, 1), rl.Steer(4, np.linspace(-1, 1, 256), by=0.1)]
    path = tmp_path / "store"
    with rl.capture(nano, problems[:1], path, max_new_tokens=4, interventions=acts) as store:
        own = store.trace(1).own_routing(5)
        assert set(own["intervened"]) == {()}
        assert not own["differs"].any()
        query = "select count(*) filter (intervened is null) from routing"
        assert store.sql(query).fetchall() == [(0,)]
        assert check(store).findings == []
        kept = store.sql("select interventions from runs").fetchall()[0][0]
        assert read_interventions(kept) == tuple(acts)


def test_what_changed_nothing_is_logged_at_the_end(nano, problems, tmp_path, caplog):
    act = rl.Ablate(5, 3, words="zyzzyva")
    rl.capture(nano, problems[:1], tmp_path / "s", max_new_tokens=4, interventions=[act]).close()
    assert "changed nothing: no token of" in caplog.text
    assert "within reach of 'zyzzyva'" in caplog.text
