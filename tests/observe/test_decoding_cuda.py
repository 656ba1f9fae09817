"""Decoding by a CUDA graph: the same tokens and records as eagerly."""

import pytest
import tiny_lens
import torch
from repeating import EVERYTHING, interrupt_behind_a_block, repeated, rows, same_tables
from sessions import PROMPTS, assert_same

import ringlens as rl
from ringlens.lens import Lens
from ringlens.observe.decoding import generating
from ringlens.observe.decoding.attention import Filled
from ringlens.observe.decoding.graph import AsGraph

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def on_gpu(dtype=torch.float32):
    lens = tiny_lens.lens()
    lens.model.set_experts_implementation("grouped_mm")
    return Lens(lens.model.to("cuda", dtype), lens.tokenizer, lens.name)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_graph_records_what_generate_records(temperature, tmp_path, monkeypatch):
    monkeypatch.setattr(generating, "ROOM", 64)
    options = {
        "max_new_tokens": 200,
        "record": EVERYTHING,
        "commit_every": 3600,  # a block of heads that a commit cuts has two rows
        "temperature": temperature,
        "top_p": 0.95 if temperature else 1.0,
        "top_k": 100 if temperature else 0,
    }
    lens = on_gpu()
    eager = rl.capture(lens, PROMPTS, tmp_path / "eager", **options, decode="eager")
    graph = rl.capture(lens, PROMPTS, tmp_path / "graph", **options, decode="graph")
    same_tables(eager, graph)


def test_a_graph_repeats_the_step_as_it_stands_bit_for_bit(tmp_path):
    """In 16 bits too; two runs of the same kernels, one launched by Python."""
    options = {"max_new_tokens": 100, "temperature": 1.0, "record": EVERYTHING}
    lens = on_gpu(torch.bfloat16)
    with repeated():
        step = rl.capture(lens, PROMPTS, tmp_path / "step", **options)
    with repeated(AsGraph):
        graph = rl.capture(lens, PROMPTS, tmp_path / "graph", **options)
    for table in ("tokens", "routing", "router_logits", "heads", "activations", "attention"):
        assert repr(rows(step, table)) == repr(rows(graph, table)), table


def test_a_run_taken_up_by_a_graph_equals_one_that_was_not_interrupted(tmp_path):
    options = {"max_new_tokens": 150, "batch_size": 4, "temperature": 1.0, "seed": 3}
    options |= {"decode": "graph", "commit_every": 0}
    lens = on_gpu()
    whole = rl.capture(lens, PROMPTS, tmp_path / "whole", **options)
    interrupt = interrupt_behind_a_block(tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        rl.capture(lens, PROMPTS, tmp_path / "s", **options, on_progress=interrupt)
    again = rl.capture(lens, PROMPTS, tmp_path / "s", **options)
    for table in ("tokens", "routing", "router_logits"):
        assert repr(rows(whole, table)) == repr(rows(again, table)), table


@pytest.mark.parametrize("quantization", ["nf4", "nf4-double"])
def test_experts_in_4_bits_are_decoded_as_a_graph(quantization, tmp_path):
    pytest.importorskip("bitsandbytes")
    lens = rl.load("ring-nano", quantization=quantization, device="cuda")
    options = {"max_new_tokens": 100, "record": ("logprobs", "routing", "router_logits", "heads")}
    eager = rl.capture(lens, PROMPTS, tmp_path / "eager", **options, decode="eager")
    graph = rl.capture(lens, PROMPTS, tmp_path / "graph", **options, decode="graph")
    for trace_id in range(1, len(PROMPTS) + 1):
        assert_same(eager.trace(trace_id), graph.trace(trace_id))


@pytest.mark.parametrize("pads", [(0,), (0, 3, 40), (7, 7, 0, 1, 12)])
@pytest.mark.parametrize(("heads", "kv_heads", "C"), [(4, 2, 64), (16, 4, 128), (8, 8, 32)])
@pytest.mark.parametrize("capacity", [256, 4096])
def test_attention_in_place_is_that_under_a_mask(pads, heads, kv_heads, C, capacity):
    """As near to exact attention as torch's is; at several positions of one graph."""
    B, device = len(pads), "cuda"
    pads_B = torch.tensor(pads, device=device)
    key, value = torch.randn(2, B, capacity, kv_heads, C, device=device).bfloat16().transpose(2, 3)
    query = torch.randn(B, heads, 1, C, device=device).bfloat16()
    mask = torch.zeros(B, 1, 1, capacity, device=device)
    filled, position = Filled(pads_B, mask), torch.zeros(1, dtype=torch.int64, device=device)

    def run():
        filled.upto(position)
        return filled.attention(query, key, value, C**-0.5)

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    for at in (40, 41, 200, capacity - 1):
        position.fill_(at)
        graph.replay()
        places = torch.arange(capacity, device=device)
        seen = (places >= pads_B[:, None]) & (places <= at)
        repeat = heads // kv_heads
        k, v = (x.double().repeat_interleave(repeat, dim=1) for x in (key, value))
        scores = (query.double() @ k.mT * C**-0.5).masked_fill(~seen[:, None, None], -torch.inf)
        wanted = (scores.softmax(dim=-1) @ v).transpose(1, 2)
        torch.testing.assert_close(found.double(), wanted, atol=2e-2, rtol=2e-2)
