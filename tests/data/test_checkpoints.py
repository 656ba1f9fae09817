"""The shipped checkpoints: ring-nano before and after reinforcement learning."""

import json

import torch

import ringlens as rl
from ringlens.data import path, tokenizer

NAMES = ("ring-nano-base", "ring-nano")
TOK = tokenizer.build()


def test_both_together_are_small_and_share_one_tokenizer():
    size = 0
    for name in NAMES:
        folder = path(name)
        size += sum(file.stat().st_size for file in folder.iterdir())
        assert json.loads((folder / "tokenizer.json").read_text()) == json.loads(TOK.to_str())
        assert (folder / "README.md").is_file()
    assert size < 60e6


def test_they_load_by_name_and_differ():
    base, after = (rl.load(name) for name in NAMES)
    assert base.model.dtype == after.model.dtype == torch.float32
    pairs = zip(base.model.named_parameters(), after.model.parameters(), strict=True)
    changed = [name for (name, one), other in pairs if not torch.equal(one, other)]
    assert any("mlp.gate.weight" in name for name in changed)
    for layer in base.model.config.sparse_layers:
        biases = [lens.model.model.layers[layer].mlp.gate.expert_bias for lens in (base, after)]
        assert torch.equal(*biases)  # reinforcement leaves them


def test_the_log_tells_how_they_were_made():
    base, after = (json.loads((path(name) / "training.json").read_text()) for name in NAMES)
    assert base["recipe"]["init"] == ""
    assert after["recipe"]["init"] == "ring-nano-base"
    assert after["log"][-1]["reward"] > after["log"][0]["reward"]


def test_captures_of_every_task_are_graded(tmp_path):
    lens = rl.load("ring-nano")
    asked = [rl.problems(task, n=1)[0] for task in ("products", "graphs", "congruences")]
    store = rl.capture(lens, asked, tmp_path / "s", max_new_tokens=300)
    told = store.sql("select task, correct from traces").df()
    assert set(told["task"]) == {"products", "graphs", "congruences"}
    assert told["correct"].all()
