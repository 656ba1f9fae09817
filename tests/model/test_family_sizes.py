"""Every kind of checkpoint in the Ring family against a slow, plain reference; bad ones refused."""

import json

import plain_ring
import pytest
import torch
from golden_data import FOLDER, relative
from plain_ring import BASE
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import ringlens
from ringlens.errors import CheckpointError, ConfigError, ModelNotFoundError
from ringlens.model import BailingMoeV2Config
from ringlens.model.loading import load_model, read_config

YARN = {"factor": 4.0, "original_max_position_embeddings": 64}


def without(*names, **changes):
    return {k: v for k, v in {**BASE, **changes}.items() if k not in names}


FAMILY = {
    "ring-mini spelling": BASE,
    "ring-1t spelling: rotary_dim": without("partial_rotary_factor", rotary_dim=4),
    "both spellings that agree": {**BASE, "rotary_dim": 4},
    "whole head rotated": {**BASE, "partial_rotary_factor": 1.0},
    "yarn, type": {**BASE, "rope_scaling": {"type": "yarn", **YARN}},
    "yarn, rope_type": {**BASE, "rope_scaling": {"rope_type": "yarn", **YARN}},
    "yarn, rope_parameters": {
        **without("rope_scaling", "rope_theta", "partial_rotary_factor"),
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            **YARN,
        },
    },
    "qkv bias": {**BASE, "use_qkv_bias": True},
    "qkv and dense bias": {**BASE, "use_qkv_bias": True, "use_bias": True},
    "no qk norm": {**BASE, "use_qk_norm": False},
    "two shared experts": {**BASE, "num_shared_experts": 2},
    "no shared expert": {**BASE, "num_shared_experts": None},
    "a prediction layer": {**BASE, "num_nextn_predict_layers": 1},
    "no expert bias": {**BASE, "moe_router_enable_expert_bias": False},
    "no expert bias, not stated": without("moe_router_enable_expert_bias"),
    "tied embeddings": {**BASE, "tie_word_embeddings": True},
    "head_dim not stated": without("head_dim"),
    "as many kv heads": {**BASE, "num_key_value_heads": 4},
    "one group": {**BASE, "n_group": 1, "topk_group": 1},
    "one expert a token": {**BASE, "num_experts_per_tok": 1},
    "two dense layers": {**BASE, "first_k_dense_replace": 2},
    "all layers sparse": {**BASE, "first_k_dense_replace": 0},
}


@pytest.fixture(params=FAMILY, ids=lambda name: name.replace(" ", "_"))
def checkpoint(request, tmp_path):
    config = FAMILY[request.param]
    tensors = plain_ring.make_tensors(config)
    return plain_ring.write(tmp_path / "model", config, tensors), config, tensors


@pytest.mark.parametrize("layout", ["fused", "modules"])
def test_logits_equal_the_plain_reference(checkpoint, layout):
    folder, config, tensors = checkpoint
    ids = torch.randint(2, 96, (1, 11), generator=torch.Generator().manual_seed(1))
    model = AutoModelForCausalLM.from_pretrained(folder, experts_layout=layout).eval()
    with torch.inference_mode():
        logits = model(ids).logits[0]
    assert relative(logits.double(), plain_ring.logits(config, tensors, ids[0].tolist())) < 2e-5


@pytest.mark.parametrize("layout", ["fused", "modules"])
def test_saving_writes_the_published_names_bit_for_bit(checkpoint, layout, tmp_path):
    folder, config, tensors = checkpoint
    model = AutoModelForCausalLM.from_pretrained(folder, experts_layout=layout)
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    last = f"model.layers.{config['num_hidden_layers']}."
    wanted = {n: t for n, t in tensors.items() if not n.startswith(last)}
    made = {n for n in saved if n.endswith("expert_bias")} - set(wanted)  # zeros where none were
    assert set(saved) - made == set(wanted)
    assert all(torch.equal(saved[name], tensor) for name, tensor in wanted.items())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    ids = torch.arange(2, 20)[None]
    with torch.inference_mode():
        assert relative(again(ids).logits, model.eval()(ids).logits) < 1e-6
    assert again.config.rope_parameters == model.config.rope_parameters


def test_golden_config_survives_saving(tmp_path):
    published = json.loads((FOLDER / "config.json").read_text())
    AutoConfig.from_pretrained(FOLDER).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {k: saved[k] for k in published if k != "transformers_version"} == {
        k: v for k, v in published.items() if k != "transformers_version"
    }


def test_prediction_layers_are_skipped_with_one_line(tmp_path, caplog):
    config = FAMILY["a prediction layer"]
    folder = plain_ring.write(tmp_path, config, plain_ring.make_tensors(config))
    with caplog.at_level("WARNING", logger="ringlens"):
        AutoModelForCausalLM.from_pretrained(folder)
    assert [r.getMessage() for r in caplog.records].count(caplog.records[0].getMessage()) == 1
    assert "multi-token-prediction" in caplog.records[0].getMessage()


BAD_CONFIGS = {
    "v1": ({**BASE, "architectures": ["BailingMoeForCausalLM"]}, "BailingMoeForCausalLM"),
    "rotary spellings that disagree": ({**BASE, "rotary_dim": 8}, "rotated"),
    "experts do not divide": ({**BASE, "num_experts": 10}, "n_group"),
    "groups of one": ({**BASE, "n_group": 8, "topk_group": 4}, "at least 2 experts"),
    "more groups kept than there are": ({**BASE, "topk_group": 5}, "topk_group"),
    "more experts than the groups hold": (
        {**BASE, "num_experts_per_tok": 5},
        "num_experts_per_tok",
    ),
    "softmax scores": ({**BASE, "score_function": "softmax"}, "score_function"),
    "heads do not divide": ({**BASE, "num_key_value_heads": 3}, "num_key_value_heads"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_configs_are_refused(name, tmp_path):
    config, word = BAD_CONFIGS[name]
    plain_ring.write(tmp_path, config, {"model.norm.weight": torch.ones(32)})
    for load in (AutoConfig.from_pretrained, read_config, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(ConfigError, match=word):
            load(str(tmp_path))


@pytest.mark.parametrize(
    "lost",
    [
        "model.layers.1.mlp.experts.5.up_proj.weight",
        "model.layers.0.attention.dense.weight",
        "model.layers.2.mlp.gate.expert_bias",
        "lm_head.weight",
    ],
)
@pytest.mark.parametrize("layout", ["fused", "modules"])
def test_missing_tensor_is_refused_by_name(lost, layout, tmp_path):
    tensors = plain_ring.make_tensors(BASE)
    del tensors[lost]
    folder = plain_ring.write(tmp_path, BASE, tensors)
    with pytest.raises(CheckpointError, match=lost):
        AutoModelForCausalLM.from_pretrained(folder, experts_layout=layout)


def test_wrong_shape_is_refused_by_name(tmp_path):
    name = "model.layers.1.mlp.experts.5.up_proj.weight"
    tensors = plain_ring.make_tensors(BASE)
    tensors[name] = tensors[name][:-1].clone()
    folder = plain_ring.write(tmp_path, BASE, tensors)
    with pytest.raises(CheckpointError, match=rf"{name}.*\[15, 32\].*\[16, 32\]"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_missing_shard_and_damaged_file_are_refused(tmp_path):
    tensors = plain_ring.make_tensors(BASE)
    folder = plain_ring.write(tmp_path, BASE, tensors)
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="model-00001-of-00002"):
        AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0 not json at all")
    with pytest.raises(CheckpointError, match="Fetch it again"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_sharded_checkpoint_with_index(tmp_path):
    tensors = plain_ring.make_tensors(BASE)
    names = sorted(tensors)
    folder = plain_ring.write(tmp_path, BASE, tensors)
    (folder / "model.safetensors").unlink()
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: f for f, part in halves.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    ids = torch.arange(2, 13)[None]
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits[0]
    assert relative(logits.double(), plain_ring.logits(BASE, tensors, ids[0].tolist())) < 2e-5


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("ring-nanoo", ModelNotFoundError),
        ("./no/such/folder", ModelNotFoundError),
        ("nobody/no-such-model", ModelNotFoundError),
    ],
)
def test_no_such_model(name, error):
    with pytest.raises(error, match="no model"):
        ringlens.load(name)


def test_folder_without_config_and_other_model_type(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ConfigError, match="llama"):
        load_model(str(tmp_path))


def test_bf16_keeps_the_expert_bias_in_float32(tmp_path):
    folder = plain_ring.write(tmp_path, BASE, plain_ring.make_tensors(BASE))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    gate = model.model.layers[1].mlp.gate
    assert gate.expert_bias.dtype == torch.float32
    assert gate.weight.dtype == torch.bfloat16
    assert isinstance(model.config, BailingMoeV2Config)
