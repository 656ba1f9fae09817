"""Checkpoints whose overlap with the last one is known."""

from dataclasses import replace

import numpy as np
import pytest
from records import random_run, random_trace, route

import ringlens as rl
from ringlens import analysis
from ringlens.analysis import Checkpoint, Shuffled, saturation
from ringlens.errors import ConfigError, StoreError
from ringlens.store import Store, StoreWriter

RUN = random_run(
    experts=16, groups=1, groups_kept=1, k=3, record=("routing",), heads=1,
    expert_bias=np.zeros((3, 16), np.float32),
)  # fmt: skip
THINK = "phase = 'think'"
TRACES, TOKENS = 8, 40


def logits_of(seed):
    shape = (3, TOKENS, RUN.experts)
    return np.random.default_rng(seed).normal(0, 1.5, shape).astype(np.float32)


def earlier_logits(seed):
    """The first layer as at the end; the second unrelated; on the third one expert is another."""
    logits_STE = logits_of(seed)
    logits_STE[1] = logits_of(seed + 1_000)[1]
    third_T = np.argsort(-logits_STE[2], axis=1)[:, 2]
    logits_STE[2, np.arange(TOKENS), third_T] = -20
    return logits_STE


def traces_with(logits):
    for seed in range(TRACES):
        trace = random_trace(RUN, TOKENS, seed=seed, heads=None, router_logits=None)
        yield replace(trace, routing=route(RUN, logits(seed)))


def write(writer, logits):
    run_id = writer.start_run(RUN)
    writer.commit(run_id, list(traces_with(logits)))
    return run_id


@pytest.fixture(scope="module")
def one_store(tmp_path_factory):
    """Both checkpoints in one store, and their runs."""
    path = tmp_path_factory.mktemp("s") / "s"
    with StoreWriter(path) as writer:
        runs = [write(writer, logits) for logits in (earlier_logits, logits_of)]
    with Store(path) as store:
        yield [
            Checkpoint(name, store, f"run_id = '{run}'")
            for name, run in zip(("early", "last"), runs, strict=True)
        ]


@pytest.fixture(scope="module")
def two_stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s")
    for name, logits in (("early", earlier_logits), ("last", logits_of)):
        with StoreWriter(folder / name) as writer:
            write(writer, logits)
    with Store(folder / "early") as early, Store(folder / "last") as last:
        yield [Checkpoint("early", early), Checkpoint("last", last)]


def test_a_known_overlap_is_found(two_stores, one_store):
    for checkpoints in (two_stores, one_store):
        frame = saturation(checkpoints, THINK).set_index("layer")
        assert frame.loc[1, ["saturation", "low", "high", "beyond"]].tolist() == [1] * 4
        assert frame.loc[3, "saturation"] == pytest.approx(2 / 3)
        assert frame.loc[3, "low"] == pytest.approx(2 / 3)
        unrelated = frame.loc[2]
        assert unrelated.low < unrelated.chance < unrelated.high
        assert abs(unrelated.beyond) < 0.1 < frame.loc[3, "beyond"]
        assert (frame["tokens"] == TRACES * (TOKENS - 8 - 8)).all()
        assert frame.attrs["traces"] == TRACES and frame.attrs["unpaired"] == {"early": (0, 0)}


def test_against_plain_counting_and_its_sql(one_store):
    frame = saturation(one_store, by=("phase", "correct"), draws=0)
    store, last = one_store[0].store, one_store[1]
    rows = store.sql(
        f"""select phase, correct, b.layer, b.trace_id, a.expert_ids, b.expert_ids
        from (select trace_id, layer, pos, expert_ids from routing) as b
        join token_context as t on t.trace_id = b.trace_id and t.pos = b.pos
        join (select trace_id, layer, pos, expert_ids from routing) as a
        on a.trace_id = b.trace_id - {TRACES} and a.layer = b.layer and a.pos = b.pos
        where {last.where}"""
    ).fetchall()
    for row in frame.itertuples():
        own = [r[3:] for r in rows if r[:3] == (row.phase, row.correct, row.layer)]
        overlaps = [len(set(a) & set(b)) / 3 for _, a, b in own]
        assert row.tokens == len(own)
        assert row.saturation == pytest.approx(np.mean(overlaps))
        chance = 0.0
        for trace in {r[0] for r in own}:
            a, b = (
                np.bincount(np.concatenate([r[i] for r in own if r[0] == trace]), minlength=16)
                for i in (1, 2)
            )
            chance += (a * b).sum() / (3 * sum(r[0] == trace for r in own))
        assert row.chance == pytest.approx(chance / len(own))
    sql = store.sql(frame.attrs["sql"]).df()
    on = ["checkpoint", "phase", "correct", "layer"]
    merged = frame.merge(sql, on=on, suffixes=("", "_sql"))
    assert len(merged) == len(frame) == len(sql)
    np.testing.assert_array_equal(merged["tokens"], merged["tokens_sql"])
    np.testing.assert_allclose(merged["saturation"], merged["saturation_sql"])


def test_a_shuffled_checkpoint_has_what_chance_gives(two_stores):
    last = two_stores[1]
    null = Checkpoint("shuffled", Shuffled(last.store))
    frame = saturation([null, two_stores[0], last], THINK)
    assert frame["checkpoint"].unique().tolist() == ["shuffled", "early"]
    shuffled = frame[frame["checkpoint"] == "shuffled"]
    assert (shuffled["beyond"].abs() < 0.05).all()
    whole = saturation([null, last], "mode = 'live' and phase in ('prompt', 'think', 'answer')")
    assert ((whole["low"] < whole["chance"]) & (whole["chance"] < whole["high"])).all()


def test_texts_that_go_apart_are_compared_as_far_as_they_are_equal(tmp_path):
    """The same problem, answered in other words after some tokens of the thought."""
    plain = list(traces_with(logits_of))
    other = []
    for trace in plain:
        ids = trace.tokens.token_id.copy()
        ids[20] = (ids[20] + 1) % 13
        other.append(replace(trace, tokens=replace(trace.tokens, token_id=ids)))
    for name, traces in (("early", other), ("last", plain)):
        with StoreWriter(tmp_path / name) as writer:
            writer.commit(writer.start_run(RUN), traces)
    with Store(tmp_path / "early") as early, Store(tmp_path / "last") as last:
        checkpoints = [Checkpoint("early", early), Checkpoint("last", last)]
        frame = saturation(checkpoints, "phase <> 'answer'")
        assert (frame["tokens"] == TRACES * 20).all() and (frame["saturation"] == 1).all()
        with pytest.raises(StoreError, match="no token that is selected has equal tokens"):
            saturation(checkpoints, "phase = 'answer'")


def test_routers_that_are_disturbed_more_have_less_of_the_last(tmp_path):
    """ring-nano with noise on its gates, replaying what the untouched one wrote."""
    lens = rl.load("ring-nano")
    live = rl.capture(lens, rl.problems("countdown", n=2), tmp_path / "last", max_new_tokens=16)
    gates = [p for name, p in lens.model.named_parameters() if name.endswith("mlp.gate.weight")]
    assert len(gates) == 7
    checkpoints, generator = [], rl_generator()
    for noise in (3.0, 0.0):
        disturbed = [gate.clone() for gate in gates]
        for gate in gates:
            gate.data += noise * gate.data.std() * noise_like(gate, generator)
        store = rl.replay(lens, live, tmp_path / f"noise-{noise}")
        checkpoints.append(Checkpoint(f"noise {noise}", store))
        for gate, kept in zip(gates, disturbed, strict=True):
            gate.data.copy_(kept)
    frame = saturation([*checkpoints, Checkpoint("last", live)], "phase = 'think'", draws=100)
    mean = frame.groupby("checkpoint")[["saturation", "beyond"]].mean()
    assert mean.loc["noise 3.0", "saturation"] < 0.8
    assert mean.loc["noise 0.0", "saturation"] > 0.999
    assert mean.loc["noise 3.0", "beyond"] < 0.4


def rl_generator():
    import torch

    return torch.Generator().manual_seed(0)


def noise_like(gate, generator):
    import torch

    return torch.randn(gate.shape, generator=generator).to(gate)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda a, b: [b], "give two or more"),
        (lambda a, b: [a.store, b.store], "give two or more"),
        (lambda a, b: [a, replace(b, name="early")], "one name"),
        (lambda a, b: [replace(b, name="x"), b], "hold the same traces"),
        (lambda a, b: [replace(a, where="no = 1"), b], "unknown column"),
    ],
)
def test_what_cannot_be_compared_is_refused(two_stores, given, message):
    with pytest.raises(ConfigError, match=message):
        saturation(given(*two_stores))


def test_one_trace_has_no_interval(two_stores):
    with pytest.raises(StoreError, match="from 1 trace"):
        saturation(two_stores, f"{THINK} and trace_id = 1")
    assert len(saturation(two_stores, f"{THINK} and trace_id = 1", draws=0)) == 3


def test_other_routers_and_other_texts_are_refused(tmp_path, two_stores):
    for name, changes in (("routers", {"experts": 32}), ("texts", {"experts": 16})):
        run = random_run(groups=1, groups_kept=1, heads=1, record=("routing",), **changes)
        with StoreWriter(tmp_path / name) as writer:
            seeds = range(3) if name == "routers" else range(50, 53)
            traces = [
                random_trace(run, TOKENS, seed=seed, heads=None, router_logits=None)
                for seed in seeds
            ]
            writer.commit(writer.start_run(run), traces)
        with Store(tmp_path / name) as store, pytest.raises(StoreError) as raised:
            analysis.saturation([Checkpoint(name, store), two_stores[1]], draws=0)
        expected = {"routers": "chooses 3 of 32 experts", "texts": "has the tokens or the prompt"}
        assert expected[name] in str(raised.value)
