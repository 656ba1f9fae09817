"""Where weights go: one device, a device map, the disk; and the experts layout that follows."""

import accelerate
import parallel_ring
import pytest
import torch
from transformers import AutoModelForCausalLM

import ringlens
from ringlens.errors import ConfigError
from ringlens.model.layout import choose_layout
from ringlens.model.loading import load_model, own_device
from ringlens.model.quantization import is_offloading, weight_bytes

LAYERS = {f"model.layers.{layer}": "cpu" for layer in range(4)}
ENDS = dict.fromkeys(("model.word_embeddings", "model.rotary_emb", "model.norm", "lm_head"), "cpu")
MAPS = {
    "two layers on the disk": {
        **ENDS,
        **LAYERS,
        "model.layers.1": "disk",
        "model.layers.2": "disk",
    },
    "all but the ends on the disk": {**ENDS, **dict.fromkeys(LAYERS, "disk")},
    "head and embeddings on the disk": {
        **LAYERS,
        **dict.fromkeys(ENDS, "disk"),
        "model.rotary_emb": "cpu",
    },
}
EXPERTS_OF_A_LAYER = 16 * 3 * 64 * 64 * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(parallel_ring.save(tmp_path_factory.mktemp("ring"), seed=5))


def run(model):
    """Logits, what the routers put out, and greedy tokens."""
    routed, handles = {}, []
    for layer in model.config.sparse_layers:
        keep = lambda module, args, out, layer=layer: routed.__setitem__(layer, out)  # noqa: E731
        gate = model.model.layers[layer].mlp.gate
        handles.append(gate.register_forward_hook(keep))
    with torch.inference_mode():
        logits = model(**parallel_ring.batch()).logits
    for handle in handles:
        handle.remove()
    tokens = model.generate(
        **parallel_ring.batch(), max_new_tokens=8, do_sample=False, eos_token_id=None
    )
    return logits, routed, tokens


def same(model, reference):
    """Whether two models choose and write the same; float32 sums differ with memory alignment."""
    logits, routed, tokens = run(model)
    wanted_logits, wanted_routed, wanted_tokens = run(reference)
    assert (logits - wanted_logits).abs().max() < 1e-5
    assert torch.equal(tokens, wanted_tokens)
    assert routed.keys() == wanted_routed.keys() == {1, 2, 3}
    for layer, (scores, weights, ids) in routed.items():
        wanted_scores, wanted_weights, wanted_ids = wanted_routed[layer]
        assert torch.equal(ids, wanted_ids)
        assert (scores - wanted_scores).abs().max() < 1e-5
        assert (weights - wanted_weights).abs().max() < 1e-5
    return True


def written(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("name", MAPS)
def test_disk_offload_equals_the_plain_model_and_writes_no_expert_anew(name, folder, tmp_path):
    model, _ = load_model(folder, device_map=MAPS[name], offload_folder=tmp_path / "weights")
    assert model.config.experts_layout == "modules"
    on_disk = [n for n, p in model.named_parameters() if p.is_meta]
    places = [place for place, where in MAPS[name].items() if where == "disk"]
    assert on_disk
    assert all(any(n.startswith(f"{place}.") for place in places) for n in on_disk)
    assert same(model, load_model(folder, experts="modules")[0])
    assert written(tmp_path) == 0  # read from the checkpoint itself
    assert weight_bytes(model) == weight_bytes(load_model(folder)[0])


def test_fused_experts_on_the_disk_are_written_out(folder, tmp_path):
    device_map = MAPS["two layers on the disk"]
    model, _ = load_model(folder, device_map=device_map, offload_folder=tmp_path, experts="fused")
    assert same(model, load_model(folder)[0])
    headers = written(tmp_path) - 2 * EXPERTS_OF_A_LAYER
    assert 0 <= headers < 4096


def test_auto_fills_memory_and_then_the_disk(folder, tmp_path):
    memory = {"cpu": 2_400_000}
    model, _ = load_model(folder, device_map="auto", max_memory=memory, offload_folder=tmp_path)
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    assert model.config.experts_layout == "modules"
    held = sum(p.numel() * 4 for p in model.parameters() if not p.is_meta)
    assert 0 < held <= 2_400_000
    assert same(model, load_model(folder, experts="modules")[0])


def test_auto_with_room_enough_is_the_plain_model(folder):
    model, _ = load_model(folder, device_map="auto")
    assert model.config.experts_layout == "fused"
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert same(model, load_model(folder)[0])


@pytest.mark.parametrize("experts", ["fused", "modules"])
def test_weights_that_travel_to_another_device_for_each_forward(folder, experts):
    """accelerate's hooks as on CPU memory beside a GPU; the computing device is the CPU here."""
    model, _ = load_model(folder, experts=experts)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert same(model, load_model(folder, experts=experts)[0])


def test_offloaded_models_keep_the_expert_bias_in_float32(folder, tmp_path):
    device_map = MAPS["two layers on the disk"]
    model, _ = load_model(folder, dtype="bfloat16", device_map=device_map, offload_folder=tmp_path)
    for layer in (1, 2, 3):
        gate = model.model.layers[layer].mlp.gate
        assert gate.expert_bias.dtype == torch.float32
        assert gate.weight.dtype == torch.bfloat16
    assert run(model)[0].dtype == torch.bfloat16


def test_a_device_of_ones_own(folder):
    model, _ = load_model(folder, device="meta", dtype="float32")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    plain, _ = load_model(folder, device=torch.device("cpu"))
    assert same(plain, load_model(folder)[0])
    assert not plain.training


@pytest.mark.parametrize(
    ("device", "local_rank", "gpus", "wanted"),
    [
        ("cuda", "3", 8, "cuda:3"),
        (torch.device("cuda"), "0", 2, "cuda:0"),
        ("cuda", "3", 1, "cuda"),  # the launcher shows each process its own GPU
        ("cuda", None, 8, "cuda"),
        ("cuda:5", "3", 8, "cuda:5"),
        ("cpu", "3", 8, "cpu"),
        (None, "3", 8, None),
    ],
)
def test_a_gpu_for_each_process_of_a_launcher(device, local_rank, gpus, wanted, monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    found = own_device(device)
    assert (found if found is None else str(found)) == wanted
    moved = str(device) == "cuda" and wanted != "cuda"
    assert current == ([int(local_rank)] if moved else [])


def test_more_processes_than_gpus_are_refused(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="LOCAL_RANK = 2, but this machine has 2 GPUs"):
        load_model(str(folder), device="cuda")


def test_lens_takes_the_same_options(folder, tmp_path):
    device_map = MAPS["two layers on the disk"]
    lens = ringlens.load(folder, device_map=device_map, offload_folder=tmp_path)
    assert lens.device.type == "cpu"
    assert lens.config.experts_layout == "modules"


def test_the_ordinary_snippet_offloads_modules_too(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(
        folder, device_map=MAPS["two layers on the disk"], offload_folder=tmp_path
    )
    assert model.config.experts_layout == "modules"
    assert same(model, load_model(folder, experts="modules")[0])


REFUSED = {
    "two places": ({"device": "cpu", "device_map": "auto"}, "give one of them"),
    "memory of nothing": ({"max_memory": {"cpu": "1GiB"}}, "add device_map='auto'"),
    "folder of nothing": ({"offload_folder": "somewhere"}, "add device_map='auto'"),
    "no dtype": ({"dtype": "bfloat17"}, "'bfloat17'; give 'auto'"),
    "bitsandbytes on the disk": (
        {"quantization": "nf4", "device_map": MAPS["two layers on the disk"]},
        "Use fewer bits or more GPUs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name, folder):
    options, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        load_model(folder, **options)


CHOICES = [
    ({}, "fused"),
    ({"offloads": True}, "modules"),
    ({"sharded": True}, "fused"),
    ({"keeps_fp8": True, "method": "fp8"}, "fused"),
    ({"keeps_fp8": True, "method": "fp8", "offloads": True}, "fused"),
    ({"method": "fp8", "offloads": True}, "modules"),
    ({"method": "bitsandbytes"}, "modules"),
    ({"method": "quanto"}, "modules"),
    ({"method": "torchao"}, "modules"),
    ({"asked": "modules"}, "modules"),
    ({"asked": "fused", "offloads": True}, "fused"),
]


@pytest.mark.parametrize(("rest", "wanted"), CHOICES, ids=str)
def test_the_layout_is_chosen_from_the_rest(rest, wanted):
    assert choose_layout(rest.pop("asked", None), **rest) == wanted


@pytest.mark.parametrize(
    ("device_map", "folder", "wanted"),
    [
        (None, None, False),
        ("auto", None, False),
        ("auto", "weights", True),
        ({"": "cpu"}, None, False),
        ({"": 0}, None, False),
        ({"model": 0, "lm_head": 1}, None, False),
        ({"model": 0, "lm_head": "cpu"}, None, True),
        ({"model": "cpu", "lm_head": "disk"}, None, True),
        ({"model": torch.device("cuda:0"), "lm_head": torch.device("cpu")}, None, True),
    ],
)
def test_what_counts_as_offloading(device_map, folder, wanted):
    assert is_offloading(device_map, folder) == wanted
