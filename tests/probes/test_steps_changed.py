"""Suppression, the logit lens and resampling against plain forwards, and their tables."""

import json
import shutil

import numpy as np
import probed
import pytest
import torch
import warm
from torchrun_environment import environment

import ringlens as rl
from ringlens.analysis.importance.agreement import importance_agreement
from ringlens.analysis.importance.importance import importance
from ringlens.analysis.importance.resampling import resampling
from ringlens.analysis.importance.settling import settling
from ringlens.analysis.importance.suppression import suppression, suppression_matrix
from ringlens.errors import ConfigError, StoreError
from ringlens.probes.chain.thought import read_thought
from ringlens.probes.resampling import half_width

SAMPLES = {"every": 3, "least": 3, "most": 6, "precision": 0.3, "max_new_tokens": 60}


@pytest.fixture(scope="module")
def lens():
    return rl.load(probed.MODEL)


@pytest.fixture(scope="module")
def store(lens, tmp_path_factory):
    path = tmp_path_factory.mktemp("probed") / "s"
    with probed.captured(lens, path) as opened:
        with pytest.raises(StoreError, match="no results of the probe 'suppression'"):
            importance(opened)
        rl.probe("suppression", lens, opened)
        rl.probe("logit_lens", lens, opened, traces=[1])
        rl.probe("resampling", lens, opened, traces=[1], **SAMPLES)
        yield opened


def hidden_logits(lens, thought, step):
    """Logits of a whole thought in one forward, a step being hidden from all behind it."""
    T = len(thought.token_ids)
    lost = torch.ones(T, T, dtype=torch.bool).triu(1)
    if step is not None:
        lost[step.end :, step.first : step.end] = True
    mask = torch.zeros(T, T).masked_fill(lost, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        out = lens.model(
            torch.tensor([thought.token_ids]), attention_mask=mask[None, None], use_cache=False
        )
    return out.logits[0].double().log_softmax(-1)


def test_hidden_steps_change_what_they_change_in_plain_forwards(lens, store):
    thought = read_thought(store, 1)
    base = hidden_logits(lens, thought, None)
    matrix = suppression_matrix(store).query("trace_id == 1").set_index(["step", "changed_step"])
    answer = probed.rows(store, "suppression").query("trace_id == 1")
    ids = torch.tensor(thought.token_ids)
    for hidden in (thought.steps[1], thought.steps[-2]):
        without = hidden_logits(lens, thought, hidden)
        kl = (base.exp() * (base - without)).sum(-1).clamp(min=0)
        assert kl[: hidden.end].max() < 1e-9
        for step in thought.steps:
            if step.first >= hidden.end:
                # Near nothing the logarithm sees rounding, so it is compared where there is more.
                own = kl[step.first : step.end]
                found = matrix.loc[(step.number, hidden.number), "log_kl"]
                if own.min() > 1e-5:
                    assert found == pytest.approx(float((own + 1e-9).log().mean()), abs=0.05)
        first = thought.answer_first
        told = (base - without)[first - 1 : -1].gather(-1, ids[first:, None]).sum()
        (drop,) = answer.query("changed_step == @hidden.number and key == 'answer_drop'")["value"]
        assert drop == pytest.approx(float(told), abs=1e-4)
    rows = matrix.reset_index()
    assert (rows["changed_step"] < rows["step"]).all()
    assert np.allclose(rows.groupby("step")["effect"].mean(), 0, atol=1e-9)


def test_a_walk_back_from_the_answer_comes_by_a_step_with_a_probability(store):
    frame = suppression(store)
    assert frame.attrs["traces"] == 2 and "steps hidden" in frame.attrs["said"]
    for _, own in frame.groupby("trace_id"):
        assert np.isnan(own["reach"].iloc[0]) and own["reach"].iloc[1:].between(0, 1 + 1e-9).all()
        # Walks come by the last step or pass it, going from the answer somewhere.
        assert own["reach"].iloc[1:].max() > 0.3
        assert own["later"].tolist()[0] == len(own) - 2 and own["later"].iloc[-1] == 0


def test_depths_are_those_of_the_residual_stream_read_early(lens, store):
    thought = read_thought(store, 1)
    ids = list(thought.token_ids[: thought.steps[-1].end])
    logits, cache = lens.run_with_cache([ids], "resid_post")
    final = logits[0].double().softmax(-1)
    found = probed.rows(store, "logit_lens")
    step = thought.steps[2]
    L = lens.sizes.layers
    own = slice(step.first - 1, step.end - 1)
    early = []
    for layer in range(L):
        with torch.inference_mode():
            read = lens.model.lm_head(lens.model.model.norm(cache["resid_post", layer][0]))
        p = read.double().softmax(-1)
        mean = (p + final) / 2
        kl = [(q * (q.clamp(min=1e-300).log2() - mean.log2())).sum(-1) for q in (p, final)]
        early.append((kl[0] + kl[1]) / 2)
        here = found.query("key == 'divergence' and layer == @layer and step == @step.number")
        assert here["value"].item() == pytest.approx(float(early[-1][own].mean()), abs=1e-4)
    wanted = (torch.stack(early)[:, own] <= 0.5).double().argmax(0)
    depths = found.query("key == 'depth' and step == @step.number").sort_values("pos")
    assert depths["pos"].tolist() == list(range(step.first, step.end))
    assert depths["value"].tolist() == wanted.tolist()
    frame = settling(store)
    row = frame[frame["step"] == step.number].iloc[0]
    assert row["depth"] == pytest.approx(float(wanted.double().mean()))
    assert len(row["divergence"]) == L and row["divergence"][-1] == pytest.approx(0, abs=1e-5)
    assert f"{frame.attrs['traces']} thoughts" in frame.attrs["said"]


def test_samples_follow_from_their_seeds_and_stop_when_the_answer_is_clear(lens, store, tmp_path):
    thought = read_thought(store, 1)
    found = probed.rows(store, "resampling").query("key == 'rollout'")
    sizes = found.groupby("step").size()
    assert sizes.index.tolist() == [step for step, _ in thought.ends[::3]]
    for step, own in found.groupby("step"):
        said = [json.loads(text) for text in own["json"]]
        answers = [each["answer"] for each in said]
        most = max(answers.count(answer) for answer in answers)
        assert len(own) == 6 or half_width(most, len(own)) <= 0.3, step
        assert all(each["text"] or each["tokens"] < 20 for each in said)
        known = own["value"].map({1.0: True, 0.0: False}).tolist()
        assert [each["correct"] for each in said] == known
    with rl.Store(shutil.copytree(store.path, tmp_path / "s")) as again:
        rl.probe("resampling", lens, again, traces=[1], batch_size=4, again=True, **SAMPLES)
        probed.same(probed.rows(again, "resampling"), probed.rows(store, "resampling"))
        rl.probe("resampling", lens, again, traces=[1], again=True, **SAMPLES | {"seed": 1})
        other = probed.rows(again, "resampling")
        assert other["json"].tolist() != probed.rows(store, "resampling")["json"].tolist()


def test_importances_stand_beside_their_controls(store):
    frame = importance(store)
    assert frame.attrs["measures"][:2] == ["suppression", "reach"]
    assert frame.attrs["headroom"] == "resampling" and frame.attrs["traces"] == 2
    changed = resampling(store).set_index("step")
    own = frame[frame["trace_id"] == 1].set_index("step")
    for step, row in changed.iterrows():
        assert own.loc[step, "resampling"] == row["divergence"]
        assert own.loc[step, "headroom"] == row["headroom"] >= 0
        assert 0 <= row["reproduced"] <= 1 and 0 <= row["divergence"] <= 1
    assert own["position"].iloc[[0, -1]].tolist() == [0, 1]
    compared = importance_agreement(frame, controls=("position", "tokens"), draws=50)
    pair = compared.query("first == 'suppression' and second == 'reach'").iloc[0]
    assert pair["steps"] > 8 and -1 <= pair["low"] <= pair["rank"] <= pair["high"] <= 1


def test_what_cannot_be_is_refused(lens, store):
    with pytest.raises(ConfigError, match="temperature = 0 writes the same again"):
        rl.probe("resampling", lens, store, temperature=0)
    with pytest.raises(ConfigError, match="most = 4"):
        rl.probe("resampling", lens, store, most=4)
    with pytest.raises(ConfigError, match="threshold = 2"):
        rl.probe("logit_lens", lens, store, threshold=2)


@pytest.mark.extra
def test_two_processes_share_the_thoughts_out(store, tmp_path):
    path = shutil.copytree(store.path, tmp_path / "s")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    words += ["ringlens.cli", "probe", "suppression", probed.MODEL, path, "--again"]
    done = warm.run([*words, "--floor", "1e-8"], env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("traces to measure") == 1 and "in this process" in done.stderr
    with rl.Store(path) as shared:
        counts = "select trace_id, count(*) from probes where probe = 'suppression' group by all"
        assert sorted(shared.sql(counts).fetchall()) == sorted(store.sql(counts).fetchall())
        with rl.Store(shutil.copytree(store.path, tmp_path / "alone")) as alone:
            rl.probe("suppression", rl.load(probed.MODEL), alone, again=True, floor=1e-8)
            probed.same(
                probed.rows(shared, "suppression"), probed.rows(alone, "suppression"), atol=1e-6
            )
