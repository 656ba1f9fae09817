"""Plans against what loading then does, on a tiny model; and against transformers' own rule."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.cache_utils import DynamicCache
from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map

from ringlens.model import BailingMoeV2Config, BailingMoeV2ForCausalLM
from ringlens.model.fit.memory import Workload
from ringlens.model.fit.placement import Device, automatic_map
from ringlens.model.fit.scenario import scenario
from ringlens.model.fit.size import census, measure, precision
from ringlens.model.fit.strategy import by_device_map
from ringlens.model.loading import load_model, read_config
from ringlens.model.quantization import weight_bytes

TINY = {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "vocab_size": 384,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 2,
    "partial_rotary_factor": 0.5,
    "routed_scaling_factor": 2.5,
}


def tokenizer():
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="b", pad_token="a")


@pytest.fixture(scope="module", params=["untied", "tied, biases"])
def tiny(request, tmp_path_factory):
    """A tiny random Ring on the disk, with a tokenizer."""
    other = {"tie_word_embeddings": True, "use_qkv_bias": True, "use_bias": True}
    made = BailingMoeV2Config(**TINY, **(other if request.param != "untied" else {}))
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    BailingMoeV2ForCausalLM(made).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["fused", "modules"])
def test_parameters_and_bytes_equal_a_loaded_models(tiny, layout, dtype):
    model, _ = load_model(str(tiny), dtype=dtype, experts=layout)
    s = scenario(read_config(str(tiny)), dtype=dtype, layout=layout)
    assert s.size.total == model.num_parameters()
    assert s.size.bytes == sum(weight_bytes(model).values())
    for unit, planned in s.size.weight_bytes.items():
        assert planned == sum(weight_bytes(model.get_submodule(unit)).values()), unit


@pytest.mark.parametrize("quantization", ["nf4", "nf4-double", "int8"])
def test_quantised_bytes_equal_a_loaded_models(tiny, quantization):
    pytest.importorskip("bitsandbytes")
    model, _ = load_model(str(tiny), dtype="bfloat16", quantization=quantization)
    s = scenario(read_config(str(tiny)), quantization=quantization)
    assert s.size.bytes == sum(weight_bytes(model).values())
    assert s.layout == model.config.experts_layout


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cache_bytes_equal_a_real_caches(tiny, dtype):
    model, _ = load_model(str(tiny), dtype=dtype)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(torch.arange(34).view(2, 17), cache=cache, use_cache=True)
    s = scenario(model.config, dtype=dtype, work=Workload(context=17, batch=2, prefill=17))
    stored = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert s.cache * 6 == sum(tensor.nbytes for tensor in stored)


@settings(max_examples=60, deadline=None)
@given(
    gpus=st.lists(st.integers(20_000, 2_000_000), min_size=1, max_size=6),
    cpu=st.integers(0, 4_000_000),
    tied=st.booleans(),
    layout=st.sampled_from(["fused", "modules"]),
)
def test_automatic_map_is_transformers_own(gpus, cpu, tied, layout):
    """For any memory, unit by unit, what infer_auto_device_map makes of the real model."""
    made = BailingMoeV2Config(**TINY, tie_word_embeddings=tied, experts_layout=layout)
    with torch.device("meta"):
        model = BailingMoeV2ForCausalLM(made)
    memory = {**dict(enumerate(gpus)), "cpu": cpu}
    whole = {"BailingMoeV2DecoderLayer"}
    limits = get_balanced_memory(model, dict(memory), whole)
    theirs = infer_auto_device_map(model, limits, whole, clean_result=False)
    ours = automatic_map(measure(made, census(made), precision(None, "float32")), memory, tied=tied)
    for unit, device in ours.items():
        name = next(n for n in (unit, unit.rpartition(".")[0], "model") if n in theirs)
        assert device == theirs[name], unit


def test_loading_takes_a_planned_map(tiny, tmp_path):
    """Two devices, here main memory and the disk: every parameter has a place, logits are equal."""
    s = scenario(read_config(str(tiny)), dtype="float32", work=Workload(64, 1, 64), reserve=0)
    strategy = by_device_map(s, [Device(f"gpu {i}", 900_000_000) for i in range(2)])
    assert strategy.fits
    assert set(strategy.device_map.values()) == {0, 1}
    named = {unit: ("cpu", "disk")[place] for unit, place in strategy.device_map.items()}
    folder = tmp_path / "offloaded"
    model, _ = load_model(str(tiny), dtype="float32", device_map=named, offload_folder=folder)
    plain, _ = load_model(str(tiny), dtype="float32", experts="modules")
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, plain(ids).logits)
