"""Sessions on a GPU: copies on a side stream, statistics from the fused kernels."""

import numpy as np
import pytest
import tiny_lens
import torch
from sessions import PROMPTS, assert_same

import ringlens as rl
from ringlens.errors import ObservationError
from ringlens.lens import Lens
from ringlens.observe.instruments.logprobs import surprise
from ringlens.observe.kernels.attention_interface import register_attention
from ringlens.observe.tasks import Text

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def on_gpu(dtype=torch.float32, attention="sdpa"):
    register_attention()
    lens = tiny_lens.lens(attention=attention)
    return Lens(lens.model.to("cuda", dtype), lens.tokenizer, lens.name)


def test_a_gpu_records_what_the_cpu_records(tmp_path):
    cpu = rl.capture(tiny_lens.lens(), PROMPTS, tmp_path / "cpu", max_new_tokens=80)
    gpu = rl.capture(on_gpu(), PROMPTS, tmp_path / "gpu", max_new_tokens=80)
    for trace_id in range(1, 5):
        assert_same(cpu.trace(trace_id), gpu.trace(trace_id))
    again = rl.replay(on_gpu(), gpu, tmp_path / "again")
    for trace_id in range(1, 5):
        assert_same(gpu.trace(trace_id), again.trace(trace_id))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_over_two_gpus_records_what_it_records_on_one(tmp_path):
    one = rl.capture(
        rl.load("ring-nano", device="cuda:0", dtype="float32"),
        PROMPTS,
        tmp_path / "one",
        max_new_tokens=80,
    )
    lens = rl.load("ring-nano", device_map="balanced", dtype="float32")
    assert len({p.device for p in lens.model.parameters()}) == 2
    two = rl.capture(lens, PROMPTS, tmp_path / "two", max_new_tokens=80)
    for trace_id in range(1, 5):
        assert_same(one.trace(trace_id), two.trace(trace_id))


@pytest.mark.parametrize("V", [37, 4096, 10_001])
def test_the_kernel_of_log_probabilities_against_float64(V):
    g = torch.Generator("cuda").manual_seed(0)
    logits = (torch.randn(3, 5, V, generator=g, device="cuda") * 4).bfloat16()
    logits[0, 0, 1:] = -torch.inf
    logits[1, 2, 5:9] = -torch.inf
    ids = torch.randint(0, 5, (3, 5), generator=g, device="cuda")
    ids[0, 0] = 0
    logprob, entropy = surprise(logits, ids)
    logp = logits.double().log_softmax(-1)
    wanted = logp.gather(-1, ids[..., None])[..., 0]
    plogp = torch.where(logp > -torch.inf, logp.exp() * logp, 0.0)
    torch.testing.assert_close(logprob.double(), wanted, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(entropy.double(), -plogp.sum(-1), rtol=1e-5, atol=2e-5)


def test_observing_with_the_fused_kernel_changes_no_output(tmp_path):
    """In 16 bits its statistics are those of sdpa's second pass, up to rounding."""
    fused, plain = on_gpu(torch.bfloat16, "ringlens"), on_gpu(torch.bfloat16)
    ids = torch.tensor([list(range(10, 200))], device="cuda")
    text = Text(ids[0].tolist())
    with torch.inference_mode():
        unobserved = fused.model(ids).logits
    stores = [
        rl.replay(lens, [text], tmp_path / name)
        for name, lens in (("fused", fused), ("plain", plain))
    ]
    with torch.inference_mode():
        assert torch.equal(unobserved, fused.model(ids).logits)
    a, b = (store.trace(1).heads(0) for store in stores)
    for name in ("entropy", "first_weight", "previous_weight"):
        np.testing.assert_allclose(a[name], b[name], atol=2e-2, err_msg=name)


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_run_taken_up_on_a_gpu_equals_one_that_was_not_interrupted(tmp_path, after):
    """Tokens and routing bit for bit: the interrupted batch is decoded again as it was."""
    options = {"max_new_tokens": 40, "batch_size": 2, "temperature": 1.0, "seed": 3}
    whole = rl.capture(on_gpu(), PROMPTS, tmp_path / "whole", **options)
    seen = []

    def interrupt(progress):
        seen.append(progress)
        if len(seen) > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rl.capture(
            on_gpu(), PROMPTS, tmp_path / "s", **options, commit_every=0, on_progress=interrupt
        )
    again = rl.capture(on_gpu(), PROMPTS, tmp_path / "s", **options, commit_every=0)
    for table in ("tokens", "routing", "router_logits"):
        rows = [
            store.sql(
                f"select t.item, k.* exclude (trace_id) from {table} k join traces t "
                "using (trace_id) order by all"
            ).fetchall()
            for store in (whole, again)
        ]
        assert repr(rows[0]) == repr(rows[1]), table


def test_numbers_that_are_none_stop_a_run_on_a_gpu(tmp_path):
    lens = on_gpu()
    with torch.no_grad():
        lens.model.model.layers[2].mlp.gate.weight[0] = torch.nan
    with pytest.raises(ObservationError, match="layer 2"):
        rl.capture(lens, PROMPTS, tmp_path / "s", max_new_tokens=8)
