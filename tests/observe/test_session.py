"""Capture and replay on the golden checkpoint: batches, lengths, seeds, interrupts, equality."""

import golden_data
import numpy as np
import pytest
import tiny_lens
import torch
from sessions import PROMPTS, STATISTICS, assert_same
from slow_files import few

import ringlens as rl
from ringlens.errors import ConfigError, NotInStoreError
from ringlens.observe.kernels.attention_interface import register_attention
from ringlens.problem import Problem


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


def plain_greedy(lens, prompt, n):
    ids = torch.tensor([lens.encode(prompt)])
    out = lens.model.generate(ids, max_new_tokens=n, do_sample=False, eos_token_id=None)
    return out[0].tolist()


def test_a_batch_equals_each_trace_alone(lens, tmp_path):
    """Different lengths, left padding, and one trace that ends early."""
    new = [plain_greedy(lens, p, 12)[-12:] for p in PROMPTS]
    early = next(t for i, t in enumerate(new[0]) if 2 <= i < 9 and all(t not in n for n in new[1:]))
    lens.model.generation_config.eos_token_id = [early]
    try:
        together = rl.capture(lens, PROMPTS, tmp_path / "together", max_new_tokens=12)
        alone = rl.capture(lens, PROMPTS, tmp_path / "alone", max_new_tokens=12, batch_size=1)
    finally:
        lens.model.generation_config.eos_token_id = 1
    reasons = [
        row[0]
        for row in together.sql("select finish_reason from traces order by trace_id").fetchall()
    ]
    assert reasons == ["stop", "length", "length", "length"]
    ids = [row[0] for row in together.sql("select trace_id from traces order by 1").fetchall()]
    for trace_id, prompt, tokens in zip(ids, PROMPTS, new, strict=True):
        a, b = together.trace(trace_id), alone.trace(trace_id)
        kept = tokens[: tokens.index(early) + 1] if early in tokens else tokens
        assert list(a.tokens()["token_id"]) == lens.encode(prompt) + kept
        assert_same(a, b)


def test_live_and_replay_agree_in_float32(lens, tmp_path):
    store = rl.capture(lens, PROMPTS, tmp_path / "s", max_new_tokens=12)
    rl.replay(lens, store, store)
    pairs = store.sql(
        "select source_trace_id, trace_id from traces where source_trace_id is not null order by 1"
    ).fetchall()
    assert len(pairs) == len(PROMPTS)
    for live, again in pairs:
        assert_same(store.trace(live), store.trace(again))
    modes = store.sql("select mode from runs order by started").fetchall()
    assert modes == [("live",), ("replay",)]


def test_every_token_has_one_row_on_every_layer(lens, tmp_path):
    store = rl.capture(lens, PROMPTS, tmp_path / "s", max_new_tokens=9)
    rows = store.sql(
        "select count(*) from tokens cross join (select unnest(sparse_layers) as layer from runs) "
        "left join routing using (trace_id, pos, layer) where expert_ids is null"
    ).fetchall()
    assert rows == [(0,)]
    counts = store.sql(
        "select (select count(*) from routing), 3 * count(*), "
        "(select count(*) from router_logits), "
        "(select count(*) from heads), 4 * count(*) from tokens"
    ).fetchall()[0]
    assert counts[0] == counts[1] == counts[2]
    assert counts[3] == counts[4]


@pytest.mark.parametrize("attention", few(["eager", "flex_attention", "ringlens"], 1))
def test_kernels_record_the_same(attention, lens, tmp_path):
    register_attention()
    other = tiny_lens.lens(attention=attention)
    a = rl.capture(lens, PROMPTS[:2], tmp_path / "a", max_new_tokens=8)
    with golden_data.interpreted():
        b = rl.capture(other, PROMPTS[:2], tmp_path / "b", max_new_tokens=8)
    for trace_id in (1, 2):
        assert_same(a.trace(trace_id), b.trace(trace_id))


def test_sampling_depends_on_the_seed_and_not_on_the_batch(lens, tmp_path):
    def tokens(name, **options):
        store = rl.capture(lens, PROMPTS, tmp_path / name, max_new_tokens=8, **options)
        return [
            row[0]
            for row in store.sql(
                "select list(token_id order by pos) from tokens group by trace_id order by trace_id"
            ).fetchall()
        ]

    drawn = tokens("a", temperature=1.0, seed=5)
    assert drawn == tokens("b", temperature=1.0, seed=5, batch_size=1)
    assert drawn != tokens("c", temperature=1.0, seed=6)
    assert tokens("d", temperature=1.0, top_k=1, seed=5) == tokens("e")
    assert tokens("f", temperature=1.0, top_p=1e-6, seed=5) == tokens("g")


def test_gumbel_noise_draws_from_the_softmax():
    from ringlens.observe.sampling import GumbelSampler

    logits = torch.tensor([[0.0, 1.0, 2.0]])
    sampler = GumbelSampler([7], [0])
    draws = torch.stack(
        [sampler(torch.empty(1, position), logits).argmax(-1) for position in range(20_000)]
    ).flatten()
    share = draws.bincount(minlength=3) / len(draws)
    assert (share - logits[0].softmax(0)).abs().max() < 0.015


def test_observing_leaves_the_model_as_it_was(lens, tmp_path):
    def state():
        hooks = [
            (
                len(m._forward_hooks),
                len(m._forward_pre_hooks),
                sorted(set(m.__dict__) - {"training"}),
            )
            for m in lens.model.modules()
        ]
        weights = {k: v.clone() for k, v in lens.model.state_dict().items()}
        return hooks, weights, lens.model.config._attn_implementation, torch.get_num_threads()

    before = state()
    rl.capture(lens, PROMPTS[:1], tmp_path / "s", max_new_tokens=4)
    after = state()
    assert before[0] == after[0]
    assert before[2:] == after[2:]
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])


def test_an_interrupt_keeps_what_was_committed_and_detaches(lens, tmp_path):
    def interrupt(progress):
        if progress.traces >= 2:
            seen.append(progress.traces)
            raise KeyboardInterrupt

    seen = []
    many = [f"{prompt} {i}" for i in range(20) for prompt in PROMPTS]  # the interrupt comes between
    with pytest.raises(KeyboardInterrupt):
        rl.capture(
            lens, many, tmp_path / "s", max_new_tokens=6, batch_size=1, on_progress=interrupt
        )
    store = rl.Store(tmp_path / "s")
    count = "select count(distinct trace_id) from "
    kept = store.sql(count + "traces").fetchall()[0][0]
    assert seen[0] <= kept < len(many)
    assert store.sql(count + "routing").fetchall() == [(kept,)]
    assert lens.model.config._attn_implementation == "sdpa"
    rl.capture(lens, PROMPTS[:1], tmp_path / "s", max_new_tokens=6)
    assert store.sql(count + "traces").fetchall() == [(kept + 1,)]


def test_record_leaves_out(lens, tmp_path):
    store = rl.capture(lens, PROMPTS[:1], tmp_path / "s", max_new_tokens=4, record=["routing"])
    trace = store.trace(1)
    assert len(trace.routing(1)["expert_ids"]) == 11
    with pytest.raises(NotInStoreError, match="router_logits"):
        trace.router_logits(1)
    with pytest.raises(NotInStoreError, match="heads"):
        trace.heads(1)


def test_blocks_of_head_statistics_are_recorded_alone_or_with_heads(lens, tmp_path):
    def blocks(name, record):
        store = rl.capture(lens, PROMPTS[:1], tmp_path / name, max_new_tokens=80, record=record)
        (recorded,) = store.sql("select record from runs").fetchall()[0]
        return recorded, store.trace(1)

    recorded, alone = blocks("alone", ["head_blocks"])
    assert recorded == ["head_blocks"]
    with pytest.raises(NotInStoreError, match="heads was not recorded"):
        alone.heads(1)
    recorded, whole = blocks("whole", ["heads"])
    assert recorded == ["heads", "head_blocks"]
    for layer in range(4):
        a, b = alone.head_blocks(layer), whole.head_blocks(layer)
        assert a["n"].tolist() == b["n"].tolist() == [64, len(whole) - 64]
        for name in STATISTICS:
            np.testing.assert_allclose(a[f"{name}_mean"], b[f"{name}_mean"], rtol=2e-3, atol=1e-5)
            largest = whole.heads(layer)[name][:64].max(axis=0)
            np.testing.assert_array_equal(b[f"{name}_max"][0], largest)


def test_problems_are_graded_and_texts_replayed(lens, tmp_path):
    problem = Problem("p1", "copy", PROMPTS[1], answer="nothing")
    store = rl.capture(lens, [problem], tmp_path / "s", max_new_tokens=4)
    summary = store.trace(1).summary
    assert (summary["problem_id"], summary["correct"], summary["expected"]) == (
        "p1",
        False,
        "nothing",
    )
    text = "t5. t6. <think> t7. t8. </think> t9."
    replayed = rl.replay(lens, [text], tmp_path / "texts").trace(1)
    assert replayed.text == text
    assert list(replayed.tokens()["phase"]) == ["prompt"] * 2 + ["think"] * 4 + ["answer"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lens, d: rl.capture(lens, [], d), "at least one"),
        (lambda lens, d: rl.capture(lens, "countdown", d), "names problems"),
        (lambda lens, d: rl.capture(lens, PROMPTS, d, max_new_token=3), "max_new_tokens"),
        (lambda lens, d: rl.capture(lens, PROMPTS, d, temperature=-1), "temperature"),
        (lambda lens, d: rl.capture(lens, PROMPTS, d, record=["head"]), "heads"),
        (lambda lens, d: rl.capture(lens, PROMPTS, d, batch_size=0), "batch_size"),
        (lambda lens, d: rl.replay(lens, "text", d), "list of texts"),
        (lambda lens, d: rl.replay(lens, [""], d), "empty text"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(call, message, lens, tmp_path):
    with pytest.raises(ConfigError, match=message):
        call(lens, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_progress_counts_tokens_of_traces_not_padding_nor_steps_behind_an_end(lens, tmp_path):
    new = [plain_greedy(lens, p, 12)[-12:] for p in PROMPTS]
    early = next(t for i, t in enumerate(new[0]) if 2 <= i < 9 and all(t not in n for n in new[1:]))
    seen = []
    lens.model.generation_config.eos_token_id = [early]
    try:
        store = rl.capture(
            lens, PROMPTS, tmp_path / "s", max_new_tokens=12, on_progress=seen.append
        )
    finally:
        lens.model.generation_config.eos_token_id = 1
    tokens = store.sql("select count(*) from tokens").fetchall()[0][0]
    assert seen[-1].tokens == tokens < 4 * (10 + 12)
    rl.replay(lens, store, store, on_progress=seen.append)
    assert seen[-1].tokens == tokens


def test_a_run_that_ends_puts_its_small_files_together(lens, tmp_path, monkeypatch):
    monkeypatch.setattr("ringlens.store.maintain.compact.MANY", 2)
    options = {"max_new_tokens": 2, "batch_size": 1, "commit_every": 0, "record": ["routing"]}
    store = rl.capture(lens, PROMPTS, tmp_path / "s", **options)
    assert len(store.files("routing")) == 1
    assert store.sql("select count(distinct trace_id) from routing").fetchall() == [(4,)]
