"""4 and 8 bits: what is really quantised, how many bytes it takes, how far the logits move."""

import importlib.util
import json

import fp8_ring
import parallel_ring
import pytest
import torch
from safetensors.torch import load_file, save_file
from slow_files import few
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.integrations import finegrained_fp8

import ringlens
from ringlens.data import path as bundled
from ringlens.errors import CheckpointError, ConfigError
from ringlens.model import BailingMoeV2Config, BailingMoeV2ForCausalLM, quantization
from ringlens.model.loading import load_model
from ringlens.model.quantization import weight_bytes
from ringlens.prompts.problems import problems

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="no bitsandbytes here"
)
NANO = str(bundled("ring-nano"))
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
KINDS = {"int8": "Linear8bitLt", "nf4-double": "Linear4bit", "nf4": "Linear4bit"}


@pytest.fixture(scope="module")
def nano():
    return load_model("ring-nano")[0]


@pytest.fixture(scope="module")
def trace(nano):
    """What ring-nano thinks about three problems in bfloat16: token ids, one row each."""
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    rows = []
    for problem in problems("countdown", 3):
        turns = [{"role": "user", "content": problem.prompt}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt").input_ids
        rows.append(nano.generate(ids, max_new_tokens=120, do_sample=False))
    return rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return parallel_ring.save(tmp_path_factory.mktemp("tiny"), dtype="bfloat16")


def logits(model, rows):
    with torch.inference_mode():
        return torch.cat([model(row).logits[0].float() for row in rows])


def distance(got, wanted):
    """Relative L2 distance of logits, and the share of positions with the same best token."""
    same = (got.argmax(-1) == wanted.argmax(-1)).float().mean().item()
    return ((got - wanted).norm() / wanted.norm()).item(), same


def check_kinds(model, kind):
    """Every projection is quantised; router, head, embeddings and norms are not."""
    quantised = {n for n, m in model.named_modules() if type(m).__name__ == kind}
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert linear - quantised == {"lm_head"}
    config = model.config
    experts = config.num_experts * len(config.sparse_layers)
    assert sum(".experts." in name for name in quantised) == 3 * experts
    for layer in config.sparse_layers:
        gate = model.model.layers[layer].mlp.gate
        assert gate.weight.dtype == model.lm_head.weight.dtype == torch.bfloat16
        assert gate.expert_bias.dtype == torch.float32
    assert model.model.word_embeddings.weight.dtype == torch.bfloat16
    assert model.model.norm.weight.dtype == torch.bfloat16
    assert model.model.layers[1].attention.query_layernorm.weight.dtype == torch.bfloat16


# Measured (relative L2 of the logits, same best token, share of the experts' bytes in bfloat16):
# nf4 0.076, 0.973, 0.283; nf4-double 0.076, 0.975, 0.291; int8 0.034, 0.998, 0.516.
BOUNDS = {"nf4": (0.14, 0.95, 0.29), "nf4-double": (0.14, 0.95, 0.30), "int8": (0.06, 0.98, 0.52)}


@pytest.mark.parametrize("method", few(KINDS, 1))
def test_bitsandbytes_quantises_all_experts_and_keeps_the_logits_near(method, nano, trace):
    model, _ = load_model("ring-nano", quantization=method)
    check_kinds(model, KINDS[method])
    assert model.config.experts_layout == "modules"
    before, after = weight_bytes(nano), weight_bytes(model)
    moved, same = distance(logits(model, trace), logits(nano, trace))
    print(method, before, after, moved, same)  # the table of docs/loading.md
    furthest, least, share = BOUNDS[method]
    assert 0 < moved < furthest
    assert same > least
    assert after["experts"] < share * before["experts"]
    assert after["attention"] < share * before["attention"]
    assert after["experts"] > before["experts"] * {"int8": 8}.get(method, 4) / 16


@pytest.mark.parametrize("method", few(KINDS, 2))
def test_bytes_at_the_expert_size_of_ring_mini(method, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 2048, "moe_intermediate_size": 512, "num_experts": 8, "n_group": 2}
    sizes |= {"num_hidden_layers": 1, "first_k_dense_replace": 0, "topk_group": 1}
    config = BailingMoeV2Config(**{**parallel_ring.CONFIG, **sizes, "dtype": "bfloat16"})
    BailingMoeV2ForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    parallel_ring.tiny_lens.tokenizer().save_pretrained(tmp_path)
    model, _ = load_model(str(tmp_path), quantization=method)
    bits = 8 * weight_bytes(model)["experts"] / (8 * 3 * 2048 * 512)
    print(method, bits)
    # 4 bits and a float32 scale for 64 weights (a byte of it, when quantised again).
    wanted = {"nf4": 4.5, "nf4-double": 4.127, "int8": 8.03}[method]
    assert abs(bits - wanted) < 0.05


def test_bytes_count_all_that_a_model_holds(nano):
    sizes = weight_bytes(nano)
    held = [*nano.parameters(), *nano.buffers()]
    assert sum(sizes.values()) == sum(t.numel() * t.element_size() for t in held)
    assert sizes["experts"] == 7 * 32 * 3 * 256 * 64 * 2
    assert sizes["attention"] == 8 * ((256 * 12 * 32 + 256 * 256) * 2 + 2 * 32 * 2)


@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoModel], ids=["causal", "base"])
def test_the_ordinary_snippet_quantises_the_experts(auto, tiny):
    model = auto.from_pretrained(
        tiny, quantization_config=BitsAndBytesConfig(**NF4), device_map="auto"
    )
    experts = model.get_decoder().layers[3].mlp.experts
    assert {type(m).__name__ for m in experts[15].children()} == {"Linear4bit", "SiLUActivation"}
    assert weight_bytes(model)["experts"] < 0.34 * 3 * 16 * 3 * 64 * 64 * 2


def test_the_head_stays_whole_whatever_else_is_skipped(tiny):
    skipped = ["model.layers.2.attention.dense", "model.layers.3"]
    given = BitsAndBytesConfig(**NF4, llm_int8_skip_modules=skipped)
    model = AutoModelForCausalLM.from_pretrained(tiny, quantization_config=given)
    plain = {n for n, m in model.named_modules() if type(m) is torch.nn.Linear}
    assert {n for n in plain if not n.startswith("model.layers.3.")} == {"lm_head", skipped[0]}
    assert len(plain) == 2 + 2 + 3 + 16 * 3  # layer 3: attention, shared expert, experts
    assert given.llm_int8_skip_modules == skipped  # the caller's config is left as it was


@pytest.mark.parametrize("method", few(KINDS, 1))
def test_a_quantised_model_saves_and_loads_again_by_itself(method, tiny, tmp_path):
    ids = [torch.arange(4, 30)[None]]
    model, tokenizer = load_model(str(tiny), quantization=method)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "bitsandbytes"
    assert "experts_layout" not in config
    saved, wanted = load_file(tmp_path / "model.safetensors"), logits(model, ids)
    for again in (
        AutoModelForCausalLM.from_pretrained(tmp_path),
        load_model(str(tmp_path))[0],
        load_model(str(tmp_path), quantization=method)[0],
    ):
        check_kinds(again, KINDS[method])
        held = again.state_dict()
        assert held.keys() == saved.keys()
        assert all(torch.equal(held[name], saved[name]) for name in saved)
        assert distance(logits(again, ids), wanted)[0] < 0.01  # aligned otherwise in memory


@pytest.mark.parametrize("method", ["nf4", "nf4-double"])
def test_a_run_leaves_the_weights_as_they_were_on_every_cpu(method, tiny, tmp_path):
    model, _ = load_model(str(tiny), quantization=method)
    model.save_pretrained(tmp_path / "before")
    logits(model, [torch.arange(4, 30)[None]])
    model.save_pretrained(tmp_path / "after")
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("before", "after"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_stay_where_bitsandbytes_would_rearrange_them(tiny, monkeypatch):
    """As on a CPU that multiplies in bfloat16, whichever this one is."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model, _ = load_model(str(tiny), quantization="nf4")
    logits(model, [torch.arange(4, 30)[None]])
    states = [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]
    assert states
    assert not any(getattr(state, "packing_format_for_cpu", False) for state in states)


REFUSED = {
    "unknown": ({"quantization": "nf3"}, "'nf4', 'nf4-double', 'int8', 'fp8' and None"),
    "fp8 of a 16-bit checkpoint": ({"quantization": "fp8"}, "published in FP8"),
    "fused": ({"quantization": "nf4", "experts": "fused"}, "Leave experts out"),
    "layout": ({"experts": "rows"}, "'fused', 'modules'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name):
    options, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        load_model("ring-nano", **options)


def test_the_fused_layout_is_refused_in_the_ordinary_snippet_too():
    with pytest.raises(ConfigError, match="unquantised"):
        AutoModelForCausalLM.from_pretrained(
            NANO, quantization_config=BitsAndBytesConfig(**NF4), experts_layout="fused"
        )


def test_without_bitsandbytes_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'ringlens\[quantization\]'"):
        load_model("ring-nano", quantization="nf4")


@pytest.fixture(scope="module")
def fp8(tmp_path_factory):
    """Folders of a checkpoint published in FP8, and of the same weights in float32."""
    folder, plain = tmp_path_factory.mktemp("fp8"), tmp_path_factory.mktemp("plain")
    fp8_ring.save(folder, plain)
    return folder, plain


@pytest.mark.parametrize("asked", [None, "fp8"])
@pytest.mark.parametrize("experts", [None, "fused", "modules"])
def test_fp8_is_dequantised_on_the_cpu(fp8, asked, experts):
    folder, plain = map(str, fp8)
    model, _ = load_model(folder, quantization=asked, experts=experts, device="cpu")
    reference, _ = load_model(plain, experts=experts)
    assert model.config.experts_layout == (experts or "fused")
    pairs = zip(model.parameters(), reference.parameters(), strict=True)
    assert all(torch.equal(mine, wanted) for mine, wanted in pairs)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    with torch.inference_mode():
        got, wanted = (m(**parallel_ring.batch()).logits for m in (model, reference))
    assert distance(got, wanted)[0] < 1e-6
    assert weight_bytes(model) == weight_bytes(reference)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it stays in FP8")
def test_fp8_loads_in_the_ordinary_snippet(fp8):
    folder, plain = fp8
    model = AutoModelForCausalLM.from_pretrained(folder)
    reference = AutoModelForCausalLM.from_pretrained(plain)
    with torch.inference_mode():
        got, wanted = (m(**parallel_ring.batch()).logits for m in (model, reference))
    assert distance(got, wanted)[0] < 1e-6


class PlainKernel:
    """The contract of transformers' FP8 kernel, in plain torch, without rounding activations."""

    @staticmethod
    def matmul(x, weight, scale, block, dtype, activation_scale=None):
        rows, columns = scale.shape
        whole = weight.float().view(rows, block[0], columns, block[1])
        whole = (whole * scale[:, None, :, None]).view_as(weight)
        return (x.float() @ whole.T).to(dtype)


def test_fp8_that_stays_in_fp8_lands_in_the_right_places(fp8, monkeypatch):
    """As on a Hopper GPU, but on the CPU and with a plain kernel in the place of the real one."""
    folder, plain = map(str, fp8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(finegrained_fp8, "is_deepgemm_loadable", lambda: False)
    monkeypatch.setattr(finegrained_fp8, "load_finegrained_fp8_kernel", PlainKernel)
    model = AutoModelForCausalLM.from_pretrained(
        folder, device_map={"": "cpu"}, experts_implementation="eager"
    )
    reference, _ = load_model(plain)
    assert model.model.layers[1].mlp.experts.gate_up_proj.dtype == torch.float8_e4m3fn
    assert model.model.layers[1].attention.query_key_value.weight.dtype == torch.float8_e4m3fn
    gate = model.model.layers[1].mlp.gate
    assert gate.weight.dtype == gate.expert_bias.dtype == torch.float32
    assert type(model.lm_head) is torch.nn.Linear
    with torch.inference_mode():
        got, wanted = (m(**parallel_ring.batch()).logits for m in (model, reference))
    assert ((got - wanted).norm() / wanted.norm()) < 1e-5
    after, before = weight_bytes(model), weight_bytes(reference)
    # A quarter of float32, and a float32 scale for each block of 256 weights.
    assert after["experts"] == before["experts"] / 4 * (1 + 4 / fp8_ring.BLOCK**2)


def test_fp8_weights_without_scales_are_refused(fp8, tmp_path):
    folder, _ = fp8
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    lost = "model.layers.2.mlp.experts.5.up_proj.weight_scale_inv"
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=lost):
        ringlens.load(str(tmp_path))


@pytest.mark.parametrize("method", KINDS)
def test_an_fp8_checkpoint_is_not_quantised_again(fp8, method):
    with pytest.raises(ConfigError, match="already quantised"):
        load_model(str(fp8[0]), quantization=method)


def test_fp8_on_a_gpu_needs_the_kernels_or_is_refused(fp8, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install kernels"):
        load_model(str(fp8[0]), device="cuda")
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="FP8 kernels work on fused experts"):
        load_model(str(fp8[0]), device="cuda", experts="modules")
