"""ring-nano: tokenizer, training data, training, and the shipped model."""

import json
from functools import cache
from itertools import islice

import numpy as np
import pytest
import torch
import warm
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from ringlens.data import corpus, path, score, tokenizer, train
from ringlens.data.forward import Forward, loads
from ringlens.data.tasks import graphs, mix

NANO = path("ring-nano")


@cache
def built():
    return tokenizer.build()


@cache
def traces():
    return list(islice(mix.traces(seed=21), 120))


@given(st.text(max_size=80))
def test_any_text_round_trips(text):
    ids = built().encode(text).ids
    assert built().decode(ids, skip_special_tokens=False) == text


def test_every_number_is_one_token_wherever_it_stands():
    for number in range(1000):
        alone = built().encode(str(number)).ids
        assert len(alone) == 1
        assert alone[0] in built().encode(f"Let me try {number} + 2, {number}.").ids
        assert built().encode(f"({number}) - {number}").ids.count(alone[0]) == 2
    assert built().encode("1000").tokens == ["100", "0"]


def test_traces_are_whole_words_and_numbers():
    bytes_alone = {token for token, index in built().get_vocab().items() if index < 256}
    for trace in traces():
        text = tokenizer.render(trace.prompt, trace.completion)
        encoding = built().encode(text)
        assert built().decode(encoding.ids, skip_special_tokens=False) == text
        split = {token for token in encoding.tokens if token in bytes_alone and token.isalpha()}
        assert split <= {*graphs.NODES, "x", "Ċ"}
        assert len(encoding.ids) < 700


def test_markup_is_single_tokens():
    text = tokenizer.render("Hi", "<think>\nhm\n</think>\nyes")
    tokens = built().encode(text).tokens
    for mark in ("<role>", "</role>", "<think>", "</think>", "<|role_end|>"):
        assert mark in tokens
    ids = built().encode(text).ids
    assert (
        built().decode(ids, skip_special_tokens=True)
        == "HUMANHiASSISTANT<think>\nhm\n</think>\nyes"
    )


def test_shipped_tokenizer_is_the_built_one_and_loads_with_transformers():
    shipped = json.loads((NANO / "tokenizer.json").read_text())
    assert shipped == json.loads(built().to_str())
    tok = AutoTokenizer.from_pretrained(NANO)
    assert (tok.eos_token, tok.pad_token, tok.padding_side) == (
        "<|role_end|>",
        "<|endoftext|>",
        "left",
    )
    for trace in traces():
        text = tokenizer.render(trace.prompt, trace.completion)
        assert tok(text)["input_ids"] == built().encode(text).ids
        chat = [{"role": "user", "content": trace.prompt}]
        opened = tok.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert opened.endswith("<role>ASSISTANT</role><think>\n")
        assert text.startswith(opened)
        chat.append({"role": "assistant", "content": trace.completion})
        assert tok.apply_chat_template(chat, tokenize=False) == text


def test_corpus_takes_no_loss_on_prompts_and_marked_mistakes():
    shard = corpus.encode(built(), traces())
    assert shard.lengths.sum() == len(shard.tokens)
    start, marked = 0, 0
    for trace, length in zip(traces(), shard.lengths, strict=True):
        tokens = shard.tokens[start : start + length]
        start += length
        ids, learnt = tokens & ~corpus.UNLEARNT, tokens < corpus.UNLEARNT
        assert ids.tolist() == built().encode(tokenizer.render(trace.prompt, trace.completion)).ids
        given = ids.tolist().index(built().token_to_id("<think>")) + 2
        assert not learnt[:given].any()
        left_out = built().decode(ids[given:][~learnt[given:]].tolist())
        wanted = "".join(trace.completion[begin:end] for begin, end in trace.unlearnt)
        assert left_out.replace(" ", "") == wanted.replace(" ", "")
        marked += bool(wanted)
    assert marked > 30


def test_batches_hold_every_token_once():
    shard = corpus.encode(built(), traces())
    learnt = int((shard.tokens < corpus.UNLEARNT).sum())
    rows, targets = [], 0
    for batch in corpus.batches(shard, 3000, 7, np.random.default_rng(0)):
        B, T = batch.input_ids_BT.shape
        assert B * T <= 3000
        assert batch.lengths_B.max() == T
        flat = batch.input_ids_BT.ravel()
        assert (flat[batch.positions_P + 1] == batch.targets_P).all()
        assert (batch.input_ids_BT[np.arange(T) >= batch.lengths_B[:, None]] == 7).all()
        rows += [
            row[:n].tolist() for row, n in zip(batch.input_ids_BT, batch.lengths_B, strict=True)
        ]
        targets += len(batch.targets_P)
    assert targets == learnt
    wanted = [built().encode(tokenizer.render(t.prompt, t.completion)).ids for t in traces()]
    assert sorted(rows) == sorted(wanted)


def tiny() -> train.BailingMoeV2Config:
    config = train.ring_nano(built()).to_dict()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    experts = {"num_experts": 8, "moe_intermediate_size": 16}
    return train.BailingMoeV2Config(**{**config, **sizes, **heads, **experts})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model, trained for a few steps and saved: (folder, log)."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = train.Recipe(tokens=9000, batch_tokens=1024, workers=1, warmup_steps=2)
    before = corpus.TRACES_IN_SHARD, train.LOG_EVERY
    corpus.TRACES_IN_SHARD, train.LOG_EVERY = 100, 1
    try:
        model, log = train.train(tiny(), recipe, "cpu")
    finally:
        corpus.TRACES_IN_SHARD, train.LOG_EVERY = before
    train.save(folder, model, recipe, log)
    return folder, log


def test_training_learns_and_saves_the_published_form(trained):
    folder, log = trained
    assert log[-1]["loss"] < log[0]["loss"] - 0.3
    with safe_open(folder / "model.safetensors", "pt") as file:
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert "model.layers.1.mlp.experts.7.gate_proj.weight" in dtypes
    bias = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert bias == {"model.layers.1.mlp.gate.expert_bias"}
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "bailing_moe"
    assert config["architectures"] == ["BailingMoeV2ForCausalLM"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.model.layers[1].mlp.gate.expert_bias.abs().max() > 0
    assert model.generation_config.eos_token_id == built().token_to_id("<|role_end|>")


def test_load_balancer_follows_the_sign_rule():
    torch.manual_seed(0)
    model = train.BailingMoeV2ForCausalLM(tiny())
    balancer = train.LoadBalancer(model)
    with torch.no_grad():
        _, chosen_LNk = Forward(model, compiled=False).hidden(torch.randint(0, 1000, (2, 30)))
    load_LE = loads(chosen_LNk, torch.arange(60) < 50, experts=8)
    ids = chosen_LNk[0, :50].flatten().tolist()
    load = [ids.count(expert) for expert in range(8)]
    assert load_LE.tolist() == [load]
    balancer.step(load_LE, 0.25)
    mean = sum(load) / 8
    wanted = [0.25 * ((mean > n) - (mean < n)) for n in load]
    assert model.model.layers[1].mlp.gate.expert_bias.tolist() == wanted


def test_forward_of_training_is_the_models():
    torch.manual_seed(1)
    model = train.BailingMoeV2ForCausalLM(tiny()).eval()
    for layer in model.config.sparse_layers:
        model.model.layers[layer].mlp.gate.expert_bias.normal_(std=0.1)
    input_ids = torch.randint(0, 1000, (2, 30))
    gates = [model.model.layers[layer].mlp.gate for layer in model.config.sparse_layers]
    seen = []
    for gate in gates:
        gate.register_forward_hook(lambda gate, args, output: seen.append(output[2]))
    with torch.no_grad():
        wanted = model(input_ids).logits
        hidden, chosen_LNk = Forward(model, compiled=False).hidden(input_ids)
    torch.testing.assert_close(model.lm_head(hidden), wanted, rtol=1e-4, atol=1e-5)
    assert [ids.sort(dim=1).values.tolist() for ids in chosen_LNk] == [
        ids.sort(dim=1).values.tolist() for ids in seen
    ]


def test_shipped_model_is_small_and_published_form():
    size = sum(file.stat().st_size for file in NANO.glob("*.safetensors"))
    assert 25e6 < size <= 30e6
    config = json.loads((NANO / "config.json").read_text())
    assert config["model_type"] == "bailing_moe"
    assert config["architectures"] == ["BailingMoeV2ForCausalLM"]
    assert config["dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(NANO, dtype="auto")
    assert model.dtype == torch.bfloat16
    for layer in model.config.sparse_layers:
        bias = model.model.layers[layer].mlp.gate.expert_bias
        assert bias.dtype == torch.float32
        assert bias.std() > 1e-3


@pytest.mark.slow
@pytest.mark.extra
def test_shipped_model_solves_heldout_problems():
    found = score.scores(NANO, n=5, batch=5, longest=640, device="cpu")
    for kind, told in found.items():
        assert told["accuracy"] >= (0.6 if kind == "four numbers" else 0.8), kind


@pytest.mark.extra
def test_scoring_is_one_command():
    done = warm.run(["-m", "ringlens.data.score", "--n", "1", "--batch", "1", "--longest", "110"])
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == [kind.name for kind in mix.KINDS]
