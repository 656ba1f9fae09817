"""Decoding by a CUDA graph: the same tokens and records as eagerly."""

import pytest
import tiny_lens
import torch
from repeating import EVERYTHING, interrupt_behind_a_block, repeated, rows, same_tables
from sessions import PROMPTS

import ringlens as rl
from ringlens.lens import Lens
from ringlens.observe.decoding import generating
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
